"""A worker inside its actor or task: Arrow in, numpy to the worker, Arrow out.

Set CCRAY_WORK_LOG to a file to have every worker append a line `Worker id node` for each row it takes in (a debugging aid; workers see the
variable only when the driver started their cluster).
"""

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from ccray.interfaces import Batch, Worker
from ccray.sharded.journal import WHY, Book, Work, careful

WORK_LOG = "CCRAY_WORK_LOG"
# What Ray Data wraps a worker's error in, and what it appends to a message when it does not try again.
WRAPPING = re.compile(r"\s+The above exception was the direct cause of the following exception:\s+\S*ray::[^\n]*\nray\.exceptions\.UserCodeException")
ADVICE = re.compile(
    r"Failed to .+ after \d+/\d+ attempts \(total backoff|To change retry attempts, backoff|This looks like an AWS S3 permissions error"
)
Build = tuple[Callable[..., Worker], tuple[Any, ...]]  # a worker's class and its arguments


class InActor:
    """A worker in an actor of Ray Data's pool."""

    def __init__(self, build: Build, output: pa.Schema, book: Book) -> None:
        self._work, self._output = _noted(build, book), output

    def __call__(self, table: pa.Table) -> pa.Table:
        return _answer(self._work, table, self._output)


def in_task(table: pa.Table, build: Build, output: pa.Schema, book: Book) -> pa.Table:
    """A worker that is built for one batch."""
    return _answer(_noted(build, book), table, output)


def _noted(build: Build, book: Book) -> Work:
    """The worker, with its rows noted before it takes them in."""
    kind, arguments = build
    name = getattr(kind, "__name__", "worker")
    worker = kind(*arguments)

    def work(rows: Batch) -> Batch:
        _log(name, rows)
        answer = worker(rows)
        taken, given = (len(next(iter(batch.values()))) for batch in (rows, answer))
        if taken != given:
            raise ValueError(f"{name} took in {taken} rows and gave back {given}")
        return answer

    given_up: Callable[[Batch, str], Batch] | None = getattr(worker, "given_up", None)
    return careful(book.journal, book.name(kind), work, None if given_up is None else lambda rows: given_up(rows, WHY))


def _answer(work: Work, table: pa.Table, output: pa.Schema) -> pa.Table:
    return to_table(work(to_batch(table)), output)


def _log(name: str, batch: Batch) -> None:
    path = os.environ.get(WORK_LOG)
    if path:
        ids = batch["key"] if "key" in batch else batch["row_id"]
        node = ray.get_runtime_context().get_node_id()
        with open(path, "a") as file:  # one short write in append mode: lines of several processes do not mix
            file.write("".join(f"{name} {number} {node}\n" for number in ids))


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
    """The last line of what went wrong in a worker, without Ray's frames and Ray Data's advice."""
    text = WRAPPING.split(str(error), maxsplit=1)[0]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not ADVICE.match(line.strip())]
    return lines[-1] if lines else type(error).__name__
