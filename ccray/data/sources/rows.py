"""Rows of a CSV, TSV, JSONL or Parquet file, one after the other, whatever is in them.

A file that cannot be read at all is refused at the door; a single row that cannot be read comes back as `Malformed`.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ccray.interfaces import Failed, Refused
from ccray.storage import Root

SUFFIXES = ("csv", "tsv", "jsonl", "parquet")
MAX_FIELD = 10_000_000  # characters of one CSV field
ROWS_READ_FOR_NAMES = 100  # of a JSONL file, whose columns are the union of its rows' keys


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be read, and why."""

    detail: str


Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table whose door has been passed: a file `name` in the folder `base`."""

    base: Root
    name: str
    columns: tuple[str, ...]
    binary: frozenset[str]  # columns that hold bytes, alone or beside their path; never read by `rows`
    seen_at: datetime  # when the file was last written

    def rows(self, wanted: list[str]) -> Iterator[tuple[int, Row | Malformed]]:
        """Row numbers (from 0) and rows with the wanted columns."""
        readers = {"csv": self._csv, "tsv": self._csv, "jsonl": self._jsonl, "parquet": self._parquet}
        yield from enumerate(readers[_suffix(self.name)](wanted))

    def _csv(self, wanted: list[str]) -> Iterator[Row | Malformed]:
        with _text(self.base, self.name) as text:
            reader = _csv_reader(text, self.name)
            next(reader)
            try:
                for values in reader:
                    if not values:
                        continue
                    if len(values) != len(self.columns):
                        yield Malformed(f"line {reader.line_num} has {len(values)} fields, the header has {len(self.columns)}")
                        continue
                    row = dict(zip(self.columns, values, strict=True))
                    yield {name: row[name] or None for name in wanted}
            except csv.Error as error:
                raise Failed(f"{self.base.path(self.name)} line {reader.line_num} cannot be read: {error}") from None

    def _jsonl(self, wanted: list[str]) -> Iterator[Row | Malformed]:
        with _text(self.base, self.name) as text:
            for number, line in enumerate(text, 1):
                if not line.strip():
                    continue
                row = _json_row(line)
                yield Malformed(f"line {number} {row}") if isinstance(row, str) else {name: row.get(name) for name in wanted}

    def _parquet(self, wanted: list[str]) -> Iterator[Row | Malformed]:
        columns = [name for name in wanted if name not in self.binary]
        with pq.ParquetFile(self.base.path(self.name), filesystem=self.base.filesystem) as file:
            if not columns:
                yield from ({} for _ in range(file.metadata.num_rows))
                return
            for batch in file.iter_batches(batch_size=4096, columns=columns):
                yield from batch.to_pylist()


def open_table(base: Root, name: str) -> Table:
    """Raises:
    Refused: when there is no such file, it is of another kind, or it cannot be read.
    """
    place = base.path(name)
    suffix = _suffix(name)
    if suffix not in SUFFIXES:
        raise Refused(f"{place} is not a table that we read: expected a name that ends in .{', .'.join(SUFFIXES)}")
    try:
        info = base.filesystem.get_file_info(place)
        if info.type != pafs.FileType.File:
            raise Refused(f"{place} is not there: expected a {', '.join(SUFFIXES)} file")
        columns, binary = _parquet_columns(base, name) if suffix == "parquet" else (_text_columns(base, name), frozenset[str]())
    except (OSError, pa.ArrowException, csv.Error, UnicodeError) as error:
        raise Refused(f"{place} cannot be read as {suffix.upper()}: {' '.join(str(error).split())[:300]}") from None
    if not columns:
        raise Refused(f"{place} has no columns: expected a header or rows that name an image and its licence")
    repeated = {column for column in columns if columns.count(column) > 1}
    if repeated:
        raise Refused(f"{place} has more than one column named {', '.join(sorted(map(repr, repeated)))}")
    return Table(base, name, columns, binary, info.mtime or datetime.fromtimestamp(0, UTC))


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _text(base: Root, name: str) -> io.TextIOWrapper:
    stream = base.filesystem.open_input_stream(base.path(name))
    return io.TextIOWrapper(io.BufferedReader(stream, 1 << 20), encoding="utf-8-sig", errors="replace", newline="")


def _csv_reader(text: io.TextIOWrapper, name: str) -> Any:
    csv.field_size_limit(MAX_FIELD)
    if _suffix(name) == "tsv":
        return csv.reader(text, delimiter="\t", quotechar='"')
    return csv.reader(text)


def _text_columns(base: Root, name: str) -> tuple[str, ...]:
    with _text(base, name) as text:
        if _suffix(name) != "jsonl":
            return tuple(next(_csv_reader(text, name), ()))
        rows = (_json_row(line) for line in islice((line for line in text if line.strip()), ROWS_READ_FOR_NAMES))
        return tuple(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))


def _json_row(line: str) -> dict[str, Any] | str:
    """The object that a line holds, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    return row if isinstance(row, dict) else f"holds {type(row).__name__}, expected an object"


def _parquet_columns(base: Root, name: str) -> tuple[tuple[str, ...], frozenset[str]]:
    schema = pq.read_schema(base.path(name), filesystem=base.filesystem)
    return tuple(schema.names), frozenset(field.name for field in schema if _holds_bytes(field.type))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):  # how Hugging Face datasets keep images
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
