"""Rows of a CSV, TSV, JSON, JSONL or Parquet file, plain or compressed, one after the other, whatever is in them.

A file that cannot be read at all is refused at the door; a single row that cannot be read comes back as `Malformed`.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ccray.interfaces import Failed, Refused
from ccray.storage import Root

KINDS = {"csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}  # endings of names
COMPRESSED = ("gz", "bz2", "zst")  # further endings; undone by pyarrow as it reads
MAX_FIELD = 10_000_000  # characters of one CSV field
MAX_JSON = 1 << 30  # characters of a JSON file that is one document; JSONL has no such bound
MAX_DEPTH = 16  # of the lists and objects around a record
ROWS_READ_FOR_NAMES = 100  # of a JSON file, whose columns are the union of its rows' keys
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be read, and why."""

    detail: str


Row = dict[str, Any]
Records = Callable[[Any], Iterator[Any]]  # a JSON document -> the records in it
Layouts = Mapping[int, tuple[str, ...]]  # of headerless TSV: number of fields -> their names


@dataclass(frozen=True)
class Table:
    """A table whose door has been passed: a file `name` in the folder `base`."""

    base: Root
    name: str
    kind: str
    columns: tuple[str, ...]
    binary: frozenset[str]  # columns that hold bytes, alone or beside their path; never read by `rows`
    seen_at: datetime | None  # when the file was last written
    records: Records | None = None  # of JSON; None: the objects of a list, or of the one list in an object
    layouts: Layouts | None = None

    def rows(self, wanted: list[str] | None = None) -> Iterator[tuple[int, Row | Malformed]]:
        """Row numbers (from 0) and rows with the wanted columns; all that hold no bytes without `wanted`.

        Raises:
            Failed: when the file breaks off.
        """
        readers = {"csv": self._csv, "tsv": self._csv, "json": self._json, "jsonl": self._json, "parquet": self._parquet, "plain": self._plain}
        try:
            yield from enumerate(readers[self.kind](wanted))
        except (OSError, EOFError, pa.ArrowException) as error:
            raise Failed(f"{self.base.path(self.name)} cannot be read to its end: {' '.join(str(error).split())[:300]}") from None

    def _csv(self, wanted: list[str] | None) -> Iterator[Row | Malformed]:
        names = self.columns if wanted is None else wanted
        with _text(self.base, self.name) as text:
            reader = _csv_reader(text, self.kind)
            next(reader)
            while True:
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:  # a field beyond all bounds: the next line is read again
                    yield Malformed(f"line {reader.line_num} cannot be read: {error}")
                    continue
                if len(values) == len(self.columns):
                    row = dict(zip(self.columns, values, strict=True))
                    yield {name: row.get(name) or None for name in names}
                elif values:
                    yield Malformed(f"line {reader.line_num} has {len(values)} fields, the header has {len(self.columns)}")

    def _plain(self, wanted: list[str] | None) -> Iterator[Row | Malformed]:
        assert self.layouts is not None
        with _text(self.base, self.name, newline="\n") as text:
            for number, line in enumerate(text, 1):
                values = line.rstrip("\r\n").split("\t")
                names = self.layouts.get(len(values))
                if names is not None:
                    yield {name: value or None for name, value in zip(names, values, strict=True)}
                elif line.strip():
                    yield Malformed(f"line {number} has {len(values)} fields, expected {' or '.join(map(str, self.layouts))}")

    def _json(self, wanted: list[str] | None) -> Iterator[Row | Malformed]:
        for row in _json_rows(self.base, self.name, self.kind, self.records):
            yield row if isinstance(row, Malformed) or wanted is None else {name: row.get(name) for name in wanted}

    def _parquet(self, wanted: list[str] | None) -> Iterator[Row | Malformed]:
        with pq.ParquetFile(self.base.path(self.name), filesystem=self.base.filesystem) as file:
            there = file.schema_arrow.names
            columns = [name for name in (there if wanted is None else wanted) if name in there and name not in self.binary]
            if not columns:
                yield from ({} for _ in range(file.metadata.num_rows))
                return
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                yield from _batch_rows(batch)


def open_table(base: Root, name: str, records: Records | None = None, layouts: Layouts | None = None) -> Table:
    """A table; with `layouts` a TSV without header or quotes, with `records` JSON whatever its name; with both either.

    Raises:
        Refused: when there is no such file, it is of another kind, or it cannot be read.
    """
    place = base.path(name)
    kind = kind_of(name) or ("json" if records else None)
    if layouts is not None and (records is None or kind == "tsv"):
        kind = "plain"
    if kind is None:
        raise Refused(
            f"{place} is not a table that we read: expected a name that ends in .{', .'.join(KINDS)}, perhaps with .{', .'.join(COMPRESSED)}"
        )
    try:
        info = base.filesystem.get_file_info(place)
        if info.type != pafs.FileType.File:
            raise Refused(f"{place} is not there: expected a {', '.join(KINDS)} file")
        columns, binary = _names(base, name, kind, records, layouts)
    except (OSError, EOFError, pa.ArrowException, csv.Error, UnicodeError) as error:
        raise Refused(f"{place} cannot be read as {kind.upper()}: {' '.join(str(error).split())[:300]}") from None
    if not columns and records is None:
        raise Refused(f"{place} has no columns: expected a header or rows that name an image and its licence")
    repeated = {column for column in columns if columns.count(column) > 1}
    if repeated:
        raise Refused(f"{place} has more than one column named {', '.join(sorted(map(repr, repeated)))}")
    return Table(base, name, kind, columns, binary, info.mtime, records, layouts)


def kind_of(name: str) -> str | None:
    """How a file of this name is read; None when it is no table."""
    parts = name.rpartition("/")[2].lower().split(".")[1:]
    if len(parts) > 1 and parts[-1] in COMPRESSED:
        parts.pop()
    return KINDS.get(parts[-1]) if parts else None


def _names(base: Root, name: str, kind: str, records: Records | None, layouts: Layouts | None) -> tuple[tuple[str, ...], frozenset[str]]:
    if kind == "parquet":
        return _parquet_columns(base, name)
    if kind in ("json", "jsonl"):
        rows = islice(_json_rows(base, name, kind, records), ROWS_READ_FOR_NAMES)
        return tuple(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row)), frozenset()
    with _text(base, name) as text:
        if layouts is None:
            return tuple(next(_csv_reader(text, kind), ())), frozenset()
        found = (layouts.get(len(line.rstrip("\r\n").split("\t"))) for line in islice(text, ROWS_READ_FOR_NAMES))
        return next((names for names in found if names is not None), ()), frozenset()


def _text(base: Root, name: str, newline: str = "") -> io.TextIOWrapper:
    stream = base.filesystem.open_input_stream(base.path(name))
    return io.TextIOWrapper(io.BufferedReader(stream, 1 << 20), encoding="utf-8-sig", errors="replace", newline=newline)


def _csv_reader(text: io.TextIOWrapper, kind: str) -> Any:
    csv.field_size_limit(MAX_FIELD)
    return csv.reader(text, delimiter="\t" if kind == "tsv" else ",", quotechar='"')


def _json_rows(base: Root, name: str, kind: str, records: Records | None) -> Iterator[Row | Malformed]:
    """The rows of JSONL, and of JSON that is one document, or turns out to be lines of documents."""
    with _text(base, name) as text:
        lines: Iterator[tuple[int, str]] = ((number, line) for number, line in enumerate(text, 1) if line.strip())
        if kind == "json":
            first = list(islice(lines, 2))
            if len(first) == 2 and isinstance(_loaded(first[0][1]), Malformed):
                yield from _document(base.path(name), "".join(line for _, line in first) + text.read(MAX_JSON), records)
                return
            if len(first) == 1:
                yield from _document(base.path(name), first[0][1], records)
                return
            lines = chain(first, lines)
        yield from _lines(lines, records)


def _document(place: str, text: str, records: Records | None) -> Iterator[Row | Malformed]:
    if len(text) >= MAX_JSON:
        raise Refused(f"{place} is one JSON document of more than {MAX_JSON >> 20} MB: expected one object a line (JSONL)")
    document = _loaded(text)
    if not isinstance(document, Malformed):
        yield from _found(document, records or table_records, "the document")
        return
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if any(isinstance(_loaded(line), dict | list) for _, line in lines):  # JSONL by another name, some lines broken
        yield from _lines(lines, records)
    else:
        yield document


def _lines(lines: Iterable[tuple[int, str]], records: Records | None) -> Iterator[Row | Malformed]:
    for number, line in lines:
        document = _loaded(line)
        if isinstance(document, Malformed):
            yield Malformed(f"line {number} {document.detail}")
            continue
        found = list(_found(document, records, f"line {number}"))
        yield from found or [Malformed(f"line {number} holds no record")]


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Malformed(f"is not JSON: {error}")


def _found(document: Any, records: Records | None, here: str) -> Iterator[Row | Malformed]:
    for row in [document] if records is None else records(document):
        yield row if isinstance(row, dict) else Malformed(f"{here} holds {type(row).__name__}, expected an object")


def table_records(document: Any) -> Iterator[Any]:
    """The rows of a JSON document that is a table: a list, an object that has one list of objects, or an object of objects."""
    if isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list) and any(isinstance(one, dict) for one in value)]
        if len(lists) == 1:
            document = lists[0]
        elif document and all(isinstance(value, dict) for value in document.values()):
            document = list(document.values())
    yield from document if isinstance(document, list) else [document]


def records_like(is_record: Callable[[Row], bool]) -> Records:
    """A finder of records at any depth of a JSON document. What stands beside a record in the same list is taken for one, whatever it is."""

    def walk(value: Any, depth: int = 0) -> Iterator[Any]:
        if isinstance(value, dict) and is_record(value):
            yield value
            return
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        beside = any(isinstance(one, dict) and is_record(one) for one in inner)
        for one in inner if depth < MAX_DEPTH else []:
            if not beside:
                yield from walk(one, depth + 1)
            elif isinstance(one, dict) or isinstance(value, list):
                yield one

    return walk


def _batch_rows(batch: pa.RecordBatch) -> list[Row]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8, a time beyond the calendar: cell by cell
        return [{name: _cell(batch.column(name)[number]) for name in batch.schema.names} for number in range(batch.num_rows)]


def _cell(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except (ValueError, OverflowError):
        text = isinstance(cell, pa.StringScalar | pa.LargeStringScalar)
        return cell.as_buffer().to_pybytes().decode("utf-8", "replace") if text else None


def _parquet_columns(base: Root, name: str) -> tuple[tuple[str, ...], frozenset[str]]:
    schema = pq.read_schema(base.path(name), filesystem=base.filesystem)
    return tuple(schema.names), frozenset(field.name for field in schema if _holds_bytes(field.type))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):  # how Hugging Face datasets keep images
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
