"""The index: which fetched images may be used, written without reading a byte of them.

Three looks at the shards of `listing/` and `images/`. The first judges each row by itself (`verdicts`) and keeps a few numbers of every row that has
bytes; those are compared in memory (blocklisted by likeness, equal keys, duplicates). The second fetches the names of duplicates and of
what they are duplicates of. The third writes `catalog/` and `rejects/`, shard by shard.

Everything follows one fixed order: the copy that is kept is the one that permits most, then the largest, then that of the smallest `row_id`. So the
same listing and images give the same bytes, in whatever order shards come.

Memory: 50 bytes for each row with bytes, about 250 more while hashes are compared, 300 for each duplicate; 100 M images with 5 % duplicates are
planned with 32 GB on the one machine that indexes.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ccray import schema, takedowns
from ccray.config import CatalogConfig
from ccray.data.index import dedup
from ccray.data.index.blocklist import Blocklist
from ccray.data.index.copies import Named, copies_of, named
from ccray.data.index.dedup import Duplicates
from ccray.data.index.verdicts import ACCEPTED, CODE_OF, FILTERS, NO_DERIVATIVES, REASONS, Licenses, Verdicts, judge, licenses_of, without_creator
from ccray.interfaces import Failed
from ccray.schema import Reject
from ccray.storage import Root, seal, sealed_shards, shard_name
from ccray.takedowns import Takedowns

LISTING = "listing"
IMAGES = "images"
CATALOG = "catalog"
REJECTS = "rejects"
WITHOUT_BYTES = [name for name in schema.IMAGES.names if name != "image"]
JUDGED_LISTING = ["row_id", "license_text", "creator"]
# By which a takedown may name a row.
NAMED_LISTING = [name for name in takedowns.COLUMNS if name in schema.LISTING.names and name not in JUDGED_LISTING]
JUDGED_IMAGES = ["row_id", "key", "sha256", "width", "height", "phash", "scores", "reason", "detail"]


@dataclass
class Index:
    """What was written."""

    listed: int = 0
    shards: dict[str, int] = field(default_factory=dict)  # catalog file -> rows
    rejected: int = 0  # rows written
    reasons: Counter[str] = field(default_factory=Counter)  # of rejects
    licenses: Counter[str] = field(default_factory=Counter)  # SPDX id -> accepted images
    splits: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)  # source -> accepted images
    missing_creators: int = 0  # accepted images whose source names nobody
    duplicate_groups: int = 0  # groups of more than one image, rejected ones counted

    @property
    def accepted(self) -> int:
        return sum(self.shards.values())

    @property
    def facts(self) -> dict[str, Any]:
        """What the catalog's manifest tells beside its counts by reason."""
        return {
            "listed": self.listed,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "licenses": dict(sorted(self.licenses.items())),
            "splits": dict(sorted(self.splits.items())),
            "sources": dict(sorted(self.sources.items())),
            "missing_creators": self.missing_creators,
            "duplicates": {
                "exact": self.reasons[Reject.DUPLICATE_EXACT],
                "near": self.reasons[Reject.DUPLICATE_NEAR],
                "groups": self.duplicate_groups,
            },
        }


@dataclass(frozen=True)
class Rows:
    """Numbers of all n rows that have bytes, in the order of (shard, row_id)."""

    shard: NDArray[np.int32]
    line: NDArray[np.int32]  # place among its shard's rows, ordered by row_id
    row_id: NDArray[np.int64]
    key: NDArray[np.int64]
    digest: NDArray[np.uint64]  # of the sha256: tells apart rows of one key
    hash: NDArray[np.uint64]  # perceptual
    hashed: NDArray[np.bool_]
    pixels: NDArray[np.int64]
    permission: NDArray[np.int8]
    code: NDArray[np.int8]  # verdict: a place in `REASONS`, or ACCEPTED

    def of(self, shard: int) -> slice:
        return slice(*np.searchsorted(self.shard, [shard, shard + 1]))


@dataclass(frozen=True)
class Compared:
    """What the comparison of all rows found; arrays have one entry for each of `rows`."""

    rows: Rows
    copies: Duplicates
    blocked_bits: NDArray[np.int64]  # to the nearest perceptual hash of the blocklist; -1 when none is near
    evaluation: NDArray[np.int64]  # groups with an image that allows no derivatives: none of their images is trained on, sorted
    named: Named


def write_index(root: Root, config: CatalogConfig, blocked: Blocklist) -> Index:
    """Write `catalog/` and `rejects/` from `listing/` and `images/`.

    Raises:
        Failed: when listing and images do not name the same rows, or a row would be neither accepted nor rejected.
    """
    gone = takedowns.load(root)
    compared = compare(root, config, blocked, gone)
    index = Index(duplicate_groups=_groups(compared))
    for shard in sealed_shards(root, LISTING):
        write_shard(root, shard, config, blocked, gone, compared, index)
    if index.accepted + index.rejected != index.listed:
        raise Failed(f"{index.accepted} accepted and {index.rejected} rejected are not the {index.listed} listed: two rows share a row_id or a key")
    return index


def compare(root: Root, config: CatalogConfig, blocked: Blocklist, gone: Takedowns) -> Compared:
    """Judge every row by itself, then all that have bytes against each other."""
    parts = [_numbers(root, shard, config, blocked, gone) for shard in sealed_shards(root, LISTING)]
    rows = Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in Rows.__dataclass_fields__))
    near = _near_blocked(rows, config, blocked)
    collides = _collisions(rows.key, rows.digest)
    _give(rows, collides, Reject.KEY_COLLISION)
    copies = _duplicates(rows, config)
    own = np.arange(len(rows.key))
    _give(rows, copies.twin != own, Reject.DUPLICATE_EXACT)
    _give(rows, copies.kept != own, Reject.DUPLICATE_NEAR)
    barred = np.unique(copies.group[(rows.code == ACCEPTED) & (rows.permission >= NO_DERIVATIVES)])
    losers = np.flatnonzero(copies.kept != own)
    losers = losers[np.lexsort((rows.row_id[losers], -rows.pixels[losers], rows.permission[losers], copies.kept[losers]))]
    return Compared(rows, copies, near, barred, named(root, rows.shard, rows.line, losers, copies))


def _numbers(root: Root, shard: int, config: CatalogConfig, blocked: Blocklist, gone: Takedowns) -> Rows:
    table = joined(root, shard, JUDGED_LISTING + (NAMED_LISTING if gone else []), JUDGED_IMAGES)
    verdicts = judge(table, config, gone, blocked)
    line = np.flatnonzero(pc.is_valid(table.column("key")).to_numpy())
    permission = licenses_of(table).permission()[line]
    table = table.take(line)
    number = {name: pc.fill_null(table.column(name), 0).to_numpy() for name in ("row_id", "key", "width", "height", "phash")}
    return Rows(
        shard=np.full(len(line), shard, np.int32),
        line=line.astype(np.int32),
        row_id=number["row_id"],
        key=number["key"],
        digest=_digests(root, shard, table.column("sha256")),
        hash=number["phash"].view(np.uint64),
        hashed=pc.is_valid(table.column("phash")).to_numpy(),
        pixels=number["width"].astype(np.int64) * number["height"],
        permission=permission,
        code=verdicts.codes[line],
    )


def joined(root: Root, shard: int, of_listing: list[str] | None = None, of_images: list[str] | None = None) -> pa.Table:
    """Listing and images of one shard side by side, ordered by `row_id`; all columns but the bytes unless some are named.

    Raises:
        Failed: when they do not name the same rows.
    """
    name = shard_name(shard)
    listing = root.read_table(f"{LISTING}/{name}", columns=of_listing).sort_by("row_id")
    images = root.read_table(f"{IMAGES}/{name}", columns=of_images or WITHOUT_BYTES).sort_by("row_id")
    if not listing.column("row_id").equals(images.column("row_id")):
        raise Failed(f"{root.path(IMAGES)}/{name} does not hold the rows of {LISTING}/{name}: remove both folders and run the same command again")
    for column in images.column_names:
        if column not in listing.column_names:
            listing = listing.append_column(schema.IMAGES.field(column), images.column(column))
    return listing


def _digests(root: Root, shard: int, sha256: pa.ChunkedArray) -> NDArray[np.uint64]:
    """One number for each sha256, of all its digits: those of equal keys differ as good as surely when the bytes differ."""
    texts = sha256.to_pylist()
    if not all(text is not None and len(text) == 64 for text in texts):
        raise Failed(f"{root.path(IMAGES)}/{shard_name(shard)} holds a key without its sha256: remove images/ and run the same command again")
    words = np.frombuffer("".join(texts).encode(), np.uint64).reshape(-1, 8)
    odd = np.array([2 * (0x9E3779B97F4A7C15 * number % 2**63) + 1 for number in range(1, 9)], np.uint64)
    return (words * odd).sum(axis=1, dtype=np.uint64)


def _give(rows: Rows, where: NDArray[np.bool_], reason: Reject) -> None:
    rows.code[where & (rows.code == ACCEPTED)] = CODE_OF[reason]


def _near_blocked(rows: Rows, config: CatalogConfig, blocked: Blocklist) -> NDArray[np.int64]:
    """Reject what looks like a perceptual hash of the blocklist; it comes before the filters in the order of reasons."""
    found = np.full(len(rows.key), -1)
    judged = np.isin(rows.code, [ACCEPTED, *(CODE_OF[reason] for reason in FILTERS.values())])
    places = np.flatnonzero(judged & rows.hashed)
    if len(blocked.perceptual) and len(places):
        found[places] = blocked.nearest_bits(rows.hash[places], config.near_duplicate_bits or 0)
        rows.code[found >= 0] = CODE_OF[Reject.BLOCKLISTED]
    return found


def _collisions(keys: NDArray[np.int64], digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Rows whose key other bytes have too; rejected rows collide as well, for their bytes lie in images/ under the same key."""
    order = np.argsort(keys, kind="stable")
    keys, digests = keys[order], digests[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    differs = np.concatenate([[False], (keys[1:] == keys[:-1]) & (digests[1:] != digests[:-1])]) if len(keys) else np.empty(0, bool)
    found = np.zeros(len(keys), bool)
    if len(keys):
        found[order] = np.repeat(np.logical_or.reduceat(differs, starts), np.diff(starts, append=len(keys)))
    return found


def _duplicates(rows: Rows, config: CatalogConfig) -> Duplicates:
    """Duplicates among the rows that nothing else speaks against; the others are left as they are."""
    places = np.flatnonzero(rows.code == ACCEPTED)
    order = np.lexsort((rows.row_id[places], -rows.pixels[places], rows.permission[places]))
    found = dedup.find(rows.key[places], rows.hash[places], rows.hashed[places], order, config.near_duplicate_bits)
    kept, twin, group = np.arange(len(rows.key)), np.arange(len(rows.key)), rows.key.copy()
    kept[places], twin[places], group[places] = places[found.kept], places[found.twin], found.group
    return Duplicates(kept, twin, group)


def _groups(compared: Compared) -> int:
    rows = compared.rows
    competed = np.isin(rows.code, [ACCEPTED, CODE_OF[Reject.DUPLICATE_EXACT], CODE_OF[Reject.DUPLICATE_NEAR]])
    _, sizes = np.unique(compared.copies.group[competed], return_counts=True)
    return int((sizes > 1).sum())


def write_shard(root: Root, shard: int, config: CatalogConfig, blocked: Blocklist, gone: Takedowns, compared: Compared, index: Index) -> None:
    """Write one shard of `catalog/` and of `rejects/`, and count its rows into `index`."""
    table = joined(root, shard)
    index.listed += table.num_rows
    verdicts = judge(table, config, gone, blocked)
    here = compared.rows.of(shard)
    _lay_over(verdicts, compared, here)
    good = verdicts.codes == ACCEPTED
    own = np.full(table.num_rows, -1)
    own[compared.rows.line[here]] = np.arange(here.start, here.stop)
    _write_rejects(root, shard, table, verdicts, index)
    _write_catalog(root, shard, table.filter(pa.array(good)), own[good], config, compared, index)


def _lay_over(verdicts: Verdicts, compared: Compared, here: slice) -> None:
    """Give a shard's rows the reasons that the comparison found, with details."""
    rows, copies, names = compared.rows, compared.copies, compared.named
    for place in here.start + np.flatnonzero(verdicts.codes[rows.line[here]] != rows.code[here]):
        reason, line = REASONS[rows.code[place]], rows.line[place]
        verdicts.codes[line] = rows.code[place]
        verdicts.details[line] = DETAILS[reason](int(place), rows, copies, names, int(compared.blocked_bits[place]))


Detail = Callable[[int, Rows, Duplicates, Named, int], str]


def _of_twin(place: int, rows: Rows, copies: Duplicates, names: Named, bits: int) -> str:
    twin = int(copies.twin[place])
    said = f"the same bytes as {names.source_ref(twin)}"
    return said if copies.kept[place] == twin else f"{said}, which is {_of_near(twin, rows, copies, names, bits)}"


def _of_near(place: int, rows: Rows, copies: Duplicates, names: Named, bits: int) -> str:
    kept = int(copies.kept[place])
    return f"alike with {names.source_ref(kept)} ({np.bitwise_count(rows.hash[place] ^ rows.hash[kept])} of 64 bits differ)"


DETAILS: dict[Reject, Detail] = {
    Reject.BLOCKLISTED: lambda place, rows, copies, names, bits: f"{bits} of 64 bits differ from a perceptual hash of the blocklist",
    Reject.KEY_COLLISION: lambda place, rows, copies, names, bits: f"key {schema.hex_key(int(rows.key[place]))} is also that of other bytes",
    Reject.DUPLICATE_EXACT: _of_twin,
    Reject.DUPLICATE_NEAR: _of_near,
}


def _write_rejects(root: Root, shard: int, table: pa.Table, verdicts: Verdicts, index: Index) -> None:
    places = np.flatnonzero(verdicts.codes != ACCEPTED)
    if not len(places):
        root.delete(f"{REJECTS}/{shard_name(shard)}")  # of a run before a takedown was revoked
        return
    reasons = [REASONS[code].value for code in verdicts.codes[places]]
    table = table.select([name for name in schema.REJECTS.names if name not in ("reason", "detail")]).take(places)
    table = table.append_column("reason", pa.array(reasons, pa.string()))
    table = table.append_column("detail", pa.array([verdicts.details[place] for place in places], pa.string()))
    index.rejected += seal(root, REJECTS, shard, table, schema.REJECTS, "row_id")
    index.reasons.update(reasons)


def _write_catalog(root: Root, shard: int, table: pa.Table, own: NDArray[np.int64], config: CatalogConfig, compared: Compared, index: Index) -> None:
    """`own` gives the place of each of the table's rows among all rows."""
    if not table.num_rows:
        root.delete(f"{CATALOG}/{shard_name(shard)}")  # of a run before a takedown
        return
    found = licenses_of(table)
    groups = compared.copies.group[own]
    computed = _permissions(found) | {
        "duplicate_group": pa.array(groups),
        "copies": copies_of(own, compared.named, compared.rows.hash),
        "split": pa.array(splits_of(groups, compared.evaluation, config), pa.string()),
    }
    arrays = [computed[each.name] if each.name in computed else table.column(each.name) for each in schema.CATALOG]
    catalog = pa.Table.from_arrays(arrays, schema=schema.CATALOG)
    index.shards[shard_name(shard)] = seal(root, CATALOG, shard, catalog, schema.CATALOG, "key")
    for counter, name in ((index.licenses, "license"), (index.splits, "split"), (index.sources, "source")):
        counter.update(catalog.column(name).to_pylist())
    index.missing_creators += int(without_creator(catalog).sum())


def _permissions(found: Licenses) -> dict[str, pa.Array]:
    return {
        "license": found.each(lambda license: license.id, pa.string()),
        "license_url": found.each(lambda license: license.url, pa.string()),
        "commercial": found.each(lambda license: license.commercial, pa.bool_()),
        "derivatives": found.each(lambda license: license.derivatives, pa.bool_()),
        "share_alike": found.each(lambda license: license.share_alike, pa.bool_()),
        "attribution": found.each(lambda license: license.attribution, pa.bool_()),
    }


def splits_of(groups: NDArray[np.int64], evaluation: NDArray[np.int64], config: CatalogConfig) -> list[str]:
    """The split of each row by its duplicate group; those in `evaluation` hold an image that allows no derivatives."""
    barred = np.isin(groups, evaluation)
    return ["evaluation" if out else split_of(group, config) for group, out in zip(groups.tolist(), barred, strict=True)]


def split_of(group: int, config: CatalogConfig) -> str:
    """`validation` for about `validation_fraction` of all duplicate groups, `train` for the others."""
    drawn = schema.id_of("split", str(config.split_seed), schema.hex_key(group)) % 2**64 / 2**64
    return "validation" if drawn < config.validation_fraction else "train"
