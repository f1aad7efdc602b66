"""A folder as a source: `folder:PATH`, every file in it, at any depth.

What is known of the files stands in a sidecar, `metadata.csv`, `.tsv`, `.jsonl` or `.parquet` in the folder itself, with a column `file` (or one
of its usual names), `license`, and perhaps `creator`, `title` and the like. Where the sidecar states no licence, the file's own metadata
may (XMP); `catalog.license` declares one for all files of which neither says anything.
"""

import os
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pyarrow.fs as pafs

from ccray.config import CatalogConfig, ColumnMap
from ccray.data.sources.columns import Columns, find
from ccray.data.sources.listed import Listed, declared_license, file_locator
from ccray.data.sources.places import files, folder_root
from ccray.data.sources.records import described, strictest, text_of
from ccray.data.sources.rows import Malformed, Row, Table, open_table
from ccray.data.sources.xmp import file_time, license_statements
from ccray.interfaces import Refused
from ccray.storage import Root

READERS = 16  # files whose metadata are read at once: on an object store each costs a round trip
CHUNK = 256
SIDECARS = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")


class FolderSource:
    """All files of one folder but its sidecar, in the order of their names; then the files that only the sidecar knows."""

    name = "folder"
    image_column: str | None = None

    def __init__(self, base: Root, sidecar: Table | None, columns: Columns, config: CatalogConfig) -> None:
        self.base: Root | None = base
        self._root = base
        self._sidecar = sidecar
        self._columns = columns
        self._config = config

    def listing(self) -> Iterator[Listed]:
        records = self._records()
        paths = (path for path in files(self._root) if self._sidecar is None or path != self._sidecar.name)
        with ThreadPoolExecutor(READERS) as pool:
            while chunk := [(path, records.pop(posixpath.normpath(path), {})) for path in islice(paths, CHUNK)]:
                yield from pool.map(lambda one: self._listed(one[0], one[1], True), chunk)
        for path, row in sorted(records.items()):
            yield self._listed(path, row, False)

    def _records(self) -> dict[str, Row]:
        if self._sidecar is None:
            return {}
        records: dict[str, Row] = {}
        for number, row in self._sidecar.rows(self._columns.present()):
            path = None if isinstance(row, Malformed) else text_of(row.get(self._columns.image or ""))
            if isinstance(row, Malformed) or path is None:
                why = row.detail if isinstance(row, Malformed) else f"row {number} names no file"
                raise Refused(f"{self._root.path(self._sidecar.name)} cannot be read: {why}")
            records[posixpath.normpath(path)] = row
        return records

    def _listed(self, path: str, row: Row, there: bool) -> Listed:
        locator = file_locator(path)
        seen_at = self._sidecar.seen_at if self._sidecar is not None else None
        known = described(self._columns.said(row, locator), self._config, seen_at)
        if there and known["license_basis"] != "source record":
            known |= self._own_words(path)
        return Listed(path, path, locator, **known)

    def _own_words(self, path: str) -> dict[str, Any]:
        """The licence in the file itself."""
        text, evidence = strictest(license_statements(self._root, path))
        if text is None:
            return {}
        time = file_time(self._root, path)
        return {"license_text": text, "license_basis": "file metadata", "license_evidence": evidence, "license_seen_at": time}


def _sidecar(base: Root) -> Table | None:
    found = [name for name in SIDECARS if base.exists(name)]
    if len(found) > 1:
        raise Refused(f"{base.path()} has {' and '.join(found)}: expected one sidecar table")
    return open_table(base, found[0]) if found else None


def _columns(sidecar: Table, config: CatalogConfig) -> Columns:
    place = sidecar.base.path(sidecar.name)
    columns = find(sidecar.columns, config.columns, place, config.keep)
    if columns.image is None or columns.image in sidecar.binary:
        raise Refused(f"{place} has no column of file names (such as file, file_name, path): it has {', '.join(map(repr, sidecar.columns))}")
    return columns


def open_source(config: CatalogConfig) -> FolderSource:
    """Raises:
    Refused: when there is no such folder, or its sidecar cannot be used.
    """
    place = config.source.removeprefix("folder:")
    base = folder_root(place or ".", f"catalog.source {config.source!r}")
    try:
        kind = base.filesystem.get_file_info(base.path()).type
    except OSError as error:
        raise Refused(f"catalog.source {config.source!r} cannot be read: {error}") from None
    if kind != pafs.FileType.Directory:
        raise Refused(f"catalog.source {config.source!r} is not there: expected a folder of images at {base.path()}")
    if base.is_local and not os.access(base.path(), os.R_OK | os.X_OK):
        raise Refused(f"catalog.source {config.source!r} cannot be read: this user may not open {base.path()}")
    declared_license(config.license)
    sidecar = _sidecar(base)
    if sidecar is None and config.columns != ColumnMap():
        raise Refused(f"catalog.columns maps columns of a table, but {base.path()} has no sidecar ({', '.join(SIDECARS)})")
    return FolderSource(base, sidecar, _columns(sidecar, config) if sidecar is not None else Columns(), config)
