"""Every family of captioners with its real classes and small random weights, through the catalog and caption stages, on real photographs."""

import json
from pathlib import Path

import numpy as np
import pytest

from ccray import config, recipes
from ccray.config import Recipe
from ccray.data.captioning.preparing import view_of
from ccray.data.captioning.worker import columns_of, hints_of, told
from ccray.data.pictures.pixels import LoadPixels, pixels_of
from ccray.flags import FLAGS
from ccray.interfaces import Subject
from ccray.models.captioners.build import captioner_of
from ccray.sharded.working import to_batch
from ccray.stages import caption, catalog
from ccray.storage import Root
from tests import chat_folders, folders

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PHOTOS = 51  # of COCO under BY and BY-SA


@pytest.fixture(scope="module")
def recipe(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    models = tmp_path_factory.mktemp("models")
    made = {
        "opt": ("blip2", folders.blip2_folder(models / "opt"), "en"),
        "t5": ("blip2", folders.blip2_t5_folder(models / "t5"), "en"),
        "florence": ("florence2", folders.florence2_folder(models / "florence"), "en"),
        "qwen": ("chat", chat_folders.qwen3_vl_folder(models / "qwen"), "ja"),
        "idefics": ("chat", chat_folders.idefics3_folder(models / "idefics"), "en"),
        "marian": ("translate", chat_folders.words_model(models / "marian", {"red": "赤い", "blue": "青い"}, steps=1), "ja"),
        "causal": ("translate", chat_folders.causal_folder(models / "causal"), "ja"),
    }
    words = [f"catalog.source=table:{shared_data}/coco_cc_photos/manifest.jsonl", "catalog.policy=commercial", "catalog.rows_per_shard=32"]
    words += [
        "catalog.columns.captions=[captions_en:en]",
        "catalog.columns.alt_text=class",
        "caption.shapes-blip2=null",
        "resources.caption.min_actors=1",
        "resources.caption.max_actors=1",
    ]
    for name, (family, place, language) in made.items():
        settings = {"family": family, "model": place, "language": language, "batch_size": 4, "max_new_tokens": 6}
        words += [f"caption.{name}.{key}={value}" for key, value in settings.items()]
    words += [
        "caption.marian.input=source-captions-en-2",
        "caption.causal.input=source-captions-en",
        "caption.qwen.crop_px=96",
        "caption.idefics.crop_px=64",
    ]
    return config.build(recipes.named("tiny"), [*words, "caption.idefics.hints=[alt_text]", "resources.caption.threads=1"])


@pytest.fixture(scope="module")
def root(recipe: Recipe, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Root:
    made = Root(str(tmp_path_factory.mktemp("root")))
    catalog.run(recipe, made)
    caption.run(recipe, made)
    return made


def rows(root: Root, name: str) -> dict[int, dict[str, object]]:
    return {row["key"]: row for path in root.files(f"captions/{name}") if path.endswith(".parquet") for row in root.read_table(path).to_pylist()}


@pytest.mark.parametrize("name", ["opt", "t5", "florence", "qwen", "idefics"])
def test_the_stage_says_what_the_bare_model_says(name: str, recipe: Recipe, root: Root) -> None:
    found, settings = rows(root, name), recipe.caption[name]
    assert len(found) == PHOTOS
    assert {row["language"] for row in found.values()} == {settings.language}
    assert {row["status"] for row in found.values()} <= {"ok", *FLAGS}
    carried = columns_of(settings)
    first = root.read_table("catalog/shard-00000.parquet", ["key", "shard", *carried]).slice(0, 4)
    pixels = LoadPixels(root, view_of(settings), carried=carried)(to_batch(first))
    subjects = [Subject(pixels_of(pixels, row), told(hints_of(pixels, row, settings), settings)) for row in range(4)]
    bare = captioner_of(settings).caption(subjects)
    assert [found[key]["caption"] for key in first["key"].to_pylist()] == [one.text or None for one in bare]
    assert np.allclose([found[key]["mean_logprob"] for key in first["key"].to_pylist()], [one.mean_logprob for one in bare], atol=1e-4)


@pytest.mark.parametrize(("name", "source"), [("marian", "source-captions-en-2"), ("causal", "source-captions-en")])
def test_translators_read_their_own_table(name: str, source: str, recipe: Recipe, root: Root) -> None:
    read, made = rows(root, source), rows(root, name)
    assert made.keys() == read.keys()
    for key, row in read.items():
        assert (made[key]["status"].startswith("input_")) == (row["status"] != "ok")
    good = [key for key, row in read.items() if row["status"] == "ok"][:4]
    bare = captioner_of(recipe.caption[name]).caption([Subject(text=read[key]["caption"]) for key in good]) if good else []
    assert [made[key]["caption"] or "" for key in good] == [one.text for one in bare]


def test_the_page_shows_them_all(root: Root, recipe: Recipe) -> None:
    page = root.read("captions/report.html").decode()
    figures = json.loads(root.read("captions/statistics.json"))
    assert all(name in page for name in recipe.caption)
    assert {one["table"] for one in figures["tables"]} >= set(recipe.caption)
