"""caption: images and catalog -> `captions/<captioner>/`, one table for each captioner of the recipe.

Pictures are decoded and cut to the model's size by CPU tasks; a pool of model actors telephones them. A translator reads another table of captions
and no picture. The captions that a source ships are there since the catalog stage.
"""

from collections import Counter
from functools import partial

from ccray import components, schema
from ccray.config import ActorResources, CaptionConfig, Recipe
from ccray.data.captioning import report
from ccray.data.captioning.conversing import answer_of, asked
from ccray.data.captioning.preparing import view_of
from ccray.data.captioning.worker import CaptionImages, TranslateCaptions, columns_of
from ccray.data.pictures.pixels import OK, LoadPixels, with_columns
from ccray.flags import FLAGS
from ccray.interfaces import Failed
from ccray.sharded import Door, Step, Through, device_of, engines, map_shards, say, threads_of
from ccray.storage import Manifest, Root, Stage, caption_stage, finished, inputs, model_path, read_manifest, require_model, running, stages_of, state
from ccray.takedowns import taken_down

NAME = "caption"
DECODE_BATCH = 64  # pictures cut to a model's size, in one task's memory; each batch is one reading of its shard
WHOLE_BATCH = 16  # pictures as large as they come


def run(recipe: Recipe, root: Root) -> dict[str, Manifest]:
    """Caption every image of the catalog by every captioner, or continue where an earlier run stopped; captioner -> manifest.

    Raises:
        Refused: when the catalog is not finished, or a captioner is not there or may not be used under the policy.
        Failed: when a captioner could not caption a single image.
    """
    components.check(recipe, NAME)
    stages = dict(zip(recipe.caption, stages_of(recipe, NAME), strict=True))
    states = {name: state(root, stage) for name, stage in stages.items()}
    inputs(root, recipe, NAME)
    for name, one in recipe.caption.items():
        if states[name] != "finished":
            require_model(f"caption.{name}.model", one.model)
            if one.family == "vllm":
                engines.require_vllm(f"caption.{name}.family")
    made = {name: _captioned(recipe, root, name, stage) for name, stage in stages.items()}
    if any(one != "finished" for one in states.values()) or not root.exists(report.REPORT):
        report.write_report(root)
    return made


def _captioned(recipe: Recipe, root: Root, captioner: str, stage: Stage) -> Manifest:
    if state(root, stage) == "finished":
        manifest = read_manifest(root, stage.directory)
        assert manifest is not None
        return manifest
    config, pool = recipe.caption[captioner], _pool(recipe, captioner)
    source = "catalog"
    if config.input is not None:
        read = caption_stage(recipe, config.input)
        finished(root, read, f"captioner {captioner}")
        source = read.directory
    with running(root, stage) as manifest:
        root.delete(report.REPORT)  # it would not know of these; a kill leaves none, and the next run writes it
        target = Door(stage.directory, schema.CAPTIONS, "key")
        manifest.shards = map_shards(root, stage, source, _columns(config), _steps(root, config, pool), target, pool.rows_per_block)
        manifest.rows = sum(manifest.shards.values())
        manifest.counts = _statuses(root, stage, manifest.shards)
        manifest.facts = {"captioner": captioner, "model": config.model, "language": config.language}
        manifest.facts["captioner_sha256"] = components.weights_digest(config.model)
        flagged = {name: rows for name, rows in manifest.counts.items() if name in FLAGS}
        if not manifest.counts.get(OK, 0) + sum(flagged.values()):
            raise Failed(f"none of {manifest.rows} images could be captioned: {manifest.counts}; remove {root.path(stage.directory)} and run again")
        say(f"{stage.directory}: {manifest.counts.get(OK, 0)} captions of {manifest.rows} images{_flagged(flagged)}")
    return manifest


def _flagged(flagged: dict[str, int]) -> str:
    kinds = ", ".join(f"{rows} {name}" for name, rows in flagged.items())
    return f", and {sum(flagged.values())} flagged ones, which are not trained on unless train.caption_statuses names them ({kinds})" if kinds else ""


def _columns(config: CaptionConfig) -> list[str]:
    """What is read of the catalog, or of the table that is translated."""
    return ["key", "shard", *(columns_of(config) if config.input is None else ("caption", "status"))]


def _pool(recipe: Recipe, captioner: str) -> ActorResources:
    return recipe.resources.captioners.get(captioner, recipe.resources.caption)


def _steps(root: Root, config: CaptionConfig, pool: ActorResources) -> list[Step | Through]:
    gone, machine = taken_down(root), (device_of(pool), threads_of(pool))
    if config.input is not None:
        return [Step(TranslateCaptions, (config, *machine, gone), schema.CAPTIONS, pool.rows_per_block, pool)]
    carried = columns_of(config)
    pixels = Step(LoadPixels, (root, view_of(config), gone, carried), with_columns(carried), min(_decoded_at_once(config), pool.rows_per_block))
    if config.family == "vllm":
        ask, answer = partial(asked, config=config), partial(answer_of, config=config)
        return [pixels, engines.through(engines.settings(config, model_path(config.model), pool), ask, answer, schema.CAPTIONS, pool)]
    return [pixels, Step(CaptionImages, (config, *machine), schema.CAPTIONS, pool.rows_per_block, pool)]


def _decoded_at_once(config: CaptionConfig) -> int:
    return DECODE_BATCH if config.family in ("blip2", "florence2") or config.crop_px else WHOLE_BATCH


def _statuses(root: Root, stage: Stage, files: dict[str, int]) -> dict[str, int]:
    """Status (its first word) -> rows."""
    counts: Counter[str] = Counter()
    for name in files:
        column = root.read_table(f"{stage.directory}/{name}", columns=["status"]).column("status")
        counts.update(status.partition(":")[0] for status in column.to_pylist())
    return dict(sorted(counts.items()))
