"""What is taken down while a run is going: from which step on it is gone, on which everybody agrees, and what a restart makes of it."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ccray import schema, storage, takedowns
from ccray.data.loading import rounds
from ccray.data.loading.loader import LatentDataset, Order
from ccray.data.loading.rounds import index
from ccray.interfaces import Failed, LatentBatch
from ccray.storage import Root
from ccray.takedowns import Record
from tests.training.tables import CAPTIONS, DOORS, write_tables

ROWS = (120, 117, 122)
SIZE = 8
ORDER = Order(seed=3, batch_size=SIZE, window_shards=2)
EPOCH = -(-sum(ROWS) // SIZE)  # 45 steps: longer than a round must be
RECORD = "checkpoints/main/rounds"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path))
    write_tables(root, ROWS)
    return root


def dataset(root: Root, step: int = 0, rank: int = 0, world_size: int = 1) -> LatentDataset:
    """As a run that is started, or continued at `step`, makes it."""
    counted = rounds.continued(root, DOORS, RECORD, SIZE, step)
    return LatentDataset(root, DOORS, counted, ORDER, rank, world_size, RECORD)


def take_down(root: Root, keys: list[int]) -> None:
    takedowns.record(root, [Record("key", schema.hex_key(key), None, "", (key,), ()) for key in keys])


def all_keys(root: Root) -> set[int]:
    return {key for shard in range(len(ROWS)) for key in root.read_table(f"{DOORS.latents}/{storage.shard_name(shard)}")["key"].to_pylist()}


def keys_of(batches: list[LatentBatch]) -> list[list[int]]:
    return [batch.global_keys.tolist() for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [key for batch in batches for key in batch]


def test_a_takedown_is_applied_from_the_next_epoch_on(root: Root) -> None:
    batches = dataset(root).batches(0)
    first = keys_of(list(itertools.islice(batches, 20)))
    gone = [first[0][0], *(all_keys(root) - set(flat(first)))][:5]  # one that was seen, four that the epoch has still to come to
    take_down(root, gone)
    rest = keys_of(list(itertools.islice(batches, EPOCH - 20)))
    assert set(flat(first + rest)) == all_keys(root), "the epoch that had begun is gone through to its end"
    second = flat(keys_of(list(itertools.islice(batches, EPOCH))))
    assert len(second) == len(set(second)) == sum(ROWS) - 5
    assert set(second) == all_keys(root) - set(gone)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_what_the_ranks_read_is_what_the_record_replays(root: Root, world_size: int) -> None:
    """Three epochs, five images taken down in the first: each rank's rows are noted one by one, then replayed on one rank from the record alone."""
    ranks = [dataset(root, rank=rank, world_size=world_size).batches(0) for rank in range(world_size)]
    log: list[list[int]] = []
    for step in range(3 * EPOCH):
        log.append([key for rank in ranks for key in next(rank).keys.tolist()])
        if step == 7:
            gone = log[0][:2] + log[7][:3]
            take_down(root, gone)
    epochs = [Counter(flat(log[at : at + EPOCH])) for at in range(0, 3 * EPOCH, EPOCH)]
    assert epochs[0] == Counter(all_keys(root)), "every image exactly once"
    assert epochs[1] == epochs[2] == Counter(all_keys(root) - set(gone))
    again = keys_of(list(itertools.islice(dataset(root).batches(0), 3 * EPOCH)))
    assert again == log
    assert Counter(flat(again)) == sum(epochs, Counter())


def test_ranks_that_look_at_different_moments_agree(root: Root) -> None:
    early, late = (dataset(root, rank=rank, world_size=2).batches(0) for rank in (0, 1))
    first = list(itertools.islice(early, EPOCH + 3))
    take_down(root, sorted(all_keys(root))[:5])
    second = list(itertools.islice(late, EPOCH + 3))
    assert keys_of(first) == keys_of(second)
    assert keys_of(list(itertools.islice(early, 2 * EPOCH))) == keys_of(list(itertools.islice(late, 2 * EPOCH)))
    assert [one.index.total for one in rounds.read(root, RECORD, SIZE)] == [359, 359, 354, 354]


@pytest.mark.parametrize("step", [0, 13, EPOCH - 1, EPOCH, EPOCH + 30])
def test_a_restart_makes_the_same_batches(root: Root, step: int) -> None:
    """Taken down in epoch 0, applied from epoch 1 on: a restart at any step, before or after, goes on bit for bit."""
    batches = dataset(root).batches(0)
    straight = list(itertools.islice(batches, 5))
    take_down(root, sorted(all_keys(root))[:5])
    straight += list(itertools.islice(batches, 2 * EPOCH))
    again = list(itertools.islice(dataset(root, step).batches(step), len(straight) - step))
    for found, expected in zip(again, straight[step:], strict=True):
        assert np.array_equal(found.keys, expected.keys)
        assert np.array_equal(found.latent_mean, expected.latent_mean)
        assert found.captions == expected.captions


def test_a_run_continued_after_a_takedown_begins_a_new_epoch(root: Root) -> None:
    before = keys_of(list(itertools.islice(dataset(root).batches(0), 20)))
    gone = sorted(all_keys(root))[:5]
    take_down(root, gone)
    after = dataset(root, 10)
    continued = keys_of(list(itertools.islice(after.batches(10), EPOCH)))
    assert set(flat(continued)) == all_keys(root) - set(gone)
    assert continued[:10] != before[10:]
    assert keys_of(list(itertools.islice(dataset(root, 30).batches(30), 5))) == continued[20:25], "and a further restart goes on with it"
    assert [(one.first_step, one.first_epoch, one.cut) for one in rounds.read(root, RECORD, SIZE)][:2] == [(0, 0, False), (10, 1, True)]


def test_rows_that_were_purged_do_not_stop_a_run(root: Root) -> None:
    """The takedown was applied in the second round; the purge takes rows out of the first, in which the newest checkpoint stands."""
    batches = dataset(root).batches(0)
    list(itertools.islice(batches, 20))
    gone = sorted(all_keys(root))[:5]
    take_down(root, gone)
    list(itertools.islice(batches, EPOCH))
    for directory in (DOORS.latents, CAPTIONS, DOORS.catalog):
        for shard in range(len(ROWS)):
            table = root.read_table(f"{directory}/{storage.shard_name(shard)}")
            root.write_table(
                f"{directory}/{storage.shard_name(shard)}", table.filter(pa.array([key not in gone for key in table["key"].to_pylist()]))
            )
    found = keys_of(list(itertools.islice(dataset(root, 10).batches(10), EPOCH)))
    assert set(flat(found)) == all_keys(root)
    assert len(all_keys(root)) == sum(ROWS) - 5


def test_short_epochs_are_taken_together(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    write_tables(root, (20, 17, 22))  # 8 steps an epoch, 4 epochs a round
    batches = dataset(root).batches(0)
    next(batches)
    take_down(root, sorted(root.read_table(f"{DOORS.latents}/{storage.shard_name(0)}")["key"].to_pylist())[:2])
    sizes = [len(flat(keys_of(list(itertools.islice(batches, 8 if epoch else 7))))) for epoch in range(6)]
    assert sizes == [51, 59, 59, 59, 57, 57]
    assert len(rounds.read(root, RECORD, SIZE)) == 2


def test_everything_taken_down_fails_with_the_reason(root: Root) -> None:
    batches = dataset(root).batches(0)
    next(batches)
    take_down(root, sorted(all_keys(root)))
    with pytest.raises(Failed, match="no image is left to train on"):
        list(itertools.islice(batches, EPOCH))


def test_a_round_of_another_run_is_not_taken(root: Root) -> None:
    batches = dataset(root).batches(0)
    next(batches)
    other = rounds.Round(1, 7, 1, index(root, DOORS))
    root.write(f"{RECORD}/00001.json", rounds._bytes(other))
    with pytest.raises(Failed, match="begins at step 7, expected 45"):
        list(itertools.islice(batches, EPOCH))
    assert [one.first_step for one in rounds.read(root, RECORD, SIZE)] == [0]
