"""Latents and captions as training batches, in an order that knows the seed and the epoch but not the number of ranks (`order.py`).

Every rank takes one contiguous slice of each global batch. Membership of step k follows from the settings, the tables and the record of what was
taken down when each epoch began (`rounds.py`), so a run is continued at any step by any number of ranks, and the step is all that it must remember:
nothing that came before is read. Of the captions that a row has one is drawn anew in each epoch (`drawing.py`).

What a rank reads: of each shard of a window the keys, because it must know whole batches; latents and captions only of its own rows, in the row
groups that have some. With shards of 4,096 rows, 8 of them a window, SD2's latents at 256 px (16 KiB a row, mean and std) and batches of 2,048, a
window is 512 MiB of latents. Each of 128 ranks keeps 4 MiB of it, and reads one or two shards, 64 to 128 MiB, where a shard is one row group, but
about 20 MiB where row groups have 256 rows; and 256 KiB of keys. Which rows may be trained on is found out once in a run and kept, a bit a row and
table of captions: it would be nearly half of what such a rank computes (95 ms a window without, 54 ms with it).

Memory in bytes, of a rank that has n rows of a window of N: two windows (one in use, the next being read) of n x (row of latents + caption) + 26 N, the
batch, and for each of `READERS` threads one row group of latents, as stored and twice as decoded, and one shard's captions. Windows follow each
other in the same memory, because a machine takes longer to find new memory than to copy a batch out of it.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ccray.data.loading import reading, shards
from ccray.data.loading.drawing import drawn, texts
from ccray.data.loading.eligible import Admitted, Doors, admitted, contains, facts_of, mixed
from ccray.data.loading.order import Order, Part, Window, windows
from ccray.data.loading.reading import Latents
from ccray.data.loading.rounds import Index, Rounds, gone_keys
from ccray.interfaces import Failed, LatentBatch
from ccray.storage import Root

READERS = 4  # shards read at the same time


@dataclass(frozen=True)
class _Held:
    """A window as this rank has it: keys of all its rows and the tables of their captions, the rest of its own rows only."""

    window: Window
    parts: list[Part]
    own: np.ndarray  # int64 [n]: places of this rank's rows in the order of their use
    keys: np.ndarray  # int64 [N]
    tables: np.ndarray  # int16 [N]
    latents: Latents  # n rows, and room for more
    captions: np.ndarray  # object [n]


@dataclass(frozen=True)
class _Piece:
    """What a window gives to one batch: keys and tables of all its rows, the rest of this rank's."""

    global_keys: np.ndarray
    tables: np.ndarray
    keys: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    captions: np.ndarray


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
        self._admitted: dict[int, Admitted] = {}

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        """This rank's slice of each global batch from `start_step` on, without end. To be closed: threads read ahead.

        Raises:
            Failed: when a shard is missing, torn, changed, or of other latents than the rest.
        """
        pieces: list[_Piece] = []
        with closing(self._windows(start_step)) as held_windows:
            for held in held_windows:
                self.index = held.window.round.index
                used = 0
                for part in held.parts:
                    pieces.append(_piece(held, part, used))
                    used += len(part.own)
                    if part.last:
                        yield self._batch(pieces)
                        pieces = []

    def captions(self, count: int) -> list[str]:
        """Up to `count` different captions of the first shards, of images that are trained on now, as drawn in the first epoch."""
        found: dict[str, None] = {}
        gone = gone_keys(self.root, self.index.takedowns)
        for shard in sorted(self.index.rows):
            keys, one = admitted(self.root, self.doors, shard, {})
            described = one.described()
            rows = np.flatnonzero(described.any(axis=1) & ~contains(gone, keys))
            tables = drawn(self.doors, self.order.seed, 0, keys[rows], described[rows])
            found |= dict.fromkeys(texts(self.root, self.doors, shard, keys[rows], tables).tolist())
            if len(found) >= count:
                break
        return list(found)[:count]

    def _batch(self, pieces: list[_Piece]) -> LatentBatch:
        def whole(name: str) -> np.ndarray:
            found = [getattr(piece, name) for piece in pieces]
            return found[0] if len(found) == 1 else np.concatenate(found)

        counts = np.bincount(whole("tables"), minlength=len(self.doors.captions)).tolist()
        counted = dict(zip([directory for directory, _ in self.doors.captions], counts, strict=True))
        return LatentBatch(whole("keys"), whole("mean"), whole("std"), whole("captions").tolist(), whole("global_keys"), counted)

    def _windows(self, start_step: int) -> Generator[_Held]:
        """Windows in order from the one that holds the first row of `start_step`; the next one is read while this one is used.

        Except over the end of a recorded round: what the next one is made of is decided when it begins, not before.
        """
        pool = ThreadPoolExecutor(READERS, "ccray-latents")
        ahead: deque[tuple[_Held, list[Future[None]]]] = deque()
        spare: list[Latents] = []
        try:
            current = self._rounds.at(start_step)
            while True:
                gone = gone_keys(self.root, current.index.takedowns)
                for window, first in windows(current, self.order, start_step):
                    held = self._room(window, first, spare)
                    ahead.append((held, [pool.submit(self._read, held, number, gone) for number in range(len(window.shards))]))
                    if len(ahead) == 2:
                        held = _ready(*ahead.popleft())
                        yield held
                        spare.append(held.latents)
                while self._recorded and ahead:
                    held = _ready(*ahead.popleft())
                    yield held
                    spare.append(held.latents)
                current = self._rounds.after(current)
                start_step = current.first_step
        finally:
            pool.shutdown(cancel_futures=True)

    def _room(self, window: Window, first: int, spare: list[Latents]) -> _Held:
        """Room for a window of which this rank's rows are read from the epoch's row `first` on, in the memory of an earlier one if that is enough."""
        parts = window.parts(first, self.rank, self.world_size)
        own = np.concatenate([part.own for part in parts])
        count = window.bounds[-1]
        latents = spare.pop() if spare else Latents.empty(0, self._shape)
        if len(latents.mean) < len(own):
            latents = Latents.empty(len(own), self._shape)
        return _Held(window, parts, own, np.empty(count, np.int64), np.empty(count, np.int16), latents, np.empty(len(own), object))

    @cached_property
    def _facts(self) -> dict[str, str]:
        return facts_of(self.root, self.doors)

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        """[C, h, w] of all latents: as the first shard that is trained on has it."""
        shard = min(self.index.rows)
        self._described(shard)
        return self._admitted[shard].shape

    def _read(self, held: _Held, number: int, gone: np.ndarray) -> None:
        """Fill in what shard `number` of a window gives."""
        window, shard = held.window, held.window.shards[number]
        begin, end = window.bounds[number : number + 2]
        keys, described = self._described(shard)
        rows = np.flatnonzero(described.any(axis=1) & ~contains(gone, keys))
        self._check_count(shard, len(rows), end - begin)
        keys, described = keys[rows], described[rows]
        tables = drawn(self.doors, self.order.seed, window.epoch, keys, described)
        held.keys[begin:end], held.tables[begin:end] = keys, tables
        to = np.flatnonzero((held.own >= begin) & (held.own < end))
        to = to[np.argsort(held.own[to])]
        mine = held.own[to] - begin
        if len(mine):
            with shards.opened(self.root, self.doors.latents, shard) as one:
                self._check_shape(shard)
                reading.fill(held.latents, to, one, rows[mine])
            held.captions[to] = texts(self.root, self.doors, shard, keys[mine], tables[mine])

    def _described(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys of all rows of a shard, int64 [rows], and which tables describe those that may be trained on, bool [rows T]."""
        known = self._admitted.get(shard)
        keys = shards.columns(self.root, self.doors.latents, shard, ["key"])["key"].to_numpy() if known else None
        if known is None or keys is None or len(keys) != known.rows:  # purged since
            keys, known = admitted(self.root, self.doors, shard, self._facts)
            self._admitted[shard] = known
        return keys, known.described()

    def _check_shape(self, shard: int) -> None:
        found = self._admitted[shard].shape
        if found != self._shape:
            raise Failed(mixed(self.root, self.doors, {found: shard, self._shape: min(self.index.rows)}))

    def _check_count(self, shard: int, found: int, counted: int) -> None:
        if found != counted:
            raise Failed(
                f"shard {shard} of {self.root.path(self.doors.latents)} has {found} rows to train on, but {counted} were counted "
                "when this run started: its tables were changed meanwhile; run the same command again"
            )


def _ready(held: _Held, futures: list[Future[None]]) -> _Held:
    for future in futures:
        future.result()
    return held


def _piece(held: _Held, part: Part, used: int) -> _Piece:
    """What a part takes of a window, of whose own rows `used` were taken before."""
    rows = slice(used, used + len(part.own))
    mean, std = held.latents.mean[rows].copy(), held.latents.std[rows].copy()
    return _Piece(held.keys[part.places], held.tables[part.places], held.keys[part.own], mean, std, held.captions[rows])
