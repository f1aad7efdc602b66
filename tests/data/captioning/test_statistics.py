"""captions/statistics.json: counts of all rows, figures of a sample, truth in the shapes world."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ccray import schema
from ccray.data.captioning import statistics as statistics_file
from ccray.data.captioning import survey
from ccray.data.captioning.statistics import STATISTICS, Statistics, TableFigures, tokens, write_statistics
from ccray.schema import hex_key, key_of
from ccray.shapes import world
from ccray.storage import Root
from tests.data.captioning import written
from tests.data.index.shards import Row

ROWS = [Row(f"picture {number}", f"bytes {number}".encode()) for number in range(10)]
KEYS = [key_of(row.bytes) for row in ROWS]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path / "root"))
    written.catalog(root, ROWS)
    return root


def of(result: Statistics, table: str) -> TableFigures:
    return next(one for one in result.tables if one.table == table)


def test_counts_are_of_all_rows_and_lengths_of_good_ones(root: Root) -> None:
    said: dict[int, written.Said] = dict.fromkeys(KEYS[:6], ("a dog", "ok", -1.0))
    said |= {KEYS[6]: ("a b c d e", "ok", -2.0), KEYS[7]: ("x " * 50, "looping", -3.0), KEYS[8]: (None, "taken_down", None)}
    said |= {KEYS[9]: (None, "ValueError: a picture: 3 colons", float("nan"))}
    written.captions(root, "short", said)
    found = of(write_statistics(root), "short")
    assert found.rows == 10
    assert found.statuses == {"ValueError": 1, "looping": 1, "ok": 7, "taken_down": 1}
    assert found.flagged == pytest.approx(0.1)
    assert found.mean_logprob == pytest.approx((-6 - 2 - 3) / 8)
    assert found.sampled == 7
    assert found.characters is not None
    assert found.characters.mean == pytest.approx((6 * 5 + 9) / 7)
    assert found.words is not None
    assert (found.words.mean, found.words.median) == (pytest.approx(17 / 7), 2)
    assert (found.trigrams, found.distinct_trigrams) == (3, 1.0)
    assert (found.most_frequent, found.most_frequent_share) == ("a dog", pytest.approx(6 / 7))


def test_trigrams_count_what_is_new(root: Root) -> None:
    written.captions(root, "same", dict.fromkeys(KEYS, ("a dog on grass", "ok", None)))
    found = of(write_statistics(root), "same")
    assert (found.trigrams, found.distinct_trigrams) == (20, pytest.approx(0.1))
    assert found.mean_logprob is None


def test_japanese_is_counted_in_characters_and_written_as_it_is(root: Root) -> None:
    written.captions(root, "ja", dict.fromkeys(KEYS, ("白い犬がいる。", "ok", None)), "ja")
    found = of(write_statistics(root), "ja")
    assert found.words is None
    assert found.trigrams == 10 * 4
    assert found.characters is not None
    assert found.characters.mean == 7
    assert '"most_frequent": "白い犬がいる。"'.encode() in root.read(STATISTICS)


def test_the_file_is_what_is_returned(root: Root) -> None:
    written.captions(root, "ja", dict.fromkeys(KEYS, ("白い犬", "ok", None)), "ja")
    result = write_statistics(root)
    assert json.loads(json.dumps(asdict(result))) == root.read_json(STATISTICS)
    first = root.read(STATISTICS)
    write_statistics(root)
    assert root.read(STATISTICS) == first


def test_agreement_is_between_captions_of_one_language_on_the_same_images(root: Root) -> None:
    written.captions(root, "one", dict.fromkeys(KEYS[:8], ("a brown dog on grass", "ok", None)))
    written.captions(root, "two", dict.fromkeys(KEYS[4:], ("A dog.", "ok", None)), "en-US")
    written.captions(root, "flagged", dict.fromkeys(KEYS, ("a brown dog on grass", "truncated", None)))
    written.captions(root, "ja", dict.fromkeys(KEYS, ("犬", "ok", None)), "ja")
    written.captions(root, "source-caption", dict.fromkeys(KEYS, ("a brown dog on grass", "ok", None)), "und")
    (found,) = write_statistics(root).agreements
    assert (found.first, found.second, found.language, found.images) == ("one", "two", "en", 4)
    assert found.unigram_f1 == pytest.approx(2 * 2 / (5 + 2))


def test_what_was_taken_down_is_not_counted(root: Root) -> None:
    written.captions(root, "one", {key: (f"a dog {place}", "ok", None) for place, key in enumerate(KEYS)})
    root.write("takedowns/1.jsonl", json.dumps({"key": hex_key(KEYS[3])}).encode())
    assert of(write_statistics(root), "one").rows == 9
    assert b"a dog 3" not in root.read(STATISTICS)


def test_folders_without_a_manifest_and_files_are_no_tables(root: Root) -> None:
    written.captions(root, "one", dict.fromkeys(KEYS, ("a dog", "ok", None)))
    written.captions(root, "source-b", dict.fromkeys(KEYS, ("a dog", "ok", None)))
    root.write("captions/report.html", b"<p>")
    root.write("captions/half/.staging/rows.parquet", b"")
    assert survey.tables(root) == ["captions/one", "captions/source-b"]
    write_statistics(root)
    assert survey.tables(root) == ["captions/one", "captions/source-b"]


def test_the_sample_is_the_same_for_every_table_and_bounded(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "SAMPLE", 4)
    everywhere = dict.fromkeys(KEYS, ("a dog", "ok", None))
    written.captions(root, "one", everywhere)
    written.captions(root, "two", everywhere | {KEYS[0]: (None, "worker_died", None)})
    one, two = (survey.survey(root, f"captions/{name}", pa.array([], pa.int64())) for name in ("one", "two"))
    expected = sorted(KEYS, key=lambda key: int.from_bytes((key % 2**64).to_bytes(8, "big"), "little"))[:4]
    assert [row.key for row in one.sample] == [row.key for row in two.sample] == expected
    assert (one.rows, two.rows) == (10, 10)


def test_a_caption_of_any_length_keeps_its_length_and_not_itself(root: Root) -> None:
    written.captions(root, "one", {KEYS[0]: ("word " * 20_000, "ok", None)})
    found = survey.survey(root, "captions/one", pa.array([], pa.int64()))
    assert found.sample[0].characters == 100_000
    assert len(found.sample[0].caption or "") == survey.KEPT_CHARACTERS


def test_truth_of_drawn_scenes(tmp_path: Path) -> None:
    """One caption in four is of a scene in another colour, one in four is no sentence of the world; the others are true."""
    root = Root(str(tmp_path))
    scenes = written.drawn(root, 200)
    said: dict[int, written.Said] = {}
    for place, (key, scene) in enumerate(scenes.items()):
        caption = world.caption(scene)
        colour = scene.things[0].colour
        taken = {thing.colour for thing in scene.things}
        other = next(one for one in world.COLOURS if one not in taken)
        said[key] = ((caption, caption, caption.replace(f" {colour} ", f" {other} "), "a dog on a sofa")[place % 4], "ok", None)
    written.captions(root, "telephone", said)
    truth = of(write_statistics(root), "telephone").truth
    assert truth is not None
    assert (truth.captions, truth.exact) == (200, 0.5)
    assert (truth.background, truth.colour, truth.shape, truth.size, truth.place, truth.all) == (0.75, 0.5, 0.75, 0.75, 0.75, 0.5)


def test_photos_have_no_truth(root: Root) -> None:
    written.captions(root, "one", dict.fromkeys(KEYS, ("a dog", "ok", None)))
    assert of(write_statistics(root), "one").truth is None


def test_no_table_has_no_figures(root: Root) -> None:
    assert write_statistics(root).tables == ()
    written.captions(root, "empty", {KEYS[0]: (None, "worker_died", None)})
    found = of(write_statistics(root), "empty")
    assert (found.sampled, found.characters, found.distinct_trigrams, found.most_frequent) == (0, None, None, None)


def test_words() -> None:
    assert tokens("A dog's life, isn't it?", "en") == ["a", "dog's", "life", "isn't", "it"]
    assert tokens("白い犬。", "ja") == ["白", "い", "犬"]


def test_a_large_table_is_read_shard_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than one shard's rows at a time, and what is kept of it all is the sample."""
    root = Root(str(tmp_path))
    read: list[int] = []
    keys = np.random.default_rng(0).integers(-(2**62), 2**62, 5_000)
    for shard, part in enumerate(np.split(keys, 10)):
        rows = [dict(zip(schema.CAPTIONS.names, (int(key), shard, "a dog", "en", "", -1.0, "ok"), strict=True)) for key in part]
        root.write_table(f"captions/one/shard-{shard:05d}.parquet", pa.Table.from_pylist(rows, schema=schema.CAPTIONS))
    written_manifest = {"stage": "caption", "recipe": "tiny", "status": "finished", "fingerprint": "f", "config": {}, "inputs": {}}
    root.write_json("captions/one/manifest.json", written_manifest)
    whole = Root.read_table
    monkeypatch.setattr(Root, "read_table", lambda self, *args, **kwargs: (table := whole(self, *args, **kwargs), read.append(table.num_rows))[0])
    monkeypatch.setattr(survey, "SAMPLE", 100)
    found = survey.survey(root, "captions/one", pa.array([], pa.int64()))
    assert (found.rows, len(found.sample), max(read), len(read)) == (5_000, 100, 500, 10)
    assert statistics_file.tokens(found.sample[0].caption or "", "en") == ["a", "dog"]


@pytest.mark.skipif(not hasattr(world, "LANGUAGES"), reason="this world speaks English only")
def test_truth_of_japanese_captions(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    scenes = written.drawn(root, 40)
    said: dict[int, written.Said] = {
        key: (world.caption(scene, *(["ja"] if place % 2 else [])), "ok", None) for place, (key, scene) in enumerate(scenes.items())
    }
    written.captions(root, "translated", said, "ja")
    truth = of(write_statistics(root), "translated").truth
    assert truth is not None
    assert (truth.captions, truth.exact, truth.all) == (40, 0.5, 0.5)
