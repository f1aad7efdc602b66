"""One pass over the tables of captions, shard by shard: what is counted of all rows, and which rows are kept to be looked at closely.

The rows kept are those of the first `SAMPLE` keys of every table in an order that is the same for all tables, so that the same images meet in it, on
every run. Images that were taken down are left out.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccray.flags import FLAGS
from ccray.storage import CAPTIONS, Manifest, Root, read_manifest, sealed_shards, shard_name

SAMPLE = 10_000  # rows of each table
KEPT_CHARACTERS = 4_000  # of each caption; more is counted and not kept
EXAMPLES = 5  # rows of each flag
COLUMNS = ["key", "shard", "caption", "language", "mean_logprob", "status"]


@dataclass(frozen=True)
class Row:
    """One row of a table of captions."""

    order: int  # by which samples are drawn
    key: int
    shard: int
    caption: str | None  # its first `KEPT_CHARACTERS`
    characters: int  # of all of it
    language: str | None
    mean_logprob: float | None
    status: str  # its first word

    @property
    def is_ok(self) -> bool:
        return self.status == "ok" and self.caption is not None


@dataclass
class Survey:
    """One table of captions, read once."""

    directory: str
    manifest: Manifest
    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)  # of rows with a caption
    logprob_sum: float = 0.0
    logprobs: int = 0
    sample: list[Row] = field(default_factory=list)  # in order
    examples: dict[str, list[Row]] = field(default_factory=dict)  # flag -> its first few rows

    @property
    def name(self) -> str:
        return self.directory.removeprefix(f"{CAPTIONS}/")


def tables(root: Root) -> list[str]:
    """Directories of captions: every folder under `captions/` with a manifest. Those that a source ships come last."""
    names = [name for name in root.names(CAPTIONS) if "." not in name and read_manifest(root, f"{CAPTIONS}/{name}") is not None]
    return [f"{CAPTIONS}/{name}" for name in sorted(names, key=lambda name: (name.startswith("source-"), name))]


def survey(root: Root, directory: str, gone: pa.Array) -> Survey:
    """Read one table, a shard at a time; `gone` holds the keys of images that were taken down."""
    manifest = read_manifest(root, directory)
    assert manifest is not None, f"{directory} is not one of tables()"
    found = Survey(directory, manifest)
    for shard in sealed_shards(root, directory):
        table = root.read_table(f"{directory}/{shard_name(shard)}", columns=COLUMNS)
        _count(found, table.filter(pc.invert(pc.is_in(table.column("key"), gone))))
    return found


def _count(found: Survey, table: pa.Table) -> None:
    words = pc.struct_field(pc.extract_regex(pc.fill_null(table.column("status"), ""), "^(?P<word>[^:]*)"), "word")
    table = table.set_column(table.column_names.index("status"), "status", words)
    found.rows += table.num_rows
    _add(found.statuses, words)
    _add(found.languages, table.column("language").filter(pc.is_valid(table.column("caption"))))
    logprobs = table.column("mean_logprob").drop_null().to_numpy().astype(np.float64)
    logprobs = logprobs[np.isfinite(logprobs)]
    found.logprob_sum += float(logprobs.sum())
    found.logprobs += len(logprobs)
    found.sample = _merged(found.sample, table, SAMPLE)
    for flag in FLAGS.keys() & set(pc.unique(words).to_pylist()):
        found.examples[flag] = _merged(found.examples.get(flag, []), table.filter(pc.equal(words, flag)), EXAMPLES)


def _add(counter: Counter[str], values: pa.ChunkedArray) -> None:
    for each in pc.value_counts(values).to_pylist():
        counter[each["values"] or "und"] += each["counts"]


def _merged(kept: list[Row], table: pa.Table, most: int) -> list[Row]:
    """The first `most` rows of those kept and of a table."""
    order = order_of(table.column("key").to_numpy())
    first = np.argsort(order, kind="stable")[:most]
    if len(kept) >= most:
        first = first[order[first] < np.uint64(kept[-1].order)]
    fresh = list(_rows(table.take(pa.array(first)), order[first]))
    return list(heapq.merge(kept, fresh, key=attrgetter("order")))[:most]


def order_of(keys: np.ndarray) -> np.ndarray:
    """A key is a hash already; turned around, its bytes give an order that is not the shards' own. int64 [n] -> uint64 [n]."""
    return np.ascontiguousarray(keys, np.int64).view(np.uint64).byteswap()


def _rows(table: pa.Table, order: np.ndarray) -> Iterator[Row]:
    lengths = pc.fill_null(pc.utf8_length(table.column("caption")), 0).to_pylist()
    short = table.set_column(2, "caption", pc.utf8_slice_codeunits(table.column("caption"), 0, KEPT_CHARACTERS))
    for place, characters, row in zip(order.tolist(), lengths, short.to_pylist(), strict=True):
        logprob: Any = row["mean_logprob"]
        known = None if logprob is None or not math.isfinite(logprob) else float(logprob)
        yield Row(place, row["key"], row["shard"], row["caption"], characters, row["language"], known, row["status"])


def rows_of(root: Root, directory: str, wanted: Sequence[tuple[int, int]]) -> dict[int, Row]:
    """Key -> row of a table, of (shard, key)."""
    there = set(sealed_shards(root, directory))
    found: dict[int, Row] = {}
    for shard in sorted({shard for shard, _ in wanted} & there):
        keys = pa.array(sorted(key for of_shard, key in wanted if of_shard == shard), pa.int64())
        table = root.read_table(f"{directory}/{shard_name(shard)}", columns=COLUMNS)
        table = table.filter(pc.is_in(table.column("key"), keys))
        found |= {row.key: row for row in _rows(table, order_of(table.column("key").to_numpy()))}
    return found
