"""Several captioners in what is published: a captioner, a translator into Japanese, and a column that the source ships, side by side."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard, ModelCard
from mlcroissant import Dataset as Croissant

from ccray import config, storage
from ccray.config import Recipe
from ccray.flags import FLAGS, OUTCOMES, meaning
from ccray.interfaces import Refused
from ccray.schema import hex_key, key_of
from ccray.stages import publish
from ccray.storage import Root
from tests.publishing import roots
from tests.publishing.test_publish import models, recipe_of, row, trained  # noqa: F401  models is a fixture

COUNT = 120
PROMPT = "次の説明を、髙い空・﨑の影まで、自然な日本語に訳してください。"
TRANSLATOR = "caption.ja={family: translate, model: s3://weights/nmt/en-ja, input: shapes-blip2, language: ja, max_new_tokens: 90}"
WORDS = (TRANSLATOR, f"caption.ja.prompt={PROMPT}", f"train.captions={{ja: 3, {roots.IMPORTED}: 1}}")
TERMS = ("components.captioner.ja.license=apache-2.0",)
COLUMNS = ("caption_shapes_blip2", "caption_ja", "caption_source_blip2_caption")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, Recipe]:
    recipe = roots.recipe_of(*WORDS, *TERMS)
    root = roots.finished(tmp_path_factory.mktemp("made"), recipe, COUNT)
    publish.run(recipe, root)
    return root, recipe


def text_of(root: Root, name: str) -> str:
    return root.read(f"published/dataset/{name}").decode()


def test_columns_stand_in_the_recipes_order_and_then_the_sources(made: tuple[Root, Recipe]) -> None:
    root, _ = made
    schema = pq.read_schema(root.path("published/dataset/data/train-00000-of-00001.parquet"))
    found = [name for name in schema.names if name.startswith("caption_")]
    assert found == [f"{column}{end}" for column in COLUMNS for end in ("", "_language", "_status")]


def test_japanese_and_its_flags_arrive_as_they_were_written(made: tuple[Root, Recipe]) -> None:
    """Byte for byte; flagged texts with their flag, but for those that name a person; of errors the name alone."""
    root, recipe = made
    names = [name for name in root.files("published/dataset/data") if name.endswith(".parquet")]
    found = {row["key"]: row for name in names for row in pq.read_table(root.path(name)).to_pylist()}
    assert len(found) == COUNT
    statuses = Counter[str]()
    for number in range(COUNT):
        one = found[hex_key(roots.row(number)["key"])]
        text, _, status = roots.written(recipe.caption["ja"], number)
        status = "undecodable" if number % 50 == 49 else status
        statuses[status] += 1
        expected = None if status in ("undecodable", "person_name") else text.encode()
        assert (one["caption_ja"] and one["caption_ja"].encode(), one["caption_ja_status"]) == (expected, status)
        assert one["caption_ja_language"] == "ja"
        assert one["caption_shapes_blip2"] == (None if number % 50 == 49 else f"a picture, number {number}")
        assert one["caption_source_blip2_caption_language"] in ("fr", None)
    assert statuses == {"ok": 112, "looping": 3, "person_name": 3, "undecodable": 2}
    stored = [root.read_table(f"captions/ja/shard-{shard:05d}.parquet") for shard in range(3)]
    assert sum(table["status"].to_pylist().count("person_name") for table in stored) == 3, "only what is published leaves them out"
    text = b"".join(root.read(name) for name in root.files("published/dataset") if not name.endswith(".parquet"))
    assert b"/home/me" not in text


def test_the_dataset_card_tells_of_each(made: tuple[Root, Recipe]) -> None:
    root, _ = made
    text = text_of(root, "README.md")
    assert DatasetCard(text).data.language == ["en", "fr", "ja"]
    by = "translated from `caption_shapes_blip2` by the model `a folder in an S3 store, en-ja`"
    assert f"`caption_ja` is **synthetic**: {by} (1 beam, at most 90 new tokens, prompt `{PROMPT}`), language ja." in text
    assert "`caption_shapes_blip2` is **synthetic**: written by the model `shapes:captioner`" in text
    assert "`caption_source_blip2_caption` came with the source" in text
    assert "Rows by status: ok 112, looping 3, person_name 3, undecodable 2." in text
    for status in ("looping", "person_name", "undecodable"):
        assert f"| `{status}` | {meaning(status)} |" in text
    assert "| captioner, ja | a folder in an S3 store, en-ja | apache-2.0 |" in text
    assert "weights/nmt" not in text
    assert f"| captioner, {roots.IMPORTED} | captions that the images' source ships" in text
    assert "夕焼けの海を歩く猫" in text_of(root, "attribution/rows/000/000000.js")
    assert "夕焼けの海を歩く猫" in text_of(root, "attribution/plain/00000.html")


def test_croissant_tells_of_each_and_is_valid(made: tuple[Root, Recipe]) -> None:
    root, _ = made
    dataset = Croissant(root.path("published/dataset/croissant.json"))
    assert not dataset.metadata.issues.errors
    assert not dataset.metadata.issues.warnings
    captions = {record["images/caption_ja"] for record in dataset.records("images")}
    assert "夕焼けの海を歩く猫「3」、\u2028そして髙い﨑の影".encode() in captions
    raw = text_of(root, "croissant.json")
    assert PROMPT in raw, "as it is, not as escapes"
    values = json.loads(raw)
    activities = {one["@id"]: one for one in values["prov:wasGeneratedBy"]}
    assert list(activities) == ["cataloguing", "captioning-shapes-blip2", "captioning-ja"]
    assert [one["prov:label"] for one in activities["captioning-ja"]["prov:used"]] == ["captioner: a folder in an S3 store, en-ja"]
    fields = {one["name"]: one.get("prov:wasGeneratedBy") for one in values["recordSet"][0]["field"] if one["name"] in COLUMNS}
    assert fields == dict(zip(COLUMNS, ({"@id": "captioning-shapes-blip2"}, {"@id": "captioning-ja"}, None), strict=True))
    assert values["rai:machineAnnotationTools"] == [
        "caption_shapes_blip2: synthetic captions by shapes:captioner, en, checked by nobody",
        f"caption_ja: translations of caption_shapes_blip2 by a folder in an S3 store, en-ja, ja, prompt '{PROMPT}', checked by nobody",
    ]
    assert values["inLanguage"] == ["en", "fr", "ja"]


def test_the_summary_tells_of_each(made: tuple[Root, Recipe]) -> None:
    root, _ = made
    synthetic = json.loads(text_of(root, "training-content-summary.json"))["2 List of data sources"]["2.5 Synthetic data"]
    assert synthetic["captions"] == {
        "caption_shapes_blip2": "118 captions by shapes:captioner, language en",
        "caption_ja": "112 captions by a folder in an S3 store, en-ja, translated from shapes-blip2, language ja",
    }
    assert set(synthetic["models that wrote them"]) == {"shapes:captioner", "a folder in an S3 store, en-ja"}


def test_a_dataset_without_any_captioner(tmp_path: Path) -> None:
    recipe = roots.recipe_of(f"train.captions={{{roots.IMPORTED}: 1}}", "caption.shapes-blip2=null")
    root = roots.finished(tmp_path, recipe, 12)
    publish.run(recipe, root)
    synthetic = json.loads(text_of(root, "training-content-summary.json"))["2 List of data sources"]["2.5 Synthetic data"]
    assert (synthetic["used"], synthetic["captions"], synthetic["models that wrote them"]) == ("no", "none", "none")
    assert "**synthetic**" not in text_of(root, "README.md")
    assert not Croissant(root.path("published/dataset/croissant.json")).metadata.issues.errors


def test_a_captioner_that_did_not_run_stops_publication(tmp_path: Path) -> None:
    recipe = roots.recipe_of(*WORDS, *TERMS)
    root = roots.finished(tmp_path, recipe, 12)
    more = config.build(recipe, ["caption.late.max_new_tokens=5"])
    with pytest.raises(Refused, match=r"publish reads .*captions/late, which is not finished: run `ccray caption`"):
        publish.run(more, root)
    assert not root.exists("published")


def test_two_captioners_of_one_column_are_refused(tmp_path: Path) -> None:
    recipe = roots.recipe_of("caption.shapes--blip2.max_new_tokens=5")
    root = roots.finished(tmp_path, recipe, 12)
    with pytest.raises(Exception, match=r"captions/shapes-blip2, captions/shapes--blip2.*rename one of them"):
        publish.run(recipe, root)


def test_the_model_card_names_all_that_training_drew_from(models: Path, tmp_path: Path) -> None:  # noqa: F811
    root = Root(str(tmp_path))
    recipe = recipe_of(
        models,
        f"train.captions={{ja: 3, {roots.IMPORTED}: 1}}",
        TRANSLATOR,
        f"caption.ja.prompt={PROMPT}",
        *TERMS,
        "train.caption_statuses=[ok, too_short]",
    )
    trained(root, recipe, {key_of(b"0"): 1}, [row(0)])
    with_digest = storage.read_manifest(root, "captions/ja")
    assert with_digest is not None
    with_digest.facts = {"captioner_sha256": "ab" * 8}
    root.write_json("captions/ja/manifest.json", with_digest.__dict__)
    publish.run(recipe, root)
    text = root.read("published/model/README.md").decode()
    assert ModelCard(text).data.language == ["ja", "de"], "of what it was trained on, and the source's several once each"
    assert "and captions, some synthetic and some their source's. Every image" in text
    assert "| `ja` | synthetic, by a folder in an S3 store, en-ja, translated from shapes-blip2 | ja | 3 |" in text
    assert f"| `{roots.IMPORTED}` | that the images' source ships, column 説明 | de, ja | 1 |" in text
    assert "| `shapes-blip2` | synthetic" not in text, "training does not draw from it"
    assert f"statuses: `ok` ({meaning('ok')}); `too_short` ({meaning('too_short')})." in text
    assert f"| `caption.ja.prompt` | `{PROMPT}` |" in text
    assert "| `caption.shapes-blip2.family` | `blip2` |" in text
    assert "| `train.captions.ja` | `3.0` |" in text
    assert "language: ja, de." in text
    parts = {(one["role"], one["name"]): one for one in json.loads(root.read("published/model/components.json"))["components"]}
    assert list(parts)[3:] == [("captioner", name) for name in ("shapes-blip2", "ja", roots.IMPORTED)]
    assert parts["captioner", "ja"]["sha256"] == {"weights": "ab" * 8}
    assert (parts["captioner", "ja"]["language"], parts["captioner", "ja"]["license"]) == ("ja", "apache-2.0")
    assert parts["denoiser", None]["training_data"] == (
        "the 1 images of attribution.parquet, with captions by a folder in an S3 store, en-ja, translated from shapes-blip2 (ja, ja, weight 3); "
        f"that the images' source ships, column 説明 ({roots.IMPORTED}, de, ja, weight 1)"
    )


def test_every_status_has_a_meaning_of_its_own() -> None:
    known = {**FLAGS, **OUTCOMES}
    assert len({meaning(one) for one in known}) == len(known)
    assert meaning("undecodable: no end") == meaning("undecodable")
    assert meaning("input_looping").endswith(meaning("looping"))
    assert meaning("input_input_empty").endswith(meaning("empty"))
    assert meaning("RuntimeError: shapes differ") == meaning("OSError: gone") != meaning("ok")
