"""Who made the images that a checkpoint really saw, and under which licences: its record of keys joined with the catalog, shard by shard."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ccray import storage, takedowns
from ccray.interfaces import Failed
from ccray.schema import ATTRIBUTION, hex_key
from ccray.storage import Root

COLUMNS = [
    "key",
    "sha256",
    "title",
    "creator",
    "creator_url",
    "source_url",
    "license",
    "license_url",
    "commercial",
    "share_alike",
    "derivatives",
    "copies",
]


@dataclass
class LicenseCount:
    """The images under one licence."""

    license: str  # SPDX
    url: str
    images: int = 0
    times_seen: int = 0
    commercial: bool = True
    share_alike: bool = False


@dataclass
class Mix:
    """All that a checkpoint saw, by licence, most images first."""

    images: int = 0
    times_seen: int = 0
    taken_down: int = 0  # seen, and taken down since
    without_creator: int = 0
    licenses: list[LicenseCount] = field(default_factory=list)


def write(root: Root, catalog: str, seen: pa.Table, target: Path) -> Mix:
    """Write `schema.ATTRIBUTION` of the images in `seen` (`schema.SEEN`), in the catalog's order, to a local file; what they add up to.

    Raises:
        Failed: when an image that was seen is not in the catalog, so that nobody can name it, or its licence allows no derivatives.
    """
    mix, counts, gone = Mix(), dict[str, LicenseCount](), takedowns.taken_down(root)
    with pq.ParquetWriter(target, ATTRIBUTION, compression="zstd") as writer:
        for table in _joined(root, catalog, seen):
            writer.write_table(_attribution(table, gone))
            _count(table, counts, mix, gone)
    if mix.images != seen.num_rows:
        raise Failed(
            f"{seen.num_rows - mix.images} of {seen.num_rows} images that the model saw are not in {root.path(catalog)}: "
            "it cannot be published without naming them; restore the catalog that it was trained on"
        )
    mix.licenses = sorted(counts.values(), key=lambda one: (-one.images, one.license))
    return mix


def _joined(root: Root, catalog: str, seen: pa.Table) -> Iterator[pa.Table]:
    """The catalog's rows that were seen, with `times`; one table a shard that has any."""
    keys = seen.column("key").combine_chunks()
    for shard in storage.sealed_shards(root, catalog):
        table = root.read_table(f"{catalog}/{storage.shard_name(shard)}", columns=COLUMNS)
        places = pc.index_in(table.column("key"), keys)
        found = pc.is_valid(places)
        table = table.append_column("times", pc.take(seen.column("times"), places)).filter(found)
        if table.num_rows:
            yield table


def _attribution(table: pa.Table, gone: frozenset[int]) -> pa.Table:
    values = {name: table.column(name) for name in ATTRIBUTION.names if name in table.column_names}
    values["key"] = pa.array([hex_key(key) for key in table.column("key").to_pylist()])
    values["times_seen"] = table.column("times")
    values["taken_down"] = pa.array([key in gone for key in table.column("key").to_pylist()])
    return pa.table([values[name] for name in ATTRIBUTION.names], schema=ATTRIBUTION)


def _count(table: pa.Table, counts: dict[str, LicenseCount], mix: Mix, gone: frozenset[int]) -> None:
    mix.images += table.num_rows
    mix.times_seen += pc.sum(table.column("times")).as_py()
    mix.taken_down += len(gone & set(table.column("key").to_pylist())) if gone else 0
    mix.without_creator += table.column("creator").null_count
    if not all(table.column("derivatives").to_pylist()):
        raise Failed("the model saw images whose licence allows no derivatives: it cannot be published; train anew from this catalog")
    for name in pc.unique(table.column("license")).to_pylist():
        rows = table.filter(pc.equal(table.column("license"), name))
        one = counts.setdefault(name, LicenseCount(name, rows.column("license_url")[0].as_py() or ""))
        one.images += rows.num_rows
        one.times_seen += pc.sum(rows.column("times")).as_py()
        one.commercial &= bool(np.all(rows.column("commercial").to_pylist()))
        one.share_alike |= bool(np.any(rows.column("share_alike").to_pylist()))
