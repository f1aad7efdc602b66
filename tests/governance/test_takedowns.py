"""Lists of takedowns: what they may say, what they name, and who applies them."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ccray import schema, takedowns
from ccray.__main__ import main
from ccray.config import CatalogConfig
from ccray.data.fetching.worker import FetchImages
from ccray.evaluation import choice
from ccray.governance import holding
from ccray.interfaces import Failed
from ccray.schema import hex_key
from ccray.storage import Root, shard_name
from ccray.takedowns import Record, load, parse_list, plain_urls, taken_down, taken_down_rows
from tests.governance.governed import CAPTIONS, GONE, JAPANESE, LATENTS, LIST, PICTURES, RUN, SHIPPED, TWIN, UNFETCHED, key, picture, row_id, run

# What a list may say


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("key:123", "expected 16 hex digits after key:"),
        ("key:" + "g" * 16, "expected 16 hex digits"),
        ("sha256:" + "a" * 63, "expected 64 hex digits"),
        ("url:ftp://example.org/a", "expected an http or https address"),
        ("url:example.org", "expected an http or https address"),
        ("creator:", "expected a name or an address"),
        ("name:Jane", "expected key:HEX16, sha256:HEX64, url:URL or creator:NAME_OR_URL"),
        ("0123456789abcdef", "expected key:HEX16"),
    ],
)
def test_a_bad_line_is_refused_by_number(tmp_path: Path, line: str, expected: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "list"
    path.write_text(f"# a comment\n\nkey:0123456789abcdef\n{line}\n")
    assert main(["takedown", "--root", str(tmp_path / "root"), "--list", str(path)]) == 2
    assert "line 4 of the list" in caplog.text
    assert expected in caplog.text
    assert not (tmp_path / "root").exists()


def test_lists_that_cannot_be_read_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, data in (("empty", b"# nothing\n\n"), ("binary", b"\xff\xfe\x00key"), ("absent", None)):
        caplog.clear()
        if data is not None:
            (tmp_path / name).write_bytes(data)
        assert main(["takedown", "--root", str(tmp_path / "root"), "--list", str(tmp_path / name)]) == 2
        assert f"--list {tmp_path / name}" in caplog.text
    assert not (tmp_path / "root").exists()


def test_lines_are_read_with_capitals_comments_and_colons() -> None:
    found = parse_list(f"\ufeff# c\nKEY: {'AB' * 8} \n\n  url:https://a.example:8080/b#c\ncreator:https://a.example/x: y\n".lstrip("\ufeff"))
    assert [(one.number, one.selector, one.value) for one in found] == [
        (2, "key", "ab" * 8),
        (4, "url", "https://a.example:8080/b#c"),
        (5, "creator", "https://a.example/x: y"),
    ]


def test_addresses_are_compared_without_what_does_not_tell_pages_apart() -> None:
    same = ["https://Example.ORG/a/b", "http://example.org/a/b/", " https://example.org:443/a/b#part ", "HTTP://example.org:80/a/b"]
    others = ["https://example.org/A/b", "https://example.org/a/b?c", "https://example.org:8080/a/b", "https://www.example.org/a/b", "not an address"]
    plain = plain_urls(pa.array([*same, *others, None]))
    assert set(plain.to_pylist()[:4]) == {"example.org/a/b"}
    assert len(set(plain.to_pylist()[4:])) == 6
    assert plain.to_pylist()[-2:] == ["not an address", None]


# What is recorded, and how it is read


def test_files_are_appended_and_never_rewritten(root: Root) -> None:
    first = run(root, LIST, reason="asked by the author")
    (name,) = takedowns.files(root)
    data = root.read(f"takedowns/{name}")
    assert "recorded 5 of 5 lines" in first
    assert taken_down(root) == {key(number) for number in GONE}
    assert "every line was recorded before" in run(root, LIST)
    run(root, "url:https://example.org/nothing")
    names = takedowns.files(root)
    assert len(names) == 2
    assert sorted(names) == list(names)
    assert names[0] == name
    assert root.read(f"takedowns/{name}") == data
    assert [record.reason for _, record in takedowns.records(root)] == ["asked by the author"] * 5 + [None]


def test_records_by_hand_and_broken_ones(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    assert taken_down(root) == frozenset()
    root.write("takedowns/1.jsonl", b'{"key": "8000000000000001", "note": "x"}\n\n{"key": "0000000000000001"}\n')
    root.write("takedowns/2.jsonl", b"")
    root.write("takedowns/readme.txt", b"not one of ours")
    assert taken_down(root) == {1, 1 - 2**63}
    assert taken_down(root, ["2.jsonl"]) == frozenset()
    for wrong in (b'{"key": "12"}\n', b"not json\n", b'{"keys": "ab"}\n', b'{"key": 5}\n'):
        root.write("takedowns/3.jsonl", wrong)
        with pytest.raises(Failed):
            taken_down(root)


def test_a_million_keys_are_read(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    keys = np.random.default_rng(0).integers(-(2**63), 2**63, 500_000, dtype=np.int64)
    digits = [hex_key(one) for one in keys.tolist()]
    one = Record("creator", "Everybody", None, "", tuple(keys.tolist()), ())
    root.write("takedowns/1.jsonl", (one.json() + "\n").encode())
    root.write("takedowns/2.jsonl", "".join(f'{{"selector": "key", "value": "{text}", "keys": ["{text}"]}}\n' for text in digits).encode())
    assert taken_down(root) == frozenset(keys.tolist())


# What a list names


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        (f"key:{hex_key(key(4))}", [4]),
        (f"sha256:{hashlib.sha256(picture(4)).hexdigest().upper()}", [4]),
        ("url:http://example.org/page/4/", [4]),
        ("url:https://img.example.org:443/4.png?size=full", [4]),
        ("url:https://img.example.org/4.png", []),
        ("creator:Creator 4", [4, 9, 14, 19, TWIN]),
        ("creator:creator 4", []),
        ("creator:Cr&eacute;ateur", [7]),
        ("creator:https://people.example/2", [2, 7, 12, 17, 22]),
        (f"url:https://example.org/page/{TWIN}", [TWIN]),
        (f"url:https://example.org/page/{UNFETCHED}", [UNFETCHED]),
    ],
)
def test_what_a_line_names(root: Root, line: str, numbers: list[int]) -> None:
    said = run(root, line)
    keys = {key(number) for number in numbers if number != UNFETCHED}
    assert taken_down(root) == keys
    ((_, record),) = takedowns.records(root)
    rows = {row_id(number) for number in numbers}
    if line.startswith(("key", "sha256")):
        rows |= {row_id(TWIN)} if 3 in numbers else set()
    assert set(record.rows) == rows
    if not numbers:
        assert "0 rows here; recorded" in said
    if numbers == [UNFETCHED]:
        assert "1 row, not fetched" in said


def test_an_exact_duplicate_leads_to_the_image_that_was_kept(root: Root) -> None:
    run(root, f"url:https://example.org/page/{TWIN}")
    assert taken_down(root) == {key(3)}
    (held,) = [one for one in holding.held(root, taken_down(root)) if one.place == "catalog"]
    assert held.rows == 1


def test_near_copies_are_named(root: Root) -> None:
    said = run(root, f"key:{hex_key(key(5))}")
    assert said.count("nearly the same picture") == 1
    assert "other near.png https://elsewhere.example Somebody (2 bits apart)" in said


def test_a_near_copy_that_was_taken_down_is_not_named_with_the_image_that_stays(root: Root) -> None:
    """Picture 5 stays, and its near copy (row 1) was taken down by the name of its creator."""
    takedowns.record(root, [Record("creator", "Somebody", None, "", (), (1,))])
    (held,) = holding.held(root, frozenset(), frozenset({1}))
    assert (held.place, held.rows) == ("catalog", 1)
    said = run(root, f"key:{hex_key(key(2))}", purge=True)
    assert "catalog: 1 copies of other images not named any more" in said
    rows = {row["key"]: row for shard in (0, 1) for row in root.read_table(f"catalog/{shard_name(shard)}").to_pylist()}
    assert rows[key(5)]["copies"] is None
    assert rows.keys() == {key(number) for number in range(PICTURES) if number != 2}
    assert root.read_table(f"catalog/{shard_name(0)}").schema == schema.CATALOG
    assert holding.held(root, frozenset(), frozenset({1})) == []


def test_copies_are_taken_out_of_lists_with_and_without_any() -> None:
    def copy(row: int, creator: str = "A", page: str = "") -> dict[str, object]:
        return dict.fromkeys(one.name for one in schema.COPIES.value_type) | {"row_id": row, "creator": creator, "source_url": page}

    lists = [None, [copy(1), copy(2), copy(3)], [], [copy(2)], [copy(4, "B"), copy(5, page="https://E.example/1/")]]
    column = pa.chunked_array([pa.array(lists, schema.COPIES)])
    gone = takedowns.Takedowns(
        *(pa.array(values, kind) for values, kind in (([], pa.int64()), ([2], pa.int64()), ([], pa.string()))),
        pa.array(["e.example/1"]),
        pa.array(["B"]),
    )
    left = takedowns.remaining_copies(gone, column)
    assert left.type == schema.COPIES
    assert [one and [copy["row_id"] for copy in one] for one in left.to_pylist()] == [None, [1, 3], None, None, None]
    none = takedowns.Takedowns(*(one.slice(0, 0) for one in (gone.keys, gone.row_ids, gone.sha256, gone.urls, gone.creators)))
    assert takedowns.remaining_copies(none, column).to_pylist() == lists


def test_images_listed_later_are_met(root: Root) -> None:
    later = pa.table(
        {
            "row_id": [1, 2, 3, 4, 5, row_id(UNFETCHED), 7],
            "key": [key(4), 5, None, None, None, None, 6],
            "sha256": [None, "a" * 64, None, None, None, None, "b" * 64],
            "source_url": [None, None, "http://later.example/1/", None, None, None, None],
            "creator": [None, None, None, "Late", None, None, "late"],
            "creator_url": [None, None, None, None, "https://Late.example/me", None, None],
        }
    )
    lines = [f"key:{hex_key(key(4))}", f"sha256:{'a' * 64}", "url:https://later.example/1", "creator:Late", "creator:https://late.example/me/"]
    run(root, "\n".join([*lines, f"url:https://example.org/page/{UNFETCHED}"]))
    assert taken_down_rows(load(root), later).to_pylist() == [True] * 6 + [False]
    assert taken_down_rows(load(root), later.select(["creator"])).to_pylist() == [False] * 3 + [True] + [False] * 3


def test_listed_rows_are_not_fetched(root: Root, tmp_path: Path) -> None:
    run(root, f"creator:Creator 0\nurl:https://example.org/page/{UNFETCHED}")
    gone = takedowns.listed(root, "listing")
    assert gone == {row_id(number) for number in (0, 5, 10, 15, 20, UNFETCHED)}
    here = tmp_path / "files"
    here.mkdir()
    numbers = [0, 1, 2, 5, 6]
    for number in (1, 2, 6):  # whoever asked for the others would miss them
        (here / f"{number}.png").write_bytes(picture(number))
    worker = FetchImages(CatalogConfig(), Root(str(here)), taken_down=gone)
    ids = np.array([row_id(number) for number in numbers])
    locators = np.array([f"file:{number}.png" for number in numbers])
    answer = worker({"row_id": ids, "shard": np.zeros(5, np.int32), "locator": locators, "license_text": np.array(["CC0-1.0"] * 5)})
    worker.close()
    assert answer["reason"].tolist() == ["taken_down", None, None, "taken_down", None]
    assert answer["image"].tolist() == [None, picture(1), picture(2), None, picture(6)]


# Who holds what


def test_status_names_what_holds_taken_down_rows(root: Root, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["status", "--root", root.uri]) == 0
    assert "taken" not in capsys.readouterr().out
    (tmp_path / "list").write_text(LIST)
    assert main(["takedown", "--root", root.uri, "--list", str(tmp_path / "list"), "--reason", "asked"]) == 0
    told = capsys.readouterr().out
    assert main(["status", "--root", root.uri]) == 0
    out = capsys.readouterr().out
    expected = {
        "images: 6 taken-down images",  # the twin has bytes of its own
        "catalog: 5 taken-down rows",
        f"{CAPTIONS}: 5 taken-down captions",
        f"{JAPANESE}: 4 taken-down captions",  # one of them flagged; the fifth has no text
        f"{SHIPPED}: 5 taken-down captions",
        f"{LATENTS}: 5 taken-down latents",
        f"{RUN}: 5 taken-down images were seen, 10 times in all",
        f"{RUN}/step-00000010: 5 taken-down images were seen, 5 times in all",
        f"{RUN}/step-00000020: 5 taken-down images were seen, 10 times in all",
        "evaluation: 1 taken-down captions are prompts",
        "published/model: 5 taken-down images are listed as if they were not",
        "published/dataset: 5 taken-down rows",
    }
    for line in expected:
        assert line in out
        assert line in told
    assert len([line for line in out.splitlines() if "taken-down" in line]) == len(expected)


def test_a_reference_set_has_none_of_them(root: Root) -> None:
    run(root, LIST)
    chosen = choice.images(root, "catalog", 100)
    assert set(chosen["key"].tolist()) == {key(number) for number in range(PICTURES) if number not in GONE}
