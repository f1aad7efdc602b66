"""caption: images and catalog -> `captions/<captioner>/`. Pictures are decoded by CPU tasks; a pool of model actors telephones them."""

from collections import Counter
from functools import partial

from ccray import components, schema
from ccray.config import Recipe
from ccray.data.captioning import CaptionImages
from ccray.data.pictures.pixels import OK, PIXELS, LoadPixels, View, bounded_square_view, whole_view
from ccray.interfaces import Failed
from ccray.sharded import Door, Step, device_of, map_shards, say, threads_of
from ccray.storage import Manifest, Root, Stage, inputs, read_manifest, require_model, running, stage_of, state
from ccray.takedowns import taken_down

NAME = "caption"
DECODE_BATCH = 16  # pictures of any size in one task's memory


def run(recipe: Recipe, root: Root) -> Manifest:
    """Caption every image of the catalog, or continue where an earlier run stopped.

    Raises:
        Refused: when the catalog is not finished, or the captioner is not there or may not be used under the policy.
        Failed: when no image could be captioned.
    """
    components.check(recipe, NAME)
    stage = stage_of(recipe, NAME)
    if state(root, stage) == "finished":
        manifest = read_manifest(root, stage.directory)
        assert manifest is not None
        return manifest
    inputs(root, recipe, NAME)
    require_model("caption.model", recipe.caption.model)
    with running(root, stage) as manifest:
        pool = recipe.resources.caption
        target = Door(stage.directory, schema.CAPTIONS, "key")
        manifest.shards = map_shards(root, stage, "catalog", ["key", "shard"], _steps(recipe, root), target, pool.rows_per_block)
        manifest.rows = sum(manifest.shards.values())
        manifest.counts = _statuses(root, stage, manifest.shards)
        manifest.facts = {"captioner": recipe.caption.captioner, "model": recipe.caption.model, "language": recipe.caption.language}
        manifest.facts["captioner_sha256"] = components.weights_digest(recipe.caption.model)
        if not manifest.counts.get(OK):
            raise Failed(f"none of {manifest.rows} images could be captioned: {manifest.counts}; remove {root.path(stage.directory)} and run again")
        say(f"caption: {manifest.counts[OK]} captions of {manifest.rows} images")
    return manifest


def _steps(recipe: Recipe, root: Root) -> list[Step]:
    config, pool = recipe.caption, recipe.resources.caption
    view: View = whole_view if config.crop_px is None else partial(bounded_square_view, size_px=config.crop_px)
    return [
        Step(LoadPixels, (root, view, taken_down(root)), PIXELS, min(DECODE_BATCH, pool.rows_per_block)),
        Step(CaptionImages, (config, device_of(pool), threads_of(pool)), schema.CAPTIONS, config.batch_size, pool),
    ]


def _statuses(root: Root, stage: Stage, files: dict[str, int]) -> dict[str, int]:
    """Status (its first word) -> rows."""
    counts: Counter[str] = Counter()
    for name in files:
        column = root.read_table(f"{stage.directory}/{name}", columns=["status"]).column("status")
        counts.update(status.partition(":")[0] for status in column.to_pylist())
    return dict(sorted(counts.items()))
