"""From a source to the rows of `listing/`: `row_id` and shard are fixed here, before any byte is fetched."""

from collections.abc import Callable, Iterator
from itertools import islice

import pyarrow as pa

from ccray import schema
from ccray.config import CatalogConfig
from ccray.data.sources import folder, shapes, table
from ccray.data.sources.listed import Listed, Source, clean
from ccray.interfaces import Refused

OPENERS: dict[str, Callable[[CatalogConfig], Source]] = {"shapes": shapes.open_source, "folder": folder.open_source, "table": table.open_source}


def open_source(config: CatalogConfig) -> Source:
    """The source that `catalog.source` names, its door passed.

    Raises:
        Refused: when the scheme is unknown, or nothing usable is there.
    """
    scheme, colon, _ = config.source.partition(":")
    if scheme not in OPENERS or bool(colon) == (scheme == "shapes"):
        raise Refused(f"catalog.source {config.source!r} is not a source that we read: expected shapes, folder:PATH or table:FILE")
    source = OPENERS[scheme](config)
    if next(iter(source.listing()), None) is None:
        raise Refused(f"catalog.source {config.source!r} is empty: expected at least one image")
    return source


def shards(source: Source, config: CatalogConfig) -> Iterator[pa.Table]:
    """Tables of `schema.LISTING`, one a shard, in the source's order; inside a shard ordered by `row_id`."""
    rows = islice(source.listing(), config.limit)
    for shard, first in enumerate(rows):
        chunk = [first, *islice(rows, config.rows_per_shard - 1)]
        yield _shard_table(source.name, shard, chunk)


def _shard_table(source: str, shard: int, chunk: list[Listed]) -> pa.Table:
    records = [{"row_id": schema.id_of(source, clean(listed.own_id)), "shard": shard, "source": source, **listed.texts()} for listed in chunk]
    return pa.Table.from_pylist(records, schema=schema.LISTING).sort_by("row_id")
