"""The index: which fetched images may be used, written without reading a byte of them.

Fixed order everywhere, so that the same listing and the same images give the same catalog: of exact duplicates the one that stands first
by (shard, row_id) is kept; the split follows from a hash of the duplicate group, so that no twin of a training image is in validation.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccray import licenses, schema
from ccray.config import CatalogConfig
from ccray.interfaces import Failed
from ccray.schema import Reject
from ccray.storage import Root, seal, sealed_shards, shard_name

LISTING = "listing"
IMAGES = "images"
CATALOG = "catalog"
REJECTS = "rejects"
WITHOUT_BYTES = [name for name in schema.IMAGES.names if name != "image"]


@dataclass
class Index:
    """What was written."""

    listed: int = 0
    shards: dict[str, int] = field(default_factory=dict)  # catalog file -> rows
    reasons: Counter[str] = field(default_factory=Counter)  # of rejects
    licenses: Counter[str] = field(default_factory=Counter)  # SPDX id -> accepted images
    splits: Counter[str] = field(default_factory=Counter)

    @property
    def accepted(self) -> int:
        return sum(self.shards.values())

    @property
    def rejected(self) -> int:
        return self.reasons.total()


def write_index(root: Root, config: CatalogConfig) -> Index:
    """Write `catalog/` and `rejects/` from `listing/` and `images/`.

    Raises:
        Failed: when listing and images do not name the same rows.
    """
    index = Index()
    doubles = duplicates(root)
    for shard in sealed_shards(root, LISTING):
        rows = _joined(root, shard)
        index.listed += rows.num_rows
        verdicts = [_verdict(row_id, reason, detail, doubles) for row_id, reason, detail in _columns(rows, "row_id", "reason", "detail")]
        good = pa.array([reason is None for reason, _ in verdicts])
        _write_rejects(root, shard, rows.filter(pc.invert(good)), [verdict for verdict in verdicts if verdict[0] is not None], index)
        _write_catalog(root, shard, rows.filter(good), config, index)
    return index


def duplicates(root: Root) -> dict[int, str]:
    """`row_id` of every image whose bytes were seen before -> the `source_ref` of the image that is kept."""
    tables = [root.read_table(f"{IMAGES}/{shard_name(shard)}", columns=["key", "shard", "row_id"]) for shard in sealed_shards(root, IMAGES)]
    if not tables:
        return {}
    table = pa.concat_tables(tables).drop_null()
    keys, shards, row_ids = (table.column(name).to_numpy() for name in ("key", "shard", "row_id"))
    order = np.lexsort((row_ids, shards, keys))
    keys, shards, row_ids = keys[order], shards[order], row_ids[order]
    first = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.array([], dtype=bool)
    kept = np.flatnonzero(first)[np.cumsum(first) - 1]  # of every row, the place of its group's first
    again = np.flatnonzero(~first)
    names = _source_refs(root, {int(row_ids[kept[place]]): int(shards[kept[place]]) for place in again})
    return {int(row_ids[place]): names[int(row_ids[kept[place]])] for place in again}


def _source_refs(root: Root, wanted: dict[int, int]) -> dict[int, str]:
    """`row_id` -> `source_ref` of rows whose shards are known."""
    found: dict[int, str] = {}
    for shard in sorted(set(wanted.values())):
        rows = root.read_table(f"{LISTING}/{shard_name(shard)}", columns=["row_id", "source_ref"])
        found |= {row_id: ref for row_id, ref in _columns(rows, "row_id", "source_ref") if row_id in wanted}
    return found


def _joined(root: Root, shard: int) -> pa.Table:
    """Listing and images of one shard side by side, ordered by `row_id`."""
    name = shard_name(shard)
    listing = root.read_table(f"{LISTING}/{name}").sort_by("row_id")
    images = root.read_table(f"{IMAGES}/{name}", columns=WITHOUT_BYTES).sort_by("row_id")
    if not listing.column("row_id").equals(images.column("row_id")):
        raise Failed(f"{root.path(IMAGES)}/{name} does not hold the rows of {LISTING}/{name}: remove both folders and run the same command again")
    for column in WITHOUT_BYTES:
        if column not in listing.column_names:
            listing = listing.append_column(schema.IMAGES.field(column), images.column(column))
    return listing


def _columns(table: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table.column(name).to_pylist() for name in names), strict=True)


def _verdict(row_id: int, reason: str | None, detail: str | None, doubles: dict[int, str]) -> tuple[str | None, str | None]:
    if reason is None and row_id in doubles:
        return Reject.DUPLICATE_EXACT, f"the same bytes as {doubles[row_id]}"
    return reason, detail


def _write_rejects(root: Root, shard: int, rows: pa.Table, verdicts: list[tuple[str | None, str | None]], index: Index) -> None:
    if not verdicts:
        return
    reasons, details = zip(*verdicts, strict=True)
    table = rows.select([name for name in schema.REJECTS.names if name not in ("reason", "detail")])
    table = table.append_column("reason", pa.array(reasons, pa.string())).append_column("detail", pa.array(details, pa.string()))
    seal(root, REJECTS, shard, table, schema.REJECTS, "row_id")
    index.reasons.update(reasons)


def _write_catalog(root: Root, shard: int, rows: pa.Table, config: CatalogConfig, index: Index) -> None:
    if not rows.num_rows:
        return
    found = [_license(text) for text in rows.column("license_text").to_pylist()]
    keys = rows.column("key").to_pylist()
    splits = [split_of(key, config) for key in keys]
    computed = {
        "license": [license.id for license in found],
        "license_url": [license.url for license in found],
        "commercial": [license.commercial for license in found],
        "derivatives": [license.derivatives for license in found],
        "share_alike": [license.share_alike for license in found],
        "attribution": [license.attribution for license in found],
        "duplicate_group": keys,
        "copies": [None] * len(keys),
        "split": splits,
    }
    arrays = [pa.array(computed[each.name], each.type) if each.name in computed else rows.column(each.name) for each in schema.CATALOG]
    table = pa.Table.from_arrays(arrays, schema=schema.CATALOG)
    index.shards[shard_name(shard)] = seal(root, CATALOG, shard, table, schema.CATALOG, "key")
    index.licenses.update(license.id or "" for license in found)
    index.splits.update(splits)


@cache
def _license(text: str) -> licenses.License:
    return licenses.parse(text)


def split_of(group: int, config: CatalogConfig) -> str:
    """`validation` for about `validation_fraction` of all duplicate groups, `train` for the others."""
    drawn = schema.id_of("split", str(config.split_seed), schema.hex_key(group)) % 2**64 / 2**64
    return "validation" if drawn < config.validation_fraction else "train"
