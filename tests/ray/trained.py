"""A finished train stage in a moment: the recipe's model as it is before training, with a record of what it is said to have seen."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from ccray import storage
from ccray.config import Recipe
from ccray.models import pipeline
from ccray.schema import SEEN
from ccray.storage import Root


def own_root(root: Root, target: Path) -> Root:
    """A copy of a local root, to write to."""
    shutil.copytree(root.path(), target / "root")
    return Root(str(target / "root"))


def finish_training(root: Root, recipe: Recipe) -> dict[int, int]:
    """Write `checkpoints/<name>/` with a model folder, seen.parquet and a finished manifest; the keys seen and how often."""
    stage = storage.stage_of(recipe, "train")
    with storage.running(root, stage) as manifest:
        pipeline.save_folder(pipeline.from_recipe(recipe), root.path(f"{stage.directory}/model"))
        seen = {key: 1 + number % 3 for number, key in enumerate(train_keys(root)[::2])}
        keys = np.array(sorted(seen), np.int64)
        root.write_table(f"{stage.directory}/seen.parquet", pa.table({"key": keys, "times": [seen[key] for key in keys.tolist()]}, schema=SEEN))
        manifest.rows = len(seen)
    return seen


def train_keys(root: Root) -> list[int]:
    rows = [
        root.read_table(f"catalog/{storage.shard_name(shard)}", columns=["key", "split"]).to_pylist()
        for shard in storage.sealed_shards(root, "catalog")
    ]
    return [row["key"] for shard in rows for row in shard if row["split"] == "train"]
