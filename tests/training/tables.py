"""Small real tables to train on, a recipe of a few thousand parameters, and one way to train it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ccray import config, recipes, schema, storage
from ccray.config import Recipe, phases_of
from ccray.data.loading.eligible import Doors
from ccray.data.loading.loader import LatentDataset, Order
from ccray.data.loading.phased import Phased
from ccray.data.loading.rounds import index
from ccray.interfaces import Latents, Runtime
from ccray.models import pipeline
from ccray.storage import Root, Stage
from ccray.training.local import LocalRuntime
from ccray.training.loop import Trained, train
from ccray.training.tracking import MEASURED, FileTracker, Silence
from tests import folders
from tests.training.datasets import Around, Interruption, UntilStep

DOORS = Doors("latents/test-32px", (("captions/test", 1.0),), "catalog", "commercial")
LARGE_DOORS = replace(DOORS, latents="latents/test-64px")
CAPTIONS = DOORS.captions[0][0]
SHAPE, LARGE_SHAPE = (4, 8, 8), (4, 16, 16)
UNET = "{kind: unet, sample_size: 8, block_out_channels: [16, 32], layers_per_block: 1, down_block_types: [CrossAttnDownBlock2D, DownBlock2D], "
UNET += "up_block_types: [UpBlock2D, CrossAttnUpBlock2D], cross_attention_dim: 32, attention_head_dim: 4, norm_num_groups: 8}"
DIT = "{kind: pixart, sample_size: 8, num_layers: 2, num_attention_heads: 4, attention_head_dim: 8, cross_attention_dim: 32, caption_channels: 32}"


def column(name: str, values: list[object], schema_: pa.Schema) -> pa.Array:
    return pa.array(values, schema_.field(name).type)


def write_shard(root: Root, shard: int, keys: np.ndarray, seed: int = 0, doors: Doors = DOORS, shape: tuple[int, ...] = SHAPE) -> None:
    """One shard of catalog, latents and the first table of captions: rows by key, captions of 12 kinds, latents drawn from (seed, shard)."""
    random = np.random.default_rng((seed, shard))
    count = len(keys)
    latents = random.standard_normal((2, count, int(np.prod(shape)))).astype(np.float16)
    common = {"key": keys.tolist(), "shard": [shard] * count}
    catalog = common | {"license": ["CC-BY-4.0"] * count, "split": ["train"] * count}
    captions = common | {"caption": [f"picture number {key % 12}" for key in keys.tolist()], "status": ["ok"] * count}
    rows = common | {
        "latent_mean": list(latents[0]),
        "latent_std": list(np.abs(latents[1]) / 10),
        "latent_shape": [list(shape)] * count,
        "status": ["ok"] * count,
    }
    for directory, schema_, values in (
        (doors.catalog, schema.CATALOG, catalog),
        (doors.captions[0][0], schema.CAPTIONS, captions),
        (doors.latents, schema.LATENTS, rows),
    ):
        table = pa.table({name: column(name, values.get(name, [None] * count), schema_) for name in schema_.names}, schema=schema_)
        storage.seal(root, directory, shard, table, schema_, "key")


def write_captions(
    root: Root, directory: str, shard: int, texts: dict[int, str | None], language: str, statuses: dict[int, str] | None = None
) -> None:
    """One shard of a table of captions: key -> text; rows are "ok" but for those of `statuses`."""
    keys = list(texts)
    values: dict[str, list[object]] = {"key": [*keys], "shard": [shard] * len(keys), "caption": [*texts.values()], "language": [language] * len(keys)}
    values["status"] = [(statuses or {}).get(key, "ok") for key in keys]
    arrays = {name: column(name, values.get(name, [None] * len(keys)), schema.CAPTIONS) for name in schema.CAPTIONS.names}
    storage.seal(root, directory, shard, pa.table(arrays, schema=schema.CAPTIONS), schema.CAPTIONS, "key")


def finish(root: Root, stage: Stage) -> None:
    """A finished manifest of the shards that lie in a stage's directory."""
    with storage.running(root, stage) as manifest:
        for name in map(storage.shard_name, storage.sealed_shards(root, stage.directory)):
            manifest.shards[name] = root.read_table(f"{stage.directory}/{name}", columns=["key"]).num_rows
        manifest.rows = sum(manifest.shards.values())


def write_tables(root: Root, rows: tuple[int, ...] = (20, 17, 22), seed: int = 0, doors: Doors = DOORS, shape: tuple[int, ...] = SHAPE) -> None:
    """Shards of so many rows, with keys all over the int64 range."""
    keys = np.random.default_rng(seed).choice(2**62, sum(rows), replace=False) - 2**61
    for shard, end in enumerate(np.cumsum(rows)):
        write_shard(root, shard, keys[end - rows[shard] : end], seed, doors, shape)


@dataclass(frozen=True)
class Place:
    """A folder with tables, a text encoder and a VAE of random weights."""

    path: Path

    @property
    def root(self) -> Root:
        return Root(str(self.path))

    def recipe(self, denoiser: str = UNET, *words: str) -> Recipe:
        """A recipe that trains on these tables: 59 images, batches of 12, window of two shards."""
        settings = [
            f"denoiser={denoiser}",
            f"encode.model={self.path / 'vae'}",
            f"text.model={self.path / 'text'}",
            "text.width=32",
            "text.max_tokens=24",
            "train.steps=20",
            "train.global_batch_size=12",
            "train.window_shards=2",
            "train.warmup_steps=5",
            "train.checkpoint_every=10",
            "train.sample_every=1000000",
            "train.log_every=1",
            "train.sample_prompts=[picture]",
            "publish.default_steps=2",
        ]
        return config.build(recipes.tiny(), [*settings, *words])

    def data(self, recipe: Recipe, rank: int = 0, world_size: int = 1) -> Phased:
        """Each phase's latents by its size."""
        parts = []
        for phase in phases_of(recipe):
            doors = replace(DOORS, latents=f"latents/test-{phase.size_px}px")
            order = Order(recipe.train.seed, phase.global_batch_size, recipe.train.window_shards)
            parts.append((phase, LatentDataset(self.root, doors, index(self.root, doors), order, rank, world_size)))
        return Phased(parts)

    def train(
        self, recipe: Recipe, name: str, until: int | None = None, runtime: Runtime | None = None, around: Around | None = None
    ) -> Trained | None:
        """Train (or continue) the run of that name on this rank, one thread.

        Args:
            recipe: what to train.
            name: of the run's directory.
            until: the step at which it is interrupted.
            runtime: a `LocalRuntime` by default.
            around: what to put around the data.
        """
        runtime = runtime or LocalRuntime(self.path / name)
        tracker = FileTracker(self.root, name) if runtime.rank == 0 else Silence()
        data: Latents = self.data(recipe, runtime.rank, runtime.world_size)
        data = around(data) if around else data
        components = pipeline.from_recipe(recipe)
        if until is None:
            return train(recipe, runtime, data, components, tracker)
        with pytest.raises(Interruption):
            train(recipe, runtime, UntilStep(data, until), components, tracker)
        return None

    def metrics(self, name: str) -> list[dict[str, float]]:
        """Lines of metrics, without what a clock or the machine says."""
        lines = [json.loads(line) for line in self.root.read(f"{name}/metrics.jsonl").splitlines()]
        return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def make_place(path: Path) -> Place:
    place = Place(path)
    write_tables(place.root)
    write_tables(place.root, doors=LARGE_DOORS, shape=LARGE_SHAPE)
    folders.vae_folder(path / "vae")
    folders.text_folder(path / "text")
    return place
