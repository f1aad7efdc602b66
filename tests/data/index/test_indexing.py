"""The index: one reason a row in a fixed order, the copy that is kept, splits, and the same bytes whatever the order of shards."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ccray import schema, takedowns
from ccray.config import CatalogConfig
from ccray.data.index import indexing
from ccray.data.index.blocklist import Blocklist, read_blocklist
from ccray.data.index.indexing import Index
from ccray.interfaces import Failed, Refused
from ccray.schema import hex_key, key_of
from ccray.storage import Root, sealed_shards
from tests.data.index import shards
from tests.data.index.shards import Row

FLAT = 0x8000000000000000


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path / "root"))


def indexed(root: Root, *rows: Row, **settings: Any) -> Index:
    shards.write(root, rows)
    return shards.index(root, **settings)


def test_each_row_has_the_first_reason_that_holds(root: Root, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked.txt"
    blocked.write_text(f"# known bad\n{hashlib.sha256(b'bad bytes').hexdigest()}, seen in 2024\n{FLAT:016X}  # grey\n")
    watermark = (("watermark", 0.9),)
    rows = [
        Row("good", scores=(("watermark", 0.1),)),
        Row("gone", reason="download_not_found", license=None),
        Row("taken", license=None, scores=watermark),
        Row("unstated", license=None, scores=watermark),
        Row("unread", license="all mine", scores=watermark),
        Row("nc", license="CC-BY-NC-4.0", scores=watermark),
        Row("nd", license="CC-BY-ND-4.0", scores=watermark),
        Row("nobody", creator="  ", scores=watermark),
        Row("nobody, and none is asked for", creator=None, license="CC0-1.0", scores=(("watermark", 0.5),)),
        Row("blocked", b"bad bytes", scores=watermark),
        Row("looks blocked", phash=FLAT ^ 0b1011, scores=watermark),
        Row("marked", scores=watermark),
    ]
    root.write("takedowns/1.jsonl", json.dumps({"key": hex_key(key_of(b"taken"))}).encode())
    filters = ({"name": "watermark", "model": "m", "label": "yes", "threshold": 0.5},)
    found = indexed(root, *rows, require_creator=True, blocklist=str(blocked), filters=filters)
    assert shards.reasons(root) == {
        "gone": "download_not_found",
        "taken": "taken_down",
        "unstated": "license_missing",
        "unread": "license_unknown",
        "nc": "license_noncommercial",
        "nd": "license_noderivatives",
        "nobody": "creator_missing",
        "blocked": "blocklisted",
        "looks blocked": "blocklisted",
        "marked": "filter_watermark",
    }
    details = {ref: row["detail"] for ref, row in shards.table(root, "rejects").items()}
    assert details["gone"] == "as fetched"
    assert details["looks blocked"] == "3 of 64 bits differ from a perceptual hash of the blocklist"
    assert details["marked"] == "scores 0.900, at most 0.5 is taken"
    assert details["nc"] == "CC-BY-NC-4.0 under policy commercial"
    assert shards.table(root, "rejects")["gone"]["key"] is None
    assert (found.listed, found.accepted, found.rejected) == (12, 2, 10)
    assert found.missing_creators == 1
    assert found.facts["sources"] == {"table": 2}


def test_a_reason_nobody_knows_and_a_score_that_is_missing_fail(root: Root) -> None:
    shards.write(root, [Row("a", reason="because")])
    with pytest.raises(Failed, match="because"):
        shards.index(root)
    shards.write(root, [Row("a")])
    with pytest.raises(Failed, match="1 pictures without a score of the filter nsfw"):
        shards.index(root, filters=({"name": "nsfw", "model": "m", "label": "yes", "threshold": 0.5},))


def test_listing_and_images_of_different_rows_fail(root: Root) -> None:
    shards.write(root, [Row("a"), Row("b")])
    other = Root(f"{root.uri}-other")
    shards.write(other, [Row("a"), Row("c")])
    root.write("images/shard-00000.parquet", other.read("images/shard-00000.parquet"))
    with pytest.raises(Failed, match="does not hold the rows"):
        shards.index(root)


def test_of_twins_the_freest_then_the_largest_then_the_first_is_kept(root: Root) -> None:
    size = (800, 600)
    rows = [
        Row("by-nc", b"1", license="CC-BY-NC-4.0", size=size),
        Row("by-sa", b"1", license="CC-BY-SA-4.0", creator="Bo", title="x", size=size),
        Row("by", b"1", license="CC-BY-4.0", creator="Cy", size=size),
        Row("cc0", b"1", license="CC0-1.0", creator=None, size=size),
        Row("small", b"2", phash=FLAT, size=(64, 64)),
        Row("large", b"3", phash=FLAT ^ 1, size=(640, 640)),
        *(Row(name, name.encode(), phash=0xFF) for name in ("p", "q", "r")),
    ]
    found = indexed(root, *rows, policy="noncommercial", validation_fraction=0)
    first = min(rows[6:], key=lambda row: row.row_id).ref
    kept = shards.table(root, "catalog")
    assert kept.keys() == {"cc0", "large", first}
    assert [(copy["source_ref"], copy["license"], copy["bits"]) for copy in kept["cc0"]["copies"]] == [
        ("by", "CC-BY-4.0", 0),
        ("by-sa", "CC-BY-SA-4.0", 0),
        ("by-nc", "CC-BY-NC-4.0", 0),
    ]
    assert kept["cc0"]["copies"][1] == {
        "row_id": rows[1].row_id,
        "source": "table",
        "source_ref": "by-sa",
        "source_url": "https://example.org/by-sa",
        "title": "x",
        "creator": "Bo",
        "creator_url": None,
        "license": "CC-BY-SA-4.0",
        "license_url": "https://creativecommons.org/licenses/by-sa/4.0/",
        "bits": 0,
    }
    assert [copy["bits"] for copy in kept["large"]["copies"]] == [1]
    rejects = shards.table(root, "rejects")
    assert (rejects["by"]["reason"], rejects["by"]["detail"]) == ("duplicate_exact", "the same bytes as cc0")
    assert (rejects["small"]["reason"], rejects["small"]["detail"]) == ("duplicate_near", "alike with large (1 of 64 bits differ)")
    assert found.facts["duplicates"] == {"exact": 3, "near": 3, "groups": 3}


def test_a_rejected_copy_shadows_nobody(root: Root) -> None:
    rows = [
        Row("nc", b"1", license="CC-BY-NC-4.0", size=(2000, 2000), phash=1),
        Row("nobody", b"2", license=None, phash=1),
        Row("mine", b"1", phash=1),
    ]
    indexed(root, *rows)
    assert shards.table(root, "catalog").keys() == {"mine"}
    assert shards.table(root, "catalog")["mine"]["copies"] is None


def test_a_twin_of_a_near_duplicate_names_both(root: Root) -> None:
    rows = [
        Row("best", b"1", phash=0, license="CC0-1.0"),
        Row("near", b"2", phash=3, size=(900, 900)),
        Row("twin", b"2", phash=3, license="CC-BY-SA-4.0"),
    ]
    indexed(root, *rows)
    rejects = shards.table(root, "rejects")
    assert rejects["near"]["reason"] == "duplicate_near"
    assert (rejects["twin"]["reason"], rejects["twin"]["detail"]) == (
        "duplicate_exact",
        "the same bytes as near, which is alike with best (2 of 64 bits differ)",
    )
    assert [(copy["source_ref"], copy["bits"]) for copy in shards.table(root, "catalog")["best"]["copies"]] == [("near", 2), ("twin", 2)]


def test_a_chain_is_not_one_picture_but_one_group(root: Root) -> None:
    """a - b - c, each 4 bits from the next: b falls to a, c is 8 bits from a and is kept, yet on a's side of every split."""
    rows = [Row(str(number), phash=(1 << 4 * number) - 1, size=(900 - number, 900)) for number in range(9)]
    indexed(root, *rows, validation_fraction=0.5)
    kept = shards.table(root, "catalog")
    assert kept.keys() == {"0", "2", "4", "6", "8"}
    assert {row["duplicate_group"] for row in kept.values()} == {min(key_of(row.bytes) for row in rows)}
    assert len({row["split"] for row in kept.values()}) == 1
    assert [copy["source_ref"] for copy in kept["2"]["copies"]] == ["3"]


def test_near_duplicates_are_a_setting(root: Root) -> None:
    rows = [Row("a", phash=0), Row("b", phash=0), Row("c", phash=0b111), Row("scene"), Row("another scene")]
    assert indexed(root, *rows, near_duplicate_bits=None).accepted == 5
    assert indexed(root, *rows, near_duplicate_bits=0).accepted == 4
    assert indexed(root, *rows, near_duplicate_bits=2).accepted == 4
    assert indexed(root, *rows, near_duplicate_bits=3).accepted == 3


def test_equal_keys_of_different_bytes_are_all_rejected(root: Root) -> None:
    rows = [Row("a", key=7), Row("b", key=7), Row("b again", b"b", key=7), Row("c", key=8), Row("d", key=9), Row("nc", key=9, license="CC-BY-NC-4.0")]
    found = indexed(root, *rows)
    assert shards.reasons(root) == {**dict.fromkeys(("a", "b", "b again", "d"), "key_collision"), "nc": "license_noncommercial"}
    assert shards.table(root, "rejects")["a"]["detail"] == "key 0000000000000007 is also that of other bytes"
    assert found.accepted == 1


def test_no_derivatives_are_for_evaluation_alone(root: Root) -> None:
    rows = [
        Row("nd", license="https://creativecommons.org/licenses/by-nd/4.0/", phash=0xF0),
        Row("free copy", license="CC-BY-SA-4.0", phash=0xF000),
        Row("nd copy", license="CC-BY-ND-4.0", phash=0xF001, size=(4000, 4000)),
        Row("chained", license="CC-BY-4.0", phash=0xFF00000000000000),
        Row("link", license="CC-BY-SA-4.0", phash=0xFFF0000000000000, size=(10, 10)),
        Row("nd at its end", license="CC-BY-ND-4.0", phash=0xFFFF000000000000),
        Row("not understood", license="no derivatives, please"),
    ]
    found = indexed(root, *rows, keep_noderivatives=True, validation_fraction=0.0)
    kept = shards.table(root, "catalog")
    assert {ref: row["split"] for ref, row in kept.items()} == {
        "nd": "evaluation",
        "free copy": "train",
        "chained": "evaluation",
        "nd at its end": "evaluation",
    }
    assert kept["nd"]["derivatives"] is False
    assert shards.reasons(root) == {"nd copy": "duplicate_near", "link": "duplicate_near", "not understood": "license_unknown"}
    assert found.splits == {"evaluation": 3, "train": 1}
    assert indexed(root, *rows).licenses == {"CC-BY-4.0": 1, "CC-BY-SA-4.0": 1}


def many() -> list[Row]:
    names = [f"picture {number}" for number in range(60)]
    return [
        Row(name, name[: 8 + number % 3].encode(), phash=number * 0x123456789 % 64, size=(100 + number % 5, 100), captions=(("alt", name, "en"),))
        for number, name in enumerate(names)
    ]


def test_the_same_bytes_in_whatever_order_shards_are_written(root: Root) -> None:
    config = CatalogConfig(validation_fraction=0.3)
    shards.write(root, many(), rows_per_shard=7)
    indexing.write_index(root, config, Blocklist())
    before = shards.files(root)
    assert len(before) > 9
    for folder in ("catalog", "rejects"):
        root.delete(folder)
    gone = takedowns.load(root)
    compared = indexing.compare(root, config, Blocklist(), gone)
    counted = Index()
    for shard in reversed(sealed_shards(root, "listing")):
        indexing.write_shard(root, shard, config, Blocklist(), gone, compared, counted)
    assert shards.files(root) == before
    shards.write(root, many(), rows_per_shard=60)
    shards.index(root, validation_fraction=0.3)
    whole = {ref: (row["split"], row["duplicate_group"], row["copies"]) for ref, row in shards.table(root, "catalog").items()}
    assert len(whole) == counted.accepted == sum(1 for _ in whole)


def test_which_copy_is_kept_does_not_depend_on_shards(tmp_path: Path) -> None:
    found = []
    for rows in (many(), many()[::-1]):
        for size in (3, 16, 100):
            root = Root(str(tmp_path / f"{rows[0].ref}-{size}"))
            shards.write(root, rows, rows_per_shard=size)
            shards.index(root)
            kept = shards.table(root, "catalog")
            found.append({ref: row | {"shard": 0} for ref, row in kept.items()} | {"rejects": shards.reasons(root)})
    assert all(each == found[0] for each in found)


def test_a_takedown_leaves_no_stale_shard(root: Root) -> None:
    shards.write(root, [Row("a"), Row("b")], rows_per_shard=1)
    assert shards.index(root).accepted == 2
    root.write("takedowns/1.jsonl", json.dumps({"key": hex_key(key_of(b"a"))}).encode())
    assert shards.index(root).shards == {"shard-00001.parquet": 1}
    assert sealed_shards(root, "catalog") == [1]
    assert shards.reasons(root) == {"a": "taken_down"}
    root.delete("takedowns")
    shards.index(root)
    assert sealed_shards(root, "rejects") == []


def test_two_rows_of_one_id_are_noticed(root: Root) -> None:
    shards.write(root, [Row("a", license=None), Row("a", license=None)])
    with pytest.raises(Failed, match="are not the 2 listed"):
        shards.index(root)


def test_the_tables_have_their_doors_schemas(root: Root) -> None:
    indexed(root, *many(), Row("bad", license=None))
    for folder, expected in (("catalog", schema.CATALOG), ("rejects", schema.REJECTS)):
        for shard in sealed_shards(root, folder):
            assert root.read_table(f"{folder}/shard-{shard:05d}.parquet").schema == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0123\n", "line 1: '0123' is neither a sha256"),
        ("phash,note\n8000000000000000,grey\nhash\n", "line 3: 'hash'"),
        ("g" * 64, "line 1: 'ggg"),
        ("phash:" + "a" * 64, "line 1: 'phash:aaa"),
        ("\n,8000000000000000\n", "line 2: ''"),
    ],
)
def test_a_bad_blocklist_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "blocked.csv"
    file.write_text(text)
    with pytest.raises(Refused, match="blocklist") as refused:
        read_blocklist(str(file))
    assert message in str(refused.value)


def test_blocklists_of_every_form(tmp_path: Path) -> None:
    file = tmp_path / "blocked.csv"
    file.write_bytes(b'\xef\xbb\xbfsha256,why\r\n"' + b"AB" * 32 + b'",x\r\n\r\n# all grey\r\nffffffffffffffff\r\nffffffffffffffff\r\n')
    found = read_blocklist(str(file))
    assert found.sha256.to_pylist() == ["ab" * 32]
    assert found.perceptual.tolist() == [2**64 - 1]
    named = tmp_path / "named.txt"
    named.write_text(f"sha256:{'cd' * 32}  # as a list of takedowns has it\nphash:{'0' * 15}1\n")
    assert read_blocklist(str(named)).sha256.to_pylist() == ["cd" * 32]
    assert read_blocklist(str(named)).perceptual.tolist() == [1]
    assert len(read_blocklist(None).sha256) == 0
    with pytest.raises(Refused, match="cannot be read"):
        read_blocklist(str(tmp_path / "none.txt"))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match="cannot be read"):
        read_blocklist(str(file))
