"""What a purge leaves, and what it takes out; killed at any write, the next one ends it."""

import hashlib
import io
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccray import schema, storage, takedowns
from ccray.config import Recipe
from ccray.governance import holding
from ccray.interfaces import Refused
from ccray.schema import hex_key
from ccray.sharded import Door
from ccray.sharded.mapping import Job
from ccray.storage import Root, shard_name
from ccray.takedowns import taken_down
from tests.governance import governed
from tests.governance.governed import CAPTIONS, GONE, JAPANESE, LATENTS, LIST, PICTURES, RUN, TWIN, caption, key, picture, row_id, run


def secrets(numbers: tuple[int, ...] = GONE) -> dict[str, bytes]:
    """What must be nowhere: the bytes, long pieces of what is inside them, captions, latents."""
    found: dict[str, bytes] = {}
    for number in numbers:
        data = picture(number)
        found |= {f"bytes {number}": data, f"piece {number}": data[len(data) // 2 :][:200], f"inside {number}": payload(data)[:200]}
        found |= {f"caption {number}": caption(number).encode(), f"latent {number}": governed.latent(number).tobytes()[:64]}
        found |= {f"translation {number}": governed.translation(number).encode()} if number != 3 else {}
        found |= {f"alternative text {number}": hashlib.sha256(b"alt%d" % number).hexdigest().encode()}
    return found


def payload(data: bytes) -> bytes:
    """The compressed pixels of a PNG or JPEG."""
    if data.startswith(b"\x89PNG"):
        place = data.index(b"IDAT")
        (length,) = struct.unpack(">I", data[place - 4 : place])
        return data[place + 4 : place + 4 + length]
    return data[data.index(b"\xff\xda") + 14 : -2]


def contents(root: Root) -> Iterator[tuple[str, bytes]]:
    """Every file as it lies there, and every binary, text or number column of every Parquet file, decompressed."""
    for path in root.files(""):
        data = root.read(path)
        yield path, data
        if data[:4] == data[-4:] == b"PAR1":
            table = pq.read_table(io.BytesIO(data))
            for name, column in zip(table.column_names, table.columns, strict=True):
                yield f"{path}:{name}", b"|".join(_bytes(value) for value in column.to_pylist())


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, list) and value and isinstance(value[0], float):
        return np.array(value, np.float16).tobytes()
    return str(value).encode()


def found_in(root: Root, numbers: tuple[int, ...] = GONE) -> set[str]:
    wanted = secrets(numbers)
    return {name for _, data in contents(root) for name, secret in wanted.items() if secret in data}


def stage_files(root: Root, recipe: Recipe) -> None:
    """What interrupted runs leave: rows that wait to be sealed, a block cut short, the draft of an atomic write."""
    caption_stage, catalog_stage = storage.caption_stage(recipe, "shapes-blip2"), storage.stage_of(recipe, "catalog")
    for stage, name in ((caption_stage, CAPTIONS), (catalog_stage, "images")):
        table = root.read_table(f"{name}/{shard_name(1)}").drop_columns("shard")
        root.write_table(f"{stage.staging}/{name}/rows/shard=1/block.parquet", table)
        whole = root.read(f"{stage.staging}/{name}/rows/shard=1/block.parquet")
        root.write(f"{stage.staging}/{name}/rows/shard=1/torn.parquet", whole[:-100])
        root.write(f"{stage.staging}/{name}/rows/shard=1/plain.parquet", b"half a block: " + picture(13) + caption(13).encode())
    root.write(f"images/.{shard_name(0)}.{'0a' * 16}", picture(0))
    root.delete(f"{CAPTIONS}/{shard_name(1)}")
    manifest = storage.read_manifest(root, CAPTIONS)
    assert manifest is not None
    manifest.status, manifest.shards, manifest.rows = "running", {}, 0
    root.write_json(f"{CAPTIONS}/manifest.json", manifest.__dict__)


def test_the_search_finds_what_is_there(root: Root) -> None:
    assert found_in(root) == secrets().keys()


def test_after_a_purge_nothing_holds_them(root: Root) -> None:
    said = run(root, LIST, purge=True, reason="asked by the author")
    assert found_in(root) == set()
    others = tuple(number for number in range(PICTURES) if number not in GONE)
    assert set(secrets(others)) - found_in(root, others) == set()
    assert f"{RUN}: 5 taken-down images were seen" in said, "weights are named"
    assert [one.place for one in holding.held(root, taken_down(root))] == [RUN, f"{RUN}/step-00000010", f"{RUN}/step-00000020", "published/model"]
    assert not [path for path in root.files("") if path.endswith("lease.json")]


def test_after_a_purge_all_tables_agree(root: Root) -> None:
    run(root, LIST, purge=True, reason="asked by the author")
    catalog, captions, latents = (storage.read_manifest(root, name) for name in ("catalog", CAPTIONS, LATENTS))
    assert catalog is not None
    assert captions is not None
    assert latents is not None
    assert (catalog.status, catalog.rows, catalog.counts) == ("finished", 19, {"download_not_found": 1, "duplicate_exact": 1, "taken_down": 5})
    assert catalog.facts == {"listed": 26, "accepted": 19, "rejected": 7, "licenses": {"CC-BY-4.0": 19}, "splits": {"train": 18, "validation": 1}}
    assert (captions.rows, captions.counts) == (latents.rows, latents.counts) == (19, {"ok": 19})
    for directory, manifest in (("catalog", catalog), (CAPTIONS, captions), (LATENTS, latents)):
        tables = {shard_name(shard): root.read_table(f"{directory}/{shard_name(shard)}") for shard in storage.sealed_shards(root, directory)}
        assert manifest.shards == {name: table.num_rows for name, table in tables.items()}
        keys = {one for table in tables.values() for one in table["key"].to_pylist()}
        assert keys == {key(number) for number in range(PICTURES) if number not in GONE}
    assert pq.read_schema(root.path(f"{LATENTS}/{shard_name(0)}")).metadata[b"vae"] == b"shapes-kl"
    chunks = pq.read_metadata(root.path(f"{LATENTS}/{shard_name(0)}")).row_group(0).to_dict()["columns"]
    how = {chunk["path_in_schema"].partition(".")[0]: (chunk["compression"], chunk["has_dictionary_page"]) for chunk in chunks}
    assert {how[name] for name in schema.PLAIN} == {("UNCOMPRESSED", False)}, "as encode writes them"
    images = [root.read_table(f"images/{shard_name(shard)}") for shard in (0, 1)]
    assert [table.schema for table in images] == [schema.IMAGES] * 2
    assert sum(table.num_rows for table in images) == 26
    gone = {row["key"]: row for table in images for row in table.to_pylist() if row["reason"] == "taken_down"}
    assert set(gone) == {key(number) for number in GONE}
    assert all(row["image"] is None and row["detail"] == "asked by the author" for row in gone.values())
    listing = [row for shard in (0, 1) for row in root.read_table(f"listing/{shard_name(shard)}").to_pylist()]
    assert {row["row_id"] for row in listing if row["captions"] is None} == {row_id(number) for number in (*GONE, TWIN)}
    rejects = [row for shard in (0, 1) for row in root.read_table(f"rejects/{shard_name(shard)}").to_pylist() if row["reason"] == "taken_down"]
    assert {(row["row_id"], row["license_text"], row["source_url"]) for row in rejects} == {
        (row_id(number), "CC BY 4.0", f"https://Example.org/page/{number}") for number in GONE
    }


def test_after_a_purge_finished_stages_stay_finished(root: Root) -> None:
    run(root, LIST, purge=True)
    recipe = governed.recipe()
    for stage in storage.inputs_of(recipe, "publish").values():
        assert storage.state(root, stage) == "finished", stage.directory
    assert storage.state(root, storage.stage_of(recipe, "evaluate")) == "new", "its prompts were their captions"
    assert storage.state(root, storage.stage_of(recipe, "publish")) == "resume", "its dataset held their rows"
    assert not root.exists("catalog/report.html")
    assert [path for path in root.files("captions") if not path.endswith((".parquet", "manifest.json"))] == [], "pages show pictures and captions"
    japanese = storage.read_manifest(root, JAPANESE)
    assert japanese is not None
    assert (japanese.rows, japanese.counts) == (PICTURES - len(GONE), {"ok": PICTURES - len(GONE)}), "the two that were not ok are gone too"


def test_what_waits_to_be_sealed_is_purged_and_the_run_can_go_on(root: Root) -> None:
    recipe = governed.recipe()
    stage_files(root, recipe)
    assert found_in(root) >= {"bytes 13", "caption 13", "bytes 0"}
    run(root, LIST, purge=True)
    assert found_in(root) == set()
    job = Job(root, storage.caption_stage(recipe, "shapes-blip2"), "catalog", Door(CAPTIONS, schema.CAPTIONS, "key"))
    assert job.unsealed() == [1]
    assert job.staged_rows("/shard=1") == job.expected[1] == 11
    staged = root.read_table(f"{job.staging}/rows/shard=1/block.parquet").append_column("shard", pa.repeat(pa.scalar(1, pa.int32()), 11))
    storage.seal(root, CAPTIONS, 1, staged, schema.CAPTIONS, "key")
    assert sum(job.checked().values()) == 19, "rows in are rows sealed"


class Killed(Exception):
    """The machine is gone."""


def test_a_purge_that_was_killed_anywhere_is_ended_by_the_next(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(root: Root) -> dict[str, str]:
        names = [name for name in root.files("") if not name.startswith("takedowns/")]
        return {name: hashlib.sha256(root.read(name)).hexdigest() for name in names}

    shutil.copytree(whole, tmp_path / "straight")
    straight = Root(str(tmp_path / "straight"))
    run(straight, LIST, reason="asked", purge=True)
    writes: list[str] = []
    real_write, real_delete = Root.write, Root.delete
    limit = 10**9

    def step(root: Root, relative: str) -> None:
        if not relative.endswith("lease.json"):
            if len(writes) == limit:
                raise Killed
            writes.append(relative)

    def write(root: Root, relative: str, data: bytes) -> None:
        step(root, relative)
        real_write(root, relative, data)

    def delete(root: Root, relative: str) -> None:
        step(root, relative)
        real_delete(root, relative)

    monkeypatch.setattr(Root, "write", write)
    monkeypatch.setattr(Root, "delete", delete)
    for kill in range(100):
        place = tmp_path / f"killed-{kill}"
        shutil.copytree(whole, place)
        root = Root(str(place))
        writes.clear()
        limit = kill
        try:
            run(root, LIST, reason="asked", purge=True)
        except Killed:
            limit = 10**9
            run(root, LIST, reason="asked", purge=True)
            assert files(root) == files(straight), f"killed at change {kill}"
            shutil.rmtree(place)
            continue
        break
    assert kill == len(writes) > 15


def test_a_purge_is_refused_while_a_stage_runs(root: Root) -> None:
    with storage.lease(root, CAPTIONS), pytest.raises(Refused, match=r"captions/shapes-blip2/lease\.json is held by"):
        run(root, LIST, purge=True)
    assert takedowns.files(root) == ()
    with storage.lease(root, CAPTIONS):
        assert f"a run holds {CAPTIONS} now" in run(root, LIST)
    assert len(taken_down(root)) == 5


def test_takedowns_at_the_same_moment_are_all_kept(root: Root) -> None:
    threads = [threading.Thread(target=run, args=(root, f"key:{hex_key(key(number))}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken_down(root) == {key(number) for number in range(8)}
