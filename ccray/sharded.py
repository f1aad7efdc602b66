"""One way to map a table over a cluster, shard by shard, so that any kill costs at most the blocks in flight.

Ray Data reads the sealed files of one stage, carries their rows through workers and appends what comes out to
`<directory>/.staging/<fingerprint>/rows/shard=N/` under a row checkpoint. A *seal* per shard then merges, drops doubles, sorts, casts
to the door's schema and writes `shard-000NN.parquet` in one atomic step. A shard is done when its sealed file exists:

    sealed files -> [unsealed shards only] -> blocks of rows_per_block -> workers -> staging + checkpoint -> seal -> sealed files

Set CCRAY_WORK_LOG to a file to have every worker append a line `Worker id` for each row it takes in (a debugging aid; workers see the
variable only when the driver started their cluster).
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionOptions, SaveMode
from ray.data.checkpoint import CheckpointConfig
from ray.data.exceptions import SystemException

from ccray.config import ActorResources
from ccray.interfaces import Batch, Failed, Refused, Worker
from ccray.storage import Root, Stage, check_rows, seal, sealed_shards, shard_name

LOCAL_CPUS = 8  # logical; a resume needs three beside the actors, for the checkpoint's filter, reading and writing
PROGRESS_SECONDS = 5
STANDSTILL_SECONDS = 60  # between two lines when no rows come
TASK_MEMORY_BYTES = 256 << 20  # claimed by a stateless task; the claim also keeps Ray Data from running it inside the next step's actors
SEALS_AT_ONCE = 8
FOOTER_READERS = "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS"
MOST_FOOTER_READERS = 32
WORK_LOG = "CCRAY_WORK_LOG"
# A cluster of one machine has more logical CPUs than cores on purpose: no warning of many workers, nor of what Ray Data itself asks of its actors.
QUIET = {"RAY_worker_maximum_startup_concurrency": str(LOCAL_CPUS), "RAY_BACKEND_LOG_LEVEL": "fatal"}
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a submitted job


def connect() -> None:
    """Join the cluster that this process belongs to (a submitted job, RAY_ADDRESS); start one on this machine when there is none."""
    if ray.is_initialized():
        return
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # the stages' own lines say what it would
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True)
    else:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        # Stages tell what there is to tell; Ray Train's watchers would say every second that there is no dashboard to ask.
        ray.init(address="local", num_cpus=max(LOCAL_CPUS, os.cpu_count() or 1), include_dashboard=False, log_to_driver=False)


def refuse_unshared_root(root: Root) -> None:
    """On a cluster that was there before (a submitted job, RAY_ADDRESS): refuse a root that its nodes do not share.

    Raises:
        Refused: when a job's root lies in its copy of the working directory (so does every relative one), or on the disk of one machine
            while several nodes are alive.
    """
    if not root.is_local or not os.environ.get("RAY_ADDRESS"):
        return
    if IN_JOB in os.environ and Path(root.uri).is_relative_to(Path.cwd()):
        raise Refused(
            f"--root {root.uri} lies in the job's own working copy, which goes when the job ends: expected an absolute path or s3://bucket/prefix"
        )
    connect()
    alive = sum(bool(node["Alive"]) for node in ray.nodes())
    if alive > 1:
        raise Refused(f"--root {root.uri} is on the disk of one machine, but {alive} nodes are alive: expected s3://bucket/prefix")


@dataclass(frozen=True)
class Step:
    """One worker of a pipeline, built as `worker(*arguments)`: once in each actor of a pool, or for each batch of a stateless task."""

    worker: Callable[..., Worker]
    arguments: tuple[Any, ...]
    output: pa.Schema  # columns of the worker's answer
    batch_size: int
    actors: ActorResources | None = None  # None: stateless tasks of one CPU


@dataclass(frozen=True)
class Door:
    """A table of shards: its directory, its columns, and the order of its rows."""

    directory: str
    schema: pa.Schema
    id_column: str  # unique, not null
    order: tuple[str, ...] = ()  # columns to sort by, nulls last; default: the id
    row_group_rows: int = 4096


def map_shards(
    root: Root, stage: Stage, source: str, columns: Sequence[str], steps: Sequence[Step], target: Door, rows_per_block: int
) -> dict[str, int]:
    """Map every sealed row of the directory `source` through `steps` into the shards of `target`; resumable. Returns file name -> rows.

    `columns` of the source are read; the target's id column and `shard` are among them, and every step hands both on. What a worker
    cannot do for one row it says in a column of that row: rows are never dropped.

    Raises:
        Failed: when a worker fails, or not as many rows were sealed as were read.
    """
    job = _Job(root, stage, source, target)
    job.seal_complete()
    if job.unsealed():
        connect()
        with job.progress():
            _execute(job, columns, steps, rows_per_block)
        job.seal_complete()
    return job.checked()


class _Job:
    """What is to be done, and how much of it is."""

    def __init__(self, root: Root, stage: Stage, source: str, target: Door) -> None:
        self.root = root
        self.source = source
        self.target = target
        self.staging = f"{stage.staging}/{target.directory}"
        self.expected = {shard: rows_of(root, f"{source}/{shard_name(shard)}") for shard in sealed_shards(root, source)}
        self._staged: dict[str, int] = {}  # rows of the staging files seen so far

    def unsealed(self) -> list[int]:
        sealed = set(sealed_shards(self.root, self.target.directory))
        return [shard for shard in self.expected if shard not in sealed]

    def sources(self) -> list[str]:
        return [self.root.path(f"{self.source}/{shard_name(shard)}") for shard in self.unsealed()]

    def staged_rows(self, below: str = "") -> int:
        """Rows that lie in staging, doubles included; each file's footer is read once."""
        paths = self.root.files(f"{self.staging}/rows{below}")
        for path in paths:
            if path not in self._staged:
                rows = whole_rows(self.root, path)
                if rows is not None:
                    self._staged[path] = rows
        return sum(self._staged.get(path, 0) for path in paths)

    def seal_complete(self) -> None:
        """Seal every shard whose staging holds all its rows; on the cluster, for the bytes need not pass the driver."""
        ready = [shard for shard in self.unsealed() if self.staged_rows(f"/shard={shard}") >= self.expected[shard]]
        if not ready:
            return
        connect()
        running: list[Any] = []
        for shard in ready:
            if len(running) == SEALS_AT_ONCE:
                done, running = ray.wait(running, num_returns=1)
                ray.get(done)
            running.append(_seal_shard.remote(self.root, f"{self.staging}/rows/shard={shard}", self.target, shard, self.expected[shard]))
        ray.get(running)

    def checked(self) -> dict[str, int]:
        """File name -> rows of all that is sealed, after comparing it with what was read."""
        names = [shard_name(shard) for shard in sealed_shards(self.root, self.target.directory) if shard in self.expected]
        sealed = {name: rows_of(self.root, f"{self.target.directory}/{name}") for name in names}
        cure = (
            f"run the same command again; if this repeats, the record of finished rows does not fit the rows in {self.root.path(self.staging)}: "
            "remove that folder and run once more"
        )
        check_rows(self.root.path(self.target.directory), sum(self.expected.values()), sum(sealed.values()), cure)
        return sealed

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Tell every few seconds how far the rows have come."""
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _follow(self, stop: threading.Event) -> None:
        total = sum(self.expected.values())
        earlier = total - sum(self.expected[shard] for shard in self.unsealed())
        first, began = self.staged_rows(), time.monotonic()
        told, told_at = -1, began
        ended = False
        while not ended:
            ended = stop.wait(PROGRESS_SECONDS)
            staged, now = self.staged_rows(), time.monotonic()
            if staged != told or now - told_at >= STANDSTILL_SECONDS:
                say(progress_line(self.target.directory, earlier + staged, total, (staged - first) / max(now - began, 1e-3)))
                told, told_at = staged, now


def progress_line(what: str, done: int, total: int, rows_per_second: float) -> str:
    """`captions/x: 512 / 4096 rows, 103.4 rows/s, 35 s left`."""
    left = "waiting for the first rows"
    if done >= total:
        left = "all there"
    elif rows_per_second > 0:
        left = f"{(total - done) / rows_per_second:.0f} s left"
    return f"{what}: {min(done, total)} / {total} rows, {rows_per_second:.1f} rows/s, {left}"


def say(line: str) -> None:
    """A line for the person who follows the run."""
    print(line, file=sys.stderr, flush=True)


def rows_of(root: Root, path: str) -> int:
    """Rows of a Parquet file, from its footer."""
    with pq.ParquetFile(root.path(path), filesystem=root.filesystem) as file:
        return int(file.metadata.num_rows)


def whole_rows(root: Root, path: str) -> int | None:
    """Rows of a staging file; None while it is being written, or where a kill cut it short."""
    try:
        return rows_of(root, path)
    except (pa.ArrowException, OSError):
        return None


@ray.remote(num_cpus=1)
def _seal_shard(root: Root, place: str, target: Door, shard: int, expected: int) -> None:
    """Seal one shard if its staging holds all its rows, each once or more often, and remove that staging."""
    columns = [name for name in target.schema.names if name != "shard"]
    nothing = pa.schema([target.schema.field(name) for name in columns]).empty_table()  # a shard may be empty
    parts = [root.read_table(path, columns=columns).select(columns) for path in root.files(place) if whole_rows(root, path) is not None]
    table = pa.concat_tables([nothing, *parts], promote_options="permissive")
    if len(pc.unique(table.column(target.id_column))) < expected:  # doubles made it look complete
        return
    table = table.append_column("shard", pa.repeat(pa.scalar(shard, pa.int32()), table.num_rows))
    seal(root, target.directory, shard, table, target.schema, target.id_column, target.row_group_rows, target.order)
    root.delete(place)


# What a stage needs of Ray Data while it runs, beside the checkpoint. Set for one pipeline and restored: the context is global.
SETTINGS: dict[str, Any] = {
    "enable_progress_bars": False,
    "print_on_execution_start": False,
    "execution_no_progress_timeout_s": -1,  # spot machines may take hours to come
    "max_consecutive_actor_init_deaths": 10,
    "actor_init_retry_on_errors": False,  # a worker that cannot be built says why, at once
}


@contextmanager
def _context(job: _Job, steps: Sequence[Step]) -> Iterator[None]:
    checkpoint = CheckpointConfig(
        id_column=job.target.id_column,
        checkpoint_path=job.root.path(f"{job.staging}/checkpoint"),
        delete_checkpoint_on_success=False,
        override_filesystem=job.root.filesystem,
    )
    context = DataContext.get_current()
    wanted = SETTINGS | {"checkpoint_config": checkpoint, "execution_options": _options(steps)}
    before = {name: getattr(context, name) for name in wanted}
    _set(context, wanted)
    try:
        yield
    finally:
        _set(context, before)


def _set(context: DataContext, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(context, name, value)


def _options(steps: Sequence[Step]) -> ExecutionOptions:
    """Where reading, writing and stateless tasks may run. An actor's own selector goes before it."""
    selectors = [step.actors.task_label_selector for step in steps if step.actors]
    return ExecutionOptions(label_selector=(selectors[0] or None) if selectors else None)


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


def _execute(job: _Job, columns: Sequence[str], steps: Sequence[Step], rows_per_block: int) -> None:
    sources = job.sources()
    with _context(job, steps), _footer_readers(len(sources)):
        rows = ray.data.read_parquet(sources, columns=[*columns], filesystem=job.root.filesystem, partitioning=None)
        rows = rows.repartition(target_num_rows_per_block=rows_per_block)
        for step in steps:
            rows = _mapped(rows, step)
        try:
            rows.write_parquet(job.root.path(f"{job.staging}/rows"), partition_cols=["shard"], filesystem=job.root.filesystem, mode=SaveMode.APPEND)
        except (ray.exceptions.RayError, SystemException) as error:
            raise Failed(
                f"{job.target.directory}: {reason_of(error)}; what is done stays done: run the same command again once the cause is mended"
            ) from error


def _mapped(rows: ray.data.Dataset, step: Step) -> ray.data.Dataset:
    """Add a step. Tables of Arrow pass between steps, for numpy would make floats of integers with gaps."""
    if step.actors is None:
        return rows.map_batches(
            lambda table: _in_task(table, step), batch_size=step.batch_size, batch_format="pyarrow", num_cpus=1, memory=TASK_MEMORY_BYTES
        )
    pool = step.actors
    return rows.map_batches(
        _InActor,
        fn_constructor_args=(step.worker, step.arguments, step.output),
        batch_size=step.batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=pool.min_actors, max_size=max(pool.min_actors, pool.max_actors), initial_size=pool.min_actors),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        label_selector=pool.label_selector or None,
    )


class _InActor:
    """A worker in an actor of Ray Data's pool."""

    def __init__(self, worker: Callable[..., Worker], arguments: tuple[Any, ...], output: pa.Schema) -> None:
        self._name = _name(worker)
        self._worker = worker(*arguments)
        self._output = output

    def __call__(self, table: pa.Table) -> pa.Table:
        return _call(self._worker, self._name, table, self._output)


def _in_task(table: pa.Table, step: Step) -> pa.Table:
    return _call(step.worker(*step.arguments), _name(step.worker), table, step.output)


def _name(worker: Callable[..., Worker]) -> str:
    return getattr(worker, "__name__", "worker")


def _call(worker: Worker, name: str, table: pa.Table, output: pa.Schema) -> pa.Table:
    batch = to_batch(table)
    _note_work(name, batch)
    answer = to_table(worker(batch), output)
    if answer.num_rows != table.num_rows:
        raise ValueError(f"{name} took in {table.num_rows} rows and gave back {answer.num_rows}")
    return answer


def _note_work(name: str, batch: Batch) -> None:
    path = os.environ.get(WORK_LOG)
    if path:
        ids = batch["key"] if "key" in batch else batch["row_id"]
        with open(path, "a") as file:  # one short write in append mode: lines of several processes do not mix
            file.write("".join(f"{name} {number}\n" for number in ids))


def to_batch(table: pa.Table) -> Batch:
    """Columns as numpy: numbers as they are, all else (and numbers with gaps) as objects."""
    return {name: _array(table.column(name)) for name in table.column_names}


def _array(column: pa.ChunkedArray) -> np.ndarray:
    primitive = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if primitive and column.null_count == 0:
        return column.to_numpy()
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values


def to_table(batch: Batch, schema: pa.Schema) -> pa.Table:
    """Columns of a worker's answer in the order and types of `schema`."""
    return pa.Table.from_arrays([pa.array(batch[field.name].tolist(), field.type) for field in schema], schema=schema)


def reason_of(error: BaseException) -> str:
    """The last line of what went wrong in a worker, without Ray's frames."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def threads_of(pool: ActorResources) -> int:
    """Torch threads of one actor: as told, or this machine's cores over the largest number of actors."""
    return pool.threads or max(1, (os.cpu_count() or 1) // max(pool.min_actors, pool.max_actors))


def device_of(pool: ActorResources) -> str:
    return "cuda" if pool.gpus > 0 else "cpu"
