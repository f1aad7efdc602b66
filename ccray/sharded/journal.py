"""Rows that end the process which works on them (killed for memory, a crash in native code) are found and given up; all others get their answer.

Ray starts a dead actor anew and hands it the same rows, without end. So whoever takes rows in says so first, and says when they are done; who finds
that the same rows were begun before and never ended looks closer:

    a block that ended its process twice  ->  pieces of it, one after the other  ->  a piece that did it  ->  single rows  ->  a row that did it twice

Machines die too, so a block is tried again as it is before anything is held against it. The journal lives as long as the driver.
"""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ccray.interfaces import Batch

BLOCK_DEATHS = 2  # of a whole block, before it is taken apart
ROW_DEATHS = 2  # of a row alone, before it is given up
RECENT_SECONDS = 120
WHY = "worker_died"

Work = Callable[[Batch], Batch]


@ray.remote(num_cpus=0)
class Journal:
    """What was begun and not ended, and who was at work lately."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._seen: dict[tuple[str, str], float] = {}

    def begin(self, rows: str, name: str, process: str) -> int:
        """Note that a worker's process took some rows in; how often they had been before without coming to an end."""
        self._seen[name, process] = time.monotonic()
        self._begun[rows] += 1
        return self._begun[rows] - 1

    def end(self, rows: str) -> None:
        self._begun.pop(rows, None)

    def working(self, name: str) -> int:
        """Processes of a worker that took rows in lately."""
        return sum(one == name and time.monotonic() - seen < RECENT_SECONDS for (one, _), seen in self._seen.items())


@dataclass(frozen=True)
class Book:
    """The journal of a driver, for one of its maps."""

    journal: Any  # a handle
    map: str  # the table that is made

    def name(self, worker: Callable[..., Any]) -> str:
        """Of one worker of the map."""
        return f"{self.map} {getattr(worker, '__name__', 'worker')}"


_opened: dict[tuple[str, str], Any] = {}


def opened(map_name: str) -> Book:
    """This driver's journal, on its own machine."""
    context = ray.get_runtime_context()
    driver = (context.gcs_address, context.get_job_id())
    if driver not in _opened:
        here = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=True)
        _opened[driver] = Journal.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    return Book(_opened[driver], map_name)


def working(book: Book, worker: Callable[..., Any]) -> int:
    """Processes of a worker at work; 1 while none has said anything."""
    try:
        return max(1, ray.get(book.journal.working.remote(book.name(worker)), timeout=5))
    except (RayActorError, ray.exceptions.GetTimeoutError):
        return 1


def careful(journal: Any, name: str, work: Work, give_up: Work | None) -> Work:
    """`work`, noted in the journal; rows that end the process get the answer of `give_up`.

    Args:
        journal: a handle of `Journal`.
        name: of a map's worker (`Book.name`).
        work: rows to as many rows.
        give_up: rows that cannot be worked on to their rows; None: the run ends with an error that names them.
    """
    process = ray.get_runtime_context().get_worker_id()

    def tried(rows: Batch, deaths_allowed: int) -> Batch:
        entry = _name(name, rows)
        deaths = _begin(journal, entry, name, process)
        try:
            if deaths < deaths_allowed:
                return work(rows)
            return _given_up(name, rows, give_up) if _count(rows) == 1 else _joined([tried(*part) for part in _pieces(rows)])
        finally:
            _end(journal, entry)

    return lambda rows: tried(rows, BLOCK_DEATHS)


def _pieces(rows: Batch) -> list[tuple[Batch, int]]:
    """About the square root of the rows at a time, and how many deaths a piece may cost before it is taken apart."""
    count = _count(rows)
    size = math.isqrt(count) if count > 8 else 1
    pieces = [{column: values[start : start + size] for column, values in rows.items()} for start in range(0, count, size)]
    return [(piece, ROW_DEATHS if _count(piece) == 1 else 1) for piece in pieces]


def _given_up(name: str, rows: Batch, give_up: Work | None) -> Batch:
    if give_up is None:
        raise RuntimeError(f"{name}: the row {_ids(rows)[0]} ended its process {ROW_DEATHS} times, and {name} has no answer for that")
    return give_up(rows)


def _joined(parts: list[Batch]) -> Batch:
    return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}


def _count(rows: Batch) -> int:
    return len(_ids(rows))


def _ids(rows: Batch) -> Any:
    return rows["key"] if "key" in rows else rows["row_id"]


def _name(name: str, rows: Batch) -> str:
    return hashlib.blake2b(name.encode() + _ids(rows).tobytes(), digest_size=16).hexdigest()


def _begin(journal: Any, entry: str, name: str, process: str) -> int:
    try:
        return int(ray.get(journal.begin.remote(entry, name, process)))
    except RayActorError:  # the journal's machine is gone, and with it the driver before long
        return 0


def _end(journal: Any, entry: str) -> None:
    journal.end.remote(entry)
