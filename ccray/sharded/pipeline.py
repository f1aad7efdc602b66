"""Ray Data while it runs one map: reading, workers, staging under the checkpoint."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionOptions, SaveMode
from ray.data.checkpoint import CheckpointConfig
from ray.data.exceptions import SystemException

from ccray.config import ActorResources
from ccray.interfaces import Failed, Worker
from ccray.sharded.journal import Book
from ccray.sharded.working import InActor, in_task, reason_of
from ccray.storage import Root

TASK_MEMORY_BYTES = 256 << 20  # claimed by a stateless task; the claim also keeps Ray Data from running it inside the next step's actors
FOOTER_READERS = "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS"
MOST_FOOTER_READERS = 32
CURE = "what is done stays done: run the same command again once the cause is mended"
WRITE_CPUS = 0.25  # of a task that writes one block: what is finished should not wait for a core behind what is not begun


@dataclass(frozen=True)
class Step:
    """One worker of a pipeline, built as `worker(*arguments)`: once in each actor of a pool, or for each batch of a stateless task."""

    worker: Callable[..., Worker]
    arguments: tuple[Any, ...]
    output: pa.Schema  # columns of the worker's answer
    batch_size: int
    actors: ActorResources | None = None  # None: stateless tasks of one CPU


@dataclass(frozen=True)
class Through:
    """A step that Ray Data itself brings, such as `ray.data.llm`: its actors are its own, and so are rows that end them."""

    apply: Callable[[Dataset], Dataset]
    actors: ActorResources


@dataclass(frozen=True)
class Plan:
    """What one run of Ray Data does."""

    root: Root
    sources: list[str]  # sealed files
    columns: list[str]
    steps: Sequence[Step | Through]
    staging: str  # directory under the root
    id_column: str
    rows: int  # of the sources
    rows_per_block: int
    what: str  # the table, for messages

    @property
    def blocks(self) -> int:
        return max(1, -(-self.rows // self.rows_per_block))


# What a stage needs of Ray Data while it runs, beside the checkpoint. Set for one pipeline and restored: the context is global.
SETTINGS: dict[str, Any] = {
    "enable_progress_bars": False,
    "print_on_execution_start": False,
    "execution_no_progress_timeout_s": -1,  # spot machines may take hours to come
    "max_consecutive_actor_init_deaths": 10,
    "actor_init_retry_on_errors": False,  # a worker that cannot be built says why, at once
}


@contextmanager
def _context(plan: Plan) -> Iterator[None]:
    checkpoint = CheckpointConfig(
        id_column=plan.id_column,
        checkpoint_path=plan.root.path(f"{plan.staging}/checkpoint"),
        delete_checkpoint_on_success=False,
        override_filesystem=plan.root.filesystem,
    )
    context = DataContext.get_current()
    wanted = SETTINGS | {"checkpoint_config": checkpoint, "execution_options": _options(plan.steps)}
    before = {name: getattr(context, name) for name in wanted}
    _set(context, wanted)
    try:
        yield
    finally:
        _set(context, before)


def _set(context: DataContext, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(context, name, value)


def _options(steps: Sequence[Step | Through]) -> ExecutionOptions:
    """Every kind of node that the pipeline needs. Ray Data asks the autoscaler for tasks and actors together under this one selector, and the
    autoscaler drops the whole request when one of them fits nowhere: under the CPU nodes' label alone no pool of GPU actors would ever grow.
    Where a task or an actor really runs it says itself, and that goes before this.
    """
    wanted = [_tasks_on(steps), *(step.actors.label_selector for step in steps if step.actors)]
    keys = set(wanted[0]).intersection(*wanted)
    return ExecutionOptions(label_selector={key: _either(*(selector[key] for selector in wanted)) for key in sorted(keys)} or None)


def _tasks_on(steps: Sequence[Step | Through]) -> dict[str, str]:
    """Labels of the nodes that read, decode and write."""
    selectors = (step.actors.task_label_selector for step in steps if step.actors)
    return next((selector for selector in selectors if selector), {})


def _either(*selectors: str) -> str:
    """The selector of nodes that fit one of several: `cpu` and `in(cpu,caption)` make `in(caption,cpu)`."""
    values = sorted({value for selector in selectors for value in selector.removeprefix("in(").removesuffix(")").split(",")})
    return values[0] if len(values) == 1 else f"in({','.join(values)})"


@contextmanager
def _footer_readers(files: int) -> Iterator[None]:
    """Ray Data starts 32 actors, on any node, to read the footers of three files; a process for each hundred files is enough."""
    before = os.environ.get(FOOTER_READERS)
    os.environ[FOOTER_READERS] = before or str(min(MOST_FOOTER_READERS, 1 + files // 100))
    try:
        yield
    finally:
        if before is None:
            del os.environ[FOOTER_READERS]


def execute(plan: Plan, book: Book) -> None:
    """Carry every row of the sources through the steps into staging.

    Raises:
        Failed: when a worker fails.
    """
    with _context(plan), _footer_readers(len(plan.sources)):
        on: dict[str, Any] = {"label_selector": labels} if (labels := _tasks_on(plan.steps)) else {}
        rows = ray.data.read_parquet(plan.sources, columns=plan.columns, filesystem=plan.root.filesystem, partitioning=None, **on)
        rows = rows.repartition(target_num_rows_per_block=plan.rows_per_block)
        for step in plan.steps:
            rows = _mapped(rows, step, plan.blocks, book, on) if isinstance(step, Step) else step.apply(rows)
        try:
            rows.write_parquet(
                plan.root.path(f"{plan.staging}/rows"),
                partition_cols=["shard"],
                filesystem=plan.root.filesystem,
                mode=SaveMode.APPEND,
                ray_remote_args={"num_cpus": WRITE_CPUS, **on},
            )
        except (ray.exceptions.RayError, SystemException, OSError) as error:
            where = plan.root.path(plan.staging)
            raise Failed(f"{plan.what}: {reason_of(error)}; {CURE} (rows that wait to be sealed lie in {where})") from error


def _mapped(rows: Dataset, step: Step, blocks: int, book: Book, on: dict[str, Any]) -> Dataset:
    """Add a step; `on` says where its tasks run. Tables of Arrow pass between steps, for numpy would make floats of integers with gaps."""
    build = (step.worker, step.arguments)
    if step.actors is None:
        return rows.map_batches(
            lambda table: in_task(table, build, step.output, book),
            batch_size=step.batch_size,
            batch_format="pyarrow",
            num_cpus=1,
            memory=TASK_MEMORY_BYTES,
            **on,
        )
    pool = step.actors
    return rows.map_batches(
        InActor,
        fn_constructor_args=(build, step.output, book),
        batch_size=step.batch_size,
        batch_format="pyarrow",
        compute=_strategy(pool, blocks),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        label_selector=pool.label_selector or None,
    )


def _strategy(pool: ActorResources, blocks: int) -> ActorPoolStrategy:
    """No more actors than there are blocks for: each loads a model."""
    least = min(pool.min_actors, blocks)
    most = min(max(pool.min_actors, pool.max_actors), blocks)
    return ActorPoolStrategy(min_size=least, max_size=most, initial_size=min(most, max(least, pool.initial_actors or 1)))


def threads_of(pool: ActorResources) -> int:
    """Torch threads of one actor: as told, or this machine's cores over the largest number of actors."""
    return pool.threads or max(1, (os.cpu_count() or 1) // max(pool.min_actors, pool.max_actors))


def device_of(pool: ActorResources) -> str:
    return "cuda" if pool.gpus > 0 else "cpu"
