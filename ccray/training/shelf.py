"""Where a run's checkpoints stand: `step-00000100/`, and `latest.json`, which names the newest complete one.

A checkpoint counts once `latest.json` names it, and that file is written in one atomic step after all ranks' files are there. So a kill
at any moment leaves the newest complete checkpoint named, and no record of a launcher has to agree with the disk.
"""

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
    pointer = f"{directory}/{LATEST}"
    return int(root.read_json(pointer)["checkpoint"].removeprefix("step-")) if root.exists(pointer) else 0


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
        pointer = f"{self._directory}/{LATEST}"
        if not self._root.exists(pointer):
            yield None
            return
        place = self._root.path(f"{self._directory}/{self._root.read_json(pointer)['checkpoint']}")
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
        shutil.rmtree(folder)

    def publish(self, step: int) -> None:
        """Say that all ranks' files of a checkpoint are there, and remove old checkpoints and what a kill left half written.

        Raises:
            Failed: when another run has taken over meanwhile.
        """
        if self._holder is not None and self._root.read_json(f"{self._directory}/{LEASE}")["run"] != self._holder:
            raise Failed(f"another run has taken over {self._root.path(self._directory)}: this one ends")
        self._root.write_json(f"{self._directory}/{LATEST}", {"checkpoint": checkpoint_name(step)})
        found = [name for name in self._root.names(self._directory) if name.startswith("step-")]
        kept = [name for name in found if name <= checkpoint_name(step)][-self._keep :]
        for name in found:
            if name not in kept:
                self._root.delete(f"{self._directory}/{name}")
