"""Prompts to files, files to figures: with a tiny random model, no cluster."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ccray import recipes, storage
from ccray.config import Recipe, build
from ccray.evaluation import choice, measuring, prompts, sampling, summary
from ccray.evaluation.features import FeatureExtractor
from ccray.evaluation.fidelity import FIELDS
from ccray.evaluation.measuring import Measure
from ccray.evaluation.metrics import FeatureSums
from ccray.evaluation.sampling import Artist, GenerateSamples
from ccray.evaluation.summary import Drawn
from ccray.interfaces import Refused
from ccray.schema import CAPTIONS, CATALOG, IMAGES, hex_key, key_of
from ccray.shapes import oracle, world
from ccray.storage import Root
from tests import folders


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    home = tmp_path_factory.mktemp("models")
    words = [
        f"encode.model={folders.vae_folder(home / 'vae')}",
        f"text.model={folders.text_folder(home / 'text')}",
        f"text.width={folders.TEXT_WIDTH}",
        f"denoiser.cross_attention_dim={folders.TEXT_WIDTH}",
        f"evaluate.features={folders.blip2_folder(home / 'captioner')}",
        "denoiser.block_out_channels=[16, 16]",
        "evaluate.batch_size=3",
        "evaluate.steps=2",
    ]
    return build(recipes.tiny(), words)


def batch(rows: list[prompts.Prompt]) -> dict[str, np.ndarray]:
    table = prompts.table(rows, seed=0, rows_per_shard=100)
    return {
        name: np.array(table.column(name).to_pylist(), dtype=object if pa.types.is_string(table.schema.field(name).type) else None)
        for name in table.schema.names
    }


def test_pictures_are_files_that_say_what_they_are(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/main/model"
    folders.stable_diffusion_folder(folder)
    root = Root(str(tmp_path))
    worker = GenerateSamples(Artist("main", recipe, "checkpoints/main/model"), root)
    rows = [*prompts.held_out(0, 3), prompts.Prompt("../up", "夕焼け", "ja")]
    made = worker(batch(rows))
    assert made["path"][0] == "evaluation/samples/main/0-0.png"
    assert made["path"][3] == "evaluation/samples/main/%2E.%2Fup.png"
    for path, digest in zip(made["path"], made["sha256"], strict=True):
        data = root.read(path)
        assert hashlib.sha256(data).hexdigest() == digest
        image = Image.open(io.BytesIO(data))
        assert image.size == (folders.SIZE_PX, folders.SIZE_PX)
        assert "model main" in image.info["Description"]
    assert len(set(made["sha256"])) == 4
    other_company = worker(batch([rows[1], rows[0]]))
    assert other_company["sha256"].tolist() == made["sha256"][[1, 0]].tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "evaluation"]


def test_the_untrained_model_needs_no_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    worker = GenerateSamples(Artist("untrained", recipe, None), Root(str(tmp_path)))
    again = GenerateSamples(Artist("untrained", recipe, None), Root(str(tmp_path)))
    rows = batch(prompts.held_out(0, 2))
    assert worker(rows)["sha256"].tolist() == again(rows)["sha256"].tolist()


def small_catalog(root: Root, count: int, shards: int) -> dict[int, str]:
    """Pictures of the shapes world in images/ and catalog/; the split of each key. The first fifth is for validation."""
    splits: dict[int, str] = {}
    for shard in range(shards):
        images, rows = [], []
        for index in range(shard * count // shards, (shard + 1) * count // shards):
            data = world.png_bytes(world.draw(world.train_scene(0, index)))
            key = key_of(data)
            splits[key] = "validation" if index < count // 5 else "train"
            images.append({"key": key, "shard": shard, "image": data})
            rows.append({"key": key, "shard": shard, "split": splits[key]})
        storage.seal(root, "images", shard, pa.Table.from_pylist(images, IMAGES), IMAGES, "key")
        storage.seal(root, "catalog", shard, pa.Table.from_pylist(rows, CATALOG), CATALOG, "key")
    return splits


def test_reference_halves_prefer_validation_and_share_no_image(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    splits = small_catalog(root, 40, 3)
    jobs = measuring.reference_jobs(root, "catalog", 20)
    halves = {name: {key for job in jobs if job.set == name for key in job.keys} for name in (choice.REFERENCE, choice.REAL)}
    assert [len(half) for half in halves.values()] == [10, 10]
    chosen = halves[choice.REFERENCE] | halves[choice.REAL]
    assert len(chosen) == 20
    assert {key for key, split in splits.items() if split == "validation"} <= chosen
    assert {key for key in chosen if splits[key] == "train"} == set(sorted(key for key, split in splits.items() if split == "train")[:12])
    gone = next(iter(chosen))
    root.write("takedowns/1.jsonl", f'{{"key": "{gone % 2**64:016x}"}}\n'.encode())
    assert gone not in {key for job in measuring.reference_jobs(root, "catalog", 40) for key in job.keys}


def seal_captions(root: Root, name: str, language: str | None, status: Callable[[int], str | None]) -> None:
    """A table of captions beside `small_catalog`'s two shards; None: no row."""
    for shard in (0, 1):
        keys = root.read_table(f"catalog/{storage.shard_name(shard)}").column("key").to_pylist()
        rows = [
            {"key": key, "shard": shard, "caption": f"{name} {key}", "language": language, "status": status(key)}
            for key in keys
            if status(key) is not None
        ]
        storage.seal(root, f"captions/{name}", shard, pa.Table.from_pylist(rows, CAPTIONS), CAPTIONS, "key")


def test_captions_as_prompts(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    splits = small_catalog(root, 20, 2)
    seal_captions(root, "c", "en", lambda key: "ok" if key % 2 else "looping")
    asked = prompts.of_captions(root, "catalog", {"c": "captions/c"}, 20)
    assert {one.id: one.category for one in asked} == {hex_key(key): split for key, split in splits.items() if key % 2}
    assert {one.prompt for one in asked} == {f"c {key}" for key in splits if key % 2}
    assert {one.category for one in prompts.of_captions(root, "catalog", {"c": "captions/c"}, 4)} == {"validation"}


def test_several_tables_of_captions_take_turns(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    splits = small_catalog(root, 20, 2)
    seal_captions(root, "en", "en", lambda key: "ok")
    seal_captions(root, "ja", "ja", lambda key: "ok")
    tables = {"en": "captions/en", "ja": "captions/ja"}
    asked = prompts.of_captions(root, "catalog", tables, 20)
    assert {one.id for one in asked} == {f"{hex_key(key)}-{one.language}" for one in asked for key in [int(one.prompt.split()[1])]}
    assert {int(one.prompt.split()[1]) for one in asked} == set(splits), "every image once"
    assert len(asked) == 20
    for category, count in (("validation", 4), ("train", 16)):
        assert Counter(one.language for one in asked if one.category == category) == {"en": count // 2, "ja": count // 2}
    assert prompts.of_captions(root, "catalog", tables, 20) == asked
    table = prompts.table(asked, seed=0, rows_per_shard=8)
    assert len(set(table.column("key").to_pylist())) == 20


def test_a_table_without_a_good_caption_passes_its_turn(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    splits = small_catalog(root, 20, 2)
    seal_captions(root, "few", None, lambda key: "ok" if key % 3 == 0 else None)
    seal_captions(root, "bad", "ja", lambda key: "truncated")
    seal_captions(root, "all", "en", lambda key: "ok")
    root.delete(f"captions/few/{storage.shard_name(1)}")
    tables = {name: f"captions/{name}" for name in ("few", "bad", "all")}
    asked = prompts.of_captions(root, "catalog", tables, 20)
    assert len(asked) == len(splits)
    assert set(Counter(one.language for one in asked)) == {"und", "en"}
    with pytest.raises(Refused, match=r"has a caption in .*captions/bad: name a file of prompts"):
        prompts.of_captions(root, "catalog", {"bad": "captions/bad"}, 20)


def test_measured_sets_are_their_pictures_features(recipe: Recipe, tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    small_catalog(root, 10, 2)
    root.write("a.png", sampling.png(world.draw(world.train_scene(9, 0)), "m"))
    root.write("b.png", sampling.png(world.draw(world.train_scene(9, 1)), "m"))
    worker = Measure(root, recipe.evaluate.features, batch_size=3)
    jobs = measuring.reference_jobs(root, "catalog", 10) + measuring.sample_jobs("m", ["a.png", "b.png"])
    sums = measuring.merged(map(worker.measure, jobs))
    assert {name: one.count for name, one in sums.items()} == {"reference": 5, "real": 5, "m": 2}
    expected = FeatureSums.of(FeatureExtractor(recipe.evaluate.features)([world.draw(world.train_scene(9, index)) for index in range(2)]))
    np.testing.assert_allclose(sums["m"].mean, expected.mean, atol=1e-6)
    figures = summary.distance_figures(sums, "m")
    assert figures["frechet_distance"] > figures["distances"]["real"]["frechet_distance"] >= 0
    assert figures["reference_images"] == 5
    alone = summary.distance_figures({"m": sums["m"]}, "m")
    assert alone["frechet_distance"] is None
    assert alone["distances"] == {"m": None}


def test_ceiling_of_a_random_vae_is_low(recipe: Recipe) -> None:
    scenes = [world.held_out_scene(0, index) for index in range(5)]
    readings = Measure(Root("/unused"), "unused", 3).ceiling(recipe.encode, scenes)
    assert len(readings) == 5
    assert not any(oracle.compare(reading, scene).all for reading, scene in zip(readings, scenes, strict=True))


def drawn(scenes: list[world.Scene], pictures: list[np.ndarray]) -> Drawn:
    table = prompts.table(
        [prompts.Prompt(str(n), world.caption(s), "en", ("", "one thing", "two things")[len(s.things)]) for n, s in enumerate(scenes)], 0, 99
    )
    rows = [row | {"path": "p", "sha256": "0"} for row in table.to_pylist()]
    return Drawn(rows, [summary.judge(row["prompt"], picture) for row, picture in zip(rows, pictures, strict=True)])


def test_figures_of_a_perfect_model(recipe: Recipe) -> None:
    scenes = [world.held_out_scene(0, index) for index in range(60)]
    perfect = drawn(scenes, [world.draw(scene) for scene in scenes])
    blank = drawn(scenes, [np.zeros((32, 32, 3), np.uint8)] * 60)
    figures = summary.shapes_figures(perfect, blank, [oracle.truth(scene) for scene in scenes])
    assert figures["prompt_fidelity"] == figures["ceiling"] == dict.fromkeys(("background", "colour", "shape", "size", "place", "all"), 1.0)
    assert figures["prompt_fidelity_mean"] == 1
    assert figures["untrained"]["all"] == 0
    assert abs(figures["shuffled"]["all"] - figures["chance"]["all"]) < 0.05
    assert set(figures["by_category"]) == {"one thing", "two things"}
    assert perfect.lines()[0]["shows"]["all"] is True
    everything = (
        summary.settings(recipe, perfect, (32, 32))
        | {"captioners": {"blip2": dict.fromkeys(("exact_match", *FIELDS, "flagged"), 0.5) | {"rows": 3}}}
        | figures
        | summary.distance_figures({}, "main")
    )
    title, subtitle = summary.titles(everything)
    assert "60 prompts" in title
    assert "mean of the five 1.000" in subtitle
    headings = [table.heading for table in summary.tables(everything)]
    assert summary.tables(everything)[0].rows[0] == ("blip2", (*[0.5] * 8, 3))
    assert headings == ["Captions", "Prompt fidelity", "Distances to real images"]
    assert all(len(values) == len(table.columns) for table in summary.tables(everything) for _, values in table.rows)
    made = summary.cards(perfect, [world.draw(scene, 64) for scene in scenes[:3]])
    assert [card.missed for card in made] == [(), (), ()]
    assert made[0].truth is not None
    assert made[0].truth.shape == (64, 64, 3)


def test_prompts_in_every_language_of_the_world_have_an_oracle() -> None:
    scene = world.held_out_scene(0, 0)
    english, japanese = (summary.judge(world.caption(scene, language), world.draw(scene)) for language in world.LANGUAGES)
    assert english == japanese
    assert japanese is not None
    assert japanese.fidelity.all


def test_several_tables_are_named_where_their_captions_are_prompts(recipe: Recipe) -> None:
    words = ["catalog.source=folder:/photos", "caption.more.model=/somewhere/else"]
    assert summary._own_prompts(build(recipe, words)) == "captions of the catalog's images by shapes-blip2, more in turn, the validation split first"
    assert summary._own_prompts(build(recipe, words[:1])) == "captions of the catalog's images, the validation split first"


def test_foreign_prompts_have_no_oracle(recipe: Recipe) -> None:
    assert summary.judge("a photo of a dog", np.zeros((8, 8, 3), np.uint8)) is None
    table = prompts.table([prompts.Prompt("1", "a photo of a dog")], 0, 9).to_pylist()
    row = Drawn(table, [None])
    assert summary.shapes_figures(row, row, []) == {}
    assert "shows" not in row.lines()[0]
    figures = summary.settings(recipe, row, (8, 8)) | summary.distance_figures({}, "main")
    assert [one.heading for one in summary.tables(figures)] == ["Distances to real images"]
    assert summary.titles(figures)[1].count("\n") == 0
    assert summary.cards(row, [np.zeros((8, 8, 3), np.uint8)])[0].truth is None
