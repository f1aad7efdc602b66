"""encode: images and catalog -> `latents/<vae>-<size>px/`: raw latents, the same for every later choice of scale."""

from collections import Counter
from functools import partial

from ccray import components, schema
from ccray.config import Recipe
from ccray.data.encoding import EncodeImages, vae_facts
from ccray.data.pictures.pixels import OK, PIXELS, LoadPixels, square_view
from ccray.interfaces import Failed
from ccray.sharded import Door, Step, device_of, map_shards, say, threads_of
from ccray.storage import Manifest, Root, Stage, inputs, read_manifest, require_model, running, stage_of, state
from ccray.takedowns import taken_down

NAME = "encode"
DECODE_BATCH = 64  # pictures cut to the VAE's size, in one task's memory; each batch is one reading of its shard


def run(recipe: Recipe, root: Root) -> Manifest:
    """Encode every image of the catalog, or continue where an earlier run stopped.

    Raises:
        Refused: when the catalog is not finished, or the VAE is not there, does not fit the size or may not be used under the policy.
        Failed: when no image could be encoded.
    """
    components.check(recipe, NAME)
    stage = stage_of(recipe, NAME)
    if state(root, stage) == "finished":
        manifest = read_manifest(root, stage.directory)
        assert manifest is not None
        return manifest
    inputs(root, recipe, NAME)
    require_model("encode.model", recipe.encode.model)
    facts = vae_facts(recipe.encode)
    with running(root, stage) as manifest:
        pool = recipe.resources.encode
        target = Door(stage.directory, schema.LATENTS.with_metadata({name: str(value) for name, value in facts.items()}), "key")
        manifest.shards = map_shards(root, stage, "catalog", ["key", "shard"], _steps(recipe, root), target, pool.rows_per_block)
        manifest.rows = sum(manifest.shards.values())
        manifest.counts = _statuses(root, stage, manifest.shards)
        manifest.facts = facts
        if not manifest.counts.get(OK):
            raise Failed(f"none of {manifest.rows} images could be encoded: {manifest.counts}; remove {root.path(stage.directory)} and run again")
        say(f"encode: {manifest.counts[OK]} latents of {manifest.rows} images")
    return manifest


def _steps(recipe: Recipe, root: Root) -> list[Step]:
    config, pool = recipe.encode, recipe.resources.encode
    view = partial(square_view, size_px=config.size_px)
    return [
        Step(LoadPixels, (root, view, taken_down(root)), PIXELS, min(DECODE_BATCH, pool.rows_per_block)),
        Step(EncodeImages, (config, device_of(pool), threads_of(pool)), schema.LATENTS, config.batch_size, pool),
    ]


def _statuses(root: Root, stage: Stage, files: dict[str, int]) -> dict[str, int]:
    """Status (its first word) -> rows."""
    counts: Counter[str] = Counter()
    for name in files:
        column = root.read_table(f"{stage.directory}/{name}", columns=["status"]).column("status")
        counts.update(status.partition(":")[0] for status in column.to_pylist())
    return dict(sorted(counts.items()))
