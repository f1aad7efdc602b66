"""Sources: doors that refuse in one sentence, and rows of every shape a stranger's table may have."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ccray import schema
from ccray.config import CatalogConfig, ColumnMap, ShapesSource
from ccray.data.fetching.worker import Cells, FetchImages
from ccray.data.listing import open_source, shards
from ccray.interfaces import Failed, Refused
from ccray.shapes.world import caption, train_scene
from ccray.sharded.working import to_batch, to_table
from ccray.storage import Root

FILES = ["a.png", "b.png", "sub/c.png", "sub/d.png"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of four pictures."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(FILES):
        Image.new("RGB", (20, 20), (number * 60, 0, 0)).save(folder / name)
    return folder


def listed(config: CatalogConfig) -> list[dict[str, Any]]:
    return [row for table in shards(open_source(config), config) for row in table.to_pylist()]


def fetched(config: CatalogConfig) -> dict[str, dict[str, Any]]:
    """`source_ref` -> its row of images/, by way of listing and worker."""
    source = open_source(config)
    table = pa.concat_tables(shards(source, config))
    rows = to_table(FetchImages(config, source.base, source.image_column)(to_batch(table)), schema.IMAGES).to_pylist()
    return dict(zip(table.column("source_ref").to_pylist(), rows, strict=True))


def refusal(**settings: Any) -> str:
    with pytest.raises(Refused) as refused:
        open_source(CatalogConfig(**settings))
    return str(refused.value)


def test_shapes_tell_nothing_of_what_they_show() -> None:
    config = CatalogConfig(shapes=ShapesSource(count=5, seed=3), rows_per_shard=2)
    tables = list(shards(open_source(config), config))
    assert [table.num_rows for table in tables] == [2, 2, 1]
    rows = [row for table in tables for row in table.to_pylist()]
    assert {row["source_ref"] for row in rows} == {f"3/{index}" for index in range(5)}
    words = set(caption(train_scene(3, 0)).split()) - {"a", "on", "the", "in", "at"}
    assert not words & set(" ".join(str(value) for row in rows for value in row.values()).split())
    images = fetched(config)
    assert all(row["reason"] is None and (row["width"], row["height"]) == (32, 32) for row in images.values())


def test_listing_is_the_same_every_time_and_sorted(pictures: Path) -> None:
    config = CatalogConfig(source=f"folder:{pictures}", license="CC0-1.0", rows_per_shard=3)
    first, second = listed(config), listed(config)
    assert first == second
    assert [row["shard"] for row in first] == [0, 0, 0, 1]
    assert [row["row_id"] for row in first[:3]] == sorted(row["row_id"] for row in first[:3])
    assert len({row["row_id"] for row in first}) == 4


@pytest.mark.parametrize("source", ["s3:x", "http://a/b", "shapes:1", "folder", "tabel:x.csv", ""])
def test_unknown_schemes_are_refused(source: str) -> None:
    assert "expected shapes, folder:PATH or table:FILE" in refusal(source=source)


def test_missing_and_useless_sources_are_refused(tmp_path: Path, pictures: Path) -> None:
    assert "is not there" in refusal(source=f"folder:{tmp_path / 'nowhere'}")
    assert "is not there" in refusal(source=f"folder:{pictures / 'a.png'}")
    assert "is not there" in refusal(source=f"table:{tmp_path / 'nowhere.csv'}")
    assert "is not there" in refusal(source=f"table:{pictures}.csv")
    assert "is not a table that we read" in refusal(source=f"table:{pictures / 'a.png'}")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is not one")
    assert "cannot be read as PARQUET" in refusal(source=f"table:{tmp_path / 'broken.parquet'}")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refusal(source=f"folder:{tmp_path / 'empty'}")
    (tmp_path / "empty.csv").write_text("")
    assert "has no columns" in refusal(source=f"table:{tmp_path / 'empty.csv'}")
    assert "catalog.license 'mine'" in refusal(source=f"folder:{pictures}", license="mine")


def test_a_folder_without_a_licence_is_unlicensed(pictures: Path) -> None:
    assert {row["reason"] for row in fetched(CatalogConfig(source=f"folder:{pictures}")).values()} == {"license_missing"}


def test_a_folder_lists_everything_and_follows_no_link_out(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes((pictures / "a.png").read_bytes())
    (pictures / "out.png").symlink_to(tmp_path / "secret.png")
    (pictures / "in.png").symlink_to(pictures / "b.png")
    (pictures / "up").symlink_to(tmp_path)
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    (pictures / ".hidden.png").write_bytes((pictures / "a.png").read_bytes())
    (pictures / "notes.txt").write_text("no picture")
    (pictures / "100% & 日本 #1?.png").write_bytes((pictures / "a.png").read_bytes())
    (Path(str(pictures)) / b"bad\xff.png".decode("utf-8", "surrogateescape")).write_bytes((pictures / "a.png").read_bytes())
    reasons = {ref: row["reason"] for ref, row in fetched(CatalogConfig(source=f"folder:{pictures}", license="CC0-1.0")).items()}
    wanted = dict.fromkeys([*FILES, "in.png", ".hidden.png", "100% & 日本 #1?.png", "bad\\udcff.png"], None)
    assert reasons == wanted | {
        "out.png": "blocked_path",
        "up": "blocked_path",
        "gone.png": "file_missing",
        "notes.txt": "undecodable",
    }


def test_a_sidecar_speaks_for_its_files(pictures: Path) -> None:
    rows = [
        {"file_name": "a.png", "license": "CC BY 4.0", "title": "A", "creator": "Ann"},
        {"file_name": "./sub/c.png", "license": "CC-BY-NC-4.0"},
        {"file_name": "b.png", "license": None},
        {"file_name": "lost.png", "license": "CC0-1.0"},
    ]
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = fetched(CatalogConfig(source=f"folder:{pictures}"))
    assert {ref: row["reason"] for ref, row in images.items()} == {
        "a.png": None,
        "b.png": "license_missing",
        "sub/c.png": "license_noncommercial",
        "sub/d.png": "license_missing",
        "lost.png": "file_missing",
    }
    declared = {row["source_ref"]: row for row in listed(CatalogConfig(source=f"folder:{pictures}", license="CC0-1.0"))}
    assert (declared["a.png"]["license_text"], declared["a.png"]["license_basis"]) == ("CC BY 4.0", "source record")
    assert (declared["b.png"]["license_text"], declared["b.png"]["license_basis"]) == ("CC0-1.0", "declared")
    assert (declared["a.png"]["title"], declared["a.png"]["creator"]) == ("A", "Ann")
    (pictures / "metadata.csv").write_text("file,license\n")
    assert "one sidecar" in refusal(source=f"folder:{pictures}")


def as_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize(("suffix", "write"), [("csv", as_csv), ("tsv", as_csv), ("jsonl", as_jsonl), ("parquet", as_parquet)])
def test_tables_of_every_kind(pictures: Path, suffix: str, write: Callable[[Path, list[dict[str, Any]]], None]) -> None:
    rows = [
        {"Photo ID": "p1", "File Path": "a.png", "License_URL": "https://creativecommons.org/licenses/by/2.0/", "Author": "Ann, B.", "Title": "猫"},
        {"Photo ID": "p2", "File Path": "sub/c.png", "License_URL": "https://creativecommons.org/licenses/by-nd/2.0/", "Author": "", "Title": ""},
        {"Photo ID": "p3", "File Path": "../secret.png", "License_URL": "CC0-1.0", "Author": "", "Title": "a\nb"},
        {"Photo ID": "p4", "File Path": "/etc/hostname", "License_URL": "CC0-1.0", "Author": "", "Title": ""},
        {"Photo ID": "p5", "File Path": "missing.png", "License_URL": "CC0-1.0", "Author": "", "Title": ""},
        {"Photo ID": "p6", "File Path": "", "License_URL": "all rights reserved", "Author": "", "Title": ""},
        {"Photo ID": "p7", "File Path": "", "License_URL": "CC0-1.0", "Author": "", "Title": ""},
        {"Photo ID": "p8", "File Path": "b.png", "License_URL": "", "Author": "", "Title": ""},
        {"Photo ID": "p9", "File Path": "b.png", "License_URL": "all rights reserved", "Author": "", "Title": ""},
    ]
    write(pictures / f"table.{suffix}", rows)
    config = CatalogConfig(source=f"table:{pictures}/table.{suffix}")
    first = next(row for row in listed(config) if row["source_ref"] == "p1")
    assert (first["creator"], first["title"], first["license_basis"]) == ("Ann, B.", "猫", "source record")
    assert {ref: row["reason"] for ref, row in fetched(config).items()} == {
        "p1": None,
        "p2": "license_noderivatives",
        "p3": "blocked_path",
        "p4": "blocked_path",
        "p5": "file_missing",
        "p6": "no_image",
        "p7": "no_image",
        "p8": "license_missing",
        "p9": "license_unknown",
    }


def test_embedded_bytes_plain_and_as_hugging_face_keeps_them(pictures: Path) -> None:
    data = [(pictures / name).read_bytes() for name in FILES]
    licenses = ["CC0-1.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC0-1.0"]
    pq.write_table(pa.table({"jpg": [*data[:3], None], "license": licenses}), pictures / "plain.parquet", row_group_size=2)
    nested = [{"bytes": data[0], "path": None}, {"bytes": None, "path": "b.png"}, {"bytes": data[2], "path": "x"}, None]
    pq.write_table(pa.table({"image": nested, "license": licenses}), pictures / "nested.parquet", row_group_size=3)
    for name in ("plain", "nested"):
        images = fetched(CatalogConfig(source=f"table:{pictures}/{name}.parquet"))
        reasons = {ref: row["reason"] for ref, row in images.items()}
        assert list(reasons.values()).count(None) == 2
        assert reasons[f"{name}.parquet#2"] == "license_noncommercial"
        assert reasons[f"{name}.parquet#3"] == "no_image"
        assert images[f"{name}.parquet#1"]["image"] == data[1]


def test_mapped_columns_and_unknown_ones(pictures: Path) -> None:
    as_jsonl(pictures / "odd.jsonl", [{"wo": "a.png", "darf": "CC0-1.0", "wer": "Ann"}])
    assert "no column that we know as an image" in refusal(source=f"table:{pictures}/odd.jsonl")
    assert "no column that we know as a licence" in refusal(source=f"table:{pictures}/odd.jsonl", columns=ColumnMap(image="wo"))
    missing = refusal(source=f"table:{pictures}/odd.jsonl", columns=ColumnMap(image="file"))
    assert "'wo', 'darf', 'wer'" in missing
    config = CatalogConfig(source=f"table:{pictures}/odd.jsonl", columns=ColumnMap(image="wo", license="darf", creator="wer"))
    assert listed(config)[0]["creator"] == "Ann"
    assert fetched(config)["a.png"]["reason"] is None


def test_malformed_rows_are_rejects(pictures: Path) -> None:
    (pictures / "t.jsonl").write_text(
        '{"file": "a.png", "license": "CC0-1.0"}\nnot json\n[1]\n\n{"file": "b.png", "license": "CC0-1.0", "title": "\\ud800"}\n'
    )
    reasons = {ref: row["reason"] for ref, row in fetched(CatalogConfig(source=f"table:{pictures}/t.jsonl")).items()}
    assert reasons == {"a.png": None, "t.jsonl#1": "malformed_row", "t.jsonl#2": "malformed_row", "b.png": None}
    (pictures / "t.csv").write_text("file,license\na.png,CC0-1.0\nb.png\n")
    reasons = {ref: row["reason"] for ref, row in fetched(CatalogConfig(source=f"table:{pictures}/t.csv")).items()}
    assert reasons == {"a.png": None, "t.csv#1": "malformed_row"}


def test_licence_and_version_in_two_columns(pictures: Path) -> None:
    as_jsonl(
        pictures / "t.jsonl",
        [{"file": "a.png", "license": "by", "license_version": "2.0"}, {"file": "b.png", "license": "cc0", "license_version": "1.0"}],
    )
    assert [row["license_text"] for row in sorted(listed(CatalogConfig(source=f"table:{pictures}/t.jsonl")), key=lambda row: row["source_ref"])] == [
        "by 2.0",
        "cc0",
    ]


def test_a_source_that_dies_is_no_reject(pictures: Path) -> None:
    config = CatalogConfig(source=f"folder:{pictures}", license="CC0-1.0")
    source = open_source(config)
    table = pa.concat_tables(shards(source, config))
    pictures.rename(pictures.with_name("elsewhere"))
    with pytest.raises(Failed, match="is gone: bring it back"):
        FetchImages(config, source.base)(to_batch(table))


def test_limit(pictures: Path) -> None:
    assert len(listed(CatalogConfig(source=f"folder:{pictures}", limit=3))) == 3


def test_the_same_id_twice_is_two_rows(pictures: Path) -> None:
    as_jsonl(pictures / "t.jsonl", [{"id": 1, "file": "a.png", "license": "CC0-1.0"}, {"id": 1, "file": "b.png", "license": "CC0-1.0"}])
    rows = listed(CatalogConfig(source=f"table:{pictures}/t.jsonl"))
    assert len({row["row_id"] for row in rows}) == 2


def test_a_row_group_is_read_once_for_batches_that_follow_each_other(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([b"%d" % number for number in range(250)], pa.binary())}), tmp_path / "t.parquet", row_group_size=100)
    cells = Cells(Root(str(tmp_path)), "image")
    found = [cell for start in range(0, 250, 64) for cell in cells.read("t.parquet", list(range(start, min(start + 64, 250))))]
    assert found == [b"%d" % number for number in range(250)]
    assert cells.read("t.parquet", [3, 120, 240]) == [b"3", b"120", b"240"]
    kept = cells.read("t.parquet", [10])
    (tmp_path / "t.parquet").rename(tmp_path / "u.parquet")
    pq.write_table(pa.table({"image": pa.array([b"other"] * 250, pa.binary())}), tmp_path / "t.parquet", row_group_size=100)
    assert cells.read("t.parquet", [10, 11]) == [*kept, b"11"]  # the row group that was begun
    assert cells.read("t.parquet", [99]) == [b"99"]
    assert cells.read("t.parquet", [0]) == [b"other"]  # it was let go at its end
