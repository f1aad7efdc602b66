"""encode: images and catalog -> `latents/<vae>-<size>px/`, one table for each size of the recipe's phases: raw latents, the same for every later
choice of scale.

Each picture is read and decoded once, cut to the centre square of every size that is to be made, and encoded at each by the same VAE.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from ccray import components
from ccray.config import Recipe, sizes_of
from ccray.data.encoding import EncodeImages, facts_of, file_schema, latents_of, prefixes
from ccray.data.pictures.pixels import OK, LoadPixels, square_view, with_views
from ccray.interfaces import Failed
from ccray.sharded import Door, Step, device_of, map_shards, say, threads_of
from ccray.storage import Manifest, Root, Stage, inputs, read_manifest, require_model, running, stages_of, state
from ccray.takedowns import taken_down

NAME = "encode"
DECODE_BYTES = 64 << 20  # of the pictures that one task cuts to the VAE's sizes
MOST_DECODED = 64  # and their number: each batch is one reading of its shard
ROW_GROUP_ROWS = 256  # a reader need not hold more of a shard


def run(recipe: Recipe, root: Root) -> dict[int, Manifest]:
    """Encode every image of the catalog at every size, or continue where an earlier run stopped; size in pixels -> manifest.

    Sizes that are finished are left alone. Sizes that an earlier run has begun are ended before others begin: rows that wait to be sealed were made
    for theirs alone.

    Raises:
        Refused: when the catalog is not finished, or the VAE is not there, does not fit a size or may not be used under the policy.
        Failed: when no image could be encoded.
    """
    components.check(recipe, NAME)
    stages = dict(zip(sizes_of(recipe), stages_of(recipe, NAME), strict=False))  # none where training encodes for itself
    states = {size_px: state(root, stage) for size_px, stage in stages.items()}
    inputs(root, recipe, NAME)
    missing = [size_px for size_px in stages if states[size_px] != "finished"]
    if missing:
        require_model("encode.model", recipe.encode.model)
        facts = facts_of(recipe.encode, missing)
        for progress in ("resume", "new"):
            together = {size_px: stages[size_px] for size_px in missing if states[size_px] == progress}
            if together:
                _encode(recipe, root, together, facts)
    made = {size_px: read_manifest(root, stage.directory) for size_px, stage in stages.items()}
    return {size_px: manifest for size_px, manifest in made.items() if manifest is not None}


def _encode(recipe: Recipe, root: Root, stages: dict[int, Stage], facts: dict[int, dict[str, Any]]) -> None:
    """Make the tables of some sizes in one map."""
    first, *beside = _doors(stages, facts)
    with ExitStack() as held:
        manifests = {size_px: held.enter_context(running(root, stage)) for size_px, stage in stages.items()}
        waits = next(iter(stages.values()))  # it is finished last, and only then is what waits below it removed
        shards = map_shards(
            root, waits, "catalog", ["key", "shard"], _steps(recipe, root, [*stages]), first, recipe.resources.encode.rows_per_block, *beside
        )
        for size_px, manifest in manifests.items():
            _describe(root, stages[size_px], manifest, shards, facts[size_px])


def _doors(stages: dict[int, Stage], facts: dict[int, dict[str, Any]]) -> list[Door]:
    names = prefixes([*stages])
    return [
        Door(stage.directory, file_schema(facts[size_px]), "key", row_group_rows=ROW_GROUP_ROWS, prefix=names[size_px])
        for size_px, stage in stages.items()
    ]


def _steps(recipe: Recipe, root: Root, sizes_px: Sequence[int]) -> list[Step]:
    config, pool = recipe.encode, recipe.resources.encode
    names = prefixes(sizes_px)
    views = {prefix: partial(square_view, size_px=size_px) for size_px, prefix in names.items()}
    at_once = min(pool.rows_per_block, MOST_DECODED, max(1, DECODE_BYTES // sum(3 * size_px**2 for size_px in sizes_px)))
    prefixed = tuple(names.values())
    return [
        Step(LoadPixels, (root, views, taken_down(root)), with_views(prefixed), at_once),
        Step(EncodeImages, (config, device_of(pool), threads_of(pool), prefixed), latents_of(prefixed), config.batch_size, pool),
    ]


def _describe(root: Root, stage: Stage, manifest: Manifest, shards: dict[str, int], facts: dict[str, Any]) -> None:
    """Fill in the manifest of one size.

    Raises:
        Failed: when no image could be encoded.
    """
    manifest.shards = shards
    manifest.rows = sum(shards.values())
    manifest.counts = _statuses(root, stage, shards)
    manifest.facts = facts
    if not manifest.counts.get(OK):
        raise Failed(f"none of {manifest.rows} images could be encoded: {manifest.counts}; remove {root.path(stage.directory)} and run again")
    say(f"{stage.directory}: {manifest.counts[OK]} latents of {manifest.rows} images")


def _statuses(root: Root, stage: Stage, files: dict[str, int]) -> dict[str, int]:
    """Status (its first word) -> rows."""
    counts: Counter[str] = Counter()
    for name in files:
        column = root.read_table(f"{stage.directory}/{name}", columns=["status"]).column("status")
        counts.update(status.partition(":")[0] for status in column.to_pylist())
    return dict(sorted(counts.items()))
