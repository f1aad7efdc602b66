"""A folder as a source: `folder:PATH`, every file in it, at any depth.

What is known of the files stands in a sidecar, `metadata.csv`, `.tsv`, `.jsonl` or `.parquet` in the folder itself, with a column `file` (or one
of its usual names), `license`, and perhaps `creator`, `title` and the like. `catalog.license` declares a licence for all files of
which the sidecar says nothing.
"""

import os
import posixpath
from collections.abc import Iterator

import pyarrow.fs as pafs

from ccray.config import CatalogConfig, ColumnMap
from ccray.data.sources.columns import Columns, find
from ccray.data.sources.listed import Listed, declared_license, file_locator, folder_root
from ccray.data.sources.rows import SUFFIXES, Malformed, Row, Table, open_table
from ccray.data.sources.table import described, text_of
from ccray.interfaces import Refused
from ccray.storage import Root

SIDECARS = tuple(f"metadata.{suffix}" for suffix in SUFFIXES)


class FolderSource:
    """All files of one folder but its sidecar, in the order of their names; then the files that only the sidecar knows."""

    name = "folder"
    image_column: str | None = None

    def __init__(self, base: Root, sidecar: Table | None, columns: Columns, declared: str | None) -> None:
        self.base: Root | None = base
        self._root = base
        self._sidecar = sidecar
        self._columns = columns
        self._declared = declared

    def listing(self) -> Iterator[Listed]:
        records = self._records()
        for path in files(self._root):
            if self._sidecar is None or path != self._sidecar.name:
                yield self._listed(path, records.pop(posixpath.normpath(path), {}))
        for path, row in sorted(records.items()):
            yield self._listed(path, row)

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

    def _listed(self, path: str, row: Row) -> Listed:
        seen_at = self._sidecar.seen_at if self._sidecar is not None else None
        said = described(row, self._columns, self._declared, seen_at) if seen_at is not None else self._undescribed()
        return Listed(path, path, file_locator(path), **said)

    def _undescribed(self) -> dict[str, str | None]:
        return {"license_text": self._declared, "license_evidence": self._declared, "license_basis": "declared" if self._declared else None}


def files(root: Root) -> Iterator[str]:
    """Paths of all files below a folder, sorted by folder and name; links count as files and are not followed.

    Raises:
        Refused: when a folder below cannot be read.
    """
    if not root.is_local:
        yield from root.files("")
        return
    base = root.path()
    for folder, folders, names in os.walk(base, onerror=_unreadable):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = sorted(set(folders) - set(links))
        for name in sorted(names + links):
            yield os.path.relpath(os.path.join(folder, name), base)


def _unreadable(error: OSError) -> None:
    raise Refused(f"{error.filename} cannot be read: {error.strerror}")


def _sidecar(base: Root) -> Table | None:
    found = [name for name in SIDECARS if base.exists(name)]
    if len(found) > 1:
        raise Refused(f"{base.path()} has {' and '.join(found)}: expected one sidecar table")
    return open_table(base, found[0]) if found else None


def _columns(sidecar: Table, config: CatalogConfig) -> Columns:
    place = sidecar.base.path(sidecar.name)
    columns = find(sidecar.columns, config.columns, place)
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
    declared = declared_license(config.license)
    sidecar = _sidecar(base)
    if sidecar is None and config.columns != ColumnMap():
        raise Refused(f"catalog.columns maps columns of a table, but {base.path()} has no sidecar ({', '.join(SIDECARS)})")
    return FolderSource(base, sidecar, _columns(sidecar, config) if sidecar is not None else Columns(), declared)
