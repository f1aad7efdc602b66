"""Taking the bytes, captions and latents of images out of every file of a root.

images/      the row stays, so that nothing fetches it again: bytes null, reason `taken_down`
listing/     the row stays: captions and alternative text that the source shipped, null
catalog/     the row moves to `rejects/` with reason `taken_down`, and leaves the `copies` of an image that stays; manifest counted anew
captions/*/, latents/*/  the rows go with it, for each map's rows are its catalog's; manifests counted anew
captions/report.html, captions/statistics.json  go, for they show pictures and quote captions: they are written anew
.staging/    likewise
evaluation/  goes as a whole where such captions are its prompts; published/dataset, catalog/report.html go: they are written anew

Each file is replaced in one atomic step, and every step asks what is there: killed in the middle, the same command goes on where it stopped.
Weights of checkpoints cannot be purged. On a store that keeps old versions of objects, those have to be removed there.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ccray import schema, storage, takedowns
from ccray.governance.holding import copies_in, dataset_tables, evaluated, rows_in
from ccray.governance.matching import is_whole
from ccray.schema import Reject
from ccray.storage import MANIFEST, Root, coding
from ccray.takedowns import Takedowns

DRAFT = re.compile(r"(^|/)\.[^/]+\.[0-9a-f]{32}$")  # what a kill leaves of an atomic write
EMPTIED = {"images": ("image",), "listing": ("captions", "alt_text", "private")}  # columns whose content goes, while the row stays
Change = Callable[[pa.Table], pa.Table]


@contextmanager
def alone(root: Root) -> Iterator[None]:
    """Hold the leases of everything that a stage may write.

    Raises:
        Refused: while a stage runs.
    """
    with ExitStack() as held:
        for directory in directories(root):
            held.enter_context(storage.lease(root, directory))
        yield


def directories(root: Root) -> list[str]:
    """Directories under a root that belong to a stage."""
    captions = [f"{storage.CAPTIONS}/{table}" for table in storage.caption_tables(root)]
    names = [f"{parent}/{name}" for parent in ("latents", "checkpoints") for name in root.names(parent)]
    return [directory for directory in ("catalog", *captions, *names, "evaluation", "published") if root.exists(directory)]


def purge(root: Root, keys: frozenset[int], detail: str) -> Iterator[str]:
    """Take out all content of the images of `keys`; one line for each place that was changed. Call it inside `alone`.

    `detail` is said of them in `rejects/`.
    """
    wanted = pa.array(sorted(keys), pa.int64())
    row_ids = _row_ids(root, wanted)
    yield from _swept(root)
    yield from _catalog(root, wanted, detail)
    yield from _emptied(root, "images", "key", wanted, detail)
    yield from _emptied(root, "listing", "row_id", row_ids, detail)
    for directory in [one for one in directories(root) if one.startswith(("captions/", "latents/"))]:
        yield from _dropped(root, directory, wanted)
    yield from _staging(root, wanted, detail)
    yield from _written_anew(root, wanted)


def _row_ids(root: Root, wanted: pa.Array) -> pa.Array:
    found = [np.zeros(0, np.int64)]
    for directory in ("images", "catalog", "rejects"):
        for shard in storage.sealed_shards(root, directory):
            table = root.read_table(f"{directory}/{storage.shard_name(shard)}", columns=["key", "row_id"])
            found.append(table.filter(pc.is_in(table["key"], wanted))["row_id"].drop_null().to_numpy())
    return pa.array(np.unique(np.concatenate(found)))


def _swept(root: Root) -> Iterator[str]:
    """Remove what a kill left half written: nobody reads it, and it may hold anything."""
    for path in root.files(""):
        torn = "/.staging/" in path and path.endswith(".parquet") and not is_whole(root, path)
        if DRAFT.search(path) or torn or path.startswith("published/.staging/"):
            root.delete(path)
            yield f"{path}: removed, left half written by a kill"


def _catalog(root: Root, wanted: pa.Array, detail: str) -> Iterator[str]:
    moved = unnamed = 0
    taken = takedowns.load(root)
    for shard in storage.sealed_shards(root, "catalog"):
        path = f"catalog/{storage.shard_name(shard)}"
        gone = root.read_table(path, filters=pc.field("key").isin(wanted))
        named = copies_in(root, path, taken.row_ids)
        if gone.num_rows:
            _reject(root, shard, gone, detail)  # first: a kill between the two leaves a row in both, which the next run mends
        if gone.num_rows or named:
            _rewrite(root, path, lambda part: _without(part, wanted, taken))
        moved, unnamed = moved + gone.num_rows, unnamed + named
    changed = recount_catalog(root)
    if moved or changed:
        yield f"catalog: {moved:,} rows moved to rejects"
    if unnamed:
        yield f"catalog: {unnamed:,} copies of other images not named any more"


def _without(part: pa.Table, wanted: pa.Array, taken: Takedowns) -> pa.Table:
    """Rows of the catalog that stay, and of their copies those that do."""
    part = part.filter(pc.invert(pc.is_in(part["key"], wanted)))
    place = part.schema.get_field_index("copies")
    return part.set_column(place, part.schema.field(place), takedowns.remaining_copies(taken, part["copies"]))


def _reject(root: Root, shard: int, rows: pa.Table, detail: str) -> None:
    path = f"rejects/{storage.shard_name(shard)}"
    before = root.read_table(path) if root.exists(path) else schema.REJECTS.empty_table()
    texts = _license_texts(root, shard, rows)
    count = rows.num_rows
    columns = {name: rows[name] for name in schema.REJECTS.names if name in rows.column_names}
    columns |= {"license_text": texts, "reason": pa.array([str(Reject.TAKEN_DOWN)] * count), "detail": pa.array([detail] * count)}
    new = pa.table([columns[name] for name in schema.REJECTS.names], schema=schema.REJECTS)
    again = pc.and_(pc.equal(before["reason"], str(Reject.TAKEN_DOWN)), pc.is_in(before["key"], rows["key"].combine_chunks()))
    kept = before.filter(pc.invert(pc.fill_null(again, False)))
    root.write_table(path, pa.concat_tables([kept.select(schema.REJECTS.names).cast(schema.REJECTS), new]).sort_by("row_id").combine_chunks())


def _license_texts(root: Root, shard: int, rows: pa.Table) -> pa.ChunkedArray:
    """What the source stated, from the listing; the SPDX id where there is none."""
    path = f"listing/{storage.shard_name(shard)}"
    if not root.exists(path):
        return rows["license"]
    listing = root.read_table(path, columns=["row_id", "license_text"])
    found = listing["license_text"].take(pc.index_in(rows["row_id"], listing["row_id"].combine_chunks()))
    return pc.coalesce(found, rows["license"])


def _emptied(root: Root, directory: str, column: str, wanted: pa.Array, detail: str) -> Iterator[str]:
    """Take the content out of rows that stay."""
    files = [f"{directory}/{storage.shard_name(shard)}" for shard in storage.sealed_shards(root, directory)]
    rows = sum(_empty(root, path, directory, column, wanted, detail) for path in files)
    if rows:
        yield f"{directory}: content of {rows:,} rows removed"


def _empty(root: Root, path: str, directory: str, column: str, wanted: pa.Array, detail: str) -> int:
    """Rows of a file whose content was removed."""
    names = EMPTIED[directory]
    marks = ["reason"] if directory == "images" else list(names)  # what tells, without reading bytes, that there is something left
    rows = root.read_table(path, columns=[column, *marks], filters=pc.field(column).isin(wanted))
    if directory == "images":
        left = pc.sum(pc.fill_null(pc.not_equal(rows["reason"], str(Reject.TAKEN_DOWN)), True)).as_py() or 0
    else:
        left = rows.num_rows if any(rows[name].null_count < rows.num_rows for name in names) else 0
    if left:
        _rewrite(root, path, lambda part: _without_content(part, names, pc.is_in(part[column], wanted), detail))
    return int(left)


def _without_content(part: pa.Table, names: tuple[str, ...], hits: pa.ChunkedArray, detail: str) -> pa.Table:
    """The table with nulls for `names` in the rows of `hits`, which then say why, where they have a reason."""
    places = pc.if_else(hits, None, pa.array(np.arange(part.num_rows)))
    columns = {name: part[name].take(places) if name in names else part[name] for name in part.column_names}
    if "reason" in columns:
        columns["reason"] = pc.if_else(hits, str(Reject.TAKEN_DOWN), columns["reason"])
        columns["detail"] = pc.if_else(hits, detail, columns["detail"])
    return pa.table([*columns.values()], schema=part.schema)


def _dropped(root: Root, directory: str, wanted: pa.Array) -> Iterator[str]:
    """Drop rows from sealed files, and count the manifest anew."""
    rows = 0
    for shard in storage.sealed_shards(root, directory):
        rows += _drop(root, f"{directory}/{storage.shard_name(shard)}", wanted)
    changed = _recount_statuses(root, directory)
    if rows or changed:
        yield f"{directory}: {rows:,} rows removed"


def _drop(root: Root, path: str, wanted: pa.Array) -> int:
    keys = root.read_table(path, columns=["key"])["key"]
    rows = pc.sum(pc.is_in(keys, wanted)).as_py() or 0
    if rows:
        _rewrite(root, path, lambda part: part.filter(pc.invert(pc.is_in(part["key"], wanted))))
    return int(rows)


def _staging(root: Root, wanted: pa.Array, detail: str) -> Iterator[str]:
    """Rows that wait to be sealed: those of images stay without content, those of captions and latents go."""
    rows = 0
    for path in [path for directory in directories(root) for path in root.files(f"{directory}/.staging") if path.endswith(".parquet")]:
        with pq.ParquetFile(root.path(path), filesystem=root.filesystem) as file:
            names = set(file.schema_arrow.names)
        if {"key", "image"} <= names:
            rows += _empty(root, path, "images", "key", wanted, detail)
        elif "key" in names and names & {"caption", "latent_mean"}:
            rows += _drop(root, path, wanted)
    if rows:
        yield f"staging: content of {rows:,} rows removed"


def _written_anew(root: Root, wanted: pa.Array) -> Iterator[str]:
    """Remove what is made of many rows and cannot be mended row by row; its stage makes it again."""
    if evaluated(root, wanted):
        for name in [name for name in root.names("evaluation") if name not in ("prompts", storage.LEASE)]:
            root.delete(f"evaluation/{name}")
        root.delete("evaluation/prompts")  # last, for they tell a run after a kill that the rest must go
        yield "evaluation: removed, captions of these images were its prompts; `ccray evaluate` draws anew"
    for path in [f"catalog/{name}" for name in root.names("catalog") if name.startswith("report")]:
        root.delete(path)
        yield f"{path}: removed, it may show them"
    for path in [f"captions/{name}" for name in root.names("captions") if name.endswith(storage.PAGES)]:
        root.delete(path)
        yield f"{path}: removed, it may show them"
    yield from _dataset(root, wanted)


def _dataset(root: Root, wanted: pa.Array) -> Iterator[str]:
    """Remove the published dataset if it has such rows, or cannot tell, or is not whole."""
    manifest = storage.read_manifest(root, "published")
    row_ids = takedowns.load(root).row_ids
    tables = [rows_in(root, path, wanted) + copies_in(root, path, row_ids) for path in dataset_tables(root)]
    whole = manifest is not None and manifest.status == "finished"
    if not root.exists("published/dataset") or (whole and tables and not any(tables)):
        return
    if manifest is not None and whole:
        manifest.status = "running"  # first, so that publish never takes what is left for whole
        root.write_json(f"published/{MANIFEST}", manifest.__dict__)
    root.delete("published/dataset")
    yield "published/dataset: removed; `ccray publish` writes it anew"


def _rewrite(root: Root, path: str, change: Change) -> None:
    """Replace a Parquet file by what `change` makes of each of its row groups; columns, metadata and the size of row groups stay."""
    sink = pa.BufferOutputStream()
    with ExitStack() as opened:
        file = opened.enter_context(pq.ParquetFile(root.path(path), filesystem=root.filesystem))
        writer = opened.enter_context(pq.ParquetWriter(sink, file.schema_arrow, **coding(file.schema_arrow)))
        for number in range(file.num_row_groups):
            part = change(file.read_row_group(number))
            if part.num_rows:
                writer.write_table(part, row_group_size=part.num_rows)
    root.write(path, sink.getvalue())


def recount_catalog(root: Root) -> bool:
    """Make a catalog's manifest say what its files hold; whether it said something else."""
    manifest = storage.read_manifest(root, "catalog")
    if manifest is None or not manifest.shards:
        return False
    before = (manifest.rows, manifest.counts)
    found, splits, reasons = Counter[str](), Counter[str](), Counter[str]()
    for name in manifest.shards:
        table = root.read_table(f"catalog/{name}", columns=["license", "split"])
        manifest.shards[name] = table.num_rows
        found.update(license or "" for license in table["license"].to_pylist())
        splits.update(table["split"].drop_null().to_pylist())
    for shard in storage.sealed_shards(root, "rejects"):
        reasons.update(root.read_table(f"rejects/{storage.shard_name(shard)}", columns=["reason"])["reason"].to_pylist())
    manifest.rows, manifest.counts = sum(manifest.shards.values()), dict(sorted(reasons.items()))
    facts = {"accepted": manifest.rows, "rejected": reasons.total(), "licenses": dict(sorted(found.items())), "splits": dict(sorted(splits.items()))}
    manifest.facts |= {name: value for name, value in facts.items() if name in manifest.facts}
    changed = before != (manifest.rows, manifest.counts)
    if changed:
        root.write_json(f"catalog/{MANIFEST}", manifest.__dict__)
    return changed


def _recount_statuses(root: Root, directory: str) -> bool:
    """The same for captions and latents: rows by the first word of their status."""
    manifest = storage.read_manifest(root, directory)
    if manifest is None or not manifest.shards:
        return False
    before, counts = manifest.rows, Counter[str]()
    for name in manifest.shards:
        column = root.read_table(f"{directory}/{name}", columns=["status"])["status"].to_pylist()
        manifest.shards[name] = len(column)
        counts.update((status or "").partition(":")[0] for status in column)
    manifest.rows, manifest.counts = sum(manifest.shards.values()), dict(sorted(counts.items()))
    if before != manifest.rows:
        root.write_json(f"{directory}/{MANIFEST}", manifest.__dict__)
    return before != manifest.rows
