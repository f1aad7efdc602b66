"""A folder that is being put together beside its place, and appears there whole.

On a local root the draft lies on the same disk and is moved into place in one step. On an object store each finished file goes to the
stage's staging place at once, so that a dataset larger than this disk can be written; at the end all are copied to their place, and the
folder's *sign* comes last: readers take a folder without its sign for none.
"""

import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from ccray.storage import Root, Stage

COPY_BYTES = 16 * 2**20


@dataclass(frozen=True)
class FileFacts:
    """One finished file."""

    sha256: str
    size_bytes: int


class Draft:
    """A folder in the making."""

    def __init__(self, root: Root, place: str, sign: str, scratch: Path, staging: str) -> None:
        """Args:
        root: where the folder will appear.
        place: its path below the root.
        sign: the file that makes it one.
        scratch: an empty local folder; on a local root, on the root's disk.
        staging: below the root, where an object store keeps finished files.
        """
        self.folder = scratch / Path(place).name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files: dict[str, FileFacts] = {}  # those that are finished
        self._root, self._place, self._sign, self._staging = root, place, sign, staging
        if not root.is_local:
            root.delete(staging)

    def path(self, name: str) -> Path:
        """Where to write a file of the folder; `done` must follow."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def done(self, name: str) -> FileFacts:
        """A file is finished: note its digest and, on an object store, move it there."""
        path = self.folder / name
        with path.open("rb") as file:
            facts = FileFacts(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
        self.files[name] = facts
        if not self._root.is_local and name != self._sign:
            copy_to(path, self._root, f"{self._staging}/{name}")
            path.unlink()
        return facts

    def write(self, name: str, text: str) -> FileFacts:
        """A whole text file."""
        self.path(name).write_text(text, encoding="utf-8")
        return self.done(name)

    def appear(self) -> None:
        """Put the finished folder where readers look."""
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            name = path.relative_to(self.folder).as_posix()
            if name not in self.files:
                self.done(name)
        if self._root.is_local:
            _swap(self.folder, Path(self._root.path(self._place)))
            return
        filesystem = self._root.filesystem
        self._root.delete(f"{self._place}/{self._sign}")
        self._root.delete(self._place)
        pafs.copy_files(self._root.path(self._staging), self._root.path(self._place), source_filesystem=filesystem, destination_filesystem=filesystem)
        copy_to(self.folder / self._sign, self._root, f"{self._place}/{self._sign}")


def _swap(folder: Path, place: Path) -> None:
    """Move a folder to its place; what lay there before goes to where the folder was made, to be removed with it."""
    if place.exists():
        place.rename(folder.parent / f"replaced-{uuid.uuid4().hex}")
    folder.rename(place)


def copy_to(path: Path, root: Root, relative: str) -> None:
    """Stream a local file to an object store."""
    with path.open("rb") as source, root.filesystem.open_output_stream(root.path(relative)) as target:
        shutil.copyfileobj(source, target, COPY_BYTES)


@contextmanager
def workplace(root: Root, stage: Stage) -> Iterator[Path]:
    """An empty local folder; on a local root on the same disk, so that what is made there can be moved into place in one step."""
    home = None
    if root.is_local:
        home = Path(root.path(stage.staging))
        home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="publish-", dir=home) as scratch:
        yield Path(scratch)
