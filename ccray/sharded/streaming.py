"""Online mode: Ray Data reads pictures, decodes and encodes them (`resources.encode`) and feeds the trainers; nothing touches the disk.

    (epoch, shard) in a drawn order -> its rows with captions -> pixels -> latents on the actors -> as many rows to each rank

An epoch of few shards would start Ray Data's actors anew every few steps, so several epochs make a *pass*, one data set of Ray Data's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
import ray.train
from ray.data import ActorPoolStrategy, DataContext, Dataset

from ccray.config import ActorResources, EncodeConfig, Phase
from ccray.data.loading.eligible import Doors
from ccray.data.loading.offering import CARRIED, ENCODED, offered
from ccray.data.pictures.pixels import LoadPixels, square_view, with_columns
from ccray.interfaces import Failed, Worker
from ccray.sharded import journal
from ccray.sharded.pipeline import SETTINGS, TASK_MEMORY_BYTES, device_of, threads_of
from ccray.sharded.working import Build, InActor, in_task
from ccray.storage import Root
from ccray.training.shelf import newest_step

PASS_SHARDS = 4096  # of one pass at most, unless an epoch has more
DECODE_BATCH = 64
SHUFFLED_BATCHES = 8  # of a rank, from which rows are drawn: neighbours in a shard should not be neighbours in a batch
AHEAD = 2  # batches on their way to a rank


@dataclass(frozen=True)
class Stream:
    """What one phase reads."""

    root: Root
    doors: Doors
    encode: EncodeConfig  # at the phase's size
    encoder: Callable[..., Worker]  # of `PIXELS` with `CARRIED` to `ENCODED`; built as encoder(encode, device, threads)
    pool: ActorResources
    phase: Phase
    seed: int
    rows: dict[int, int]  # shard -> rows that may be trained on
    directory: str  # of the run

    @property
    def epochs_per_pass(self) -> int:
        return max(1, min(PASS_SHARDS // len(self.rows), self.epochs(self.phase.steps)))

    @property
    def passes(self) -> int:
        return -(-self.epochs(self.phase.steps) // self.epochs_per_pass)

    def epochs(self, steps: int) -> int:
        """As many as have the rows of so many steps, and one: the last rows of a pass may make no whole batch."""
        return 1 + steps * self.phase.global_batch_size // sum(self.rows.values())

    def name(self, number: int) -> str:
        """Of a pass among the trainer's data sets."""
        return f"online-{self.phase.name}-{number}"

    def datasets(self) -> dict[str, Callable[[], Dataset]]:
        """What makes each pass, at every start of the ranks: from the epoch that the newest checkpoint has come to."""
        return {self.name(number): partial(self._dataset, number) for number in range(self.passes)}

    def batches(self, rows: int) -> Iterator[pa.Table]:
        """On a rank: tables of `ENCODED` of exactly `rows` rows, equally many on every rank, without end.

        Raises:
            Failed: when a pass gave none.
        """
        for number in chain(range(self.passes), repeat(self.passes - 1)):
            part = ray.train.get_dataset_shard(self.name(number))
            given = 0
            for table in part.iter_batches(
                batch_size=rows,
                batch_format="pyarrow",
                drop_last=True,
                prefetch_batches=AHEAD,
                local_shuffle_buffer_size=SHUFFLED_BATCHES * rows,
                local_shuffle_seed=self.seed,
            ):
                given += 1
                yield table
            if not given:
                raise Failed(f"{sum(self.rows.values())} images may be trained on, but too few of them can be decoded and encoded for one batch")

    def _dataset(self, number: int) -> Dataset:
        for key, value in SETTINGS.items():
            setattr(DataContext.get_current(), key, value)
        done = min(max(newest_step(self.root, self.directory) - self.phase.first_step, 0), self.phase.steps)
        first = self.epochs(done) - 1 + number * self.epochs_per_pass
        shards = self.epochs_per_pass * len(self.rows)
        book = journal.opened(f"{self.directory}, {self.encode.size_px} px")
        view, on = partial(square_view, size_px=self.encode.size_px), self._tasks_on()
        load: Build = (LoadPixels, (self.root, view, frozenset(), CARRIED))
        encode: Build = (self.encoder, (self.encode, device_of(self.pool), threads_of(self.pool)))
        rows = ray.data.range(shards, override_num_blocks=shards)
        offer = partial(_offer, self.root, self.doors, self.seed, sorted(self.rows), first)  # not of this object: its tasks should not load torch
        rows = rows.map_batches(offer, batch_size=1, batch_format="numpy", memory=TASK_MEMORY_BYTES, **on)
        rows = rows.repartition(target_num_rows_per_block=min(self.pool.rows_per_block, max(self.rows.values())))
        rows = rows.map_batches(
            lambda table: in_task(table, load, with_columns(CARRIED), book),
            batch_size=min(DECODE_BATCH, self.pool.rows_per_block),
            batch_format="pyarrow",
            memory=TASK_MEMORY_BYTES,
            **on,
        )
        rows = rows.map_batches(
            InActor,
            fn_constructor_args=(encode, ENCODED, book),
            batch_size=self.encode.batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=self.pool.min_actors, max_size=max(self.pool.min_actors, self.pool.max_actors)),
            num_cpus=self.pool.cpus,
            num_gpus=self.pool.gpus or None,
            label_selector=self.pool.label_selector or None,
        )
        return rows.map_batches(_good, batch_size=None, batch_format="pyarrow", **on)

    def _tasks_on(self) -> dict[str, Any]:
        return {"label_selector": self.pool.task_label_selector} if self.pool.task_label_selector else {}


def _offer(root: Root, doors: Doors, seed: int, shards: list[int], first_epoch: int, batch: dict[str, Any]) -> pa.Table:
    """Rows of the pass's shard number `batch["id"][0]`."""
    epochs, place = divmod(int(batch["id"][0]), len(shards))
    order = np.random.default_rng((seed, first_epoch + epochs)).permutation(shards)
    return offered(root, doors, int(order[place]), seed, first_epoch + epochs)


def _good(table: pa.Table) -> pa.Table:
    """Rows that have a latent."""
    return table.filter(pc.equal(table["status"], "ok"))
