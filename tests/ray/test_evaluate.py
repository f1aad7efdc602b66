"""Evaluate on a small corridor: what it writes, that it continues, and what it refuses."""

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ccray import config, storage
from ccray.config import Recipe
from ccray.evaluation.fidelity import FIELDS
from ccray.interfaces import Failed, Refused
from ccray.schema import CAPTIONS
from ccray.shapes import world
from ccray.shapes.teachers.translator import translate
from ccray.stages import evaluate
from ccray.storage import Root
from tests.conftest import Corridor
from tests.ray.trained import finish_training, own_root

pytestmark = pytest.mark.ray

SETTINGS = (
    "train.name=brief",
    "evaluate.count=20",
    "evaluate.steps=2",
    "evaluate.batch_size=8",
    "evaluate.reference_images=40",
    "resources.evaluate.rows_per_block=8",
    "resources.evaluate.min_actors=1",
    "resources.evaluate.max_actors=1",
)


JAPANESE = (
    "caption.shapes-ja.family=translate",
    "caption.shapes-ja.model=shapes:translator",
    "caption.shapes-ja.input=shapes-blip2",
    "caption.shapes-ja.language=ja",
)


def translate_captions(root: Root, recipe: Recipe) -> None:
    """Write `captions/shapes-ja/` as the caption stage does; its first row flagged as looping."""
    stage = storage.caption_stage(recipe, "shapes-ja")
    with storage.running(root, stage) as manifest:
        for shard in storage.sealed_shards(root, "captions/shapes-blip2"):
            rows = root.read_table(f"captions/shapes-blip2/{storage.shard_name(shard)}").to_pylist()
            answers = translate(Path(storage.model_path("shapes:translator")), [row["caption"] for row in rows])
            flags = ["looping" if shard == number == 0 else row["status"] for number, row in enumerate(rows)]
            made = [row | {"caption": text, "language": "ja", "status": flag} for row, text, flag in zip(rows, answers, flags, strict=True)]
            sealed = storage.seal(root, stage.directory, shard, pa.Table.from_pylist(made, CAPTIONS), CAPTIONS, "key")
            manifest.shards[storage.shard_name(shard)] = sealed
        manifest.rows = sum(manifest.shards.values())


@pytest.fixture(scope="module")
def evaluated(corridor: Corridor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, Recipe]:
    root = own_root(corridor.root, tmp_path_factory.mktemp("evaluated"))
    recipe = corridor.with_settings(*SETTINGS, *JAPANESE)
    translate_captions(root, recipe)
    finish_training(root, recipe)
    evaluate.run(recipe, root)
    return root, recipe


def test_metrics(evaluated: tuple[Root, Recipe]) -> None:
    root, _recipe = evaluated
    figures = root.read_json("evaluation/metrics.json")
    for name in ("prompt_fidelity", "untrained", "shuffled", "chance", "ceiling"):
        assert set(figures[name]) == set(FIELDS)
        assert all(0 <= value <= 1 for value in figures[name].values())
    assert figures["prompt_fidelity_mean"] == pytest.approx(sum(figures["prompt_fidelity"][name] for name in FIELDS[:-1]) / 5)
    assert figures["ceiling"]["colour"] > 0.9  # the shipped VAE
    assert 0 <= figures["caption_exact_match"] <= 1
    assert figures["captions_compared"] == 96
    own = figures["captioners"]["shapes-blip2"]
    assert (own["exact_match"], own["rows"]) == (figures["caption_exact_match"], 96)
    assert own["all"] >= own["exact_match"]
    assert figures["reference_images"] == 20
    for name in ("brief", "untrained", "real"):
        assert math.isfinite(figures["distances"][name]["frechet_distance"])
        assert math.isfinite(figures["distances"][name]["kernel_distance"])
    assert figures["frechet_distance"] > figures["distances"]["real"]["frechet_distance"]
    assert (figures["prompts"], figures["steps"], figures["size_px"]) == (20, 2, [32, 32])
    assert set(figures["by_category"]) <= {"one thing", "two things"}
    manifest = storage.read_manifest(root, "evaluation")
    assert manifest is not None
    assert (manifest.status, manifest.rows, manifest.facts) == ("finished", 20, figures)


def test_captioners_side_by_side(evaluated: tuple[Root, Recipe]) -> None:
    root, _ = evaluated
    captioners = root.read_json("evaluation/metrics.json")["captioners"]
    assert list(captioners) == ["shapes-blip2", "shapes-ja"]
    english, japanese = captioners.values()
    assert set(japanese) == {"exact_match", *FIELDS, "flagged", "rows"}
    assert (english["flagged"], japanese["flagged"], japanese["rows"]) == (0, pytest.approx(1 / 96), 96)
    assert english["exact_match"] > 0.9
    for name in ("exact_match", *FIELDS):  # what is translated is as right as what was read, but for the flagged row
        assert 0 <= english[name] - japanese[name] < 1.01 / 96
    page = root.read("evaluation/report.html").decode()
    assert "<th>shapes-blip2</th>" in page
    assert "<th>shapes-ja</th>" in page


def test_samples_and_their_record(evaluated: tuple[Root, Recipe]) -> None:
    root, _recipe = evaluated
    for model in ("brief", "untrained"):
        lines = [json.loads(line) for line in root.read(f"evaluation/samples/{model}/samples.jsonl").splitlines()]
        assert {line["id"] for line in lines} == {f"0-{index}" for index in range(20)}
        for line in lines:
            scene = world.parse(line["prompt"])
            assert scene is not None
            assert world.scenes_match(scene, world.held_out_scene(0, int(line["id"].split("-")[1])))
            assert set(line["shows"]) == set(FIELDS)
            assert Image.open(io.BytesIO(root.read(line["path"]))).size == (32, 32)
        pictures = [name for name in root.names(f"evaluation/samples/{model}") if name.endswith(".png")]
        assert len(pictures) == 20


def test_the_forged_training_left_the_model_as_it_was(evaluated: tuple[Root, Recipe]) -> None:
    """`brief` is the untrained model, saved and loaded: both must have drawn the same pictures."""
    root, _ = evaluated
    for index in range(20):
        first, second = (
            np.asarray(Image.open(io.BytesIO(root.read(f"evaluation/samples/{model}/0-{index}.png")))) for model in ("brief", "untrained")
        )
        assert np.abs(first.astype(int) - second).max() <= 1


def test_sheet_and_page(evaluated: tuple[Root, Recipe]) -> None:
    root, _ = evaluated
    sheet = Image.open(io.BytesIO(root.read("evaluation/contact_sheet.png")))
    assert sheet.width > 1000
    page = root.read("evaluation/report.html").decode()
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("data:image", "")


def test_a_second_run_touches_nothing(evaluated: tuple[Root, Recipe]) -> None:
    root, recipe = evaluated
    before = {name: Path(root.path(name)).stat().st_mtime_ns for name in root.files("evaluation")}
    assert evaluate.run(recipe, root).rows == 20
    assert {name: Path(root.path(name)).stat().st_mtime_ns for name in root.files("evaluation")} == before


def test_truths_lie_nowhere_but_in_evaluation(evaluated: tuple[Root, Recipe]) -> None:
    root, _ = evaluated
    captions = {line["prompt"].encode() for line in map(json.loads, root.read("evaluation/samples/brief/samples.jsonl").splitlines())}
    elsewhere = [name for name in root.files("") if not name.startswith("evaluation/") and name.endswith((".json", ".jsonl", ".md"))]
    assert not [name for name in elsewhere if any(caption in root.read(name) for caption in captions)]


def test_continues_after_a_failure_without_drawing_again(corridor: Corridor, tmp_path: Path) -> None:
    """The features' weights are missing at first: pictures are drawn, measuring fails; with them in place the same command finishes."""
    root = own_root(corridor.root, tmp_path)
    features = tmp_path / "features"
    shutil.copytree(storage.model_path("shapes:captioner"), features)
    weights = next(features.glob("*.safetensors"))
    weights.rename(tmp_path / weights.name)
    recipe = config.build(corridor.recipe, [*SETTINGS, "evaluate.count=6", f"evaluate.features={features}"])
    finish_training(root, recipe)
    with pytest.raises(Failed, match=r"evaluate\.features"):
        evaluate.run(recipe, root)
    drawn = {name: Path(root.path(name)).stat().st_mtime_ns for name in root.files("evaluation/samples") if name.endswith(".png")}
    assert len(drawn) == 12
    (tmp_path / weights.name).rename(weights)
    assert evaluate.run(recipe, root).status == "finished"
    assert {name: Path(root.path(name)).stat().st_mtime_ns for name in drawn} == drawn


def test_prompts_of_a_file(corridor: Corridor, tmp_path: Path) -> None:
    root = own_root(corridor.root, tmp_path)
    rows = [
        {"id": "../../../escape", "prompt": "a large red circle on the left on a white background", "category": "shapes"},
        {"id": "日本", "prompt": "夕焼けの海を歩く猫", "language": "ja", "category": "photos"},
        {"prompt": "a photo of a dog"},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    recipe = config.build(corridor.recipe, [*SETTINGS, f"evaluate.prompts={file}"])
    finish_training(root, recipe)
    evaluate.run(recipe, root)
    figures = root.read_json("evaluation/metrics.json")
    assert (figures["prompts"], figures["pictures_judged"], figures["languages"]) == (3, 1, {"en": 2, "ja": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.jsonl", "root"]
    assert len(list(Path(root.path("evaluation/samples/brief")).glob("*.png"))) == 3


def test_refusals_write_nothing(corridor: Corridor, tmp_path: Path) -> None:
    root = own_root(corridor.root, tmp_path)
    recipe = config.build(corridor.recipe, SETTINGS)
    with pytest.raises(Refused, match="checkpoints/brief"):
        evaluate.run(recipe, root)
    finish_training(root, recipe)
    missing = config.build(recipe, [f"evaluate.prompts={tmp_path}/nothing.tsv"])
    with pytest.raises(Refused, match=r"nothing\.tsv cannot be read"):
        evaluate.run(missing, root)
    with pytest.raises(Refused, match=r"evaluate\.features"):
        evaluate.run(config.build(recipe, ["evaluate.features=/nowhere/at/all"]), root)
    assert not root.exists("evaluation")
