"""Which rows of which shards make up which step, by arithmetic alone: nothing is read to know it.

An epoch is its shards in an order drawn from (seed, epoch). `window_shards` of them at a time make a window, whose rows are shuffled together by
(seed, epoch, number of the window); the rows that come out, window after window, are cut into global batches, of which only an epoch's last may be
short. So membership depends on nothing but the settings and the number of rows of each shard.

Inside a global batch the rows that one window gives stand in the order of the window's shards and of the rows in each, not as shuffled: a rank's
contiguous slice then lies in one or two shards, at about the same place of each batch. The loss is the mean over the whole batch, whatever the order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ccray.data.loading.rounds import Round


@dataclass(frozen=True)
class Order:
    """What decides which images make up which step."""

    seed: int
    batch_size: int  # images of a global batch
    window_shards: int


@dataclass(frozen=True)
class Part:
    """What a window gives to one global batch. Places count the window's rows, shard after shard."""

    places: np.ndarray  # int64, ascending: of the whole batch
    own: np.ndarray  # those of one rank
    last: bool  # the batch ends with it


@dataclass(frozen=True)
class Window:
    """Rows `start` to `end` of an epoch."""

    order: Order
    round: Round
    epoch: int
    number: int  # in the epoch
    start: int
    shards: tuple[int, ...]  # in the order in which places are counted

    @cached_property
    def bounds(self) -> list[int]:
        """Places at which each shard begins, and the number of all rows."""
        rows = self.round.index.rows
        return np.cumsum([0, *(rows[shard] for shard in self.shards)]).tolist()

    @property
    def end(self) -> int:
        return self.start + self.bounds[-1]

    def parts(self, first: int, rank: int, world_size: int) -> list[Part]:
        """Of each batch that has rows of this window, from the epoch's row `first` on, which begins a batch."""
        size, total = self.order.batch_size, self.round.index.total
        shuffled = np.random.default_rng((self.order.seed, self.epoch, self.number)).permutation(self.bounds[-1])
        found = []
        for batch in range(max(first, self.start) // size * size, self.end, size):
            batch_end = min(batch + size, total)
            begin, end = max(batch, self.start), min(batch_end, self.end)
            places = np.sort(shuffled[begin - self.start : end - self.start])
            share = [batch + (batch_end - batch) * one // world_size for one in (rank, rank + 1)]
            own = places[max(share[0] - begin, 0) : max(share[1] - begin, 0)]
            found.append(Part(places, own, end == batch_end))
        return found


def windows(one: Round, order: Order, start_step: int) -> Iterator[tuple[Window, int]]:
    """The windows of a round from the one that holds the first row of `start_step` on, each with the epoch's row from which it is used."""
    rows = one.index.rows
    epochs, steps = divmod(start_step - one.first_step, one.steps_per_epoch(order.batch_size))
    first = steps * order.batch_size
    for epoch in range(one.first_epoch + epochs, one.first_epoch + one.epochs(order.batch_size)):
        shards = np.random.default_rng((order.seed, epoch)).permutation(sorted(rows)).tolist()
        start = 0
        for number, place in enumerate(range(0, len(shards), order.window_shards)):
            window = Window(order, one, epoch, number, start, tuple(shards[place : place + order.window_shards]))
            if window.end > first:
                yield window, first
            start = window.end
        first = 0
