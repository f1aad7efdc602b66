"""Shards of `listing/` and `images/` written by hand, so that the index can be tried without fetching anything."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from ccray import schema
from ccray.config import CatalogConfig
from ccray.data.index.blocklist import read_blocklist
from ccray.data.index.indexing import Index, write_index
from ccray.storage import Root, sealed_shards, shard_name


@dataclass(frozen=True)
class Row:
    """One listed row and what fetching made of it."""

    ref: str
    data: bytes | None = None  # None: bytes of its own
    license: str | None = "CC-BY-4.0"
    creator: str | None = "Ada"
    size: tuple[int, int] = (640, 480)
    phash: int | None = None  # unsigned
    reason: str | None = None
    scores: tuple[tuple[str, float], ...] = ()
    captions: tuple[tuple[str, str | None, str | None], ...] = ()  # column, text, language
    title: str | None = None
    source: str = "table"
    key: int | None = None  # of other bytes
    source_url: str | None = None
    creator_url: str | None = None

    def but(self, **changes: Any) -> "Row":
        return replace(self, **changes)

    @property
    def bytes(self) -> bytes:
        return self.ref.encode() if self.data is None else self.data

    @property
    def row_id(self) -> int:
        return schema.id_of(self.source, self.ref)


def write(root: Root, rows: Sequence[Row], rows_per_shard: int = 4) -> None:
    """Write both tables."""
    for shard, start in enumerate(range(0, len(rows), rows_per_shard)):
        part = sorted(rows[start : start + rows_per_shard], key=lambda row: row.row_id)
        name = shard_name(shard)
        root.write_table(f"listing/{name}", pa.Table.from_pylist([_listed(row, shard) for row in part], schema=schema.LISTING))
        images = pa.Table.from_pylist([_fetched(row, shard) for row in part], schema=schema.IMAGES)
        root.write_table(f"images/{name}", images.sort_by([("key", "ascending"), ("row_id", "ascending")]))


def _listed(row: Row, shard: int) -> dict[str, Any]:
    captions = [{"column": column, "text": text, "language": language} for column, text, language in row.captions]
    return {
        "row_id": row.row_id,
        "shard": shard,
        "locator": f"file:{row.ref}",
        "license_text": row.license,
        "creator": row.creator,
        "creator_url": row.creator_url,
        "title": row.title,
        "source": row.source,
        "source_ref": row.ref,
        "source_url": row.source_url or f"https://example.org/{row.ref}",
        "captions": captions or None,
    }


def _fetched(row: Row, shard: int) -> dict[str, Any]:
    base = {"row_id": row.row_id, "shard": shard, "reason": row.reason, "detail": "as fetched" if row.reason else None}
    if row.reason is not None:
        return base
    phash = None if row.phash is None else row.phash - 2**64 * (row.phash >= 2**63)
    return base | {
        "key": schema.key_of(row.bytes) if row.key is None else row.key,
        "sha256": hashlib.sha256(row.bytes).hexdigest(),
        "image": row.bytes,
        "format": "PNG",
        "width": row.size[0],
        "height": row.size[1],
        "phash": phash,
        "scores": [{"name": name, "score": score} for name, score in row.scores] or None,
    }


def index(root: Root, **settings: Any) -> Index:
    """Write the index under some settings of the catalog."""
    config = CatalogConfig(**settings)
    return write_index(root, config, read_blocklist(config.blocklist))


def table(root: Root, folder: str) -> dict[str, dict[str, Any]]:
    """`source_ref` -> row of catalog/ or rejects/."""
    parts = [root.read_table(f"{folder}/{shard_name(shard)}") for shard in sealed_shards(root, folder)]
    return {row["source_ref"]: row for part in parts for row in part.to_pylist()}


def reasons(root: Root) -> dict[str, str]:
    return {ref: row["reason"] for ref, row in table(root, "rejects").items()}


def files(root: Root, folders: Iterable[str] = ("catalog", "rejects")) -> dict[str, bytes]:
    return {name: root.read(name) for folder in folders for name in root.files(folder)}
