"""Captions that a source ships: from `listing/` to tables like those that a captioner makes, one for each caption column, to train on.

`captions/source-<column>/` holds the images of the catalog for which that column has a text. Training draws from it when `train.captions` names it,
and a translator may read it.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from ccray import schema
from ccray.config import IMPORTED
from ccray.storage import CAPTIONS, MANIFEST, Manifest, Root, Stage, imported_stage, now, seal, sealed_shards, shard_name

NAME_AT_MOST = 80  # characters: a folder's name


@dataclass
class _Written:
    """One column's table."""

    files: dict[str, int] = field(default_factory=dict)  # file -> rows
    languages: Counter[str] = field(default_factory=Counter)


def write_shipped(root: Root, stage: Stage) -> dict[str, int]:
    """Write the captions that the catalog's source ships; caption folder -> rows. `stage` is the catalog's.

    Of several texts that a row has in one column the first counts; empty ones do not.
    """
    columns = _columns(root)
    for name in root.names(CAPTIONS):
        if name.startswith(IMPORTED):
            root.delete(f"{CAPTIONS}/{name}")
    written = {column: _Written() for column in columns}
    started = now()
    for shard in sealed_shards(root, "catalog") if columns else []:
        for column, table in _of_shard(root, shard):
            rows = seal(root, f"{CAPTIONS}/{columns[column]}", shard, table, schema.CAPTIONS, "key")
            written[column].files[shard_name(shard)] = rows
            written[column].languages.update(table.column("language").to_pylist())
    found = {column: one for column, one in written.items() if one.files}
    for column, one in found.items():
        _describe(root, stage, column, columns[column], one, started)
    return {columns[column]: sum(one.files.values()) for column, one in found.items()}


def folder_of(column: str) -> str:
    """`source-` and the column's name as a slug: lower case, anything but a-z, 0-9 and - becomes -."""
    return IMPORTED + re.sub(r"[^a-z0-9-]", "-", column.lower())[:NAME_AT_MOST]


def _columns(root: Root) -> dict[str, str]:
    """The source's caption columns -> their folders; of columns with one slug the later ones are numbered."""
    found: set[str] = set()
    for shard in sealed_shards(root, "listing"):
        captions = root.read_table(f"listing/{shard_name(shard)}", columns=["captions"]).column("captions")
        found |= {name for name in pc.unique(pc.struct_field(pc.list_flatten(captions), "column")).to_pylist() if name}
    folders: dict[str, str] = {}
    for column in sorted(found):
        folder, number = folder_of(column), 2
        while folder in folders.values():
            folder, number = f"{folder_of(column)}-{number}", number + 1
        folders[column] = folder
    return folders


def _of_shard(root: Root, shard: int) -> Iterator[tuple[str, pa.Table]]:
    """Tables of `schema.CAPTIONS` by column, of the catalogued rows of one shard."""
    keys = root.read_table(f"catalog/{shard_name(shard)}", columns=["row_id", "key"])
    listing = root.read_table(f"listing/{shard_name(shard)}", columns=["row_id", "captions"])
    place = pc.index_in(listing.column("row_id"), keys.column("row_id").combine_chunks())
    captions = listing.column("captions").combine_chunks()
    of_row, flat = pc.list_parent_indices(captions), pc.list_flatten(captions)
    column, text, language = (pc.struct_field(flat, name) for name in ("column", "text", "language"))
    said = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(text, ""))), 0)
    chosen = pc.take(place.combine_chunks() if isinstance(place, pa.ChunkedArray) else place, of_row)
    for name in sorted(pc.unique(column).drop_null().to_pylist()):
        rows = pc.and_(pc.and_(said, pc.is_valid(chosen)), pc.fill_null(pc.equal(column, name), False))
        if name and pc.any(rows).as_py():
            yield name, _table(keys, shard, chosen.filter(rows), text.filter(rows), language.filter(rows))


def _table(keys: pa.Table, shard: int, places: pa.Array, texts: pa.Array, languages: pa.Array) -> pa.Table:
    count = len(places)
    arrays = {
        "key": keys.column("key").combine_chunks().take(places),
        "shard": pa.array([shard] * count, pa.int32()),
        "caption": texts,
        "language": languages,
        "prompt": pa.nulls(count, pa.string()),
        "mean_logprob": pa.nulls(count, pa.float32()),
        "status": pa.array(["ok"] * count, pa.string()),
    }
    table = pa.table([arrays[name] for name in schema.CAPTIONS.names], schema=schema.CAPTIONS)
    first = dict(zip(reversed(table.column("key").to_pylist()), range(count - 1, -1, -1), strict=True))
    return table.take(sorted(first.values()))


def _describe(root: Root, stage: Stage, column: str, folder: str, one: _Written, started: str) -> None:
    """Write the manifest of one column's table."""
    languages = sorted(language for language in one.languages if language)
    said = languages[0] if len(languages) == 1 else "mul" if languages else "und"  # BCP 47: several; not known
    made = imported_stage(stage.recipe, folder, {stage.name: stage.fingerprint})
    rows = sum(one.files.values())
    manifest = Manifest(made.name, made.recipe, "finished", made.fingerprint, made.config, made.inputs, rows, one.files, {"ok": rows})
    manifest.facts = {"captioner": folder, "language": said, "languages": languages, "column": column}
    manifest.started_at, manifest.finished_at = started, now()
    root.write_json(f"{CAPTIONS}/{folder}/{MANIFEST}", manifest.__dict__)
