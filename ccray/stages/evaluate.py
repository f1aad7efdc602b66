"""Evaluate: prompts -> pictures of the trained and of the untrained model -> figures, a contact sheet and a page.

evaluation/prompts/          what is asked for, rows of schema.PROMPTS
evaluation/samples/<model>/  <id>.png, the sealed table of them, samples.jsonl
evaluation/metrics.json, contact_sheet.png, report.html
"""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.actor_pool import ActorPool

from ccray import sharded, storage
from ccray.config import Recipe, trained_captions
from ccray.evaluation import fidelity, measuring, prompts, report, sampling, summary
from ccray.evaluation.measuring import Job, Measure
from ccray.evaluation.metrics import FeatureSums
from ccray.evaluation.prompts import Prompt
from ccray.evaluation.sampling import Artist, GenerateSamples
from ccray.evaluation.summary import UNTRAINED, Drawn
from ccray.interfaces import Failed, Refused
from ccray.schema import PROMPTS, SAMPLES
from ccray.storage import Manifest, Root, Stage

log = logging.getLogger(__name__)

NAME = "evaluate"
DIRECTORY = "evaluation"
PROMPTS_DIRECTORY = f"{DIRECTORY}/prompts"
ROWS_PER_SHARD = 2048


def run(recipe: Recipe, root: Root) -> Manifest:
    """Draw every prompt with the trained and the untrained model and measure the pictures.

    Raises:
        Refused: on missing inputs or prompts that cannot be read, before any write.
        Failed: when a worker fails.
    """
    stage = storage.stage_of(recipe, NAME)
    if storage.state(root, stage) == "finished":
        found = storage.read_manifest(root, stage.directory)
        assert found is not None
        return found
    storage.inputs(root, recipe, NAME)
    shards = prompts.shards(root, PROMPTS_DIRECTORY, _prompts(recipe, root), recipe.evaluate.seed, ROWS_PER_SHARD)
    model = Artist(recipe.train.name, recipe, f"{storage.stage_of(recipe, 'train').directory}/model")
    untrained = Artist(UNTRAINED, recipe, None)
    storage.require_model("evaluate.features", recipe.evaluate.features)
    sharded.connect()
    with storage.running(root, stage) as manifest:
        seals = {number: storage.seal(root, PROMPTS_DIRECTORY, number, part, PROMPTS, "key") for number, part in shards.items()}
        manifest.shards = {storage.shard_name(number): rows for number, rows in seals.items()}
        manifest.rows = sum(manifest.shards.values())
        manifest.facts = _measured(recipe, root, _drawn(root, stage, model), _drawn(root, stage, untrained))
        root.write_json(f"{DIRECTORY}/metrics.json", manifest.facts)
    return manifest


def _prompts(recipe: Recipe, root: Root) -> list[Prompt]:
    if recipe.train.name == UNTRAINED:
        raise Refused(f"train.name={UNTRAINED} is kept for the model before training: expected another name")
    if recipe.evaluate.prompts is not None:
        return prompts.read_file(Path(recipe.evaluate.prompts).expanduser())
    if recipe.catalog.source == "shapes":
        return prompts.held_out(recipe.evaluate.seed, recipe.evaluate.count)
    catalog = storage.stage_of(recipe, "catalog").directory
    return prompts.of_captions(root, catalog, _directories(recipe, trained_captions(recipe)), recipe.evaluate.count)


def _directories(recipe: Recipe, captioners: Iterable[str]) -> dict[str, str]:
    """Captioner -> directory of its table."""
    return {name: storage.caption_stage(recipe, name).directory for name in captioners}


def _drawn(root: Root, stage: Stage, artist: Artist) -> Drawn:
    """Draw what is not drawn yet; every row with its judgement."""
    resources = artist.recipe.resources.evaluate
    step = sharded.Step(
        GenerateSamples,
        (artist, root, sharded.device_of(resources), sharded.threads_of(resources)),
        SAMPLES,
        artist.recipe.evaluate.batch_size,
        resources,
    )
    target = sharded.Door(artist.directory, SAMPLES, "key")
    shards = sharded.map_shards(root, stage, PROMPTS_DIRECTORY, PROMPTS.names, [step], target, resources.rows_per_block)
    rows = [row for name in shards for row in root.read_table(f"{artist.directory}/{name}").to_pylist()]
    shapes = artist.recipe.catalog.source == "shapes"
    judged = [summary.judge(row["prompt"], sampling.decoded(root.read(row["path"]))) if shapes else None for row in rows]
    drawn = Drawn(rows, judged)
    lines = [json.dumps(line, ensure_ascii=False) for line in drawn.lines()]
    root.write(f"{artist.directory}/samples.jsonl", ("\n".join(lines) + "\n").encode())
    return drawn


def _measured(recipe: Recipe, root: Root, drawn: Drawn, untrained: Drawn) -> dict[str, Any]:
    """All figures; the sheet and the page are written on the way."""
    first = list(sampling.pictures_at(root, [row["path"] for row in drawn.rows[: report.MOST_CARDS]]))
    height, width = first[0].shape[:2]
    figures = summary.settings(recipe, drawn, (width, height))
    catalog = storage.stage_of(recipe, "catalog").directory
    if recipe.catalog.source == "shapes":
        figures |= fidelity.caption_figures(root, catalog, _directories(recipe, [*recipe.caption, *trained_captions(recipe)]))
    jobs = measuring.reference_jobs(root, catalog, recipe.evaluate.reference_images)
    for name, one in ((recipe.train.name, drawn), (UNTRAINED, untrained)):
        jobs += measuring.sample_jobs(name, [row["path"] for row in one.rows])
    actors = _measurers(recipe, root, len(jobs))
    with _plain_errors():
        ceiling = ray.get(actors[0].ceiling.remote(recipe.encode, drawn.scenes))
    figures |= summary.shapes_figures(drawn, untrained, ceiling)
    figures |= summary.distance_figures(measuring.merged(_results(actors, jobs)), recipe.train.name)
    sheet, page = summary.written(figures, summary.cards(drawn, first))
    root.write(f"{DIRECTORY}/contact_sheet.png", sheet)
    root.write(f"{DIRECTORY}/report.html", page.encode())
    return figures


def _measurers(recipe: Recipe, root: Root, jobs: int) -> list[Any]:
    """Actors of `Measure`, as many as the recipe allows and the jobs need."""
    pool, config = recipe.resources.evaluate, recipe.evaluate
    measure: Any = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus, label_selector=pool.label_selector)(Measure)
    arguments = (root, config.features, config.batch_size, sharded.device_of(pool), sharded.threads_of(pool))
    return [measure.remote(*arguments) for _ in range(max(1, min(pool.max_actors, jobs)))]


def _results(actors: list[Any], jobs: list[Job]) -> Iterator[tuple[str, FeatureSums]]:
    """Answers in the order of their jobs, so that the same pictures give the same figures."""
    pool = ActorPool(actors)
    for job in jobs:
        pool.submit(lambda actor, job: actor.measure.remote(job), job)
    while pool.has_next():
        with _plain_errors():
            result = pool.get_next()
        yield result


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Let through what a worker raised, without the machine it was raised on."""
    try:
        yield
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, (Failed, Refused)) else error) from None
