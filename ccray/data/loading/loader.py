"""Latents and captions as training batches, in an order that knows the seed and the epoch but not the number of ranks.

An epoch is its shards in a drawn order; a window of shards is loaded and shuffled together; the rows that come out, window after window, are
cut into global batches, of which only an epoch's last may be short. Every rank takes one contiguous slice of each global batch. So the
membership of step k follows from the settings, the table and the record of what was taken down when each epoch began (`rounds.py`), and a run can
be continued at any step by any number of ranks. Of the captions that a row has one is drawn anew in each epoch (`drawing.py`).

Memory: two windows (one in use, the next being read), each `window_shards` x rows of a shard x bytes of a row with the caption that was drawn; and
all captions of the one shard that is being read.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa

from ccray import storage, takedowns
from ccray.data.loading.drawing import drawn
from ccray.data.loading.eligible import Doors, eligible
from ccray.data.loading.rounds import Index, Round, Rounds
from ccray.interfaces import Failed, LatentBatch
from ccray.storage import Root


@dataclass(frozen=True)
class Order:
    """What decides which images make up which step."""

    seed: int
    batch_size: int  # images of a global batch
    window_shards: int


@dataclass(frozen=True)
class _Rows:
    """Some rows in order: key int64 [n], mean and std float16 [n C h w], caption object [n], the number of its table int16 [n]."""

    key: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    caption: np.ndarray
    table: np.ndarray

    def take(self, places: np.ndarray) -> "_Rows":
        return _Rows(*(getattr(self, field.name)[places] for field in fields(self)))

    @staticmethod
    def joined(parts: list["_Rows"]) -> "_Rows":
        return _Rows(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Rows)))


@dataclass(frozen=True)
class _Epoch:
    """One epoch, and the round that says which rows it has."""

    number: int
    round: Round
    gone: np.ndarray  # keys that were taken down when the round began


@dataclass(frozen=True)
class _Window:
    """Rows `start` to `end` of an epoch: what was loaded, and the order in which it is used."""

    epoch: _Epoch
    start: int
    end: int
    rows: _Rows
    order: np.ndarray

    def places(self, first: int, last: int) -> np.ndarray:
        """Where those of the epoch's rows `first` to `last` that lie in this window are in `rows`."""
        return self.order[max(first - self.start, 0) : max(last - self.start, 0)]


class LatentDataset:
    """The training data of one rank (`interfaces.Latents`)."""

    def __init__(self, root: Root, doors: Doors, counted: Index, order: Order, rank: int = 0, world_size: int = 1, record: str | None = None) -> None:
        """Args:
        root: where tables and record lie.
        doors: the tables, and who may pass.
        counted: the rows to begin with (`rounds.index`; of a recorded run, `rounds.continued`).
        order: which of them make up which step.
        rank: of this process.
        world_size: number of ranks.
        record: directory of the run's rounds; without one, what is taken down later does not matter.
        """
        self.root, self.doors, self.index, self.order = root, doors, counted, order
        self.rank, self.world_size = rank, world_size
        self._recorded = record is not None
        self._rounds = Rounds(root, doors, counted, order.batch_size, record)

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        """This rank's slice of each global batch from `start_step` on, without end."""
        windows = self._windows(start_step)
        window, size = next(windows), self.order.batch_size
        one = window.epoch.round
        first = (start_step - one.first_step) % one.steps_per_epoch(size) * size
        while True:
            held = deque([window])
            self.index = window.epoch.round.index
            for start in range(first, self.index.total, size):
                end = min(start + size, self.index.total)
                while held[-1].end < end:
                    held.append(next(windows))
                while held[0].end <= start:
                    held.popleft()
                yield self._slice(held, start, end)
            window, first = next(windows), 0

    def captions(self, count: int) -> list[str]:
        """Up to `count` different captions of the first shards, of images that are trained on now, as drawn in the first epoch."""
        found: dict[str, None] = {}
        gone = self._gone(self.index)
        for shard in sorted(self.index.rows):
            texts, _ = drawn(self.doors, self.order.seed, 0, *eligible(self.root, self.doors, shard, gone))
            found |= dict.fromkeys(texts.tolist())
            if len(found) >= count:
                break
        return list(found)[:count]

    def _gone(self, counted: Index) -> np.ndarray:
        return takedowns.load(self.root, counted.takedowns).keys.to_numpy()

    def _slice(self, held: deque[_Window], start: int, end: int) -> LatentBatch:
        size = end - start
        first, last = start + size * self.rank // self.world_size, start + size * (self.rank + 1) // self.world_size
        rows = _Rows.joined([window.rows.take(window.places(first, last)) for window in held])
        keys, tables = (np.concatenate([getattr(one.rows, name)[one.places(start, end)] for one in held]) for name in ("key", "table"))
        counts = np.bincount(tables, minlength=len(self.doors.captions)).tolist()
        names = [directory for directory, _ in self.doors.captions]
        return LatentBatch(rows.key, rows.mean, rows.std, list(rows.caption), keys, dict(zip(names, counts, strict=True)))

    def _windows(self, start_step: int) -> Iterator[_Window]:
        """Windows in order from the one that holds the first row of `start_step`; the next one is read while this one is used.

        Except over the end of a recorded round: what the next one is made of is decided when it begins, not before.
        """
        with ThreadPoolExecutor(1) as reader:
            ahead: deque[Any] = deque()
            current = self._rounds.at(start_step)
            while True:
                for plan in self._plans(current, start_step):
                    ahead.append(reader.submit(self._load, *plan))
                    if len(ahead) == 2:
                        yield ahead.popleft().result()
                while self._recorded and ahead:
                    yield ahead.popleft().result()
                current = self._rounds.after(current)
                start_step = current.first_step

    def _plans(self, one: Round, start_step: int) -> Iterator[tuple[_Epoch, int, int, list[int]]]:
        """(epoch, number of the window, its first row, its shards) from the row of `start_step` to the round's end."""
        size, rows, gone = self.order.batch_size, one.index.rows, self._gone(one.index)
        epochs, steps = divmod(start_step - one.first_step, one.steps_per_epoch(size))
        first = steps * size
        for number in range(one.first_epoch + epochs, one.first_epoch + one.epochs(size)):
            epoch = _Epoch(number, one, gone)
            shards = np.random.default_rng((self.order.seed, number)).permutation(sorted(rows)).tolist()
            start = 0
            for window, place in enumerate(range(0, len(shards), self.order.window_shards)):
                members = shards[place : place + self.order.window_shards]
                end = start + sum(rows[shard] for shard in members)
                if end > first:
                    yield epoch, window, start, members
                start = end
            first = 0

    def _load(self, epoch: _Epoch, number: int, start: int, shards: list[int]) -> _Window:
        rows = _Rows.joined([self._shard(epoch, shard) for shard in shards])
        order = np.random.default_rng((self.order.seed, epoch.number, number)).permutation(len(rows.key))
        return _Window(epoch, start, start + len(rows.key), rows, order)

    def _shard(self, epoch: _Epoch, shard: int) -> _Rows:
        keys, captions = eligible(self.root, self.doors, shard, epoch.gone)
        counted = epoch.round.index.rows[shard]
        if len(keys) != counted:
            raise Failed(
                f"shard {shard} of {self.root.path(self.doors.latents)} has {len(keys)} rows to train on, but {counted} were counted "
                "when this run started: its tables were changed meanwhile; run the same command again"
            )
        latents = self.root.read_table(f"{self.doors.latents}/{storage.shard_name(shard)}", ["key", "latent_mean", "latent_std", "latent_shape"])
        latents = latents.take(np.searchsorted(latents["key"], keys)).combine_chunks()
        texts, tables = drawn(self.doors, self.order.seed, epoch.number, keys, captions)
        shape = self._shape(latents, shard)
        mean = _array(latents["latent_mean"], shape)
        std = np.zeros_like(mean) if latents["latent_std"].null_count == len(keys) else _array(latents["latent_std"], shape)
        return _Rows(keys, mean, std, texts, tables)

    def _shape(self, latents: pa.Table, shard: int) -> tuple[int, ...]:
        shapes = np.unique(_array(latents["latent_shape"], (3,)), axis=0)
        if len(shapes) != 1:
            raise Failed(f"shard {shard} of {self.root.path(self.doors.latents)} mixes latents of shapes {shapes.tolist()}: encode at one size")
        return tuple(shapes[0].tolist())


def _array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    """A list column without nulls as one array [n, *shape]."""
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
