"""Who made the images that a checkpoint really saw, and under which licences: its record of keys joined with the catalog, shard by shard.

An image that was taken down stays listed: the model saw it. A copy of it that was taken down does not: the model never saw that. Where its row has left the catalog since, what `rejects/` and `listing/` keep of it is told.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ccray import licenses, storage, takedowns
from ccray.interfaces import Failed
from ccray.schema import ATTRIBUTION, CATALOG, Reject, hex_key
from ccray.storage import Root
from ccray.takedowns import Takedowns

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
_REMEMBERED = pa.schema([*(CATALOG.field(name) for name in COLUMNS), ("times", pa.int64())])


@dataclass
class LicenseCount:
    """The images under one licence."""

    license: str  # SPDX
    url: str
    commercial: bool | None  # None: a public-domain statement, which does not say
    share_alike: bool | None
    images: int = 0
    times_seen: int = 0


@dataclass
class Mix:
    """All that a checkpoint saw, by licence, most images first."""

    images: int = 0
    times_seen: int = 0
    taken_down: int = 0  # seen, and taken down since
    without_creator: int = 0
    licenses: list[LicenseCount] = field(default_factory=list)


def write(root: Root, catalog: str, seen: pa.Table, target: Path) -> Mix:
    """Write `schema.ATTRIBUTION` of the images in `seen` (`schema.SEEN`) to a local file: the catalog's in its order, then those purged from it.

    Returns what they add up to.

    Raises:
        Failed: when an image that was seen is in neither, so that nobody can name it, or its licence allows no derivatives.
    """
    mix, counts, gone = Mix(), dict[str, LicenseCount](), takedowns.load(root)
    keys = frozenset(gone.keys.to_pylist())
    with pq.ParquetWriter(target, ATTRIBUTION, compression="zstd") as writer:
        for table in _joined(root, catalog, seen):
            writer.write_table(_attribution(table, gone))
            _count(table, counts, mix, keys)
    if mix.images != seen.num_rows:
        raise Failed(
            f"{seen.num_rows - mix.images} of {seen.num_rows} images that the model saw are not in {root.path(catalog)}, nor in rejects as taken down: "
            "it cannot be published without naming them; restore the catalog that it was trained on"
        )
    mix.licenses = sorted(counts.values(), key=lambda one: (-one.images, one.license))
    return mix


def _joined(root: Root, catalog: str, seen: pa.Table) -> Iterator[pa.Table]:
    """The catalog's rows that were seen, with `times`; one table a shard that has any."""
    keys = seen.column("key").combine_chunks()
    found = [np.zeros(0, np.int64)]
    for shard in storage.sealed_shards(root, catalog):
        table = root.read_table(f"{catalog}/{storage.shard_name(shard)}", columns=COLUMNS)
        table = _counted(table, seen)
        if table.num_rows:
            found.append(table.column("key").to_numpy())
            yield table
    missing = seen.filter(pc.invert(pc.is_in(keys, pa.array(np.concatenate(found)))))
    if missing.num_rows:
        yield from _purged(root, missing)


def _counted(table: pa.Table, seen: pa.Table) -> pa.Table:
    """The rows whose keys are in `seen`, with its `times`."""
    places = pc.index_in(table.column("key"), seen.column("key").combine_chunks())
    return table.append_column("times", pc.take(seen.column("times"), places)).filter(pc.is_valid(places))


def _purged(root: Root, seen: pa.Table) -> Iterator[pa.Table]:
    """Rows of the catalog's columns, with `times`, of images that were taken out of it."""
    done = pa.array([], pa.int64())
    for shard in storage.sealed_shards(root, "rejects"):
        rejects = root.read_table(f"rejects/{storage.shard_name(shard)}", filters=pc.field("reason") == str(Reject.TAKEN_DOWN))
        rejects = _counted(rejects.filter(pc.invert(pc.is_in(rejects.column("key"), done))), seen)
        rows = {row["key"]: row for row in rejects.to_pylist()}  # the same bytes may have been listed twice
        if rows:
            done = pa.concat_arrays([done, pa.array([*rows], pa.int64())])
            yield pa.Table.from_pylist(_remembered(root, storage.shard_name(shard), list(rows.values())), _REMEMBERED)


def _remembered(root: Root, name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is left of purged images of one shard: their rejects, their listed rows, the digests of their bytes."""
    listed = _lookup(root, f"listing/{name}", "row_id", [row["row_id"] for row in rows])
    images = _lookup(root, f"images/{name}", "key", [row["key"] for row in rows], ["key", "sha256"])
    told = []
    for row in rows:
        license = licenses.parse(row["license_text"] or "")
        known = {"license": license.spdx, "license_url": license.url, "sha256": images.get(row["key"], {}).get("sha256")}
        known |= {name: getattr(license, name) for name in ("commercial", "share_alike", "derivatives")}
        told.append(row | {name: value for name, value in listed.get(row["row_id"], {}).items() if value is not None} | known)
    return told


def _lookup(root: Root, path: str, column: str, values: list[int | None], columns: list[str] | None = None) -> dict[int, dict[str, Any]]:
    """Rows of a file by one of its columns; empty when there is no such file."""
    if not root.exists(path):
        return {}
    wanted = pc.field(column).isin([value for value in values if value is not None])
    return {row[column]: row for row in root.read_table(path, columns=columns, filters=wanted).to_pylist()}


def _attribution(table: pa.Table, gone: Takedowns) -> pa.Table:
    values = {name: table.column(name) for name in ATTRIBUTION.names if name in table.column_names}
    values["key"] = pa.array([hex_key(key) for key in table.column("key").to_pylist()])
    values["times_seen"] = table.column("times")
    values["taken_down"] = pc.is_in(table.column("key"), gone.keys)
    values["copies"] = takedowns.remaining_copies(gone, table.column("copies"))
    return pa.table([values[name] for name in ATTRIBUTION.names], schema=ATTRIBUTION)


def _count(table: pa.Table, counts: dict[str, LicenseCount], mix: Mix, gone: frozenset[int]) -> None:
    mix.images += table.num_rows
    mix.times_seen += pc.sum(table.column("times")).as_py()
    mix.taken_down += len(gone & set(table.column("key").to_pylist())) if gone else 0
    mix.without_creator += table.column("creator").null_count
    if False in table.column("derivatives").to_pylist():
        raise Failed("the model saw images whose licence allows no derivatives: it cannot be published; train anew from this catalog")
    for name in pc.unique(table.column("license")).to_pylist():
        rows = table.filter(pc.equal(table.column("license"), name))
        if name not in counts:
            url, *terms = (rows.column(column)[0].as_py() for column in ("license_url", "commercial", "share_alike"))
            counts[name] = LicenseCount(name, url or "", *terms)
        one = counts[name]
        one.images += rows.num_rows
        one.times_seen += pc.sum(rows.column("times")).as_py()
