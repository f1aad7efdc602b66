"""From a source to the rows of `listing/`: `row_id` and shard are fixed here, before any byte is fetched.

Ids are made distinct and subsets are drawn here for all sources alike, with 8 bytes of memory a listed row.
"""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa

from ccray import schema
from ccray.config import CatalogConfig, ColumnMap
from ccray.data.sources import (
    coco,
    commoncatalog,
    flickr,
    folder,
    img2dataset,
    megalith,
    openimages,
    openverse,
    pd12m,
    shapes,
    smithsonian,
    table,
    wikimedia,
    yfcc100m,
)
from ccray.data.sources.listed import Listed, Source, clean
from ccray.interfaces import Refused

OPENERS: dict[str, Callable[[CatalogConfig], Source]] = {
    "shapes": shapes.open_source,
    "folder": folder.open_source,
    "table": table.open_source,
    "coco": coco.open_source,
    "commoncatalog": commoncatalog.open_source,
    "flickr": flickr.open_source,
    "img2dataset": img2dataset.open_source,
    "megalith": megalith.open_source,
    "openimages": openimages.open_source,
    "openverse": openverse.open_source,
    "pd12m": pd12m.open_source,
    "smithsonian": smithsonian.open_source,
    "wikimedia": wikimedia.open_source,
    "yfcc100m": yfcc100m.open_source,
}
MAPPED = ("folder", "table")  # take `catalog.columns`; the others know their own
CHUNK = 1 << 14  # rows whose ids are compared at once


def open_source(config: CatalogConfig) -> Source:
    """The source that `catalog.source` names, its door passed.

    Raises:
        Refused: when the scheme is unknown, or nothing usable is there.
    """
    scheme, colon, _ = config.source.partition(":")
    if scheme not in OPENERS or bool(colon) == (scheme == "shapes"):
        others = ", ".join(f"{name}:PATH" for name in OPENERS if name not in ("shapes", *MAPPED))
        raise Refused(
            f"catalog.source {config.source!r} is not a source that we read: expected shapes, folder:PATH or table:FILE, or one of {others}"
        )
    if scheme not in MAPPED and config.columns != ColumnMap():
        raise Refused(f"catalog.columns maps the columns of folder: and table: sources, but catalog.source is {config.source!r}, which has its own")
    source = OPENERS[scheme](config)
    if next(iter(source.listing()), None) is None:
        raise Refused(f"catalog.source {config.source!r} is empty: expected at least one image")
    return source


def shards(source: Source, config: CatalogConfig) -> Iterator[pa.Table]:
    """Tables of `schema.LISTING`, one a shard, in the source's order; inside a shard ordered by `row_id`.

    Rows whose images lie in the rows of Parquet files keep the source's order there, too: neighbours are then fetched from one row group.
    """
    rows = distinct(source)
    if config.limit is not None:
        last = largest_drawn(source, config.limit)
        rows = ((row_id, listed) for row_id, listed in rows if last is None or mixed(row_id) <= last)
    for shard, first in enumerate(rows):
        chunk = [first, *islice(rows, config.rows_per_shard - 1)]
        table = _shard_table(source.name, shard, chunk)
        yield table if chunk[0][1].locator.startswith("row:") else table.sort_by("row_id")


def distinct(source: Source) -> Iterator[tuple[int, Listed]]:
    """Every listed row with its `row_id`. The first of several with one id keeps it; the others get the row's number besides."""
    seen = Seen()
    rows = source.listing()
    number = 0
    while chunk := list(islice(rows, CHUNK)):
        ids = np.array([schema.id_of(source.name, clean(listed.own_id)) for listed in chunk], np.int64)
        doubled = seen.add(ids)
        for position, listed in enumerate(chunk):
            row_id = int(ids[position])
            if doubled[position]:
                row_id = _another_id(source.name, listed, number + position, seen)
            yield row_id, listed
        number += len(chunk)


def _another_id(source: str, listed: Listed, number: int, seen: "Seen") -> int:
    own_id = clean(listed.own_id)
    while True:
        own_id = f"{own_id}\x1f{number}"
        row_id = schema.id_of(source, own_id)
        if not seen.add(np.array([row_id], np.int64))[0]:
            return row_id


class Seen:
    """A set of int64 in 8 bytes each: sorted runs, merged when they are of one size."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Adds ids, int64 (n,); bool (n,): which of them were there before, or stand earlier among them."""
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
        known = np.zeros(len(ids), bool)
        known[1:] = ordered[1:] == ordered[:-1]
        for run in self._runs:
            known |= run[np.minimum(np.searchsorted(run, ordered), len(run) - 1)] == ordered
        self._grow(ordered[~known])
        answer = np.empty(len(ids), bool)
        answer[order] = known
        return answer

    def _grow(self, run: np.ndarray) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # of two sorted runs: a merge
        if len(run):
            self._runs.append(run)


def largest_drawn(source: Source, limit: int) -> int | None:
    """The `limit`-th smallest mixed id of all listed rows; None when there are no more rows than that."""
    drawn = np.empty(0, np.uint64)
    last: int | None = None
    fresh: list[int] = []
    for row_id, _ in distinct(source):
        place = mixed(row_id)
        if last is None or place < last:
            fresh.append(place)
        if len(fresh) > max(CHUNK, limit // 4):
            drawn, last = _smallest(drawn, fresh, limit)
            fresh = []
    return _smallest(drawn, fresh, limit)[1] if last is None or fresh else last


def _smallest(drawn: np.ndarray, fresh: list[int], limit: int) -> tuple[np.ndarray, int | None]:
    """The `limit` smallest of both, and their largest; None as long as there are no more than `limit`."""
    drawn = np.concatenate([drawn, np.array(fresh, np.uint64)])
    if len(drawn) <= limit:
        return drawn, None
    drawn = np.partition(drawn, limit - 1)[:limit]
    return drawn, int(drawn[limit - 1])


def mixed(row_id: int) -> int:
    """A row's place in the order in which subsets are drawn: 64 bits, one to one (Steele et al., SplitMix64, 2014)."""
    mask = 2**64 - 1
    z = row_id & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def _shard_table(source: str, shard: int, chunk: list[tuple[int, Listed]]) -> pa.Table:
    records = [{"row_id": row_id, "shard": shard, "source": source, **listed.texts()} for row_id, listed in chunk]
    return pa.Table.from_pylist(records, schema=schema.LISTING)
