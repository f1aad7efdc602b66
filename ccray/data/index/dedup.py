"""Which images are one: exact by their key, near by the Hamming distance of their 64-bit perceptual hashes.

Near pairs are found by multi-index hashing (Norouzi, Punjani, Fleet 2012, with keys of several bands): 64 bits are cut into b blocks. Two hashes
that differ in at most k bits differ in at most k blocks, so they agree on some b - k of them; one table for each choice of b - k blocks then
brings every near pair into one bucket at least once. Exact, whatever the hashes are. b is chosen so that a bucket holds about one hash by chance:
k = 4 takes 5 tables for 10 k hashes, 15 for 1 M, 35 for 100 M, so that the cost grows about linearly. Above k = 8 no cut of 64 bits
is selective enough, and the cost approaches all pairs.

Real hashes are not spread evenly. Equal ones are collapsed first; a bucket that is far too full is searched by the same method on the bits that
its key left out; rows that are already known to belong together are not compared again; and where near pairs abound, the best rows are settled
first and cover the others before those are compared with each other. Memory: about 250 bytes a distinct hash beside 100 MB of pairs in hand
(measured at 1 M by `benchmarks/duplicates.py`), so 25 GB for 100 M.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from math import ceil, comb

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]  # places of rows in the arrays that were given
Block = tuple[int, int]  # lowest bit, number of bits

HASH_BITS = 64
SORTED_ROW = 12  # to sort a row into a table costs about as much as to compare so many pairs
HEAVY = 256  # pairs a row from which a bucket is searched by its remaining bits
PAIRS_AT_ONCE = 1 << 21
SMALL = 1024  # hashes of which all near pairs fit into memory, however many they are
PAIRS_A_HASH = 8  # finds of near pairs a hash beyond which the best rows are settled first


@dataclass(frozen=True)
class Duplicates:
    """What was found of n rows."""

    kept: Places  # [n]: the row that is kept for this one; itself when it is kept
    twin: Places  # [n]: the best row of the same bytes; itself when it is that row
    group: NDArray[np.int64]  # [n]: the smallest key among all rows that a chain of near pairs links to this one


def find(keys: NDArray[np.int64], hashes: Hashes, hashed: NDArray[np.bool_], order: Places, bits: int | None) -> Duplicates:
    """Exact and near duplicates of n rows.

    `keys` int64 [n], equal for equal bytes; `hashes` uint64 [n], of which those with `hashed` are compared; `order` [n] holds the rows' places, the
    best first; `bits` is the Hamming distance up to which two images are one, None when only equal bytes count.
    A row is a duplicate when it is near a better row *that is kept*, so a chain of near images does not fall to its first; the row kept for it is the
    best of these.
    """
    twin = _first_of(keys, order)
    kept, group = twin.copy(), keys.copy()
    best = order[twin[order] == order]
    best = best[hashed[best]]
    if bits is None or not len(best):
        return Duplicates(kept, twin, group)
    distinct, place = _distinct(hashes[best])
    owner = covers(distinct, bits)
    label = components(distinct, bits, owner)
    first = np.full(len(distinct), len(best))
    np.minimum.at(first, place, np.arange(len(best)))
    kept[best] = best[first[owner[place]]]
    smallest = np.full(len(distinct), np.iinfo(np.int64).max)
    np.minimum.at(smallest, label[place], keys[best])
    group[best] = smallest[label[place]]
    return Duplicates(kept[twin], twin, group[twin])


def _first_of(values: NDArray[np.int64], order: Places) -> Places:
    """Of every row, the best row with an equal value."""
    _, first, inverse = np.unique(values[order], return_index=True, return_inverse=True)
    found = np.empty(len(values), np.int64)
    found[order] = order[first[inverse]]
    return found


def _distinct(hashes: Hashes) -> tuple[Hashes, Places]:
    """Distinct hashes in the order of their first appearance, and the place of each row's hash among them."""
    values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    by_first = np.argsort(first)
    place = np.empty(len(values), np.int64)
    place[by_first] = np.arange(len(values))
    return values[by_first], place[inverse]


def covers(hashes: Hashes, bits: int) -> Places:
    """Of distinct hashes, best first: the place of the first kept hash within `bits` of each; its own place when it is kept itself.

    A hash is kept when no better one that is kept lies within `bits`. Hashes are settled in blocks: those that an earlier block's kept hashes cover
    drop out, and a block with too many near pairs inside is halved, so that its better half covers most of the other.
    """
    owner = np.arange(len(hashes))
    kept = np.empty(0, np.int64)
    blocks = [(0, len(hashes))]
    while blocks:
        begin, end = blocks.pop()
        _cover(hashes, owner, kept, begin, end, bits)
        open_ = begin + np.flatnonzero(owner[begin:end] == np.arange(begin, end))
        pairs = _all_pairs(hashes[open_], bits)
        if pairs is None:
            middle = (begin + end) // 2
            blocks += [(middle, end), (begin, middle)]
            continue
        own = _settle(len(open_), *pairs)
        owner[open_] = open_[own]
        kept = np.concatenate([kept, open_[own == np.arange(len(own))]])
    return owner


def _cover(hashes: Hashes, owner: Places, kept: Places, begin: int, end: int, bits: int) -> None:
    """Give the open hashes of a block to the first of the kept ones that is near."""
    if not len(kept):
        return
    open_ = begin + np.flatnonzero(owner[begin:end] == np.arange(begin, end))
    places = np.concatenate([kept, open_])
    side = np.repeat([0, 1], [len(kept), len(open_)])
    for left, right in close_pairs(hashes[places], side, bits):
        np.minimum.at(owner, places[right], places[left])


def _all_pairs(hashes: Hashes, bits: int) -> tuple[Places, Places] | None:
    """All near pairs, the better hash left, ordered; None when they are too many."""
    count = len(hashes)
    most = max(PAIRS_A_HASH * count, SMALL**2)
    found: list[Places] = [np.empty(0, np.int64)]
    for left, right in close_pairs(hashes, np.arange(count), bits):
        found.append(left * count + right)
        most -= len(left)
        if most < 0 and count > SMALL:
            return None
    pairs = _sorted_once(found)
    return pairs // max(count, 1), pairs % max(count, 1)


def _sorted_once(parts: list[Places]) -> Places:
    """The distinct values; `np.unique` hashes whole numbers, which takes a hundred times longer on regular ones such as these."""
    values = np.sort(np.concatenate(parts))
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


def _settle(count: int, left: Places, right: Places) -> Places:
    """The first kept neighbour of each hash, given all near pairs ordered by their better hash; itself when it is kept."""
    owner = list(range(count))
    for start in range(0, len(left), PAIRS_AT_ONCE):
        for better, other in zip(left[start : start + PAIRS_AT_ONCE].tolist(), right[start : start + PAIRS_AT_ONCE].tolist(), strict=True):
            if owner[better] == better and owner[other] == other:
                owner[other] = better
    return np.array(owner, np.int64)


def components(hashes: Hashes, bits: int, owner: Places) -> Places:
    """Of every hash, a label that all hashes have which a chain of near pairs links to it: the smallest place among them.

    `owner` gives pairs that are known (`covers`). A first look at few partners a hash joins most of what belongs together; the second compares
    all that is still apart.
    """
    parent = owner.copy()
    for most in (2, None):
        for left, right in close_pairs(hashes, _flat(parent), bits, most):
            _unite(parent, left, right)
    return _flat(parent)


def _unite(parent: Places, left: Places, right: Places) -> None:
    while True:
        left, right = _roots(parent, left), _roots(parent, right)
        apart = left != right
        if not apart.any():
            return
        left, right = left[apart], right[apart]
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))


def _roots(parent: Places, places: Places) -> Places:
    roots = parent[places]
    while True:
        above = parent[roots]
        if np.array_equal(above, roots):
            break
        roots = above
    parent[places] = roots
    return roots


def _flat(parent: Places) -> Places:
    """The root of every place; parents stand before their children."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above


@dataclass(frozen=True)
class _Search:
    """Rows to compare: `width` bits of each count; only rows of one room meet, and inside a room they stand in the order of their groups."""

    values: Hashes
    width: int
    rooms: Hashes  # numbers from 0
    groups: Places
    places: Places  # where the rows stand in the caller's arrays

    def take(self, rows: Places, values: Hashes, width: int, rooms: Hashes) -> "_Search":
        return _Search(values, width, rooms, self.groups[rows], self.places[rows])


def close_pairs(hashes: Hashes, groups: Places, bits: int, most: int | None = None) -> Iterator[tuple[Places, Places]]:
    """All pairs of hashes that differ in at most `bits` bits and belong to different groups, in batches of places (left, right); the left has the
    smaller group, and a pair may come several times. With `most`, only so many partners a hash and table are looked at.
    """
    order = np.argsort(groups, kind="stable")
    rooms = np.zeros(len(hashes), np.uint64)
    yield from _search(_Search(hashes[order], HASH_BITS, rooms, groups[order], order), bits, most)


def _search(search: _Search, bits: int, most: int | None) -> Iterator[tuple[Places, Places]]:
    if len(search.values) < 2:
        return
    for blocks in _tables(_blocks_for(search, bits), search.width, bits):
        yield from _near_in(search, blocks, bits, most)


def _blocks_for(search: _Search, bits: int) -> int:
    rooms = np.bincount(search.rooms.astype(np.int64))
    return _plan(int(rooms.max()), search.width, bits, HASH_BITS - len(rooms).bit_length())[1]


@dataclass(frozen=True)
class _Table:
    """The rows of a search, sorted into buckets of equal keys and there by group."""

    order: Places  # rows of the search
    keys: Hashes
    buckets: Places  # where each begins
    first: Places  # of each row: the first of a later group, if `partners`
    partners: Places  # of each row: how many rows of later groups its bucket holds


def _table(search: _Search, blocks: tuple[Block, ...]) -> _Table:
    width = sum(size for _, size in blocks)
    keys = _shifted(search.rooms, width) | _squeezed(search.values, blocks)
    order, keys = _ordered(keys, int(search.rooms[-1]).bit_length() + width)
    groups, fresh = search.groups[order], keys[1:] != keys[:-1]
    buckets, runs = _starts(fresh), _starts(fresh | (groups[1:] != groups[:-1]))
    bucket_ends, run_ends = (np.repeat(np.append(starts[1:], len(keys)), np.diff(starts, append=len(keys))) for starts in (buckets, runs))
    return _Table(order, keys, buckets, run_ends, bucket_ends - run_ends)


def _near_in(search: _Search, blocks: tuple[Block, ...], bits: int, most: int | None) -> Iterator[tuple[Places, Places]]:
    """Near pairs of rows that agree on all bits of `blocks`."""
    table = _table(search, blocks)
    partners = table.partners if most is None else np.minimum(table.partners, most)
    if most is None:
        heavy = _heavy_rows(table, search.width - sum(size for _, size in blocks), bits)
        inside = _inside(search, table, heavy, blocks)
        if len(heavy) and _helps(inside, int(partners[heavy].sum()), bits):
            partners[heavy] = 0
            yield from _search(inside, bits, None)
    values = search.values[table.order]
    for left, right in _expanded(partners, table.first):
        near = np.bitwise_count(values[left] ^ values[right]) <= bits
        if near.any():
            yield search.places[table.order[left[near]]], search.places[table.order[right[near]]]


def _ordered(keys: Hashes, width: int) -> tuple[Places, Hashes]:
    """A stable order of keys of so many bits, and the keys in that order. Key and row in one number sort several times faster than by `argsort`."""
    row_bits = len(keys).bit_length()
    if width + row_bits > HASH_BITS:
        order = np.argsort(keys, kind="stable")
        return order, keys[order]
    packed = np.sort(_shifted(keys, row_bits) | np.arange(len(keys), dtype=np.uint64))
    return (packed & np.uint64((1 << row_bits) - 1)).astype(np.int64), packed >> np.uint64(row_bits)


def _starts(changes: NDArray[np.bool_]) -> Places:
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


def _heavy_rows(table: _Table, width: int, bits: int) -> Places:
    """Rows of the buckets that should be cheaper to search by their other `width` bits than to compare pair by pair."""
    sizes = np.diff(table.buckets, append=len(table.keys))
    pairs = np.add.reduceat(table.partners, table.buckets)
    heavy = pairs > HEAVY * sizes
    if width <= bits or not heavy.any():
        return np.empty(0, np.int64)
    cost, _ = _plan(int(sizes[heavy].max()), width, bits, HASH_BITS - int(heavy.sum()).bit_length())
    if cost * sizes[heavy].sum() >= pairs[heavy].sum():
        return np.empty(0, np.int64)
    return np.flatnonzero(np.repeat(heavy, sizes))


def _inside(search: _Search, table: _Table, heavy: Places, blocks: tuple[Block, ...]) -> _Search:
    """A search inside full buckets, each a room of its own, on the bits on which their rows do not yet agree."""
    rest = _others(blocks, search.width)
    keys, rows = table.keys[heavy], table.order[heavy]
    rooms = np.concatenate([[False], keys[1:] != keys[:-1]])[: len(keys)].cumsum().astype(np.uint64)
    return search.take(rows, _squeezed(search.values[rows], rest), sum(size for _, size in rest), rooms)


def _helps(inside: _Search, pairs: int, bits: int) -> bool:
    """Whether a search inside buckets compares at most half of their `pairs`. Where the other bits vary as little it would not, and would end in
    searches inside searches; so each level halves the work, or is not entered."""
    left = pairs // 2
    for blocks in _tables(_blocks_for(inside, bits), inside.width, bits):
        left -= int(_table(inside, blocks).partners.sum())
        if left < 0:
            return False
    return True


def _expanded(partners: Places, first: Places) -> Iterator[tuple[Places, Places]]:
    """Row i with each of its `partners[i]` partners from `first[i]` on, some at once."""
    rows = np.flatnonzero(partners)
    ends = np.cumsum(partners[rows])
    begin = 0
    while begin < len(rows):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")))
        chunk = rows[begin:end]
        counts = partners[chunk]
        left = np.repeat(chunk, counts)
        right = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first[chunk], counts)
        yield left, right
        begin = end


@lru_cache(maxsize=4096)
def _plan(size: int, width: int, bits: int, key_bits_at_most: int) -> tuple[float, int]:
    """The cheapest number of blocks for rooms of `size` rows, and what it costs a row, in compared pairs."""
    best = (float("inf"), bits + 1)
    for blocks in range(bits + 1, width + 1):
        tables, key_bits = comb(blocks, bits), ceil(width / blocks) * (blocks - bits)
        if tables * SORTED_ROW > best[0] or key_bits > max(key_bits_at_most, ceil(width / (bits + 1))):
            break
        best = min(best, (tables * (SORTED_ROW + size / 2 ** (key_bits + 1)), blocks))
    return best


def _tables(blocks: int, width: int, bits: int) -> Iterator[tuple[Block, ...]]:
    edges = [round(number * width / blocks) for number in range(blocks + 1)]
    cut = [(low, high - low) for low, high in pairwise(edges)]
    return combinations(cut, blocks - bits)


def _others(blocks: tuple[Block, ...], width: int) -> tuple[Block, ...]:
    """The blocks of bits that `blocks` (ascending) leave out."""
    edges = [0, *(edge for low, size in blocks for edge in (low, low + size)), width]
    return tuple((low, high - low) for low, high in zip(edges[::2], edges[1::2], strict=True) if high > low)


def _squeezed(values: Hashes, blocks: tuple[Block, ...]) -> Hashes:
    """The bits of some blocks, side by side."""
    found = np.zeros(len(values), np.uint64)
    for low, size in blocks:
        found = _shifted(found, size) | (values >> np.uint64(low)) & np.uint64((1 << size) - 1)
    return found


def _shifted(values: Hashes, bits: int) -> Hashes:
    return values << np.uint64(bits) if bits < HASH_BITS else np.zeros_like(values)
