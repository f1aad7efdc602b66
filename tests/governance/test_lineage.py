"""Where an image came from and where it went, against what was written by hand and what training really read."""

import json
from pathlib import Path

import pytest

from ccray.__main__ import main
from ccray.governance import lineage, takedown
from ccray.interfaces import Refused
from ccray.schema import hex_key
from ccray.storage import Root
from ccray.takedowns import parse_list
from ccray.training.shelf import checkpoint_name
from tests.governance import governed
from tests.governance.governed import CAPTIONS, JAPANESE, LATENTS, RUN, SHIPPED, TWIN, UNFETCHED, caption, key, row_id, translation
from tests.training.tables import make_place
from tests.training.test_takedowns import replayed, run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root(str(tmp_path_factory.mktemp("lineage")))
    governed.write(root)
    return root


def test_of_an_image_in_the_catalog(root: Root) -> None:
    found = lineage.of(root, hex_key(key(5)))
    assert (found.key, found.outcome, found.reason, found.taken_down, found.also) == (hex_key(key(5)), "catalog", None, [], [])
    assert found.origin["source_url"] == "https://Example.org/page/5"
    assert (found.origin["license"], found.origin["license_basis"]) == ("CC-BY-4.0", "source record")
    assert found.origin["copies"][0]["source_ref"] == "near.png"
    assert (found.image["format"], found.image["width"], found.image["sha256"][:16]) == ("PNG", 24, found.key)
    assert [(one.table, one.caption, one.language, one.status) for one in found.captions] == [
        ("source, column caption", f"shipped {caption(5)}", "en", "ok"),
        (JAPANESE, translation(5), "ja", "ok"),
        (CAPTIONS, caption(5), "en", "ok"),
        (SHIPPED, f"shipped {caption(5)}", "en", "ok"),
    ]
    assert [(one.place, one.status) for one in found.latents] == [(LATENTS, "ok")]
    assert [(one.place, one.times) for one in found.checkpoints] == [(RUN, 2), (f"{RUN}/step-00000010", 1), (f"{RUN}/step-00000020", 2)]
    assert found.published == ["published/model/attribution.parquet", "published/dataset/data/train-00000.parquet"]


def test_an_image_that_no_checkpoint_saw(root: Root) -> None:
    assert [one.times for one in lineage.of(root, "11.png").checkpoints] == [0, 0, 0]


@pytest.mark.parametrize("name", [hex_key(key(3)), hex_key(key(3)).upper(), "3.png", f"{TWIN}.png"])
def test_by_every_name_of_it(root: Root, name: str) -> None:
    """Picture 3 was listed twice; both names lead to the one that was kept."""
    found = lineage.of(root, name)
    assert (found.key, found.outcome, found.origin["source_ref"]) == (hex_key(key(3)), "catalog", "3.png")
    assert [(one["source_ref"], one["reason"]) for one in found.also] == [(f"{TWIN}.png", "duplicate_exact")]


def test_by_sha256(root: Root) -> None:
    sha256 = lineage.of(root, "4.png").image["sha256"]
    assert lineage.of(root, sha256.upper()).key == hex_key(key(4))
    with pytest.raises(Refused, match="no image"):
        lineage.of(root, sha256[:-1] + ("0" if sha256[-1] != "0" else "1"))


def test_of_a_row_that_was_never_fetched(root: Root) -> None:
    found = lineage.of(root, f"{UNFETCHED}.png")
    assert (found.key, found.outcome, found.reason, found.detail) == (None, "rejected", "download_not_found", "x")
    assert found.origin["image_url"] == f"http://img.example.org:80/{UNFETCHED}.png?size=full"
    assert found.captions == found.latents == found.checkpoints == []


def test_what_is_not_here_is_refused_and_says_where_it_looked(root: Root, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert main(["lineage", "ffffffffffffffff", "--root", root.uri]) == 2
    assert "looked for key, sha256 and source_ref in listing, images, catalog and rejects" in caplog.text
    assert main(["lineage", "x", "--root", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "nowhere").exists()


def test_as_text_and_as_json(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", hex_key(key(5)), "--root", root.uri]) == 0
    text = capsys.readouterr().out
    for words in ("in the catalog", "taken down       no", "https://Example.org/page/5", "CC-BY-4.0", caption(5), "saw it 2 times", "near.png"):
        assert words in text
    assert main(["lineage", hex_key(key(5)), "--root", root.uri, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["origin"]["key"] == values["key"] == hex_key(key(5))
    assert values["origin"]["row_id"] == hex_key(row_id(5))
    assert [one["times"] for one in values["checkpoints"]] == [2, 1, 2]


def test_every_caption_is_told_with_its_language_and_flag(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    for number, line in ((2, f"{JAPANESE} (ja, looping): {translation(2)}"), (3, f"{JAPANESE} (ja, input_empty): no text")):
        assert main(["lineage", f"{number}.png", "--root", root.uri]) == 0
        out = capsys.readouterr().out
        assert f"  caption          {line}\n" in out
        assert f"  caption          {CAPTIONS} (en): {caption(number)}\n" in out
        assert f"  caption          {SHIPPED} (en): shipped {caption(number)}\n" in out
    assert main(["lineage", "2.png", "--root", root.uri, "--json"]) == 0
    out = capsys.readouterr().out
    assert translation(2) in out
    told = {one["table"]: (one["caption"], one["status"]) for one in json.loads(out)["captions"]}
    assert told[JAPANESE] == (translation(2), "looping")


def test_after_a_takedown_and_after_a_purge(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    governed.write(root)
    lines = parse_list("url:https://example.org/page/2")
    takedown.run(root, lines, "asked by the author", False, lambda _: None)
    found = lineage.of(root, "2.png")
    assert [(one["selector"], one["reason"]) for one in found.taken_down] == [("url", "asked by the author")]
    assert found.outcome == "catalog"
    takedown.run(root, lines, None, True, lambda _: None)
    found = lineage.of(root, hex_key(key(2)))
    assert (found.outcome, found.reason, found.detail) == ("rejected", "taken_down", "asked by the author")
    assert (found.origin["source_url"], found.origin["title"], found.origin["creator"]) == ("https://Example.org/page/2", "title 2", "Creator 2")
    assert found.captions == found.latents == []
    assert [one.times for one in found.checkpoints] == [2, 1, 2]
    assert len(found.taken_down) == 1


def test_what_checkpoints_saw_is_what_training_read(tmp_path: Path) -> None:
    """A run shorter than an epoch (4 of 5 steps), killed at step 3: for every image, lineage says what a replay of the batches says."""
    place, log = make_place(tmp_path), list[tuple[int, list[int]]]()
    run(place, "checkpoints/short", log, until=3, steps=4)
    run(place, "checkpoints/short", log, steps=4)
    expected: dict[int, int] = replayed(log)
    keys = [one for shard in (0, 1, 2) for one in place.root.read_table(f"catalog/shard-0000{shard}.parquet")["key"].to_pylist()]
    assert 0 < len(expected) < len(keys) == 59
    for one in keys:
        (use,) = lineage.of(place.root, hex_key(one)).checkpoints
        assert (use.place, use.times) == (f"checkpoints/short/{checkpoint_name(4)}", expected.get(one, 0))
