"""What a rank reads, how much of it is in memory, and what comes of files that are not as they should be."""

import threading
import tracemalloc
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccray import schema, storage
from ccray.data.loading import loader
from ccray.data.loading.loader import LatentDataset, Order
from ccray.data.loading.rounds import Index, index
from ccray.interfaces import Failed, LatentBatch
from ccray.storage import Root
from tests.servers import s3_store
from tests.training.tables import CAPTIONS, DOORS, SHAPE, write_tables

ROWS = (20, 17, 22)
ORDER = Order(seed=3, batch_size=8, window_shards=2)
STEPS = -(-sum(ROWS) // ORDER.batch_size)
ROW_BYTES = 2 * 2 * int(np.prod(SHAPE))
LIMIT_SECONDS = 60


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path))
    write_tables(root, ROWS)
    return root


def take(root: Root, count: int = STEPS, rank: int = 0, world_size: int = 1, order: Order = ORDER, counted: Index | None = None) -> list[LatentBatch]:
    data = LatentDataset(root, DOORS, counted or index(root, DOORS), order, rank, world_size)
    with closing(data.batches(0)) as batches:  # type: ignore[type-var]
        return list(islice(batches, count))


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ccray-latents")]


def path_of(root: Root, directory: str, shard: int) -> Path:
    return Path(root.path(f"{directory}/{storage.shard_name(shard)}"))


def manifest(root: Root, facts: dict[str, object]) -> None:
    """What `encode` leaves beside its shards."""
    files = {storage.shard_name(shard): rows for shard, rows in enumerate(ROWS)}
    made = storage.Manifest("encode", "tiny", "finished", "0" * 16, {}, {}, shards=files, facts=facts)
    root.write_json(f"{DOORS.latents}/{storage.MANIFEST}", made.__dict__)


# ------------------------------------------------------------------ what is read


def spoil(root: Root, shard: int, groups: range) -> None:
    """Overwrite the latents in some row groups, so that reading them fails."""
    path = path_of(root, DOORS.latents, shard)
    with pq.ParquetFile(path) as file:
        columns = [file.metadata.row_group(group).column(number) for group in groups for number in range(file.metadata.num_columns)]
    data = bytearray(path.read_bytes())
    for column in columns:
        if column.path_in_schema.startswith(("latent_mean", "latent_std")):
            start = column.data_page_offset if column.dictionary_page_offset is None else column.dictionary_page_offset
            data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_a_rank_reads_no_latents_but_in_its_own_row_groups(tmp_path: Path, rank: int) -> None:
    """One shard of 64 rows in groups of 4, batches that are the whole epoch, four ranks: each can do without what the others read."""
    root, order = Root(str(tmp_path)), Order(0, 64, 1)
    write_tables(root, (64,))
    name = f"{DOORS.latents}/{storage.shard_name(0)}"
    root.write_table(name, root.read_table(name), row_group_rows=4)
    counted = index(root, DOORS)
    whole = take(root, 1, order=order, counted=counted)[0]
    own = range(4 * rank, 4 * rank + 4)
    spoil(root, 0, range(own.start))
    spoil(root, 0, range(own.stop, 16))
    (found,) = take(root, 1, rank, 4, order, counted)
    mine = slice(16 * rank, 16 * rank + 16)
    assert np.array_equal(found.global_keys, whole.global_keys)
    assert np.array_equal(found.latent_mean, whole.latent_mean[mine])
    assert found.captions == whole.captions[mine]
    with pytest.raises(Failed, match=r"shard-00000\.parquet cannot be read"):
        take(root, 1, (rank + 1) % 4, 4, order, counted)


def test_which_rows_may_be_trained_on_is_found_out_once(root: Root) -> None:
    """After an epoch, captions are read for the texts that were drawn only, and the catalog not at all."""
    data = LatentDataset(root, DOORS, index(root, DOORS), ORDER)
    first = next(data.batches(0))
    list(islice(data.batches(0), STEPS))
    for shard in range(len(ROWS)):
        path_of(root, DOORS.catalog, shard).unlink()
    again = next(data.batches(0))
    assert np.array_equal(first.latent_mean, again.latent_mean)
    assert first.captions == again.captions


def plainly(root: Root, row_group_rows: int = 7) -> None:
    """Write latents again as they are: neither compressed nor coded."""
    for shard in range(len(ROWS)):
        path = path_of(root, DOORS.latents, shard)
        pq.write_table(pq.read_table(path, partitioning=None), path, compression="none", use_dictionary=False, row_group_size=row_group_rows)


def test_latents_written_plainly_are_the_same(root: Root) -> None:
    """Groups with rows that could not be encoded are read by Arrow, the others from their pages."""
    rewrite(root, 1, "latent_mean", [None])
    rewrite(root, 1, "latent_std", [None])
    rewrite(root, 1, "latent_shape", [None])
    rewrite(root, 1, "status", ["not decoded"])
    rewrite(root, 2, "latent_std", [None] * ROWS[2])
    expected = take(root)
    plainly(root)
    for batch, other in zip(take(root), expected, strict=True):
        assert np.array_equal(batch.keys, other.keys)
        assert np.array_equal(batch.latent_mean, other.latent_mean)
        assert np.array_equal(batch.latent_std, other.latent_std)
    assert sum(len(batch.keys) for batch in expected) == sum(ROWS) - 1


def test_small_row_groups_and_an_object_store_give_the_same_batches(root: Root) -> None:
    expected = take(root, 2 * STEPS)
    for shard in range(len(ROWS)):
        name = f"{DOORS.latents}/{storage.shard_name(shard)}"
        root.write_table(name, root.read_table(name), row_group_rows=3)
    with s3_store() as uri:
        there = Root(f"{uri}/run")
        for name in root.files(""):
            there.write(name, root.read(name))
        for one in (take(root, 2 * STEPS), take(there, 2 * STEPS)):
            for batch, other in zip(one, expected, strict=True):
                assert np.array_equal(batch.keys, other.keys)
                assert np.array_equal(batch.latent_mean, other.latent_mean)
                assert np.array_equal(batch.latent_std, other.latent_std)
                assert batch.captions == other.captions
        plainly(root)
        for name in root.files(DOORS.latents):
            there.write(name, root.read(name))
        for batch, other in zip(take(there, STEPS), expected, strict=False):
            assert np.array_equal(batch.latent_mean, other.latent_mean)
            assert np.array_equal(batch.latent_std, other.latent_std)
        there.delete(f"{DOORS.latents}/{storage.shard_name(1)}")
        with pytest.raises(Failed, match=r"bucket/run/latents/test-32px/shard-00001\.parquet is missing"):
            take(there, 2 * STEPS, counted=index(root, DOORS))
    assert not readers()


# ------------------------------------------------------------------ memory and threads


def peak_bytes(root: Root, order: Order, steps: int, rank: int, world_size: int) -> int:
    """The most that numpy and Arrow held at once while so many batches were read."""
    counted = index(root, DOORS)
    take(root, 1, rank, world_size, order, counted)  # what is imported and cached on the way
    pool = pa.system_memory_pool()
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        data = LatentDataset(root, DOORS, counted, order, rank, world_size)
        arrow = 0
        with closing(data.batches(0)) as batches:  # type: ignore[type-var]
            for _ in islice(batches, steps):
                arrow = max(arrow, pool.bytes_allocated())
        return tracemalloc.get_traced_memory()[1] + arrow
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


@pytest.mark.parametrize("world_size", [1, 4])
def test_memory_is_that_of_two_windows_however_many_there_are(tmp_path: Path, world_size: int) -> None:
    rows, order = 600, Order(0, 64, 2)
    peaks = []
    for shards in (6, 24):
        root = Root(str(tmp_path / str(shards)))
        write_tables(root, (rows,) * shards)
        for shard in range(shards):
            name = f"{DOORS.latents}/{storage.shard_name(shard)}"
            root.write_table(name, root.read_table(name), row_group_rows=50)
        peaks.append(peak_bytes(root, order, shards * rows // order.batch_size, world_size - 1, world_size))
    window = order.window_shards * rows
    own = 2 * window // world_size * (ROW_BYTES + 200)  # a caption of the tests with its Python object
    readers = loader.READERS * (3 * 50 * ROW_BYTES + 200 * rows)  # held for moments, by as many readers as happen to be at it together
    bound = own + 2 * 26 * window + order.batch_size * ROW_BYTES + readers + 300_000  # what Python itself takes to read a file
    assert max(peaks) < bound
    assert peaks[1] - peaks[0] < readers < 18 * rows * ROW_BYTES / 10, "four times the shards take no more than a chance meeting of readers"
    assert min(peaks) > window // world_size * ROW_BYTES, "a window's latents are counted"


def test_closing_ends_the_readers(root: Root) -> None:
    batches = LatentDataset(root, DOORS, index(root, DOORS), ORDER).batches(0)
    next(batches)
    assert readers()
    batches.close()  # type: ignore[attr-defined]
    assert not readers()


# ------------------------------------------------------------------ bad input


def test_more_ranks_than_rows_have_empty_slices(root: Root) -> None:
    order = Order(0, 2, 1)
    ranks = [take(root, sum(ROWS) // 2, rank, 5, order) for rank in range(5)]
    for step in zip(*ranks, strict=True):
        assert sum(len(one.keys) for one in step) == len(step[0].global_keys)
        assert {len(one.keys) for one in step} == {0, 1}
        for one in step:
            assert one.latent_mean.shape == one.latent_std.shape == (len(one.keys), *SHAPE)
            assert len(one.captions) == len(one.keys)
            assert one.drawn == step[0].drawn


def test_a_lost_shard_of_latents_fails_before_the_run(root: Root) -> None:
    manifest(root, {})
    path_of(root, DOORS.latents, 1).unlink()
    with pytest.raises(
        Failed, match=r"shard-00001\.parquet is missing, but .*manifest\.json lists it: put the file back, or remove .*`ccray encode`"
    ):
        index(root, DOORS)


@pytest.mark.parametrize(("directory", "cure"), [(DOORS.latents, "encode"), (CAPTIONS, "caption"), (DOORS.catalog, "catalog")])
@pytest.mark.parametrize("bytes_left", [0, 7, 0.5, 0.99])
def test_a_truncated_file_fails_by_name(root: Root, directory: str, cure: str, bytes_left: float) -> None:
    counted, path = index(root, DOORS), path_of(root, directory, 2)
    data = path.read_bytes()
    path.write_bytes(data[: int(bytes_left * len(data)) if bytes_left < 1 else int(bytes_left)])
    told = rf"{directory}/shard-00002\.parquet cannot be read, expected a whole Parquet file.*make it anew with `ccray {cure}`"
    with pytest.raises(Failed, match=told):
        index(root, DOORS)
    with pytest.raises(Failed, match=told):
        take(root, counted=counted)
    assert not readers(), "and nobody waits for it"


def test_a_file_lost_under_a_run_fails_on_every_rank(root: Root) -> None:
    counted = index(root, DOORS)
    path_of(root, DOORS.latents, 0).unlink()
    failed = []

    def work(rank: int) -> None:
        try:
            take(root, rank=rank, world_size=3, counted=counted)
        except Failed as error:
            failed.append(str(error))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_SECONDS)
    assert len(failed) == 3
    assert all("shard-00000.parquet is missing" in text for text in failed)
    assert not readers()


def rewrite(root: Root, shard: int, column: str, values: list[object]) -> None:
    """Give the first rows of a shard of latents other values."""
    name = f"{DOORS.latents}/{storage.shard_name(shard)}"
    rows = root.read_table(name).to_pylist()
    for row, value in zip(rows, values, strict=False):
        row[column] = value
    root.write_table(name, pa.Table.from_pylist(rows, schema=schema.LATENTS))


def test_a_shard_of_another_shape_fails(root: Root) -> None:
    name, counted = f"{DOORS.latents}/{storage.shard_name(1)}", index(root, DOORS)
    rows = root.read_table(name).to_pylist()
    for row in rows:
        row |= {"latent_shape": [4, 4, 4], "latent_mean": row["latent_mean"][:64], "latent_std": row["latent_std"][:64]}
    root.write_table(name, pa.Table.from_pylist(rows, schema=schema.LATENTS))
    told = r"shard-00001\.parquet has latents of shape \[4, 4, 4\], but shard-00000\.parquet of \[4, 8, 8\]: .*`ccray encode`"
    with pytest.raises(Failed, match=told):
        index(root, DOORS)
    with pytest.raises(Failed, match=told):
        take(root, counted=counted)


@pytest.mark.parametrize("values", [[[0.0] * 255], [[0.0] * 257, [0.0] * 255], [None]], ids=["short", "shifted", "none"])
@pytest.mark.parametrize("column", ["latent_mean", "latent_std"])
def test_rows_of_another_length_fail(root: Root, column: str, values: list[object]) -> None:
    """Two that make up for each other too: rows after them would be read from the wrong place."""
    rewrite(root, 1, column, values)
    with pytest.raises(Failed, match=r"shard-00001\.parquet has rows of \d+ values in a column of lists, expected 256"):
        take(root)


def test_latents_of_another_vae_fail(root: Root) -> None:
    manifest(root, {"vae": "sd2", "vae_sha256": "aa", "scaling_factor": 0.18215, "shift_factor": None})
    name = f"{DOORS.latents}/{storage.shard_name(2)}"
    table = root.read_table(name)
    root.write_table(name, table.replace_schema_metadata({"vae": "sd2", "vae_sha256": "aa", "scaling_factor": "0.18215"}))
    assert index(root, DOORS).total == sum(ROWS)
    root.write_table(name, table.replace_schema_metadata({"vae": "sd2", "vae_sha256": "bb", "scaling_factor": "0.18215"}))
    with pytest.raises(Failed, match=r"shard-00002\.parquet holds latents of vae_sha256 bb, but expected aa, as .*manifest\.json has it"):
        index(root, DOORS)


def test_a_file_without_the_columns_fails(root: Root) -> None:
    name = f"{DOORS.latents}/{storage.shard_name(2)}"
    root.write_table(name, root.read_table(name).drop_columns(["status"]))
    with pytest.raises(Failed, match=r"shard-00002\.parquet cannot be read.*status"):
        index(root, DOORS)
