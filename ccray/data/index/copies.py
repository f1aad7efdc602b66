"""The names of duplicates, so that whoever made a copy that was rejected is named beside the copy that is kept."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ccray import schema
from ccray.data.index.dedup import Duplicates, Places
from ccray.data.index.verdicts import licenses_of
from ccray.storage import Root, sealed_shards, shard_name

COPY = schema.COPIES.value_type
STATED = ["row_id", "source", "source_ref", "source_url", "title", "creator", "creator_url"]  # of COPY, as in listing/


@dataclass(frozen=True)
class Named:
    """What the listing says of all rows that are duplicates or have some."""

    losers: Places  # rows that are rejected as duplicates, by the row that is kept for them, the best first
    kept: Places  # of each loser: the row that is kept for it, ascending
    places: Places  # of the rows in `table`, ascending
    table: pa.Table  # STATED, license, license_url

    def rows(self, places: Places) -> Places:
        """Where some rows stand in `table`."""
        return np.searchsorted(self.places, places)

    def source_ref(self, place: int) -> str:
        """The source's own id of a row, as people see it."""
        return str(self.table.column("source_ref")[int(np.searchsorted(self.places, place))].as_py())


def named(root: Root, shards: NDArray[np.int32], lines: NDArray[np.int32], losers: Places, copies: Duplicates) -> Named:
    """Read the names of `losers` and of what is kept for them; `shards` and `lines` say where each row stands in `listing/`."""
    places = np.unique(np.concatenate([losers, copies.kept[losers], copies.twin[losers]]))
    wanted = shards[places]
    tables = [_empty()]
    for shard in sealed_shards(root, "listing") if len(places) else []:
        here = slice(*np.searchsorted(wanted, [shard, shard + 1]))
        if here.start < here.stop:
            tables.append(_stated(root, shard, lines[places[here]]))
    return Named(losers, copies.kept[losers], places, pa.concat_tables(tables).combine_chunks())


def _stated(root: Root, shard: int, lines: NDArray[np.int32]) -> pa.Table:
    table = root.read_table(f"listing/{shard_name(shard)}", columns=[*STATED, "license_text"]).sort_by("row_id").take(lines)
    found = licenses_of(table)
    table = table.append_column("license", found.each(lambda license: license.id, pa.string()))
    return table.append_column("license_url", found.each(lambda license: license.url, pa.string())).drop_columns("license_text")


def _empty() -> pa.Table:
    return pa.schema([COPY.field(name) for name in [*STATED, "license", "license_url"]]).empty_table()


def copies_of(places: Places, names: Named, hashes: NDArray[np.uint64]) -> pa.Array:
    """`schema.COPIES` of some rows: all that were rejected as duplicates of each, the best first; null for a row without any."""
    begin, end = np.searchsorted(names.kept, places), np.searchsorted(names.kept, places, side="right")
    counts = end - begin
    offsets = np.concatenate([[0], np.cumsum(counts)])
    chosen = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - begin, counts)
    table = names.table.take(names.rows(names.losers[chosen]))
    bits = np.bitwise_count(hashes[names.losers[chosen]] ^ hashes[names.kept[chosen]]).astype(np.int32)
    fields = [pa.array(bits) if each.name == "bits" else table.column(each.name).combine_chunks() for each in COPY]
    structs = pa.StructArray.from_arrays(fields, fields=list(COPY))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, mask=pa.array(counts == 0)).cast(schema.COPIES)
