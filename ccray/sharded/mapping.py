"""What is to be done of a map, and the seals by which it is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from ccray.interfaces import Failed
from ccray.sharded import journal, progress
from ccray.sharded.connecting import connect
from ccray.sharded.pipeline import CURE, Plan, Step, Through, execute
from ccray.sharded.working import reason_of
from ccray.storage import Root, Stage, check_rows, seal, sealed_shards, shard_name

SEALS_AT_ONCE = 8


@dataclass(frozen=True)
class Door:
    """A table of shards: its directory, its columns, and the order of its rows."""

    directory: str
    schema: pa.Schema
    id_column: str  # unique, not null
    order: tuple[str, ...] = ()  # columns to sort by, nulls last; default: the id
    row_group_rows: int = 4096
    prefix: str = ""  # of its columns' names, but the id and `shard`, in rows that are made for several doors


def map_shards(
    root: Root, stage: Stage, source: str, columns: Sequence[str], steps: Sequence[Step | Through], target: Door, rows_per_block: int, *beside: Door
) -> dict[str, int]:
    """Map every sealed row of the directory `source` through `steps` into the shards of `target`; resumable. Returns file name -> rows.

    `columns` of the source are read; the target's id column and `shard` are among them, and every step hands both on. What a worker
    cannot do for one row it says in a column of that row: rows are never dropped.

    One map may make several tables of the same rows, with the same ids and shards: those `beside` the target, whose columns come out of the last step
    under their prefixes. Rows wait together below the target's stage; a shard is done when it is sealed in every table, and what is sealed stays.

    Raises:
        Failed: when a worker fails, a shard cannot be written, or not as many rows were sealed as were read.
    """
    job = Job(root, stage, source, target, *beside)
    job.seal_complete()
    if job.unsealed():
        connect()
        plan = Plan(root, job.sources(), [*columns], steps, job.staging, target.id_column, job.rows_left(), rows_per_block, job.what)
        book = journal.opened(job.what)
        earlier = job.total - job.rows_left()
        follower = progress.Follower(job.what, job.total, lambda: earlier + job.staged_rows(), _price(steps, book))
        with progress.told_meanwhile(follower.tell):
            execute(plan, book)
        job.seal_complete()
    return job.checked()


def _price(steps: Sequence[Step | Through], book: journal.Book) -> progress.Price | None:
    """Of the dearest pool."""
    priced = [
        (step.actors.dollars_per_hour, step.worker) for step in steps if isinstance(step, Step) and step.actors and step.actors.dollars_per_hour
    ]
    if not priced:
        return None
    dollars, worker = max(priced, key=lambda one: one[0])
    return progress.Price(dollars, lambda: journal.working(book, worker))


class Job:
    """What is to be done, and how much of it is."""

    def __init__(self, root: Root, stage: Stage, source: str, target: Door, *beside: Door) -> None:
        self.root = root
        self.source = source
        self.target = target
        self.doors = (target, *beside)
        self.what = ", ".join(door.directory for door in self.doors)
        self.staging = f"{stage.staging}/{'+'.join(door.directory for door in self.doors)}"  # rows made for other tables are other rows
        self.expected = {shard: rows_of(root, f"{source}/{shard_name(shard)}") for shard in sealed_shards(root, source)}
        self.total = sum(self.expected.values())
        self._staged: dict[str, int] = {}  # rows of the staging files seen so far

    def unsealed(self) -> list[int]:
        sealed = set.intersection(*(set(sealed_shards(self.root, door.directory)) for door in self.doors))
        return [shard for shard in self.expected if shard not in sealed]

    def rows_left(self) -> int:
        return sum(self.expected[shard] for shard in self.unsealed())

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
        """Seal every shard whose staging holds all its rows; on the cluster, for the bytes need not pass the driver.

        Raises:
            Failed: when a shard cannot be written.
        """
        ready = [shard for shard in self.unsealed() if self.staged_rows(f"/shard={shard}") >= self.expected[shard]]
        if not ready:
            return
        connect()
        running: list[Any] = []
        try:
            for shard in ready:
                if len(running) == SEALS_AT_ONCE:
                    done, running = ray.wait(running, num_returns=1)
                    ray.get(done)
                running.append(_seal_shard.remote(self.root, f"{self.staging}/rows/shard={shard}", self.doors, shard, self.expected[shard]))
            ray.get(running)
        except ray.exceptions.RayError as error:
            raise Failed(f"{self.what}: a shard could not be sealed: {reason_of(error)}; {CURE}") from error

    def checked(self) -> dict[str, int]:
        """File name -> rows of all that is sealed, the same in every table, after comparing it with what was read."""
        cure = (
            f"run the same command again; if this repeats, the record of finished rows does not fit the rows in {self.root.path(self.staging)}: "
            "remove that folder and run once more"
        )
        sealed = {door.directory: self._sealed(door.directory) for door in self.doors}
        for directory, files in sealed.items():
            check_rows(self.root.path(directory), self.total, sum(files.values()), cure)
        return sealed[self.target.directory]

    def _sealed(self, directory: str) -> dict[str, int]:
        names = [shard_name(shard) for shard in sealed_shards(self.root, directory) if shard in self.expected]
        return {name: rows_of(self.root, f"{directory}/{name}") for name in names}


def rows_of(root: Root, path: str) -> int:
    """Rows of a sealed file, from its footer.

    Raises:
        Failed: when it is gone or damaged.
    """
    try:
        return _footer_rows(root, path)
    except (pa.ArrowException, OSError) as error:
        raise Failed(
            f"{root.path(path)} cannot be read ({' '.join(str(error).split())[:200]}): put back a whole copy, or remove what it belongs to"
        ) from None


def _footer_rows(root: Root, path: str) -> int:
    with pq.ParquetFile(root.path(path), filesystem=root.filesystem) as file:
        return int(file.metadata.num_rows)


def whole_rows(root: Root, path: str) -> int | None:
    """Rows of a staging file; None while it is being written, or where a kill cut it short."""
    try:
        return _footer_rows(root, path)
    except (pa.ArrowException, OSError):
        return None


@ray.remote(num_cpus=1)
def _seal_shard(root: Root, place: str, doors: Sequence[Door], shard: int, expected: int) -> None:
    """Seal one shard in every table where it is not, if its staging holds all its rows, each once or more often; then remove that staging."""
    paths = [path for path in root.files(place) if whole_rows(root, path) is not None]
    for door in doors:
        if root.exists(f"{door.directory}/{shard_name(shard)}"):  # a kill came between two tables
            continue
        table = _staged(root, paths, door)
        if len(pc.unique(table.column(door.id_column))) < expected:  # doubles made it look complete
            return
        table = table.append_column("shard", pa.repeat(pa.scalar(shard, pa.int32()), table.num_rows))
        seal(root, door.directory, shard, table, door.schema, door.id_column, door.row_group_rows, door.order)
    root.delete(place)


def _staged(root: Root, paths: Sequence[str], door: Door) -> pa.Table:
    """One table's columns, without the shard, of staged rows."""
    fields = [field for field in door.schema if field.name != "shard"]
    columns = [field.name if field.name == door.id_column else door.prefix + field.name for field in fields]
    parts = [root.read_table(path, columns=columns).select(columns).rename_columns([field.name for field in fields]) for path in paths]
    return pa.concat_tables([pa.schema(fields).empty_table(), *parts], promote_options="permissive")  # a shard may be empty
