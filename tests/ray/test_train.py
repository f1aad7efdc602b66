"""The train stage on a local cluster: finished runs, killed runs, two ranks, stock folders to start from."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from PIL import Image

from ccray import config, recipes, storage
from ccray.config import Recipe, phases_of
from ccray.data.encoding import vae_facts
from ccray.data.loading import rounds
from ccray.data.loading.eligible import Doors
from ccray.data.loading.loader import LatentDataset, Order
from ccray.interfaces import Failed, LatentBatch, Refused
from ccray.models import pipeline
from ccray.stages import train
from ccray.storage import Manifest, Root
from ccray.training import loop
from ccray.training.local import LocalRuntime
from ccray.training.tracking import MEASURED, FileTracker
from tests import folders
from tests.conftest import Corridor
from tests.data.loading import replay
from tests.training.tables import finish, write_captions, write_shard

UNET = (
    "{kind: unet, sample_size: 8, block_out_channels: [16, 32], layers_per_block: 1, down_block_types: [CrossAttnDownBlock2D, DownBlock2D], "
    "up_block_types: [UpBlock2D, CrossAttnUpBlock2D], cross_attention_dim: 96, attention_head_dim: 4, norm_num_groups: 8}"
)
STEPS, EVERY, BATCH = 40, 8, 16
PATIENCE_SECONDS = 300
SETTINGS = (
    f"denoiser={UNET}",
    f"train.steps={STEPS}",
    f"train.global_batch_size={BATCH}",
    f"train.checkpoint_every={EVERY}",
    f"train.sample_every={STEPS}",
    "train.log_every=2",
    "train.warmup_steps=4",
    "resources.train.threads=1",
)


def metrics(root: Root, name: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in root.read(f"checkpoints/{name}/metrics.jsonl").splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def weights(root: Root, name: str) -> dict[str, torch.Tensor]:
    return pipeline.load_folder(root.path(f"checkpoints/{name}/model")).denoiser.state_dict()


def await_step(root: Root, name: str, step: int, driver: subprocess.Popen[bytes]) -> None:
    """Return as soon as the run's metrics have come to `step`; a disk offers no event, so it is asked twenty times a second."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (root.exists(f"checkpoints/{name}/metrics.jsonl") and metrics(root, name)[-1]["step"] >= step):
        assert driver.poll() is None, f"the driver ended with {driver.returncode}"
        assert time.monotonic() < deadline, f"step {step} was not reached in {PATIENCE_SECONDS} s"
        Event().wait(0.05)


@pytest.fixture(scope="module")
def trained(corridor: Corridor) -> Manifest:
    """An uninterrupted run of one rank."""
    return train.run(corridor.with_settings(*SETTINGS, "train.name=whole"), corridor.root)


@pytest.mark.ray
def test_a_run_leaves_a_model_and_its_record(corridor: Corridor, trained: Manifest) -> None:
    root, facts = corridor.root, trained.facts
    epochs, rest = divmod(STEPS, -(-trained.rows // BATCH))  # an epoch's last batch is short
    samples = epochs * trained.rows + rest * BATCH
    assert (facts["steps"], facts["samples"], facts["checkpoint"]) == (STEPS, samples, f"checkpoints/whole/step-{STEPS:08d}")
    lines = metrics(root, "whole")
    assert [line["step"] for line in lines] == list(range(2, STEPS + 1, 2))
    assert facts["loss"] == lines[-1]["loss"]
    assert sum(parameter.numel() for parameter in weights(root, "whole").values()) == facts["parameters"]
    catalog = [key for name in storage.sealed_shards(root, "catalog") for key in _trainable(root, name)]
    seen = root.read_table("checkpoints/whole/seen.parquet").to_pydict()
    assert seen["key"] == sorted(catalog)
    assert sum(seen["times"]) == facts["samples"]
    assert facts["images_seen"] == len(catalog) == trained.rows
    with Image.open(root.path(f"checkpoints/whole/samples/step-{STEPS:08d}-samples.png")) as grid:
        assert grid.size == (96, 96)
    kept = [name for name in root.names("checkpoints/whole") if name.startswith("step-")]
    assert kept == [f"step-{STEPS - EVERY:08d}", f"step-{STEPS:08d}"]


def _trainable(root: Root, shard: int) -> list[int]:
    table = root.read_table(f"catalog/{storage.shard_name(shard)}", columns=["key", "split"]).to_pylist()
    return [row["key"] for row in table if row["split"] == "train"]


@pytest.mark.ray
def test_a_finished_run_does_nothing(corridor: Corridor, trained: Manifest) -> None:
    before = {name: os.stat(corridor.root.path(name)).st_mtime_ns for name in corridor.root.files("checkpoints/whole")}
    assert train.run(corridor.with_settings(*SETTINGS, "train.name=whole"), corridor.root) == trained
    assert {name: os.stat(corridor.root.path(name)).st_mtime_ns for name in corridor.root.files("checkpoints/whole")} == before


@pytest.mark.ray
def test_another_configuration_over_it_is_refused(corridor: Corridor, trained: Manifest) -> None:
    with pytest.raises(Refused, match=r"train\.learning_rate is 0\.5, but checkpoints/whole was made with 0\.001"):
        train.run(corridor.with_settings(*SETTINGS, "train.name=whole", "train.learning_rate=0.5"), corridor.root)


@pytest.mark.ray
def test_a_killed_driver_resumes_to_the_same_run(corridor: Corridor, trained: Manifest) -> None:
    """SIGKILL after the first checkpoint, then the same settings: losses, weights and record as in the run that was left alone."""
    root = corridor.root
    command = [sys.executable, "-m", "ccray", "train", "--recipe", "tiny", "--root", root.uri, *SETTINGS, "train.name=killed"]
    directory = "checkpoints/killed"
    with subprocess.Popen(command) as driver:
        await_step(root, "killed", EVERY + 4, driver)
        driver.send_signal(signal.SIGKILL)
    manifest = storage.read_manifest(root, directory)
    assert manifest is not None
    assert manifest.status == "running"
    assert root.exists(f"{directory}/latest.json")
    found = train.run(corridor.with_settings(*SETTINGS, "train.name=killed"), root)
    assert found.facts["loss"] == trained.facts["loss"]
    assert metrics(root, "killed") == metrics(root, "whole")
    assert root.read_table(f"{directory}/seen.parquet") == root.read_table("checkpoints/whole/seen.parquet")
    expected = weights(root, "whole")
    for name, tensor in weights(root, "killed").items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.ray
def test_two_ranks_train_the_same_run(corridor: Corridor, trained: Manifest) -> None:
    """In float32, so near and not equal; `tests/training/test_ranks.py` compares in float64."""
    recipe = corridor.with_settings(*SETTINGS, "train.name=two", "resources.train.workers=2")
    found = train.run(recipe, corridor.root)
    one, two = metrics(corridor.root, "whole"), metrics(corridor.root, "two")
    np.testing.assert_allclose([line["loss"] for line in two], [line["loss"] for line in one], rtol=1e-3)
    assert corridor.root.read_table("checkpoints/two/seen.parquet") == corridor.root.read_table("checkpoints/whole/seen.parquet")
    assert found.facts["parameters"] == trained.facts["parameters"]
    assert corridor.root.exists(f"{found.facts['checkpoint']}/__1_0.distcp"), "each rank writes its own part"


def tables_for(root: Root, recipe: Recipe) -> None:
    """Finished catalog, latents and captions of a recipe, without the work: 40 images of noise, which the first captioner describes."""
    captions, encode = storage.caption_stage(recipe, next(iter(recipe.caption))), storage.stage_of(recipe, "encode")
    doors = Doors(encode.directory, ((captions.directory, 1.0),), "catalog", recipe.catalog.policy)
    for shard in range(2):
        write_shard(root, shard, np.arange(20) + 100 * shard, doors=doors)
    for stage in (storage.stage_of(recipe, "catalog"), captions):
        finish(root, stage)
    with storage.running(root, encode) as manifest:
        manifest.shards = {storage.shard_name(shard): 20 for shard in range(2)}
        manifest.facts = vae_facts(recipe.encode)


FEW_STEPS = (
    "train.steps=3",
    "train.global_batch_size=8",
    "train.sample_every=3",
    "train.log_every=1",
    "train.sample_prompts=[雪の日]",
    "resources.train.threads=1",
)


@pytest.mark.ray
@pytest.mark.parametrize("family", ["stable-diffusion", "pixart"])
def test_a_stock_folder_is_trained_on(ray_cluster: None, tmp_path: Path, family: str) -> None:
    folder = (folders.stable_diffusion_folder if family == "stable-diffusion" else folders.pixart_folder)(tmp_path / "stock")
    recipe = config.build(
        recipes.named("tiny"),
        [
            *FEW_STEPS,
            f"encode.vae={family}",
            f"encode.model={folder}",
            "encode.subfolder=vae",
            f"train.start_from={folder}",
            "train.learning_rate=0.01",
        ],
    )
    root = Root(str(tmp_path / "root"))
    tables_for(root, recipe)
    found = train.run(recipe, root)
    before, after = pipeline.load_folder(folder), pipeline.load_folder(root.path(found.facts["model"]))
    assert after.pipeline == before.pipeline
    assert after.objective == before.objective
    old, new = before.denoiser.state_dict(), after.denoiser.state_dict()
    moved = [name for name in old if not torch.equal(old[name], new[name])]
    assert len(moved) > len(old) / 2
    for part in ("text", "autoencoder"):
        mine, theirs = getattr(after, part).module.state_dict(), getattr(before, part).module.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


WEIGHTS = {"shapes-blip2": 2.0, "ja": 2.0, "source-alt": 1.0}
SEVERAL = (
    "caption.ja={family: translate, input: shapes-blip2, language: ja}",
    f"train.captions={json.dumps(WEIGHTS)}",
    "train.caption_statuses=[ok, truncated]",
    "train.steps=9",  # 7 steps see everything once
    "train.global_batch_size=6",
    "train.checkpoint_every=5",
    "train.log_every=2",
    "train.caption_dropout=0",
    "train.sample_every=1000",
    "train.sample_prompts=[雪の日]",
    "resources.train.threads=1",
    "text.width=32",
    f"denoiser={UNET.replace('cross_attention_dim: 96', 'cross_attention_dim: 32')}",
)


def tables_of_three(root: Root, recipe: Recipe) -> None:
    """Besides, Japanese captions of which some are flagged and some lack, and shipped ones of the second shard alone."""
    tables_for(root, recipe)
    japanese, shipped = (storage.caption_stage(recipe, name) for name in ("ja", "source-alt"))
    for shard in range(2):
        keys = range(100 * shard, 100 * shard + 18)
        flags = {key: ("looping", "truncated", "ok", "ok")[key % 4] for key in keys}
        write_captions(root, japanese.directory, shard, {key: f"{key}番目の絵、雪の日" for key in keys}, "ja", flags)
    write_captions(root, shipped.directory, 1, {key: f"alt text of {key}" for key in range(100, 120, 3)}, "en")
    for stage in (japanese, shipped):
        finish(root, stage)


class Replayed:
    """What the record of a run says that it read, with captions drawn one by one in plain Python (`tests/data/loading/replay.py`)."""

    def __init__(self, root: Root, recipe: Recipe, name: str) -> None:
        self.weights = {f"captions/{table}": weight for table, weight in WEIGHTS.items()}
        self.said = replay.said(root, list(self.weights), ("ok", "truncated"))
        self.seed, self.size = recipe.train.seed, recipe.train.global_batch_size
        doors = train._doors(recipe, phases_of(recipe)[0])
        self.rounds = rounds.read(root, f"checkpoints/{name}/rounds", self.size)
        self.data = LatentDataset(root, doors, self.rounds[0].index, Order(self.seed, self.size, recipe.train.window_shards))
        self.tables: list[list[str]] = []  # of each step

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        (only,) = self.rounds
        for step, batch in enumerate(self.data.batches(start_step), start_step):
            epoch = only.first_epoch + (step - only.first_step) // only.steps_per_epoch(self.size)
            keys = batch.keys.tolist()
            self.tables.append([replay.table_of(self.said, self.weights, self.seed, epoch, key) for key in keys])
            captions = [self.said[table][key] for table, key in zip(self.tables[-1], keys, strict=True)]
            yield replace(batch, captions=captions, drawn=dict(Counter(self.tables[-1])))

    def captions(self, count: int) -> list[str]:
        return self.data.captions(count)


@pytest.mark.ray
def test_captions_of_several_tables_are_drawn_by_weight(ray_cluster: None, tmp_path: Path) -> None:
    """What the stage trained on is what a replay of its record says: as many of each table between lines of metrics, and the same losses."""
    vae, text = folders.vae_folder(tmp_path / "vae"), folders.text_folder(tmp_path / "text")
    recipe = config.build(recipes.named("tiny"), [*SEVERAL, f"encode.model={vae}", f"text.model={text}"])
    root = Root(str(tmp_path / "root"))
    tables_of_three(root, recipe)
    found = train.run(recipe, root)
    assert found.rows == 40
    assert found.inputs.keys() == {
        "catalog",
        storage.stage_of(recipe, "encode").directory,
        "captions/shapes-blip2",
        "captions/ja",
        "captions/source-alt",
    }
    replayed, other = Replayed(root, recipe, "main"), Replayed(root, recipe, "main")
    other.seed += 1
    for name, data in (("replayed", replayed), ("other", other)):
        runtime = LocalRuntime(tmp_path / "root" / "checkpoints" / name)
        loop.train(recipe, runtime, data, pipeline.from_recipe(recipe), FileTracker(root, f"checkpoints/{name}"))
    lines = metrics(root, "main")
    drawn = [Counter(table for step in replayed.tables[at : at + 2] for table in step) for at in range(0, 9, 2)]
    assert [{table: line[table] for table in replayed.weights} for line in lines] == [
        {table: one[table] for table in replayed.weights} for one in drawn
    ]
    assert all(sum(one[table] for one in drawn) for table in replayed.weights)
    assert [line["loss"] for line in lines] == [line["loss"] for line in metrics(root, "replayed")]
    assert all(line["loss"] != one["loss"] for line, one in zip(lines, metrics(root, "other"), strict=True)), "other draws have other losses"
    swapped = config.build(recipe, [f"train.captions={json.dumps(dict(reversed(WEIGHTS.items())))}"])
    assert train._doors(swapped, phases_of(swapped)[0]) == train._doors(recipe, phases_of(recipe)[0]), "the order of the recipe's words is nothing"
    assert train.run(swapped, root) == found
    with pytest.raises(Refused, match=r"train\.captions\.ja is 1\.0, but checkpoints/main was made with 2\.0"):
        train.run(config.build(recipe, ["train.captions={shapes-blip2: 2, ja: 1, source-alt: 1}"]), root)


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    recipe = config.build(recipes.named("tiny"), [*SEVERAL, "text.width=96", f"denoiser={UNET}"])
    root = Root(str(tmp_path / "root"))
    tables_for(root, recipe)
    with pytest.raises(Refused, match=r"train reads .*/captions/ja, which is not finished: run `ccray caption`"):
        train.run(recipe, root)
    finish(root, storage.caption_stage(recipe, "ja"))
    with pytest.raises(Refused, match=r"train reads .*/captions/source-alt, but the catalog's source ships no captions"):
        train.run(recipe, root)
    assert not root.exists("checkpoints")


def test_what_does_not_fit_is_refused_before_any_write(tmp_path: Path) -> None:
    folder = folders.stable_diffusion_folder(tmp_path / "stock", seed=5)
    vae = folders.vae_folder(tmp_path / "vae")
    recipe = config.build(recipes.named("tiny"), [*FEW_STEPS, f"encode.model={vae}", f"train.start_from={folder}"])
    root = Root(str(tmp_path / "root"))
    tables_for(root, recipe)
    with pytest.raises(Refused, match="whose VAE has vae_sha256"):
        train.run(recipe, root)
    assert not root.exists("checkpoints")


def test_an_empty_selection_fails(tmp_path: Path) -> None:
    vae, text = folders.vae_folder(tmp_path / "vae"), folders.text_folder(tmp_path / "text")
    denoiser = UNET.replace("cross_attention_dim: 96", "cross_attention_dim: 32")
    recipe = config.build(recipes.named("tiny"), [*FEW_STEPS, f"encode.model={vae}", f"text.model={text}", "text.width=32", f"denoiser={denoiser}"])
    root = Root(str(tmp_path / "root"))
    tables_for(root, recipe)
    root.write("takedowns/all.jsonl", "".join(json.dumps({"key": f"{key:016x}"}) + "\n" for key in [*range(20), *range(100, 120)]).encode())
    with pytest.raises(Failed, match="no image is left to train on"):
        train.run(recipe, root)


def test_a_missing_shard_is_refused_before_anything_starts(tmp_path: Path) -> None:
    vae, text = folders.vae_folder(tmp_path / "vae"), folders.text_folder(tmp_path / "text")
    denoiser = UNET.replace("cross_attention_dim: 96", "cross_attention_dim: 32")
    recipe = config.build(recipes.named("tiny"), [*FEW_STEPS, f"encode.model={vae}", f"text.model={text}", "text.width=32", f"denoiser={denoiser}"])
    root = Root(str(tmp_path / "root"))
    tables_for(root, recipe)
    root.delete(f"{storage.stage_of(recipe, 'encode').directory}/{storage.shard_name(1)}")
    with pytest.raises(Refused, match=r"shard-00001.parquet is missing, but .*/manifest.json lists it with 20 rows"):
        train.run(recipe, root)
    assert not root.exists("checkpoints")


def test_lines_for_people_name_the_phase() -> None:
    recipe = config.build(recipes.named("tiny"), ["train.steps=10", "train.global_batch_size=8", "train.phases={large: {size_px: 64, steps: 10}}"])
    phases, values = phases_of(recipe), {"loss": 0.5, "samples_per_second": 2.0, "seconds_per_step": 4.0, "skipped": 0}
    first = train.progress_line(phases, values | {"step": 5})
    assert first == "train: step 5/10 of 32 px  loss 0.5000  2 samples/s  3 min left"  # 5 steps of 4 s, and 10 of four times the area
    del values["loss"]
    later = train.progress_line(phases, values | {"step": 16, "skipped": 3})
    assert later == "train large: step 6/10 of 64 px  loss no number  3 skipped  2 samples/s  16 s left"
