"""train: latents + captions of one or several tables -> `checkpoints/<name>/`: Ray Train around `training.loop`.

step-00001000/          the newest checkpoints (`training.checkpoint`): tensors, progress.json, seen.parquet
latest.json             which of them is the newest complete one (`training.shelf`)
rounds/                 which rows each epoch is made of (`data.rounds`); rounds-NAME/ of a further phase
metrics.jsonl, tensorboard/, samples/
model/, seen.parquet    once finished: the averaged weights as a diffusers folder, and what they have seen
"""

import json
import os
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from ccray import components, storage
from ccray.config import Phase, Recipe, phases_of, total_steps, trained_captions
from ccray.data.loading import rounds
from ccray.data.loading.eligible import Doors
from ccray.data.loading.loader import LatentDataset, Order
from ccray.data.loading.phased import Phased
from ccray.data.loading.rounds import Index
from ccray.interfaces import Failed
from ccray.models import pipeline
from ccray.sharded import connect, reason_of, say, told_meanwhile
from ccray.storage import Manifest, Root, Stage
from ccray.training import admission, export, loop
from ccray.training.shelf import Shelf, checkpoint_name, newest_step
from ccray.training.tracking import METRICS, FileTracker, Silence, progress_line

NAME = "train"
START_SECONDS = "600"  # to reserve what the ranks need before asking anew: a machine that is only starting takes longer than the one minute of Ray


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
    admission.check(recipe, [made[one.directory].facts for one in storage.stages_of(recipe, "encode")])
    phases = phases_of(recipe)
    for phase in phases:
        rounds.index(root, _doors(recipe, phase))  # fails before anything is started when nothing is left
    connect()
    with storage.running(root, stage) as manifest:
        step = newest_step(root, stage.directory)
        counted = [_continued(root, recipe, stage, phase, step) for phase in phases]
        for phase, one in zip(phases, counted, strict=True):
            say(f"train: {one.total:,} images of {phase.size_px} px, {phase.steps:,} steps of {phase.global_batch_size:,}")
        with _followed(root, stage.directory, total_steps(recipe)):
            _fit(_absolute(recipe), root, stage, counted)
        checkpoint = f"{stage.directory}/{checkpoint_name(total_steps(recipe))}"
        progress = root.read_json(f"{checkpoint}/progress.json")
        root.write(f"{stage.directory}/seen.parquet", root.read(f"{checkpoint}/seen.parquet"))
        manifest.rows = rounds.read(root, _record(stage.directory, phases[-1]), phases[-1].global_batch_size)[-1].index.total
        manifest.facts = {
            "steps": progress["step"],
            "loss": progress["last_loss"],
            "checkpoint": checkpoint,
            "model": f"{stage.directory}/model",
            "seen": f"{stage.directory}/seen.parquet",
            "parameters": progress["parameters"],
            "images_seen": root.read_table(f"{checkpoint}/seen.parquet", columns=["key"]).num_rows,
            "samples": progress["samples"],
        }
    return manifest


def _continued(root: Root, recipe: Recipe, stage: Stage, phase: Phase, step: int) -> Index:
    """What a phase is made of, when the run goes on at `step`."""
    within = min(max(step - phase.first_step, 0), phase.steps)
    return rounds.continued(root, _doors(recipe, phase), _record(stage.directory, phase), phase.global_batch_size, within)


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
            "text": recipe.text.model_copy(update={"model": place(recipe.text.model)}),
        }
    )


def _fit(recipe: Recipe, root: Root, stage: Stage, counted: list[Index]) -> None:
    wanted = recipe.resources.train
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START_SECONDS)
    holder = root.read_json(f"{stage.directory}/{storage.LEASE}")["run"]
    trainer = TorchTrainer(
        _work,
        train_loop_config={"recipe": recipe, "root": root, "directory": stage.directory, "counted": counted, "holder": holder},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if wanted.gpus else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # a lazy name: mypy sees the class of Train's first version
            num_workers=wanted.workers,
            use_gpu=wanted.gpus > 0,
            resources_per_worker={"CPU": wanted.cpus} | ({"GPU": wanted.gpus} if wanted.gpus else {}),
            label_selector=wanted.label_selector or None,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # likewise
            name=recipe.train.name,
            storage_path=root.path(stage.staging),
            storage_filesystem=root.filesystem,
            failure_config=FailureConfig(max_failures=wanted.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        cause = next(iter(error.worker_failures.values()), error) if isinstance(error, WorkerGroupError) else error
        raise Failed(f"training stopped: {reason_of(cause)}; the newest checkpoint stays: run the same command again to continue from it") from error


def _followed(root: Root, directory: str, steps: int) -> AbstractContextManager[None]:
    """Tell every few seconds which lines of metrics are new: the ranks may run anywhere, and Ray's own messages need not be shown for it."""
    told = set(_lines(root, directory))

    def tell() -> None:
        new = [line for line in _lines(root, directory) if line not in told]
        for values in map(json.loads, new):
            say(progress_line(values["step"], steps, values))
        told.update(new)

    return told_meanwhile(tell)


def _lines(root: Root, directory: str) -> list[bytes]:
    path = f"{directory}/{METRICS}"
    return root.read(path).splitlines() if root.exists(path) else []


def _work(settings: dict[str, Any]) -> None:
    """One rank, in a process of its own."""
    recipe, root, directory = settings["recipe"], settings["root"], settings["directory"]
    runtime = RayRuntime(Shelf(root, directory, recipe.train.keep_checkpoints, settings["holder"]))
    parts = []
    for phase, counted in zip(phases_of(recipe), settings["counted"], strict=True):
        order = Order(recipe.train.seed, phase.global_batch_size, recipe.train.window_shards)
        record = _record(directory, phase)
        parts.append((phase, LatentDataset(root, _doors(recipe, phase), counted, order, runtime.rank, runtime.world_size, record)))
    data = Phased(parts)
    tracker = FileTracker(root, directory) if runtime.rank == 0 else Silence()
    components = pipeline.from_recipe(recipe, device=runtime.device)
    trained = loop.train(recipe, runtime, data, components, tracker, runtime.threads(recipe))
    tracker.close()
    if trained.weights is not None:
        with tempfile.TemporaryDirectory(prefix="ccray-model-") as folder:
            export.save(components, trained.weights, Path(folder))
            root.delete(f"{directory}/model")
            root.upload(Path(folder), f"{directory}/model")


class RayRuntime:
    """`interfaces.Runtime` on a worker of Ray Train."""

    def __init__(self, shelf: Shelf) -> None:
        context = ray.train.get_context()
        self.device = str(get_device())
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self._shelf = shelf

    def latest(self) -> AbstractContextManager[Path | None]:
        """A local directory with the newest checkpoint, or None on a fresh start."""
        return self._shelf.opened()

    def report(self, metrics: dict[str, float]) -> None:
        """Tell Ray, of metrics only: its own record of checkpoints is written in place, so a kill can tear it, and what is left of a killed run
        may still change it under the run that follows."""
        ray.train.report(metrics)

    def put(self, step: int, directory: Path) -> None:
        """Move this rank's files beside the others'."""
        self._shelf.put(step, directory)

    def publish(self, step: int) -> None:
        """Say that the checkpoint is complete."""
        self._shelf.publish(step)

    def deadline(self) -> float | None:
        """The announced end of a machine of this run; 0, which is long past, when it is announced without a time."""
        notice = ray.train.get_preemption_info()
        return None if notice is None else (notice.deadline_ms or 0) / 1000

    def threads(self, recipe: Recipe) -> int:
        """Torch threads of this rank: as told, or this machine's cores over its ranks."""
        return recipe.resources.train.threads or max(1, (os.cpu_count() or 1) // ray.train.get_context().get_local_world_size())
