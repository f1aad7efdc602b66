"""Rows that end the process which works on them: they get a status, all others their captions, and the job ends well."""

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccray import config, recipes, schema
from ccray.config import CaptionConfig
from ccray.data.captioning.worker import CaptionImages
from ccray.data.pictures.pixels import PIXELS, LoadPixels, whole_view
from ccray.interfaces import Batch
from ccray.sharded import Door, Step, map_shards
from ccray.stages import caption, catalog
from ccray.storage import Root, stage_of
from tests import chat_folders, folders
from tests.conftest import Corridor

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Fatal(CaptionImages):
    """The caption worker on a machine whose memory does not hold one of the pictures: the kernel ends the process, as it does then."""

    def __init__(self, fatal: int, deaths: str, config: CaptionConfig) -> None:
        super().__init__(config, threads=1)
        self._fatal, self._deaths = fatal, deaths

    def __call__(self, batch: Batch) -> Batch:
        _die_with(batch, self._fatal, self._deaths)
        return super().__call__(batch)


class FatalPixels(LoadPixels):
    """The decoding task, with a picture that crashes it."""

    def __init__(self, root: Root, fatal: int, deaths: str) -> None:
        super().__init__(root, whole_view)
        self._fatal, self._deaths = fatal, deaths

    def __call__(self, batch: Batch) -> Batch:
        _die_with(batch, self._fatal, self._deaths)
        return super().__call__(batch)


def _die_with(batch: Batch, fatal: int, deaths: str) -> None:
    if fatal in batch["key"]:
        with open(deaths, "a") as file:
            file.write(f"{len(batch['key'])}\n")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("place", ["actor", "task"])
def test_a_row_that_kills_is_given_up(place: str, corridor: Corridor, tmp_path: Path) -> None:
    recipe = config.build(corridor.recipe, ["resources.caption.min_actors=1", "resources.caption.max_actors=1"])
    root, pool, one = corridor.root, recipe.resources.caption, recipe.caption["shapes-blip2"]
    keys = root.read_table("catalog/shard-00001.parquet", columns=["key"]).column("key").to_numpy()
    fatal, deaths = int(np.sort(keys)[7]), str(tmp_path / "deaths")
    pixels = Step(LoadPixels, (root, whole_view), PIXELS, 16)
    captions = Step(CaptionImages, (one, "cpu", 1), schema.CAPTIONS, 16, pool)
    if place == "actor":
        captions = Step(Fatal, (fatal, deaths, one), schema.CAPTIONS, 16, pool)
    else:
        pixels = Step(FatalPixels, (root, fatal, deaths), PIXELS, 16)
    stage = replace(stage_of(recipe, "caption"), directory=f"captions/fatal-{place}")
    files = map_shards(root, stage, "catalog", ["key", "shard"], [pixels, captions], Door(stage.directory, schema.CAPTIONS, "key"), 16)
    rows = {row["key"]: row for name in files for row in root.read_table(f"{stage.directory}/{name}").to_pylist()}
    truth = {row["key"]: row for name in files for row in root.read_table(f"captions/shapes-blip2/{name}").to_pylist()}
    assert Counter(row["status"] for row in rows.values()) == {"ok": 95, "worker_died": 1}
    assert rows[fatal]["status"] == "worker_died"
    assert rows[fatal]["caption"] is None
    assert {key: row["caption"] for key, row in rows.items() if key != fatal} == {key: row["caption"] for key, row in truth.items() if key != fatal}
    assert [int(line) for line in Path(deaths).read_text().split()] == [16, 16, 4, 1, 1]
    root.delete(stage.directory)


def test_a_picture_that_the_model_refuses_and_captions_that_never_end(ray_cluster: None, tmp_path: Path) -> None:
    """One picture is too long and thin for the model, which raises; the random weights of the other captioner never say that they are done."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(noise).save(pictures / f"{number}.png")
    Image.fromarray(np.random.default_rng(9).integers(0, 256, (16, 4000, 3), np.uint8)).save(pictures / "thin.png")
    qwen, opt = chat_folders.qwen3_vl_folder(tmp_path / "qwen"), folders.blip2_folder(tmp_path / "opt")
    words = [f"catalog.source=folder:{pictures}", "catalog.license=CC0-1.0", "catalog.near_duplicate_bits=null", "resources.caption.threads=1"]
    words += ["caption.shapes-blip2=null", "resources.caption.min_actors=1", "resources.caption.max_actors=1"]
    words += ["caption.qwen.family=chat", f"caption.qwen.model={qwen}", "caption.qwen.batch_size=4", "caption.qwen.max_new_tokens=4"]
    words += [f"caption.opt.model={opt}", "caption.opt.batch_size=4", "caption.opt.max_new_tokens=3", "caption.opt.min_new_tokens=3"]
    recipe, root = config.build(recipes.named("tiny"), words), Root(str(tmp_path / "root"))
    catalog.run(recipe, root)
    made = caption.run(recipe, root)
    thin = schema.key_of((pictures / "thin.png").read_bytes())
    rows = {name: {row["key"]: row for row in root.read_table(f"captions/{name}/shard-00000.parquet").to_pylist()} for name in ("qwen", "opt")}
    assert rows["qwen"][thin]["caption"] is None
    assert rows["qwen"][thin]["status"].startswith("ValueError: absolute aspect ratio must be smaller than 200")
    assert sum(row["caption"] is not None or row["status"] == "empty" for row in rows["qwen"].values()) == 5
    assert {row["status"] for row in rows["opt"].values()} <= {"truncated", "empty", "looping", "wrong_language"}
    assert all(one.status == "finished" for one in made.values())
