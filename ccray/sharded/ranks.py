"""The ranks of a training run: Ray Train starts them, starts them anew when one dies or its machine is announced to go, and with
`resources.train.min_workers` goes on with those that are left; once machines are back, it starts as many again as were asked for.

Every start continues from the newest checkpoint on the shelf. Announced machines do not count against `max_failures`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from ccray.config import Recipe, TrainResources
from ccray.interfaces import Failed
from ccray.sharded.working import reason_of
from ccray.storage import Root, Stage
from ccray.training.shelf import Shelf

# To reserve what the ranks need before asking anew. All of them: a machine that is only starting takes longer than the one minute of Ray. As many as
# there are: for some seconds Ray counts a machine that has just died, asks for as many ranks as before and would wait for them.
START_SECONDS, ELASTIC_START_SECONDS = "600", "20"
PATIENCE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


def fit(recipe: Recipe, root: Root, stage: Stage, work: Callable[[dict[str, Any]], None], settings: dict[str, Any], datasets: dict[str, Any]) -> None:
    """Run `work(settings)` on every rank until all have come to its end. `datasets`: what makes a Ray Data set at each start, by name.

    Raises:
        Failed: when ranks died more often than `max_failures`, or raised.
    """
    wanted = recipe.resources.train
    trainer = TorchTrainer(
        work,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if wanted.gpus else "gloo"),
        scaling_config=_scaling(wanted),
        run_config=RunConfig(  # type: ignore[call-arg]  # a lazy name: mypy sees the class of Train's first version
            name=recipe.train.name,
            storage_path=root.path(stage.staging),
            storage_filesystem=root.filesystem,
            failure_config=FailureConfig(max_failures=wanted.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
        datasets=datasets,
    )
    try:
        with _patience(START_SECONDS if _least(wanted) == wanted.workers else ELASTIC_START_SECONDS):
            trainer.fit()
    except TrainingFailedError as error:
        cause = next(iter(error.worker_failures.values()), error) if isinstance(error, WorkerGroupError) else error
        raise Failed(f"training stopped: {reason_of(cause)}; the newest checkpoint stays: run the same command again to continue from it") from error


@contextmanager
def _patience(seconds: str) -> Iterator[None]:
    """How long Ray Train waits for machines, unless the environment says so already; of this run alone."""
    before = os.environ.get(PATIENCE)
    os.environ[PATIENCE] = before or seconds
    try:
        yield
    finally:
        if before is None:
            del os.environ[PATIENCE]


def _least(wanted: TrainResources) -> int:
    return wanted.workers if wanted.min_workers is None else wanted.min_workers


def _scaling(wanted: TrainResources) -> ScalingConfig:
    least = _least(wanted)
    return ScalingConfig(  # type: ignore[call-arg]  # likewise, and its numbers of ranks
        num_workers=wanted.workers if least == wanted.workers else (least, wanted.workers),  # type: ignore[arg-type]
        use_gpu=wanted.gpus > 0,
        resources_per_worker={"CPU": wanted.cpus} | ({"GPU": wanted.gpus} if wanted.gpus else {}),
        label_selector=wanted.label_selector or None,
    )


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
