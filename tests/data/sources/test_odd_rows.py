"""Rows of every odd shape, through every adapter: values or rejects, never a crash, and never lost."""

import bz2
import copy
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccray import licenses
from ccray.data.sources.records import MAX_LICENSE, strictest, time_of, versioned, web
from ccray.interfaces import Failed, Refused
from tests.data.sources.listings import as_csv, as_json, as_lines, by_ref, listed
from tests.data.sources.test_adapters import common_row, shard_rows, smithsonian_record, wikimedia_page, yfcc_row

ODD: list[Any] = [
    None,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\x00",
    "\ud800",
    True,
    -1,
    10**30,
    1.5,
    [],
    [[]],
    [{}],
    {},
    {"a": {"b": 1}},
    ["x", 2],
    "<b>",
    "javascript:alert(1)",
    "http://[",
    "//",
    "é" * 3000,
]

FLICKR = {
    "id": "1",
    "owner": {"nsid": "1@N0", "username": "a"},
    "license": "4",
    "url_o": "https://live.staticflickr.com/1/1_o.jpg",
    "title": {"_content": "t"},
    "urls": {"url": [{"_content": "https://www.flickr.com/p"}]},
    "location": {"latitude": "1"},
}
OPENVERSE = {
    "id": "1",
    "url": "https://example.org/1.jpg",
    "license": "by",
    "license_version": "2.0",
    "license_url": "https://creativecommons.org/licenses/by/2.0/",
    "creator": "a",
    "title": "t",
    "foreign_landing_url": "https://example.org",
    "updated_on": "2020-01-01",
}
RECORDS: dict[str, dict[str, Any]] = {
    "flickr": FLICKR,
    "openverse": OPENVERSE,
    "wikimedia": wikimedia_page(1, LicenseUrl="https://creativecommons.org/licenses/by/4.0", Artist="a", ObjectName="t", Credit="Own work", GPSLatitude="1"),
    "smithsonian": smithsonian_record("r", [{"guid": "g", "type": "Images", "content": "https://ids.si.edu/a", "usage": {"access": "CC0"}, "resources": [{"label": "x", "url": "y"}]}]),
    "pd12m": {"id": "1", "url": "https://example.org/1", "license": "CC0", "caption": "c", "source": "https://example.org", "s3_key": "k"},
    "megalith": {"url_highres": "https://live.staticflickr.com/1/12345678_b.jpg", "url_source": "https://www.flickr.com/photos/x/12345678", "license": "9", "caption": "c"},
    "table": {"id": "1", "file": "a.png", "url": "https://example.org/1", "license": "by", "license_version": "2.0", "license_seen_at": "2020", "creator": "a", "title": "t", "latitude": 1.5, "uid": "u"},
}  # fmt: skip


def spoilt(record: Any) -> Iterator[Any]:
    """The record with each of its places, at any depth, made odd in every way; and without it."""
    for path in paths(record):
        for odd in [*ODD, ...]:
            changed = copy.deepcopy(record)
            place = changed
            for key in path[:-1]:
                place = place[key]
            if odd is ...:
                del place[path[-1]]
            else:
                place[path[-1]] = odd
            yield changed


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*before, key)
        yield from paths(inner, (*before, key))


@pytest.mark.parametrize("scheme", RECORDS)
def test_odd_values_at_every_place(scheme: str, tmp_path: Path) -> None:
    records = list(spoilt(RECORDS[scheme]))
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in [RECORDS[scheme], *records]))
    rows = listed(f"{scheme}:{path}", keep=("geolocation", "exif", "user_id"))
    assert len(rows) >= len(records)
    assert {row["source_ref"].partition("#")[0] for row in rows if "#" in row["source_ref"]} <= {"odd.jsonl"}
    for row in rows:
        assert all(row[name] is None or row[name].startswith(("http://", "https://")) for name in ("creator_url", "source_url"))
        assert all(row[name] is None or (row[name].strip() and "\n" not in row[name]) for name in ("title", "creator", "license_text"))
        assert row["private"] is None or isinstance(json.loads(row["private"]), dict)
        assert (row["license_text"] is None) == (row["license_basis"] is None)


def test_odd_yfcc_rows(tmp_path: Path) -> None:
    names = [name for name in yfcc_row(0) if name not in ("line", "hash")]
    rows = [yfcc_row(number) | {name: odd} for number, name in enumerate(names) for odd in ("", "%", "%FF%00", "+++", "\x00", "é" * 9000)]
    text = "".join("\t".join(row[name] for name in names) + "\n" for row in rows)
    (tmp_path / "yfcc100m_dataset").write_bytes(text.encode() + b"\xff\xfe\t\n" + b"\n")
    assert len(listed(f"yfcc100m:{tmp_path}", keep=("geolocation",))) == len(rows) + 1


def parquet_with_bad_text(path: Path) -> None:
    """Columns whose text is not UTF-8, which Parquet's writers do not check."""
    offsets = pa.py_buffer(b"".join(value.to_bytes(4, "little") for value in (0, 2, 4, 6)))
    bad = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"ok\xff\xfeok"))
    plain = {"id": ["1", "2", "3"], "url": ["https://example.org/1"] * 3, "license": ["CC0-1.0"] * 3}
    times = pa.array([0, 2**62, 1], pa.timestamp("us"))
    pq.write_table(pa.table(plain | {"title": bad, "retrieved_at": times}), path)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    parquet_with_bad_text(tmp_path / "a.parquet")
    rows = by_ref(f"table:{tmp_path}/a.parquet")
    assert [rows[id]["title"] for id in "123"] == ["ok", "\ufffd\ufffd", "ok"]
    assert rows["1"]["license_seen_at"] == datetime(1970, 1, 1, tzinfo=UTC)
    assert rows["2"]["license_seen_at"].year >= 2020  # the file's own time
    (tmp_path / "b.csv").write_bytes(b"id,url,license,title\n1,https://example.org/1,CC0-1.0,Caf\xe9\n2,https://example.org/2,CC0-1.0,nul\x00\n")
    assert {row["title"] for row in listed(f"table:{tmp_path}/b.csv")} == {"Caf\ufffd", "nul"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_huge_cells(suffix: str, tmp_path: Path) -> None:
    big = "x" * 11_000_000
    rows = [{"id": str(number), "url": f"https://example.org/{number}", "license": "CC0-1.0", "title": "t", "creator": "c"} for number in range(6)]
    for number, name in enumerate(("id", "url", "license", "title", "creator")):
        rows[number][name] = big
    path = tmp_path / f"big.{suffix}"
    {"csv": as_csv, "jsonl": as_lines, "parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path)}[suffix](path, rows)
    listing = listed(f"table:{path}")
    assert len(listing) == 6
    assert max(len(str(value)) for row in listing for value in row.values()) <= 10_000
    assert any(row["source_ref"] == "5" and row["license_text"] == "CC0-1.0" for row in listing)
    if suffix != "csv":
        told = {row["license_text"] for row in listing}
        assert told == {"CC0-1.0", "a statement of 11000000 characters"}
        assert licenses.parse("a statement of 11000000 characters").spdx is None


def test_wrong_types_in_parquet(tmp_path: Path) -> None:
    odd = {"id": [1.0, None], "url": [b"bytes", None], "license": [3, 4], "title": [[1], None], "creator": [{"a": 1}, None], "latitude": ["x", "y"]}
    pq.write_table(pa.table(odd), tmp_path / "a.parquet")
    rows = listed(f"table:{tmp_path}/a.parquet", keep=("geolocation",))
    assert [row["locator"].split(":")[1] for row in rows] == ["no_image", "no_image"]
    pq.write_table(pa.Table.from_pylist([common_row(1, title=7, uid=None, licenseurl=None, licensename=None)]), tmp_path / "c.parquet")
    [row] = listed(f"commoncatalog:{tmp_path}/c.parquet")
    assert (row["title"], row["creator_url"], row["license_text"]) == ("7", None, None)
    pq.write_table(pa.Table.from_pylist([shard_rows()[0] | {"status": 5, "key": 7}]), tmp_path / "d.parquet")
    assert listed(f"img2dataset:{tmp_path}/d.parquet")[0]["locator"].startswith("none:download_failed:")


def test_a_later_file_that_cannot_be_read_stops_the_listing(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([RECORDS["pd12m"]]), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 this is not one")
    with pytest.raises(Failed, match=r"b\.parquet cannot be read as PARQUET"):
        listed(f"pd12m:{tmp_path}")


def test_files_that_lack_columns_of_the_first(tmp_path: Path) -> None:
    first = {"id": "1", "url": "https://example.org/1", "license": "CC0-1.0", "title": "t"}
    pq.write_table(pa.Table.from_pylist([first]), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist([{"url": "https://example.org/2", "license": "CC0-1.0", "other": 1}]), tmp_path / "b.parquet")
    assert {row["source_ref"]: row["title"] for row in listed(f"table:{tmp_path}")} == {"1": "t", "https://example.org/2": None}


def test_a_file_that_breaks_off_stops_the_listing(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"id": str(number), "url": "https://example.org", "license": "CC0-1.0"}) + "\n" for number in range(50_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-40_000])
    with pytest.raises((Failed, Refused), match="cannot be read"):
        listed(f"table:{tmp_path}/a.jsonl.gz")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda rows: rows,
        lambda rows: {"info": {"a": 1}, "rows": rows, "more": None},
        lambda rows: {row["id"]: row for row in rows},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("pack", [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
def test_tables_of_json(wrap: Any, indent: int | None, pack: Any, tmp_path: Path) -> None:
    rows = [{"id": f"p{number}", "url": f"https://example.org/{number}", "license": "CC0-1.0", "objects": [{"x": 1}]} for number in range(4)]
    path = tmp_path / f"t.json{pack[0]}"
    path.write_bytes(pack[1](json.dumps(wrap(rows), indent=indent).encode()))
    assert by_ref(f"table:{path}").keys() == {"p0", "p1", "p2", "p3"}


def test_json_lines_by_another_name(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"p{number}", "url": "https://example.org", "license": "CC0-1.0", "objects": [{"x": 1}]}) for number in range(3)]
    (tmp_path / "a.json").write_text("\n".join(lines))
    assert by_ref(f"table:{tmp_path}/a.json").keys() == {"p0", "p1", "p2"}
    (tmp_path / "a.json").write_text("\n".join(["{broken", *lines]))
    assert by_ref(f"table:{tmp_path}/a.json").keys() == {"p0", "p1", "p2", "a.json#0"}
    (tmp_path / "b.json").write_text(json.dumps([{"id": "1", "license": "4", "owner": "x"}] * 3, indent=1)[:-9])
    [row] = listed(f"flickr:{tmp_path}/b.json")
    assert row["locator"].startswith("none:malformed_row:is not JSON")
    (tmp_path / "deep.json").write_text("[" * 900 + "]" * 900)
    with pytest.raises(Refused, match="is empty"):
        listed(f"flickr:{tmp_path}/deep.json")


def test_private_columns_of_a_table(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "url": "https://example.org/1",
        "license": "CC0-1.0",
        "Latitude": 35.6,
        "lon": 139.7,
        "EXIF": "Canon",
        "user_id": "7@N0",
        "creator": "Ann",
    }
    path = as_json(tmp_path / "a.json", [row])
    [bare] = listed(f"table:{path}")
    assert bare["private"] is None
    assert not {"35.6", "139.7", "Canon", "7@N0"} & set(map(str, bare.values()))
    assert bare["creator"] == "Ann"
    [kept] = listed(f"table:{path}", keep=("geolocation", "user_id"))
    assert json.loads(kept["private"]) == {"geolocation": {"Latitude": 35.6, "lon": 139.7}, "user_id": {"user_id": "7@N0"}}


def test_record_and_declaration(tmp_path: Path) -> None:
    rows = [{"id": "1", "url": "https://example.org/1", "license": "CC BY-NC 4.0"}, {"id": "2", "url": "https://example.org/2", "license": " "}]
    found = by_ref(f"table:{as_json(tmp_path / 'a.json', rows)}", license="CC0-1.0")
    assert {id: (row["license_text"], row["license_basis"], row["license_evidence"]) for id, row in found.items()} == {
        "1": ("CC BY-NC 4.0", "source record", "license=CC BY-NC 4.0"),
        "2": ("CC0-1.0", "declared", "catalog.license=CC0-1.0"),
    }
    assert found["1"]["license_seen_at"].timestamp() == pytest.approx((tmp_path / "a.json").stat().st_mtime, abs=1e-3)
    assert found["2"]["license_seen_at"] is None


def test_statements() -> None:
    assert strictest([]) == (None, None)
    assert strictest([("a", None), ("b", "CC BY 4.0"), ("c", 5)]) == ("5", "b=CC BY 4.0; c=5")  # Flickr's 5 is BY-SA: the stricter
    assert strictest([("a", "CC BY-ND 4.0"), ("b", "CC BY-NC-SA 4.0")])[0] == "CC BY-ND 4.0"
    for against in ("Usage conditions apply", "All rights reserved", "By permission of the museum", "Restricted", "Personal use only"):
        assert strictest([("a", "CC0"), ("b", against)])[0] == against
    assert strictest([("a", "CC0"), ("b", "Smithsonian Open Access")])[0] == "CC0"
    assert strictest([("a", ["CC BY 4.0", ["CC BY-NC 4.0"], None])]) == ("CC BY-NC 4.0", "a=CC BY 4.0; a=CC BY-NC 4.0")
    assert strictest([("a", {"name": "CC BY-NC 4.0"})])[0] == '{"name": "CC BY-NC 4.0"}'  # stated, so that no declared licence takes its place
    assert strictest([("a", {}), ("b", []), ("c", [None, " "])]) == (None, None)
    assert versioned(["by", "by-nc"], "2.0", ("l", "v")) == ("l", ["by", "by-nc"])
    assert strictest([("a", "by " * MAX_LICENSE)])[0] == f"a statement of {3 * MAX_LICENSE - 1} characters"


def test_times_and_addresses() -> None:
    wanted = datetime(2020, 10, 15, 8, 10, 42, tzinfo=UTC)
    told = (
        "2020-10-15 08:10:42+00",
        "2020-10-15T08:10:42Z",
        "2020-10-15T10:10:42+02:00",
        1602749442,
        "1602749442",
        datetime(2020, 10, 15, 8, 10, 42),
    )
    assert all(time_of(value) == wanted for value in told)
    assert [time_of(value) for value in ("soon", "", None, True, 10**40, "9" * 40, 1.5, [])] == [None] * 8
    assert web("//commons.wikimedia.org/x") == "https://commons.wikimedia.org/x"
    assert web("www.flickr.com/photos/1@N0") == "https://www.flickr.com/photos/1@N0"
    assert [web(value) for value in ("javascript:alert(1)", "data:text/html,x", "Library", "a\nb.org", None, 7)] == [None] * 6
