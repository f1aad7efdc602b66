"""Joins, policy, takedowns, and an order that does not know the number of ranks. Expectations are made from what the tables were made of."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ccray import schema, storage
from ccray.data.loading.loader import LatentDataset, Order
from ccray.data.loading.rounds import Index, index
from ccray.interfaces import Failed, LatentBatch
from ccray.storage import Root
from tests.training.tables import CAPTIONS, DOORS, SHAPE, write_shard, write_tables

ROWS = (20, 17, 22)
ORDER = Order(seed=3, batch_size=8, window_shards=2)
STEPS = -(-sum(ROWS) // ORDER.batch_size)  # of an epoch


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root(str(tmp_path_factory.mktemp("tables")))
    write_tables(root, ROWS)
    return root


def take(
    root: Root, count: int, start: int = 0, rank: int = 0, world_size: int = 1, order: Order = ORDER, counted: Index | None = None
) -> list[LatentBatch]:
    dataset = LatentDataset(root, DOORS, counted or index(root, DOORS), order, rank, world_size)
    return list(itertools.islice(dataset.batches(start), count))


def keys(root: Root, shard: int) -> list[int]:
    return root.read_table(f"{DOORS.catalog}/{storage.shard_name(shard)}")["key"].to_pylist()


def test_an_epoch_has_every_row_once_with_its_own_latent_and_caption(root: Root) -> None:
    expected = {}
    for shard in range(len(ROWS)):
        latents = root.read_table(f"{DOORS.latents}/{storage.shard_name(shard)}").to_pylist()
        captions = root.read_table(f"{CAPTIONS}/{storage.shard_name(shard)}").to_pylist()
        expected |= {row["key"]: (row["latent_mean"], row["latent_std"], text["caption"]) for row, text in zip(latents, captions, strict=True)}
    batches = take(root, STEPS)
    assert [len(batch.keys) for batch in batches] == [8] * 7 + [3]
    found = {}
    for batch in batches:
        assert batch.latent_mean.shape == batch.latent_std.shape == (len(batch.keys), *SHAPE)
        assert batch.latent_mean.dtype == np.float16
        assert np.array_equal(batch.keys, batch.global_keys)
        for row, key in enumerate(batch.keys.tolist()):
            found[key] = (batch.latent_mean[row].ravel().tolist(), batch.latent_std[row].ravel().tolist(), batch.captions[row])
    assert found == expected


def test_epochs_differ_and_seeds_differ(root: Root) -> None:
    first, second = take(root, STEPS), take(root, STEPS, start=STEPS)
    assert sorted(np.concatenate([batch.keys for batch in first])) == sorted(np.concatenate([batch.keys for batch in second]))
    assert not np.array_equal(first[0].keys, second[0].keys)
    other = take(root, 1, order=Order(4, 8, 2))
    assert not np.array_equal(first[0].keys, other[0].keys)


def test_a_window_mixes_its_shards_and_no_others(root: Root) -> None:
    shard_of = {key: shard for shard in range(len(ROWS)) for key in keys(root, shard)}
    rows = [shard_of[key] for batch in take(root, STEPS) for key in batch.keys.tolist()]
    alone = rows[-1]  # the third shard of the order makes the second window
    first = rows[: sum(ROWS) - ROWS[alone]]
    assert alone not in first
    assert set(first) == {0, 1, 2} - {alone}
    assert set(rows[len(first) :]) == {alone}
    assert first != sorted(first)


@pytest.mark.parametrize("start", [1, 6, STEPS - 1, STEPS, 2 * STEPS + 3])
def test_any_step_can_be_the_first(root: Root, start: int) -> None:
    straight = take(root, start + 4)[start:]
    for found, expected in zip(take(root, 4, start=start), straight, strict=True):
        assert np.array_equal(found.keys, expected.keys)
        assert np.array_equal(found.latent_mean, expected.latent_mean)
        assert found.captions == expected.captions


@pytest.mark.parametrize("world_size", [2, 3, 5, 11])
def test_ranks_share_the_same_batches(root: Root, world_size: int) -> None:
    """Contiguous slices that differ by at most one row; a slice of the short batch may be empty."""
    whole = take(root, STEPS)
    slices = [take(root, STEPS, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, expected in enumerate(whole):
        parts = [ranks[step] for ranks in slices]
        assert np.array_equal(np.concatenate([part.keys for part in parts]), expected.keys)
        assert np.array_equal(np.concatenate([part.latent_std for part in parts]), expected.latent_std)
        assert [text for part in parts for text in part.captions] == expected.captions
        assert all(np.array_equal(part.global_keys, expected.keys) for part in parts)
        assert max(len(part.keys) for part in parts) - min(len(part.keys) for part in parts) <= 1


def test_a_batch_larger_than_the_data_is_all_of_it(root: Root) -> None:
    batches = take(root, 3, order=Order(0, 64, 8))
    assert [len(batch.keys) for batch in batches] == [59] * 3


def edit(root: Root, directory: str, shard: int, column: str, change: dict[int, object], schema_: pa.Schema) -> None:
    """Give rows (by key) of a sealed shard another value."""
    path = f"{directory}/{storage.shard_name(shard)}"
    rows = root.read_table(path).to_pylist()
    for row in rows:
        row[column] = change.get(row["key"], row[column])
    root.write_table(path, pa.Table.from_pylist(rows, schema=schema_))


def test_only_what_may_be_trained_on_passes(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    write_tables(root, ROWS)
    first = keys(root, 0)
    edit(root, DOORS.catalog, 0, "split", {first[0]: "validation"}, schema.CATALOG)
    edit(
        root,
        DOORS.catalog,
        0,
        "license",
        {first[1]: "CC-BY-NC-4.0", first[2]: "CC-BY-ND-4.0", first[3]: None, first[4]: "CC-BY-SA-4.0"},
        schema.CATALOG,
    )
    edit(root, CAPTIONS, 0, "status", {first[5]: "out of memory"}, schema.CAPTIONS)
    edit(root, DOORS.latents, 0, "status", {first[6]: "not decoded"}, schema.LATENTS)
    root.write("takedowns/2026-11.jsonl", f'{{"key": "{schema.hex_key(first[7])}", "reason": "asked by the author"}}\n'.encode())
    for policy, kept in (("permissive", first[8:]), ("commercial", [first[4], *first[8:]]), ("noncommercial", [first[1], first[4], *first[8:]])):
        doors = replace(DOORS, policy=policy)  # type: ignore[arg-type]
        counted = index(root, doors)
        assert counted.rows == {0: len(kept), 1: 17, 2: 22}
        dataset = LatentDataset(root, doors, counted, Order(0, 100, 1))
        batch = next(dataset.batches(0))
        assert sorted(set(batch.keys.tolist()) & set(first)) == sorted(kept)


def test_rows_without_a_partner_are_left_out(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    write_tables(root, ROWS)
    path = f"{CAPTIONS}/{storage.shard_name(1)}"
    root.write_table(path, root.read_table(path).slice(3))
    assert index(root, DOORS).rows == {0: 20, 1: 14, 2: 22}


def test_latents_without_std_are_their_mean(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    write_tables(root, ROWS)
    for shard in range(3):
        edit(root, DOORS.latents, shard, "latent_std", dict.fromkeys(keys(root, shard)), schema.LATENTS)
    assert not take(root, 1)[0].latent_std.any()


def test_nothing_left_fails_with_the_reason(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    write_tables(root, ROWS)
    for shard in range(3):
        edit(root, DOORS.catalog, shard, "license", dict.fromkeys(keys(root, shard), "CC-BY-NC-ND-4.0"), schema.CATALOG)
    with pytest.raises(Failed, match="no image is left to train on"):
        index(root, DOORS)


def test_tables_changed_under_a_run_fail(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    write_tables(root, ROWS)
    counted = index(root, DOORS)
    write_shard(root, 1, np.arange(5))
    with pytest.raises(Failed, match="were counted when this run started"):
        take(root, STEPS, counted=counted)


def test_mixed_shapes_fail(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    write_tables(root, ROWS)
    edit(root, DOORS.latents, 0, "latent_shape", {keys(root, 0)[0]: [16, 4, 4]}, schema.LATENTS)
    with pytest.raises(Failed, match=r"shard-00000.parquet mixes latents of shapes \[\[4, 8, 8\], \[16, 4, 4\]\]"):
        take(root, STEPS)


def test_captions_of_the_data_are_different_and_always_the_same(root: Root) -> None:
    dataset = LatentDataset(root, DOORS, index(root, DOORS), ORDER)
    found = dataset.captions(5)
    assert len(set(found)) == 5
    assert found == dataset.captions(5)
    assert len(dataset.captions(1000)) == 12
    assert json.dumps(found).count("picture number") == 5
