"""Where a source's files lie: one file, a folder of them at any depth, or a pattern; on a disk, on S3 or on the Hugging Face hub."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import pyarrow.fs as pafs

from ccray.interfaces import Refused
from ccray.storage import Root

HUB = "hf://"
PATTERN = "*?["


class HubRoot(Root):
    """A data set of the Hugging Face hub, `hf://datasets/OWNER/NAME`, read as files by `huggingface_hub`."""

    def __init__(self, uri: str) -> None:
        self.is_local = False
        self.uri = uri.rstrip("/")
        self._base = self.uri.removeprefix(HUB)

    @cached_property
    def filesystem(self) -> pafs.FileSystem:
        from huggingface_hub import HfFileSystem

        return pafs.PyFileSystem(pafs.FSSpecHandler(HfFileSystem()))


@dataclass(frozen=True)
class Place:
    """Files `names` below the folder `base`, sorted."""

    base: Root
    names: tuple[str, ...]


def folder_root(path: str, what: str) -> Root:
    """Where a source lies.

    Raises:
        Refused: when it is neither a path nor on S3 or the hub.
    """
    if path.startswith(HUB):
        return HubRoot(path)
    try:
        return Root(path)
    except Refused:
        raise Refused(f"{what} cannot be read: expected a path, s3://bucket/prefix or hf://datasets/OWNER/NAME") from None


def find_files(place: str, what: str, accepts: Callable[[str], bool]) -> Place:
    """The file that `place` names; or all files that `accepts` takes in the folder, or among those that a pattern matches.

    A local file or folder with a name such as `photos [1].csv` is meant itself.

    Raises:
        Refused: when nothing is there.
    """
    pattern = "" if os.path.exists(os.path.expanduser(place)) else PATTERN
    folder, name = _split(place, pattern)
    base = folder_root(folder, what)
    try:
        names = _names(base, name, accepts, pattern)
        if names is None:
            base = folder_root(place, what)
            names = sorted(path for path in files(base) if accepts(path) and not _hidden(path))
    except OSError as error:
        raise Refused(f"{what} cannot be read: {' '.join(str(error).split())[:300]}") from None
    if not names:
        raise Refused(
            f"{what} is not there: expected a file, a folder or a pattern of files that we read at {base.path(name) if name else base.path()}"
        )
    return Place(base, tuple(names))


def _split(place: str, pattern: str) -> tuple[str, str]:
    """The folder without any pattern, and what stands behind it."""
    parts = place.rstrip("/").split("/")
    plain = next((number for number, part in enumerate(parts) if any(letter in part for letter in pattern)), len(parts) - 1)
    folder = "/".join(parts[:plain])
    return folder or ("/" if place.startswith("/") else "."), "/".join(parts[plain:])


def _names(base: Root, name: str, accepts: Callable[[str], bool], pattern: str) -> list[str] | None:
    """The files behind a name; None when it is a folder."""
    if not any(letter in name for letter in pattern):
        kind = base.filesystem.get_file_info(base.path(name)).type
        return None if kind == pafs.FileType.Directory else [name] if kind == pafs.FileType.File else []
    return sorted(path for path in files(base) if fnmatchcase(path, name) and accepts(path))


def _hidden(path: str) -> bool:
    """Names such as `_SUCCESS` and `.crc`, which tools leave beside their tables."""
    return any(part.startswith((".", "_")) for part in path.split("/"))


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
