"""Where a run's checkpoints stand: `step-00000100/`, and `latest.json`, which names the complete ones.

A checkpoint counts once `latest.json` names it, and that file is written in one atomic step after all ranks' files are there. So a kill
at any moment leaves the newest complete checkpoint named, and no record of a launcher has to agree with the disk. Who deletes the directory of
the newest one goes back to the one before it.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from ccray.interfaces import Failed
from ccray.storage import LEASE, Root

LATEST = "latest.json"


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def newest_step(root: Root, directory: str) -> int:
    """Updates made by the newest complete checkpoint of a run; 0 when there is none."""
    complete = _complete(root, directory)
    return int(complete[-1].removeprefix("step-")) if complete else 0


def _complete(root: Root, directory: str) -> list[str]:
    """Names of the complete checkpoints that are still there, oldest first."""
    pointer = f"{directory}/{LATEST}"
    if not root.exists(pointer):
        return []
    found = root.read_json(pointer)
    return [name for name in found.get("complete", [found["checkpoint"]]) if root.names(f"{directory}/{name}")]


class Shelf:
    """The checkpoints of one run, on a disk or an object store."""

    def __init__(self, root: Root, directory: str, keep: int, holder: str | None = None) -> None:
        """Args:
        root: of the run.
        directory: of the run, relative to the root.
        keep: checkpoints to keep.
        holder: the lease (`run` in its file) under which this process works: once another run holds it, nothing is published here.
        """
        self._root, self._directory, self._keep, self._holder = root, directory, keep, holder

    @contextmanager
    def opened(self) -> Iterator[Path | None]:
        """The newest checkpoint as local files; None when there is none."""
        complete = _complete(self._root, self._directory)
        if not complete:
            yield None
            return
        place = self._root.path(f"{self._directory}/{complete[-1]}")
        if self._root.is_local:
            yield Path(place)
            return
        with tempfile.TemporaryDirectory(prefix="ccray-checkpoint-") as folder:
            fs.copy_files(place, folder, source_filesystem=self._root.filesystem, destination_filesystem=fs.LocalFileSystem())
            yield Path(folder)

    def put(self, step: int, folder: Path) -> None:
        """Move one rank's files of a checkpoint beside the others'."""
        place = self._root.path(f"{self._directory}/{checkpoint_name(step)}")
        self._root.filesystem.create_dir(place)
        fs.copy_files(str(folder), place, source_filesystem=fs.LocalFileSystem(), destination_filesystem=self._root.filesystem)
        if self._root.is_local:
            _flush(Path(place), [path.name for path in folder.iterdir()])
        shutil.rmtree(folder)

    def publish(self, step: int) -> None:
        """Say that all ranks' files of a checkpoint are there, and remove old checkpoints and what a kill left half written.

        Raises:
            Failed: when another run has taken over meanwhile.
        """
        if self._holder is not None and self._root.read_json(f"{self._directory}/{LEASE}")["run"] != self._holder:
            raise Failed(f"another run has taken over {self._root.path(self._directory)}: this one ends")
        name = checkpoint_name(step)
        before = [one for one in _complete(self._root, self._directory) if one < name]
        kept = [*before, name][-self._keep :]
        self._root.write_json(f"{self._directory}/{LATEST}", {"checkpoint": name, "complete": kept})
        for found in self._root.names(self._directory):
            if found.startswith("step-") and found not in kept:
                self._root.delete(f"{self._directory}/{found}")


def _flush(place: Path, names: list[str]) -> None:
    """To the disk itself, before a file that names them is."""
    for path in [*(place / name for name in names), place]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
