"""Near duplicates: exactly what comparing all pairs finds, on hashes as uneven as real ones; and cost that does not explode."""

import time
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from ccray.data.index import dedup
from ccray.data.index.blocklist import Blocklist

Hashes = dedup.Hashes


def flipped(hashes: Hashes, most: int, draw: np.random.Generator) -> Hashes:
    """Each hash with 0 to `most` bits flipped at random."""
    flips = draw.integers(0, most + 1, len(hashes))
    found = hashes.copy()
    for number in range(most):
        bit = np.uint64(1) << draw.integers(0, 64, len(hashes), dtype=np.uint64)
        found = np.where(flips > number, found ^ bit, found)
    return found


def realistic(count: int, seed: int, head: float = 0.1) -> Hashes:
    """Uniform hashes, clusters around a quarter of them, and a head of flat pictures around one hash."""
    draw = np.random.default_rng(seed)
    flat = int(count * head)
    alone = draw.integers(0, 2**64, (count - flat) * 2 // 3, dtype=np.uint64)
    near = flipped(draw.choice(alone[: len(alone) // 4], count - flat - len(alone)), 7, draw)
    grey = flipped(np.full(flat, 2**63, np.uint64), 4, draw)
    found = np.concatenate([alone, near, grey])
    draw.shuffle(found)
    return found


def narrow(count: int, seed: int) -> Hashes:
    """Hashes of which only 14 bits vary: many near each other, few distinct, long chains."""
    return np.random.default_rng(seed).integers(0, 1 << 14, count, dtype=np.uint64) << np.uint64(23)


def chain(count: int, seed: int) -> Hashes:
    """Each a few bits from the one before."""
    draw = np.random.default_rng(seed)
    steps = flipped(np.zeros(count, np.uint64), 4, draw)
    return np.bitwise_xor.accumulate(steps)


def by_all_pairs(hashes: Hashes, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The row kept for each row (best first), and the first row of its component."""
    near = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= bits
    owner, kept = np.arange(len(hashes)), np.zeros(len(hashes), bool)
    for row in range(len(hashes)):
        above = np.flatnonzero(near[row] & kept)
        owner[row] = above[0] if len(above) else row
        kept[row] = not len(above)
    _, label = connected_components(csr_array(near), directed=False)
    first = np.full(len(hashes), len(hashes))
    np.minimum.at(first, label, np.arange(len(hashes)))
    return owner, first[label]


@pytest.mark.parametrize("bits", range(9))
@pytest.mark.parametrize("spread", [realistic, narrow, chain])
def test_just_what_all_pairs_give(spread: object, bits: int) -> None:
    hashes = spread(3000 if spread is realistic and bits in (0, 4, 8) else 900, bits)  # type: ignore[operator]
    owner, label = by_all_pairs(hashes, bits)
    draw = np.random.default_rng(bits)
    places = draw.permutation(len(hashes))  # rows stand in any order; `order` says which are better
    keys = draw.integers(-(2**63), 2**63, len(hashes))
    shuffled, order = np.empty_like(hashes), places
    shuffled[places] = hashes
    found = dedup.find(keys, shuffled, np.ones(len(hashes), bool), order, bits)
    assert np.array_equal(found.kept[places], places[owner])
    smallest = {first: keys[places[label == first]].min() for first in np.unique(label)}
    assert found.group[places].tolist() == [smallest[first] for first in label]
    assert np.array_equal(found.twin, np.arange(len(hashes)))


def test_blocks_that_are_too_dense_are_settled_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer with bounds so small that every way through the search is taken."""
    hashes = np.concatenate([realistic(1200, 5, head=0.5), narrow(300, 6)])
    owner, label = by_all_pairs(hashes, 4)
    for name, value in (("SMALL", 8), ("PAIRS_A_HASH", 1), ("PAIRS_AT_ONCE", 64), ("HEAVY", 2)):
        monkeypatch.setattr(dedup, name, value)
    dedup._plan.cache_clear()
    found = dedup.find(np.arange(len(hashes)), hashes, np.ones(len(hashes), bool), np.arange(len(hashes)), 4)
    dedup._plan.cache_clear()
    assert np.array_equal(found.kept, owner)
    assert np.array_equal(found.group, label)


def test_equal_bytes_and_hashes_that_are_not_there() -> None:
    keys = np.array([5, 3, 5, 9, 3])
    hashes = np.array([1, 1, 1, 0, 1], np.uint64)
    hashed = np.array([True, True, True, False, True])
    order = np.array([4, 2, 3, 1, 0])
    apart = dedup.find(keys, hashes, hashed, order, None)
    assert (apart.kept.tolist(), apart.group.tolist()) == ([2, 4, 2, 3, 4], keys.tolist())
    near = dedup.find(keys, hashes, hashed, order, 0)
    assert (near.kept.tolist(), near.twin.tolist(), near.group.tolist()) == ([4, 4, 4, 3, 4], [2, 4, 2, 3, 4], [3, 3, 3, 9, 3])
    none = dedup.find(keys[:0], hashes[:0], hashed[:0], order[:0], 4)
    assert len(none.kept) == 0


def test_the_nearest_of_a_blocklist() -> None:
    hashes, named = realistic(500, 1), realistic(200, 2)
    named = np.unique(np.concatenate([named, flipped(hashes[:100], 9, np.random.default_rng(3))]))
    for bits in (0, 3, 6):
        nearest = np.bitwise_count(hashes[:, None] ^ named[None, :]).min(axis=1).astype(int)
        expected = np.where(nearest <= bits, nearest, -1)
        assert np.array_equal(Blocklist(perceptual=named).nearest_bits(hashes, bits), expected)


@pytest.mark.parametrize("width", [64, 42, 7])
@pytest.mark.parametrize(("blocks", "bits"), [(5, 4), (6, 4), (7, 2), (3, 0)])
def test_two_values_within_the_bound_share_a_key(blocks: int, bits: int, width: int) -> None:
    tables = list(dedup._tables(blocks, width, bits))
    for chosen in tables:
        covered = sorted([*chosen, *dedup._others(chosen, width)])
        assert covered[0][0] == 0
        assert all(low + size == following for (low, size), (following, _) in pairwise(covered))
        assert sum(size for _, size in covered) == width
    draw = np.random.default_rng(0)
    for _ in range(50):
        value = np.array([draw.integers(0, 1 << (width - 1))], np.uint64)
        other = value.copy()
        for bit in draw.choice(width, min(bits, width), replace=False):
            other ^= np.uint64(1) << np.uint64(bit)
        assert any(dedup._squeezed(value, chosen) == dedup._squeezed(other, chosen) for chosen in tables)


def test_cost_is_far_from_all_pairs() -> None:
    """Ten times the hashes; all pairs would cost a hundred times as much."""
    seconds = []
    for count in (20_000, 200_000):
        hashes = realistic(count, 7)
        before = time.process_time()
        found = dedup.find(np.arange(count), hashes, np.ones(count, bool), np.arange(count), 4)
        seconds.append(time.process_time() - before)
        assert 0.4 * count < len(np.unique(found.kept)) < 0.95 * count
    assert seconds[1] < 40 * max(seconds[0], 0.02)
