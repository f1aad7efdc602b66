"""Two distances between sets of pictures, given as feature vectors of any extractor.

    features (N D)  ->  FeatureSums.add, batch by batch, on any number of machines  ->  merge  ->  distances

The Fréchet distance needs only sums, so its sets may be of any size; the kernel distance looks at the first `KERNEL_ROWS` rows.
All arithmetic is float64.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KERNEL_ROWS = 5000
KERNEL_SUBSETS = 50
KERNEL_SUBSET_ROWS = 1000


@dataclass(frozen=True)
class FeatureSums:
    """What is kept of a set of features: count, mean, scatter (sum of outer products about the mean), and the first rows."""

    count: int
    mean: Floats  # D
    scatter: Floats  # D D
    rows: Floats  # at most KERNEL_ROWS D

    @classmethod
    def empty(cls, width: int) -> Self:
        return cls(0, np.zeros(width), np.zeros((width, width)), np.zeros((0, width)))

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Self:
        """The sums of a batch, N D."""
        rows = features.astype(np.float64)
        if len(rows) == 0:
            return cls.empty(rows.shape[1])
        centred = rows - rows.mean(axis=0)
        return cls(len(rows), rows.mean(axis=0), centred.T @ centred, rows[:KERNEL_ROWS])

    def merge(self, other: "FeatureSums") -> "FeatureSums":
        """The sums of both sets together.

        The pairwise update of Chan, Golub and LeVeque (1979), eq. 2.1: about the mean, so that large means do not cancel.
        """
        count = self.count + other.count
        if count == 0:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.count * other.count / count)
        return FeatureSums(count, mean, scatter, np.concatenate([self.rows, other.rows])[:KERNEL_ROWS])

    def add(self, features: NDArray[np.floating]) -> "FeatureSums":
        """These sums with a batch, N D, added."""
        return self.merge(FeatureSums.of(features))

    @property
    def covariance(self) -> Floats:
        """Unbiased, D D."""
        return self.scatter / max(self.count - 1, 1)


def frechet_distance(first: FeatureSums, second: FeatureSums) -> float:
    """Squared Fréchet distance of the Gaussians fitted to both sets (Heusel et al. 2017, eq. 6): 0 for equal sets, no upper bound.

    |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is that of (A C2 A)^(1/2) with A = C1^(1/2), both symmetric, so that two
    symmetric eigenvalue problems answer, also when a covariance is singular (fewer pictures than features).
    """
    root = _symmetric_root(first.covariance)
    inner = root @ second.covariance @ root
    eigenvalues = np.linalg.eigvalsh((inner + inner.T) / 2)
    cross = np.sqrt(eigenvalues.clip(0)).sum()
    apart = first.mean - second.mean
    return float(apart @ apart + np.trace(first.covariance) + np.trace(second.covariance) - 2 * cross)


def _symmetric_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)


@dataclass(frozen=True)
class KernelDistance:
    """Mean over the subsets, and their standard deviation."""

    mean: float
    std: float


def kernel_distance(first: FeatureSums, second: FeatureSums, subsets: int = KERNEL_SUBSETS, seed: int = 0) -> KernelDistance:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased, as in KID (Binkowski et al. 2018, eq. 4 and section 3).

    The mean of `subsets` estimates on equally many rows of each set, drawn without replacement from (seed); around 0, also below it, for equal
    distributions. Unlike the Fréchet distance its mean does not depend on the number of pictures.

    Raises:
        ValueError: with fewer than two rows in a set.
    """
    smaller = min(len(first.rows), len(second.rows))
    if smaller < 2:
        raise ValueError(f"a kernel distance needs at least 2 pictures in each set, got {len(first.rows)} and {len(second.rows)}")
    rows = min(KERNEL_SUBSET_ROWS, max(2, smaller // 2))  # half a small set, so that the subsets differ
    rng = np.random.default_rng(seed)
    estimates = [
        unbiased_mmd(first.rows[rng.choice(len(first.rows), rows, replace=False)], second.rows[rng.choice(len(second.rows), rows, replace=False)])
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(estimates)), float(np.std(estimates)))


def polynomial_kernel(first: Floats, second: Floats) -> Floats:
    """(x.y / D + 1)^3 of each pair: N D, M D -> N M."""
    return np.asarray((first @ second.T / first.shape[1] + 1) ** 3)


def unbiased_mmd(first: Floats, second: Floats) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of N D and M D (Gretton et al. 2012, eq. 3)."""
    within_first, within_second = polynomial_kernel(first, first), polynomial_kernel(second, second)
    n, m = len(first), len(second)
    same = (within_first.sum() - np.trace(within_first)) / (n * (n - 1)) + (within_second.sum() - np.trace(within_second)) / (m * (m - 1))
    return float(same - 2 * polynomial_kernel(first, second).mean())


def distances(first: FeatureSums, second: FeatureSums) -> dict[str, float]:
    """Both distances of two sets, as they stand in metrics.json."""
    kernel = kernel_distance(first, second)
    return {
        "frechet_distance": frechet_distance(first, second),
        "kernel_distance": kernel.mean,
        "kernel_distance_std": kernel.std,
        "pictures": first.count,
    }
