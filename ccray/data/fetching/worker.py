"""Fetching: from a listed row to its bytes and what they are, or to the reason why there are none.

A worker of the catalog stage. It downloads, reads or draws; each file is then examined once in a process of its own (`examining.py`) while
the next ones come in.
"""

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ccray import schema
from ccray.config import CatalogConfig
from ccray.data.fetching.downloading import Downloader, Received
from ccray.data.pictures.examining import Examiner
from ccray.data.pictures.images import Unusable
from ccray.data.pictures.pixels import as_objects
from ccray.data.policy import license_of, refusal
from ccray.data.sources.listed import located_bytes, located_file
from ccray.interfaces import Batch, Failed
from ccray.schema import Reject
from ccray.shapes.world import draw, png_bytes, train_scene
from ccray.storage import Root

Row = dict[str, Any]  # columns of `schema.IMAGES`; what is left out is null


class FetchImages:
    """Listed rows -> rows of `schema.IMAGES`, one for each, in the same order."""

    def __init__(self, config: CatalogConfig, base: Root | None, image_column: str | None = None, taken_down: frozenset[int] = frozenset()) -> None:
        """`base` is the folder of the source's locators, `image_column` the column of a table's embedded images; rows (`row_id`) in
        `taken_down` are not asked for."""
        self._config = config
        self._taken_down = taken_down
        self._base = base
        self._cells = None if base is None or image_column is None else Cells(base, image_column)
        self._examiner = Examiner(config)
        self._downloader = Downloader(config.download, config.max_bytes)

    def __call__(self, batch: Batch) -> Batch:
        refusals = [self._refusal(*row) for row in zip(batch["row_id"], batch["locator"], batch["license_text"], strict=True)]
        wanted = {locator for locator, refusal in zip(batch["locator"], refusals, strict=True) if refusal is None}
        found = dict(self._fetched(sorted(wanted)))
        rows = [found[locator] if refusal is None else refusal for locator, refusal in zip(batch["locator"], refusals, strict=True)]
        columns = {name: as_objects([row.get(name) for row in rows]) for name in schema.IMAGES.names}
        return columns | {"row_id": batch["row_id"], "shard": batch["shard"]}

    def given_up(self, batch: Batch, why: str) -> Batch:
        """Rows whose images end the process."""
        row = _row_of(Unusable(Reject.WORKER_DIED, why))
        columns = {name: as_objects([row.get(name)] * len(batch["row_id"])) for name in schema.IMAGES.names}
        return columns | {"row_id": batch["row_id"], "shard": batch["shard"]}

    def close(self) -> None:
        """End the decoding process and the downloads. A worker that is simply dropped loses both with its own process."""
        self._examiner.close()
        self._downloader.close()

    def _refusal(self, row_id: int, locator: str, statement: str | None) -> Row | None:
        """What is not even asked for: a row that was taken down or names nothing, or what the policy refuses."""
        if int(row_id) in self._taken_down:
            return _row_of(Unusable(Reject.TAKEN_DOWN, "taken down before it was fetched"))
        unusable = _nothing(locator) or refusal(license_of(statement), self._config)
        return None if unusable is None else _row_of(unusable)

    def _fetched(self, locators: list[str]) -> Iterator[tuple[str, Row]]:
        """Each locator's row, as they come."""
        by_scheme = {scheme: list(some) for scheme, some in groupby(locators, key=lambda locator: locator.partition(":")[0])}
        for url, received in self._downloader.fetch([locator.removeprefix("url:") for locator in by_scheme.get("url", ())]):
            yield f"url:{url}", self._examined(received)
        for locator, cell in self._embedded(by_scheme.get("row", [])):
            yield locator, self._examined(cell)
        for locator in by_scheme.get("file", ()):
            yield locator, self._examined(self._file(located_file(locator)))
        for locator in by_scheme.get("bytes", ()):
            path, *span = located_bytes(locator)
            yield locator, self._examined(self._file(path, Span(*span)))
        for locator in by_scheme.get("scene", ()):
            yield locator, self._drawn(locator)

    def _examined(self, received: Received | bytes | Unusable) -> Row:
        if isinstance(received, Unusable):
            return _row_of(received)
        data, seen = (received.data, received.opt_out) if isinstance(received, Received) else (received, None)
        examined = self._examiner.examine(data)
        if isinstance(examined, Unusable):
            return _row_of(examined)
        identity = {"key": schema.key_of(data), "sha256": hashlib.sha256(data).hexdigest()}
        return identity | vars(examined) | {"opt_out": seen or examined.opt_out}

    def _drawn(self, locator: str) -> Row:
        """A scene of our own drawing is known to be whole, and has no hash: scenes are alike on purpose."""
        seed, index = map(int, locator.removeprefix("scene:").split("/"))
        side = self._config.shapes.size_px
        data = png_bytes(draw(train_scene(seed, index), side))
        identity = {"key": schema.key_of(data), "sha256": hashlib.sha256(data).hexdigest()}
        return identity | {"image": data, "format": "PNG", "width": side, "height": side}

    def _file(self, path: str, span: "Span | None" = None) -> bytes | Unusable:
        """A file of the source's folder, or a part of one."""
        base = self._base
        assert base is not None
        read = read_local if base.is_local else read_remote
        try:
            outcome = read(base, path, self._config.max_bytes, span)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            outcome = Unusable(Reject.FILE_UNREADABLE, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        if isinstance(outcome, Unusable) and outcome.reason in (Reject.FILE_MISSING, Reject.FILE_UNREADABLE) and not base.exists(""):
            raise Failed(f"the source folder {base.uri} is gone: bring it back and run the same command again")
        return outcome

    def _embedded(self, locators: list[str]) -> Iterator[tuple[str, bytes | Unusable]]:
        """Images that lie in Parquet files' rows: each row group is read once."""
        for name, some in groupby(sorted(locators), key=lambda locator: locator.removeprefix("row:").rpartition("#")[0]):
            assert self._cells is not None
            numbers = sorted(int(locator.rpartition("#")[2]) for locator in some)
            for number, value in zip(numbers, self._cells.read(name, numbers), strict=True):
                yield f"row:{name}#{number}", self._cell(value)

    def _cell(self, value: Any) -> bytes | Unusable:
        if isinstance(value, dict):
            data, path = value.get("bytes"), value.get("path")
            if data is None and path:
                return self._file(path)
            value = data
        return Unusable(Reject.NO_IMAGE, "the row's image is empty") if value is None else bytes(value)


def _nothing(locator: str) -> Unusable | None:
    """What a row says that is a reject from the start."""
    scheme, _, rest = locator.partition(":")
    if scheme != "none":
        return None
    reason, _, detail = rest.partition(":")
    return Unusable(Reject(reason), detail)


@dataclass(frozen=True)
class Span:
    """Bytes of a file that holds several pictures, such as a tar."""

    offset: int
    length: int


def read_local(base: Root, path: str, max_bytes: int, span: Span | None = None) -> bytes | Unusable:
    """A regular file below a folder, links followed only as long as they stay there."""
    folder = Path(base.path()).resolve()
    place = Path(base.path()) / path
    target = place.resolve()
    if Path(path).is_absolute() or not target.is_relative_to(folder):
        return Unusable(Reject.BLOCKED_PATH, f"{path} leads out of {base.uri}")
    if not target.exists():
        return Unusable(Reject.FILE_MISSING, f"no file {path} in {base.uri}")
    status = target.stat()
    if not stat.S_ISREG(status.st_mode):
        return Unusable(Reject.FILE_UNREADABLE, f"{path} is a folder, a pipe or a device")
    wrong = _wrong_length(status.st_size, max_bytes, span)
    if wrong is not None:
        return wrong
    with open(os.open(target, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        file.seek(span.offset if span else 0)
        return file.read(span.length if span else max_bytes)


def _wrong_length(size: int, max_bytes: int, span: Span | None) -> Unusable | None:
    wanted = size if span is None else span.length
    if wanted > max_bytes:
        return Unusable(Reject.TOO_MANY_BYTES, f"{wanted} bytes, at most {max_bytes} are taken")
    if span is not None and span.offset + span.length > size:
        return Unusable(Reject.TRUNCATED, f"bytes {span.offset} to {span.offset + span.length} of a file of {size}")
    return None


def read_remote(base: Root, path: str, max_bytes: int, span: Span | None = None) -> bytes | Unusable:
    """The same on an object store."""
    inside = posixpath.normpath(path)
    if inside.startswith(("/", "..")):
        return Unusable(Reject.BLOCKED_PATH, f"{path} leads out of {base.uri}")
    info = base.filesystem.get_file_info(base.path(inside))
    if info.type != pafs.FileType.File:
        return Unusable(Reject.FILE_MISSING, f"no file {path} in {base.uri}")
    wrong = _wrong_length(info.size, max_bytes, span)
    if wrong is not None:
        return wrong
    if span is None:
        return base.read(inside)
    with base.filesystem.open_input_file(base.path(inside)) as file:
        return bytes(file.read_at(span.length, span.offset))


class Cells:
    """One column's values by row number. A row group that a read did not come to the end of is kept: the next read goes on there."""

    def __init__(self, base: Root, column: str) -> None:
        self._base = base
        self._column = column
        self._begun: tuple[str, int, pa.ChunkedArray] | None = None  # file, number of the row group, its cells

    def read(self, name: str, numbers: list[int]) -> list[Any]:
        """The values at ascending row numbers of a Parquet file; only the row groups that hold them are read."""
        values: list[Any] = []
        with pq.ParquetFile(self._base.path(name), filesystem=self._base.filesystem) as file:
            start = 0
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                here = [number - start for number in numbers if start <= number < end]
                if here:
                    values += self._group(file, name, group).take(pa.array(here)).to_pylist()
                    if end - start == here[-1] + 1:
                        self._begun = None
                start = end
        return values

    def _group(self, file: pq.ParquetFile, name: str, group: int) -> pa.ChunkedArray:
        if self._begun is None or self._begun[:2] != (name, group):
            self._begun = None  # two row groups are never held at once
            self._begun = (name, group, file.read_row_group(group, columns=[self._column]).column(0))
        return self._begun[2]


def _row_of(unusable: Unusable) -> Row:
    return {"reason": unusable.reason, "detail": unusable.detail}
