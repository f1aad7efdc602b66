"""train: latents + captions of one or several tables -> `checkpoints/<name>/`: Ray Train around `training.loop`.

step-00001000/          the newest checkpoints (`training.checkpoint`): tensors, progress.json, seen.parquet
latest.json             which of them is the newest complete one (`training.shelf`)
rounds/                 which rows each epoch is made of (`data.rounds`); rounds-NAME/ of a further phase
metrics.jsonl, tensorboard/, samples/
model/, seen.parquet    once finished: the averaged weights as a diffusers folder, and what they have seen

With `train.latents: online` there are no latents on the disk: `sharded.streaming` makes them beside training, without an exact order.
"""

import json
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ccray import components, storage
from ccray.config import Phase, Recipe, phases_of, sizes_of, trained_captions
from ccray.data.encoding import vae_facts
from ccray.data.loading import offering, online, rounds
from ccray.data.loading.eligible import Doors
from ccray.data.loading.loader import LatentDataset, Order
from ccray.data.loading.phased import Phased
from ccray.data.loading.rounds import Index
from ccray.interfaces import Latents
from ccray.models import pipeline
from ccray.models.pipeline import Components
from ccray.sharded import connect, say, told_meanwhile
from ccray.sharded.progress import duration
from ccray.sharded.ranks import RayRuntime, fit
from ccray.sharded.streaming import Stream
from ccray.sharded.texts import Asking, text_actors
from ccray.storage import Manifest, Root, Stage
from ccray.training import admission, export, loop, tracking, weights_and_biases
from ccray.training.distant import AskedAhead, DistantText
from ccray.training.shelf import Shelf, checkpoint_name, newest_step
from ccray.training.tracking import METRICS, Silence

NAME = "train"


@dataclass(frozen=True)
class Work:
    """All that a rank is told."""

    recipe: Recipe
    root: Root
    directory: str
    parts: list[tuple[Phase, Index | Stream]]  # what each phase is made of
    holder: str  # of the run's lease
    asking: Asking | None  # the text encoder, where it is not on the trainers


def run(recipe: Recipe, root: Root) -> Manifest:
    """Train the denoiser, or continue from the newest checkpoint.

    Raises:
        Refused: when an input is not finished, latents, text and denoiser do not fit each other, or the policy does not let a part of the
            model be used.
        Failed: when no image may be trained on, or training fails.
    """
    components.check(recipe, NAME)
    stage = storage.stage_of(recipe, NAME)
    if storage.state(root, stage) == "finished":
        found = storage.read_manifest(root, stage.directory)
        assert found is not None
        return found
    made = storage.inputs(root, recipe, NAME)
    admission.check_machines(recipe)
    if "wandb" in recipe.resources.train.trackers:
        weights_and_biases.check()
    admission.check(recipe, _latents(recipe, root, made))
    phases = phases_of(recipe)
    counted = [_counted(root, recipe, phase) for phase in phases]  # fails before anything is started when nothing is left
    connect()
    with storage.running(root, stage) as manifest:
        step = newest_step(root, stage.directory)
        parts = [(phase, _part(root, recipe, stage, phase, rows, step)) for phase, rows in zip(phases, counted, strict=True)]
        for phase, rows in zip(phases, counted, strict=True):
            say(f"{_name(phase)}: {sum(rows.values()):,} images of {phase.size_px} px, {phase.steps:,} steps of {phase.global_batch_size:,}")
        if recipe.train.latents == "online":
            say("train: pictures are encoded while training goes on: order and resume are not exact, and nothing is kept (train.latents)")
        with _followed(root, stage.directory, phases):
            _fit(_absolute(recipe), root, stage, parts)
        manifest.rows = _rows(root, stage, parts[-1])
        manifest.facts = _facts(root, stage, phases)
    return manifest


def _latents(recipe: Recipe, root: Root, made: dict[str, Manifest]) -> list[dict[str, Any]]:
    """The facts of the latents of each size: as stored, or as this recipe's VAE would make them."""
    if recipe.train.latents == "online":
        storage.require_model("encode.model", recipe.encode.model)
        return [vae_facts(recipe.encode.model_copy(update={"size_px": size_px})) for size_px in sizes_of(recipe)]
    stages = storage.stages_of(recipe, "encode")
    for stage in stages:
        admission.check_shards(root, stage.directory, made[stage.directory].shards)
    return [made[stage.directory].facts for stage in stages]


def _counted(root: Root, recipe: Recipe, phase: Phase) -> dict[int, int]:
    """Rows of each shard that a phase may be trained on."""
    doors = _doors(recipe, phase)
    return offering.count(root, doors) if recipe.train.latents == "online" else rounds.index(root, doors).rows


def _part(root: Root, recipe: Recipe, stage: Stage, phase: Phase, rows: dict[int, int], step: int) -> Index | Stream:
    """What a phase is made of, when the run goes on at `step`."""
    doors = _doors(recipe, phase)
    if recipe.train.latents == "online":
        encode = _absolute(recipe).encode.model_copy(update={"size_px": phase.size_px})
        return Stream(root, doors, encode, online.EncodeOffered, recipe.resources.encode, phase, recipe.train.seed, rows, stage.directory)
    within = min(max(step - phase.first_step, 0), phase.steps)
    return rounds.continued(root, doors, _record(stage.directory, phase), phase.global_batch_size, within)


def _rows(root: Root, stage: Stage, last: tuple[Phase, Index | Stream]) -> int:
    """Images that the last phase could be trained on at its end."""
    phase, part = last
    if isinstance(part, Stream):
        return sum(part.rows.values())
    return rounds.read(root, _record(stage.directory, phase), phase.global_batch_size)[-1].index.total


def _facts(root: Root, stage: Stage, phases: Sequence[Phase]) -> dict[str, Any]:
    """What the finished run says of itself; writes its `seen.parquet`."""
    checkpoint = f"{stage.directory}/{checkpoint_name(phases[-1].end)}"
    progress = root.read_json(f"{checkpoint}/progress.json")
    root.write(f"{stage.directory}/seen.parquet", root.read(f"{checkpoint}/seen.parquet"))
    return {
        "steps": progress["step"],
        "loss": progress["last_loss"],
        "checkpoint": checkpoint,
        "model": f"{stage.directory}/model",
        "seen": f"{stage.directory}/seen.parquet",
        "parameters": progress["parameters"],
        "images_seen": root.read_table(f"{checkpoint}/seen.parquet", columns=["key"]).num_rows,
        "samples": progress["samples"],
        "skipped": progress.get("skipped", 0),
        "seconds": round(_seconds(_metrics(root, stage.directory)), 1),
        "phases": [{"name": one.name, "size_px": one.size_px, "first_step": one.first_step, "steps": one.steps} for one in phases],
    }


def _seconds(lines: Sequence[dict[str, Any]]) -> float:
    """Time spent on the steps that count, from lines of metrics: without starts, and without what was done again after a kill."""
    before = [0, *(line["step"] for line in lines)]
    return sum((line["step"] - step) * line["seconds_per_step"] for line, step in zip(lines, before, strict=False))


def _doors(recipe: Recipe, phase: Phase) -> Doors:
    """The tables of a phase; those of captions by name, because their order in the recipe is no part of a run's fingerprint and the draw goes by it."""
    latents, catalog = storage.encode_stage(recipe, phase.size_px).directory, storage.stage_of(recipe, "catalog").directory
    captions = tuple((storage.caption_stage(recipe, name).directory, weight) for name, weight in sorted(trained_captions(recipe).items()))
    return Doors(latents, captions, catalog, recipe.train.policy or recipe.catalog.policy, recipe.train.caption_statuses)


def _record(directory: str, phase: Phase) -> str:
    """Where it is written down which rows each epoch of a phase is made of."""
    return f"{directory}/rounds" + (f"-{phase.name}" if phase.name else "")


def _absolute(recipe: Recipe) -> Recipe:
    """The recipe with models on this disk by absolute path: Ray Train's workers have another working directory."""

    def place(reference: str) -> str:
        path = Path(reference).expanduser()
        return str(path.absolute()) if path.is_dir() else reference

    start = recipe.train.start_from
    return recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update={"start_from": start and place(start)}),
            "encode": recipe.encode.model_copy(update={"model": place(recipe.encode.model)}),
            "text": recipe.text.model_copy(
                update={"model": place(recipe.text.model), "tokenizer": recipe.text.tokenizer and place(recipe.text.tokenizer)}
            ),
        }
    )


def _fit(recipe: Recipe, root: Root, stage: Stage, parts: list[tuple[Phase, Index | Stream]]) -> None:
    holder = root.read_json(f"{stage.directory}/{storage.LEASE}")["run"]
    datasets = {name: make for _, part in parts if isinstance(part, Stream) for name, make in part.datasets().items()}
    with text_actors(recipe) as asking:
        fit(recipe, root, stage, _work, {"work": Work(recipe, root, stage.directory, parts, holder, asking)}, datasets)


def _followed(root: Root, directory: str, phases: Sequence[Phase]) -> AbstractContextManager[None]:
    """Tell every few seconds which lines of metrics are new: the ranks may run anywhere, and Ray's own messages need not be shown for it."""
    told = _metrics(root, directory)

    def tell() -> None:
        nonlocal told
        now = _metrics(root, directory)
        for values in now:
            if values not in told:
                say(progress_line(phases, values))
        told = now

    return told_meanwhile(tell)


def _metrics(root: Root, directory: str) -> list[dict[str, Any]]:
    path = f"{directory}/{METRICS}"
    return [json.loads(line) for line in root.read(path).splitlines()] if root.exists(path) else []


def progress_line(phases: Sequence[Phase], values: dict[str, Any]) -> str:
    """A line of metrics for people: `train large: step 120/400 of 512 px  loss 0.1234  160 samples/s  3.2 h left`.

    Later phases are reckoned at the present pace, in proportion to their pictures' area.
    """
    step = values["step"]
    now = next(phase for phase in phases if step <= phase.end)
    pixels = sum(max(0, one.end - max(step, one.first_step)) * one.global_batch_size * one.size_px**2 for one in phases)
    left = duration(values["seconds_per_step"] * pixels / (now.global_batch_size * now.size_px**2))
    loss = f"loss {values['loss']:.4f}" if "loss" in values else "loss no number"
    skipped = f"  {values['skipped']} skipped" if values["skipped"] else ""
    done = f"step {step - now.first_step}/{now.steps} of {now.size_px} px"
    return f"{_name(now)}: {done}  {loss}{skipped}  {values['samples_per_second']:.0f} samples/s  {left} left"


def _name(phase: Phase) -> str:
    return f"train {phase.name}".rstrip()


def _work(settings: dict[str, Any]) -> None:
    """One rank, in a process of its own."""
    work: Work = settings["work"]
    recipe, root, directory = work.recipe, work.root, work.directory
    runtime = RayRuntime(Shelf(root, directory, recipe.train.keep_checkpoints, work.holder))
    components, data = assembled(work, runtime.rank, runtime.world_size, runtime.device)
    tracker = tracking.opened(root, directory, recipe.resources.train.trackers) if runtime.rank == 0 else Silence()
    trained = loop.train(recipe, runtime, data, components, tracker, runtime.threads(recipe))
    tracker.close()
    if trained.weights is not None:
        if work.asking is not None:
            components = replace(components, text=pipeline.text_of(recipe))
        with tempfile.TemporaryDirectory(prefix="ccray-model-") as folder:
            export.save(components, trained.weights, Path(folder))
            root.delete(f"{directory}/model")
            root.upload(Path(folder), f"{directory}/model")


def assembled(work: Work, rank: int, world_size: int, device: str) -> tuple[Components, Latents]:
    """Model and data of one rank."""
    group = online.own_group()
    data: Latents = Phased([(phase, _data(work, phase, part, rank, world_size, group)) for phase, part in work.parts])
    if work.asking is None:
        return pipeline.from_recipe(work.recipe, device=device), data
    text = DistantText(work.asking.from_place(rank), work.asking.facts, device)
    return pipeline.from_recipe(work.recipe, device=device, text=text), AskedAhead(data, text)


def _data(work: Work, phase: Phase, part: Index | Stream, rank: int, world_size: int, group: Any) -> Latents:
    """This rank's batches of one phase; `group` is of all ranks."""
    train, doors = work.recipe.train, _doors(work.recipe, phase)
    if isinstance(part, Stream):
        return online.OnlineLatents(work.root, doors, train.seed, lambda: part.batches(phase.global_batch_size // world_size), group)
    order = Order(train.seed, phase.global_batch_size, train.window_shards)
    return LatentDataset(work.root, doors, part, order, rank, world_size, _record(work.directory, phase))
