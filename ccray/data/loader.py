"""Latents and captions as training batches, in an order that knows the seed and the epoch but not the number of ranks.

An epoch is its shards in a drawn order; a window of shards is loaded and shuffled together; the rows that come out, window after window, are
cut into global batches, of which only an epoch's last may be short. Every rank takes one contiguous slice of each global batch. So the
membership of step k follows from the settings and the table alone, and a run can be continued at any step by any number of ranks.

Memory: two windows (one in use, the next being read), each `window_shards` x rows of a shard x bytes of a row.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccray import licenses, storage
from ccray.interfaces import Failed, LatentBatch
from ccray.licenses import Policy
from ccray.storage import Root
from ccray.takedowns import taken_down

READERS = 16  # shards counted at the same time; each is one wait on the store


@dataclass(frozen=True)
class Doors:
    """The tables that meet in a training batch, and who may pass."""

    latents: str  # directories under the root
    captions: str
    catalog: str
    policy: Policy


@dataclass(frozen=True)
class Index:
    """How many rows of each shard are trained on, counted once a run so that all ranks and restarts agree."""

    rows: dict[int, int]  # shard -> rows
    takedowns: frozenset[int]  # keys, as they stood when the rows were counted

    @property
    def total(self) -> int:
        return sum(self.rows.values())


@dataclass(frozen=True)
class Order:
    """What decides which images make up which step."""

    seed: int
    batch_size: int  # images of a global batch
    window_shards: int


def index(root: Root, doors: Doors) -> Index:
    """Count the rows that may be trained on: in all three tables and well, of the train split, permitted, not taken down.

    Raises:
        Failed: when there is none, with the number of rows that each condition left.
    """
    takedowns = taken_down(root)
    shards = storage.sealed_shards(root, doors.latents)
    with ThreadPoolExecutor(READERS) as pool:
        counted = list(pool.map(lambda shard: len(_eligible(root, doors, shard, takedowns)[0]), shards))
    found = Index({shard: rows for shard, rows in zip(shards, counted, strict=True) if rows}, takedowns)
    if not found.total:
        raise Failed(
            f"no image is left to train on: {root.path(doors.latents)} has {len(shards)} shards, but no row of them has a latent, a caption, "
            f"a licence that policy {doors.policy} permits, and is in the train split and not taken down"
        )
    return found


def _eligible(root: Root, doors: Doors, shard: int, takedowns: frozenset[int]) -> tuple[np.ndarray, pa.Table]:
    """Keys of a shard's rows that may be trained on, ascending, and the captions' rows."""
    name = storage.shard_name(shard)
    catalog = root.read_table(f"{doors.catalog}/{name}", columns=["key", "license", "split"])
    captions = root.read_table(f"{doors.captions}/{name}", columns=["key", "caption", "status"])
    latents = root.read_table(f"{doors.latents}/{name}", columns=["key", "status"])
    permitted = [text for text in pc.unique(catalog["license"]).to_pylist() if licenses.refusal(licenses.parse(text or ""), doors.policy) is None]
    catalog = catalog.filter(pc.and_(pc.equal(catalog["split"], "train"), pc.is_in(catalog["license"], pa.array(permitted, pa.string()))))
    captions = captions.filter(pc.equal(captions["status"], "ok"))
    latents = latents.filter(pc.equal(latents["status"], "ok"))
    keys = np.intersect1d(np.intersect1d(catalog["key"], captions["key"]), latents["key"])
    return np.setdiff1d(keys, np.fromiter(takedowns, np.int64, len(takedowns))), captions


@dataclass(frozen=True)
class _Rows:
    """Some rows in order: key int64 [n], mean and std float16 [n C h w], caption object [n]."""

    key: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    caption: np.ndarray

    def take(self, places: np.ndarray) -> "_Rows":
        return _Rows(*(getattr(self, field.name)[places] for field in fields(self)))

    @staticmethod
    def joined(parts: list["_Rows"]) -> "_Rows":
        return _Rows(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Rows)))


@dataclass(frozen=True)
class _Window:
    """Rows `start` to `end` of an epoch: what was loaded, and the order in which it is used."""

    epoch: int
    start: int
    end: int
    rows: _Rows
    order: np.ndarray

    def places(self, first: int, last: int) -> np.ndarray:
        """Where those of the epoch's rows `first` to `last` that lie in this window are in `rows`."""
        return self.order[max(first - self.start, 0) : max(last - self.start, 0)]


class LatentDataset:
    """The training data of one rank (`interfaces.Latents`)."""

    def __init__(self, root: Root, doors: Doors, counted: Index, order: Order, rank: int = 0, world_size: int = 1) -> None:
        self.root, self.doors, self.index, self.order = root, doors, counted, order
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = -(-counted.total // order.batch_size)

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        """This rank's slice of each global batch from `start_step` on, without end."""
        epoch, skipped = divmod(start_step, self.steps_per_epoch)
        first = skipped * self.order.batch_size
        windows = self._windows(epoch, first)
        for current in count(epoch):
            held: deque[_Window] = deque()
            for start in range(first, self.index.total, self.order.batch_size):
                end = min(start + self.order.batch_size, self.index.total)
                while not held or held[-1].end < end:
                    held.append(next(windows))
                while held[0].end <= start:
                    held.popleft()
                assert held[0].epoch == current
                yield self._slice(held, start, end)
            first = 0

    def captions(self, count: int) -> list[str]:
        """Up to `count` different captions of the first shards."""
        found: dict[str, None] = {}
        for shard in sorted(self.index.rows):
            keys, captions = _eligible(self.root, self.doors, shard, self.index.takedowns)
            allowed = captions.filter(pc.is_in(captions["key"], pa.array(keys)))
            found |= dict.fromkeys(allowed["caption"].to_pylist())
            if len(found) >= count:
                break
        return list(found)[:count]

    def _slice(self, held: deque[_Window], start: int, end: int) -> LatentBatch:
        size = end - start
        first, last = start + size * self.rank // self.world_size, start + size * (self.rank + 1) // self.world_size
        rows = _Rows.joined([window.rows.take(window.places(first, last)) for window in held])
        keys = np.concatenate([window.rows.key[window.places(start, end)] for window in held])
        return LatentBatch(rows.key, rows.mean, rows.std, list(rows.caption), keys)

    def _windows(self, epoch: int, first: int) -> Iterator[_Window]:
        """Windows in order from the one that holds row `first` of `epoch`; the next one is read while this one is used."""
        with ThreadPoolExecutor(1) as reader:
            ahead: deque[Any] = deque()
            for plan in self._plans(epoch, first):
                ahead.append(reader.submit(self._load, *plan))
                if len(ahead) == 2:
                    yield ahead.popleft().result()

    def _plans(self, epoch: int, first: int) -> Iterator[tuple[int, int, int, list[int]]]:
        """(epoch, number of the window, its first row, its shards) without end."""
        for current in count(epoch):
            shards = np.random.default_rng((self.order.seed, current)).permutation(sorted(self.index.rows)).tolist()
            start = 0
            for number, place in enumerate(range(0, len(shards), self.order.window_shards)):
                members = shards[place : place + self.order.window_shards]
                end = start + sum(self.index.rows[shard] for shard in members)
                if end > first:
                    yield current, number, start, members
                start = end
            first = 0

    def _load(self, epoch: int, number: int, start: int, shards: list[int]) -> _Window:
        rows = _Rows.joined([self._shard(shard) for shard in shards])
        order = np.random.default_rng((self.order.seed, epoch, number)).permutation(len(rows.key))
        return _Window(epoch, start, start + len(rows.key), rows, order)

    def _shard(self, shard: int) -> _Rows:
        keys, captions = _eligible(self.root, self.doors, shard, self.index.takedowns)
        if len(keys) != self.index.rows[shard]:
            raise Failed(
                f"shard {shard} of {self.root.path(self.doors.latents)} has {len(keys)} rows to train on, but {self.index.rows[shard]} were counted "
                "when this run started: its tables were changed meanwhile; run the same command again"
            )
        latents = self.root.read_table(f"{self.doors.latents}/{storage.shard_name(shard)}", ["key", "latent_mean", "latent_std", "latent_shape"])
        latents = latents.take(np.searchsorted(latents["key"], keys)).combine_chunks()
        texts = captions["caption"].take(np.searchsorted(captions["key"], keys)).to_numpy(zero_copy_only=False)
        shape = self._shape(latents, shard)
        mean = _array(latents["latent_mean"], shape)
        std = np.zeros_like(mean) if latents["latent_std"].null_count == len(keys) else _array(latents["latent_std"], shape)
        return _Rows(keys, mean, std, texts.astype(object))

    def _shape(self, latents: pa.Table, shard: int) -> tuple[int, ...]:
        shapes = np.unique(_array(latents["latent_shape"], (3,)), axis=0)
        if len(shapes) != 1:
            raise Failed(f"shard {shard} of {self.root.path(self.doors.latents)} mixes latents of shapes {shapes.tolist()}: encode at one size")
        return tuple(shapes[0].tolist())


def _array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    """A list column without nulls as one array [n, *shape]."""
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
