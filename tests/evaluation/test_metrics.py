"""Distances against closed forms, direct formulas and each other."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ccray.evaluation import metrics
from ccray.evaluation.metrics import FeatureSums

rng = np.random.default_rng(7)


def gaussian(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> FeatureSums:
    """The sums of a set with exactly this mean and covariance."""
    return FeatureSums(1001, mean, covariance * 1000, np.zeros((0, len(mean))))


def random_covariance(width: int) -> NDArray[np.float64]:
    factor = rng.normal(size=(width, width))
    return factor @ factor.T / width + 0.1 * np.eye(width)


def test_frechet_of_one_dimension_is_the_closed_form() -> None:
    # (m1 - m2)^2 + (s1 - s2)^2
    assert metrics.frechet_distance(gaussian(np.array([3.0]), np.array([[4.0]])), gaussian(np.array([1.0]), np.array([[9.0]]))) == pytest.approx(5.0)


def test_frechet_of_commuting_covariances_is_the_closed_form() -> None:
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    first, second = rng.uniform(0.1, 3, size=(2, 6))
    one = gaussian(np.zeros(6), rotation @ np.diag(first) @ rotation.T)
    other = gaussian(np.full(6, 2.0), rotation @ np.diag(second) @ rotation.T)
    assert metrics.frechet_distance(one, other) == pytest.approx(24 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum(), rel=1e-12)


def test_frechet_equals_the_direct_formula() -> None:
    """The trace of (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of C1 C2, which are real and positive."""
    first, second = random_covariance(12), random_covariance(12)
    roots = np.sqrt(np.linalg.eigvals(first @ second).real)
    mean = rng.normal(size=12)
    direct = mean @ mean + np.trace(first) + np.trace(second) - 2 * roots.sum()
    assert metrics.frechet_distance(gaussian(mean, first), gaussian(np.zeros(12), second)) == pytest.approx(direct, rel=1e-10)


def test_frechet_is_symmetric_and_zero_for_itself() -> None:
    one, other = FeatureSums.of(rng.normal(size=(50, 8))), FeatureSums.of(rng.normal(size=(40, 8)) + 1)
    assert metrics.frechet_distance(one, other) == pytest.approx(metrics.frechet_distance(other, one), rel=1e-9)
    assert metrics.frechet_distance(one, one) == pytest.approx(0, abs=1e-10)


def test_frechet_of_fewer_pictures_than_features() -> None:
    rows = rng.normal(size=(5, 30))
    assert metrics.frechet_distance(FeatureSums.of(rows), FeatureSums.of(rows + 2)) == pytest.approx(120, rel=1e-6)


def test_sums_do_not_know_how_the_rows_came() -> None:
    rows = rng.normal(size=(101, 5)) + 1e4
    whole = FeatureSums.of(rows)
    parts = FeatureSums.empty(5)
    for start in range(0, 101, 13):
        parts = parts.add(rows[start : start + 13])
    halves = FeatureSums.of(rows[:40]).merge(FeatureSums.of(rows[40:]))
    for other in (parts, halves):
        assert other.count == 101
        np.testing.assert_allclose(other.covariance, np.cov(rows.T), rtol=1e-9)
        np.testing.assert_allclose(other.mean, rows.mean(axis=0), rtol=1e-14)
        np.testing.assert_array_equal(other.rows, whole.rows)


def test_unbiased_mmd_equals_the_double_sum() -> None:
    first, second = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)) + 0.5

    def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        return float((x @ y / 3 + 1) ** 3)

    one = sum(kernel(first[i], first[j]) for i in range(6) for j in range(6) if i != j) / 30
    two = sum(kernel(second[i], second[j]) for i in range(5) for j in range(5) if i != j) / 20
    cross = sum(kernel(x, y) for x in first for y in second) / 30
    assert metrics.unbiased_mmd(first, second) == pytest.approx(one + two - 2 * cross, rel=1e-12)


def test_unbiased_mmd_has_mean_zero_for_one_distribution_at_any_size() -> None:
    small = [metrics.unbiased_mmd(rng.normal(size=(8, 4)), rng.normal(size=(8, 4))) for _ in range(3000)]
    assert abs(np.mean(small)) < 4 * np.std(small) / np.sqrt(3000)


def test_kernel_distance_tells_sets_apart_and_repeats() -> None:
    one, same, other = (FeatureSums.of(rng.normal(size=(300, 4)) + shift) for shift in (0.0, 0.0, 1.0))
    near, far = metrics.kernel_distance(one, same), metrics.kernel_distance(one, other)
    assert abs(near.mean) < 0.5 < far.mean
    assert metrics.kernel_distance(one, other) == far
    assert 0 < far.std < far.mean
    with pytest.raises(ValueError, match="at least 2 pictures"):
        metrics.kernel_distance(FeatureSums.empty(4), one)
