"""Fetching: from a listed row to its bytes and what they are, or to the reason why there are none.

A worker of the catalog stage. It downloads, reads or draws, then decodes each picture once to know that it can be used; the bytes
themselves are kept as received.
"""

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ccray import licenses, schema
from ccray.config import CatalogConfig
from ccray.data.downloading import Downloader, Received
from ccray.data.images import Unusable, decode, limits_of
from ccray.data.sources.listed import located_file
from ccray.interfaces import Batch, Failed
from ccray.schema import Reject
from ccray.shapes.world import draw, png_bytes, train_scene
from ccray.storage import Root


class FetchImages:
    """Listed rows -> rows of `schema.IMAGES`, one for each, in the same order."""

    def __init__(self, config: CatalogConfig, base: Root | None, image_column: str | None = None) -> None:
        """`base` is the folder of the source's locators, `image_column` the column of a table's embedded images."""
        self._config = config
        self._base = base
        self._image_column = image_column
        self._limits = limits_of(config)
        self._downloader: Downloader | None = None  # has a thread: made where the work is

    def __call__(self, batch: Batch) -> Batch:
        received = self._received(batch["locator"], batch["license_text"])
        rows = [self._row(data) for data in received]
        columns = {name: np.array([row.get(name) for row in rows], dtype=object) for name in schema.IMAGES.names}
        return columns | {"row_id": batch["row_id"], "shard": batch["shard"]}

    def _received(self, locators: Iterable[str], statements: Iterable[str | None]) -> list[bytes | Unusable]:
        """Bytes as received, or why there are none; what the policy refuses is not even asked for."""
        refused = [_nothing(locator) or self._refusal(statement) for locator, statement in zip(locators, statements, strict=True)]
        found: dict[str, bytes | Unusable] = {}
        wanted = sorted({locator for locator, refusal in zip(locators, refused, strict=True) if refusal is None})
        urls = [locator for locator in wanted if locator.startswith("url:")]
        if urls:
            found.update(self._downloaded(urls))
        found.update(self._embedded([locator for locator in wanted if locator.startswith("row:")]))
        for locator in wanted:
            if locator not in found:
                found[locator] = self._at_hand(locator)
        return [refusal or found[locator] for locator, refusal in zip(locators, refused, strict=True)]

    def _refusal(self, statement: str | None) -> Unusable | None:
        if statement is None:
            return Unusable(Reject.LICENSE_MISSING, "the source states no licence, and none was declared (--license)")
        license = licenses.parse(statement)
        reason = licenses.refusal(license, self._config.policy)
        return None if reason is None else Unusable(Reject(reason), f"{license.spdx or license.reason} under policy {self._config.policy}")

    def _downloaded(self, locators: list[str]) -> dict[str, bytes | Unusable]:
        if self._downloader is None:
            self._downloader = Downloader(self._config.download, self._config.max_bytes)
        outcomes = self._downloader.fetch([locator.removeprefix("url:") for locator in locators])
        return {f"url:{url}": outcome.data if isinstance(outcome, Received) else outcome for url, outcome in outcomes}

    def _at_hand(self, locator: str) -> bytes | Unusable:
        scheme, _, rest = locator.partition(":")
        if scheme == "scene":
            seed, index = map(int, rest.split("/"))
            return png_bytes(draw(train_scene(seed, index), self._config.shapes.size_px))
        return self._file(located_file(locator))

    def _file(self, path: str) -> bytes | Unusable:
        base = self._base
        assert base is not None
        try:
            outcome = read_local(base, path, self._config.max_bytes) if base.is_local else read_remote(base, path, self._config.max_bytes)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            outcome = Unusable(Reject.FILE_UNREADABLE, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        if isinstance(outcome, Unusable) and outcome.reason in (Reject.FILE_MISSING, Reject.FILE_UNREADABLE) and not base.exists(""):
            raise Failed(f"the source folder {base.uri} is gone: bring it back and run the same command again")
        return outcome

    def _embedded(self, locators: list[str]) -> dict[str, bytes | Unusable]:
        """Images that lie in a Parquet file's rows: each row group is read once."""
        if not locators:
            return {}
        assert self._base is not None
        assert self._image_column is not None
        name = locators[0].removeprefix("row:").rpartition("#")[0]
        numbers = sorted(int(locator.rpartition("#")[2]) for locator in locators)
        values = read_cells(self._base, name, self._image_column, numbers)
        return {f"row:{name}#{number}": self._cell(value) for number, value in zip(numbers, values, strict=True)}

    def _cell(self, value: Any) -> bytes | Unusable:
        if isinstance(value, dict):
            data, path = value.get("bytes"), value.get("path")
            if data is None and path:
                return self._file(path)
            value = data
        return Unusable(Reject.NO_IMAGE, "the row's image is empty") if value is None else bytes(value)

    def _row(self, received: bytes | Unusable) -> dict[str, Any]:
        if isinstance(received, Unusable):
            return {"reason": received.reason, "detail": received.detail}
        picture = decode(received, self._limits)
        if isinstance(picture, Unusable):
            return {"reason": picture.reason, "detail": picture.detail}
        return {
            "key": schema.key_of(received),
            "sha256": hashlib.sha256(received).hexdigest(),
            "image": received,
            "format": picture.format,
            "width": picture.width,
            "height": picture.height,
        }


def _nothing(locator: str) -> Unusable | None:
    """What a row says that is a reject from the start."""
    scheme, _, rest = locator.partition(":")
    if scheme != "none":
        return None
    reason, _, detail = rest.partition(":")
    return Unusable(Reject(reason), detail)


def read_local(base: Root, path: str, max_bytes: int) -> bytes | Unusable:
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
    if status.st_size > max_bytes:
        return Unusable(Reject.TOO_MANY_BYTES, f"{status.st_size} bytes, at most {max_bytes} are taken")
    with open(os.open(target, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        return file.read(max_bytes)


def read_remote(base: Root, path: str, max_bytes: int) -> bytes | Unusable:
    """The same on an object store."""
    inside = posixpath.normpath(path)
    if inside.startswith(("/", "..")):
        return Unusable(Reject.BLOCKED_PATH, f"{path} leads out of {base.uri}")
    info = base.filesystem.get_file_info(base.path(inside))
    if info.type != pafs.FileType.File:
        return Unusable(Reject.FILE_MISSING, f"no file {path} in {base.uri}")
    if info.size > max_bytes:
        return Unusable(Reject.TOO_MANY_BYTES, f"{info.size} bytes, at most {max_bytes} are taken")
    return base.read(inside)


def read_cells(base: Root, name: str, column: str, numbers: list[int]) -> list[Any]:
    """One column's values at ascending row numbers of a Parquet file; only the row groups that hold them are read."""
    values: list[Any] = []
    with pq.ParquetFile(base.path(name), filesystem=base.filesystem) as file:
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            here = [number - start for number in numbers if start <= number < end]
            if here:
                values += file.read_row_group(group, columns=[column]).column(0).take(pa.array(here)).to_pylist()
            start = end
    return values
