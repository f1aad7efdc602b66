"""The rows of published/dataset/: the catalog's columns that people need, a caption column for each table of captions, and the bytes if asked for.

    catalog/  + captions/<captioner>/ ... + captions/source-*/ (+ images/)  ->  data/<split>-00000-of-00012.parquet

Everything goes shard by shard; a file holds whole shards of one split, so a few shards at most are in memory.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ccray import flags, storage
from ccray.config import IMPORTED, CaptionConfig, Recipe
from ccray.interfaces import Failed
from ccray.publishing.folders import Draft
from ccray.schema import hex_key
from ccray.storage import CAPTIONS, Root
from ccray.takedowns import Takedowns, remaining_copies

SPLITS = ("train", "validation", "evaluation")
ROWS_PER_FILE = 100_000
ROWS_PER_FILE_WITH_IMAGES = 10_000
IMAGE_ROWS = 64  # bytes of so many pictures are in memory at once
IMAGE = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Column:
    """One column of the published table."""

    name: str
    type: pa.DataType
    about: str


CATALOG_COLUMNS = (
    Column("key", pa.string(), "First 8 bytes of the sha256 of the image as it was received, 16 hex digits."),
    Column("sha256", pa.string(), "sha256 of the image's bytes as they were received."),
    Column("width", pa.int32(), "Pixels, after EXIF orientation."),
    Column("height", pa.int32(), "Pixels, after EXIF orientation."),
    Column("format", pa.string(), "File format as received: JPEG, PNG, ..."),
    Column("license", pa.string(), "SPDX identifier of the image's licence."),
    Column("license_url", pa.string(), "The licence's deed."),
    Column("commercial", pa.bool_(), "Whether the licence allows commercial use."),
    Column("derivatives", pa.bool_(), "Whether the licence allows derivatives; images where it does not are in the evaluation split alone."),
    Column("share_alike", pa.bool_(), "Whether derivatives must be shared under the same licence."),
    Column("license_basis", pa.string(), "Where the licence statement was read: source record, page, file metadata, declared."),
    Column("license_evidence", pa.string(), "What was read there."),
    Column("license_seen_at", pa.timestamp("us", tz="UTC"), "When it was read; the licence may have changed since."),
    Column("title", pa.string(), "Title, as the source gives it."),
    Column("creator", pa.string(), "Author, as the source gives it; null where it names none."),
    Column("creator_url", pa.string(), "The author's page."),
    Column("source", pa.string(), "The collection that listed the image."),
    Column("source_ref", pa.string(), "The collection's own id of the image."),
    Column("source_url", pa.string(), "The page where people find the image."),
    Column("image_url", pa.string(), "Where the bytes were downloaded; null for files."),
    Column("phash", pa.string(), "64-bit perceptual hash, 16 hex digits."),
    Column("duplicate_group", pa.string(), "Key of the first image of its group of near duplicates; one group is in one split."),
    Column("split", pa.string(), "train, validation or evaluation."),
)
IMAGE_COLUMN = Column("image", IMAGE, "The picture; null where its licence allows no derivatives.")
HEX = ("key", "phash", "duplicate_group")  # int64 in the catalog
READ = [column.name for column in CATALOG_COLUMNS] + ["row_id", "copies"]


@dataclass(frozen=True)
class CaptionTable:
    """One table of captions and the columns it becomes. Flagged texts are published with their flag, but for those that give a person's name away."""

    name: str
    captioner: CaptionConfig | None  # None: shipped by a source

    @property
    def directory(self) -> str:
        return f"{CAPTIONS}/{self.name}"

    @property
    def column(self) -> str:
        return column_of(self.name)

    @property
    def by(self) -> str:
        """How it came to be."""
        if self.captioner is None:
            return "as the source ships it"
        if self.captioner.input is not None:
            return f"translated from {column_of(self.captioner.input)} by the captioner {self.name}"
        return f"written by the captioner {self.name}"

    def columns(self) -> tuple[Column, Column, Column]:
        said = f"ok; a flag on {self.column}, such as looping; or why there is none, such as undecodable. Null where none was asked for."
        return (
            Column(self.column, pa.string(), f"Caption, {self.by}. Mind its status: texts that are flagged are here too."),
            Column(f"{self.column}_language", pa.string(), f"Language of {self.column}, BCP 47."),
            Column(f"{self.column}_status", pa.string(), said),
        )


@dataclass(frozen=True)
class Layout:
    """What the published table is made of."""

    catalog: str
    captions: tuple[CaptionTable, ...]
    images: str | None  # directory; None: no bytes
    gone: Takedowns

    @property
    def columns(self) -> tuple[Column, ...]:
        captions = [column for table in self.captions for column in table.columns()]
        return (*CATALOG_COLUMNS, *captions, *((IMAGE_COLUMN,) if self.images else ()))

    @property
    def schema(self) -> pa.Schema:
        """With the note by which `datasets` knows the image column for one."""
        features = {column.name: _feature(column) for column in self.columns}
        note = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        return pa.schema([(column.name, column.type) for column in self.columns], metadata=note)


def layout(recipe: Recipe, root: Root, gone: Takedowns) -> Layout:
    """The captions of the recipe's captioners first, in its order, then those that sources ship.

    Raises:
        Failed: when two tables would become one column.
    """
    own = [CaptionTable(name, config) for name, config in recipe.caption.items()]
    shipped = [CaptionTable(name, None) for name in root.names(CAPTIONS) if name.startswith(IMPORTED)]
    tables = (*own, *shipped)
    if len({table.column for table in tables}) < len(tables):
        raise Failed(f"two caption tables would become one column: {', '.join(table.directory for table in tables)}; rename one of them")
    return Layout(storage.stage_of(recipe, "catalog").directory, tables, "images" if recipe.publish.images else None, gone)


def column_of(name: str) -> str:
    """The published column of a table of captions."""
    return "caption_" + re.sub(r"[^0-9A-Za-z]+", "_", name)


def _feature(column: Column) -> dict[str, str]:
    if pa.types.is_struct(column.type):
        return {"_type": "Image"}
    dtype = {"bool": "bool"}.get(str(column.type), str(column.type))
    return {"dtype": dtype, "_type": "Value"}


@dataclass(frozen=True)
class Plan:
    """Which shards go to which file: split -> one tuple of shards a file."""

    files: Mapping[str, tuple[tuple[int, ...], ...]]

    def names(self, split: str) -> list[str]:
        count = len(self.files[split])
        return [f"data/{split}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]

    @property
    def splits(self) -> list[str]:
        """Those that have rows, in order."""
        return [split for split in SPLITS if split in self.files]


def plan(root: Root, layout: Layout, rows_per_file: int) -> Plan:
    """Fill files with whole shards up to `rows_per_file`; only keys and splits are read."""
    files: dict[str, list[list[int]]] = {split: [] for split in SPLITS}
    filled = dict.fromkeys(SPLITS, 0)
    for shard in storage.sealed_shards(root, layout.catalog):
        table = _present(root.read_table(f"{layout.catalog}/{storage.shard_name(shard)}", columns=["key", "split"]), layout.gone)
        for split, rows in zip(*(column.to_pylist() for column in pc.value_counts(table.column("split")).flatten()), strict=True):
            if not files[split] or filled[split] + rows > rows_per_file:
                files[split].append([])
                filled[split] = 0
            files[split][-1].append(shard)
            filled[split] += rows
    return Plan({split: tuple(map(tuple, groups)) for split, groups in files.items() if groups})


def _present(table: pa.Table, gone: Takedowns) -> pa.Table:
    """Without the images that were taken down."""
    return table.filter(pc.invert(pc.is_in(table.column("key"), gone.keys)))


def shards(root: Root, layout: Layout) -> Iterator[tuple[int, pa.Table]]:
    """Each shard's number and rows: the published columns but the bytes, and `row_id`, `copies`, and `key_int`, the key as the catalog has it."""
    for shard in storage.sealed_shards(root, layout.catalog):
        table = _present(root.read_table(f"{layout.catalog}/{storage.shard_name(shard)}", columns=READ), layout.gone)
        keys = table.column("key")
        values = {name: _hexadecimal(table.column(name)) if name in HEX else table.column(name) for name in READ}
        values["copies"] = remaining_copies(layout.gone, table.column("copies"))
        for captions in layout.captions:
            values |= _captions(root, captions, shard, keys)
        yield shard, pa.table({**values, "key_int": keys})


def _hexadecimal(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None if value is None else hex_key(value) for value in column.to_pylist()], pa.string())


def _captions(root: Root, captions: CaptionTable, shard: int, keys: pa.ChunkedArray) -> dict[str, pa.Array]:
    names = [column.name for column in captions.columns()]
    path = f"{captions.directory}/{storage.shard_name(shard)}"
    if not root.exists(path):
        made = storage.read_manifest(root, captions.directory)
        sparse = made is not None and set(made.inputs) != {"catalog"}  # translated from captions that a source ships for some images
        if captions.captioner is not None and not (sparse and made is not None and storage.shard_name(shard) not in made.shards):
            raise Failed(f"{root.path(path)} is missing, though the caption stage is finished: remove {captions.directory} and caption anew")
        return {name: pa.nulls(len(keys), pa.string()) for name in names}
    table = root.read_table(path, columns=["key", "caption", "language", "status"])
    places = pc.index_in(keys, table.column("key").combine_chunks())
    words = pc.list_element(pc.split_pattern(table.column("status"), ":", max_splits=1), 0)  # what follows may name paths of this machine
    texts = pc.if_else(pc.equal(words, flags.PERSON_NAME), pa.scalar(None, pa.string()), table.column("caption"))
    return {name: pc.take(column, places) for name, column in zip(names, (texts, table.column("language"), words), strict=True)}


class SplitFiles:
    """Writes the rows of shard after shard to the files of the plan."""

    def __init__(self, root: Root, layout: Layout, plan: Plan, draft: Draft) -> None:
        self._root, self._layout, self._plan, self._draft = root, layout, plan, draft
        self._schema = layout.schema
        self._open: dict[str, tuple[str, pq.ParquetWriter]] = {}
        self._file_of = {
            split: {shard: name for name, group in zip(plan.names(split), groups, strict=True) for shard in group}
            for split, groups in plan.files.items()
        }

    def write(self, shard: int, table: pa.Table) -> None:
        """All rows of one shard."""
        for split in self._plan.files:
            rows = table.filter(pc.equal(table.column("split"), split))
            if rows.num_rows:
                self._write(split, shard, rows)

    def close(self) -> None:
        for split in list(self._open):
            self._finish(split)

    def _write(self, split: str, shard: int, rows: pa.Table) -> None:
        name = self._file_of[split][shard]
        if split in self._open and self._open[split][0] != name:
            self._finish(split)
        if split not in self._open:
            self._open[split] = (name, pq.ParquetWriter(self._draft.path(name), self._schema, compression="zstd"))
        for part in self._parts(shard, rows):
            self._open[split][1].write_table(part.select(self._schema.names).cast(self._schema))

    def _parts(self, shard: int, rows: pa.Table) -> Iterator[pa.Table]:
        return iter([rows]) if self._layout.images is None else with_images(self._root, self._layout.images, shard, rows)

    def _finish(self, split: str) -> None:
        name, writer = self._open.pop(split)
        writer.close()
        self._draft.done(name)


def with_images(root: Root, directory: str, shard: int, rows: pa.Table) -> Iterator[pa.Table]:
    """The rows, some at a time, with their bytes; in the catalog's order, which is that of `images/`.

    Raises:
        Failed: when a row's bytes are not there.
    """
    path = root.path(f"{directory}/{storage.shard_name(shard)}")
    ids = rows.column("row_id").combine_chunks()
    found = 0
    with root.filesystem.open_input_file(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=IMAGE_ROWS, columns=["row_id", "image"]):
            places = pc.index_in(batch.column("row_id"), ids)
            wanted = pc.is_valid(places)
            part = rows.take(pc.drop_null(places))
            if part.num_rows:
                found += part.num_rows
                yield part.append_column("image", _images(part, pc.filter(batch.column("image"), wanted)))
    if found != rows.num_rows:
        raise Failed(f"{rows.num_rows - found} images of the catalog have no row in {path}: the catalog was changed by hand; make it anew")


def _images(part: pa.Table, data: pa.Array) -> pa.Array:
    allowed = part.column("derivatives").combine_chunks()
    kept = pc.and_(pc.fill_null(allowed, True), pc.is_valid(data))
    paths = [
        f"{key}.{(format or 'bin').lower()}" for key, format in zip(part.column("key").to_pylist(), part.column("format").to_pylist(), strict=True)
    ]
    return pa.StructArray.from_arrays([data.cast(pa.large_binary()), pa.array(paths, pa.string())], names=["bytes", "path"], mask=pc.invert(kept))


def rows_per_file(recipe: Recipe) -> int:
    """The setting, or what suits a dataset with or without bytes."""
    return recipe.publish.rows_per_file or (ROWS_PER_FILE_WITH_IMAGES if recipe.publish.images else ROWS_PER_FILE)


def sizes(table: pa.Table) -> np.ndarray:
    """Shorter side of each image in pixels, int64 [n]; images of unknown size are left out."""
    known = table.filter(pc.and_(pc.is_valid(table.column("width")), pc.is_valid(table.column("height"))))
    return np.minimum(known.column("width").to_numpy(), known.column("height").to_numpy()).astype(np.int64)
