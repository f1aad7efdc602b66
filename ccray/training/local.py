"""A `Runtime` without a cluster: one process, or the ranks of a torch process group that share a disk."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

LATEST = "latest"


class LocalRuntime:
    """Checkpoints in `folder/step-00000100`; the file `latest` names the newest complete one (`interfaces.Runtime`)."""

    def __init__(self, folder: Path, device: str = "cpu", keep: int = 2) -> None:
        self.folder, self.device, self.keep = folder, device, keep
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """A local directory with the newest checkpoint, or None on a fresh start."""
        pointer = self.folder / LATEST
        yield self.folder / pointer.read_text() if pointer.exists() else None

    def report(self, metrics: dict[str, float], directory: Path | None) -> None:
        """Move this rank's files beside the others', then let rank 0 say that the checkpoint is complete."""
        if directory is None:
            return
        target = self.folder / f"step-{int(metrics['step']):08d}"
        target.mkdir(exist_ok=True)
        for file in directory.iterdir():
            shutil.move(file, target / file.name)
        directory.rmdir()
        self._wait()
        if self.rank == 0:
            self._publish(target.name)
        self._wait()

    def deadline(self) -> float | None:
        """A machine of one's own does not go away."""
        return None

    def _publish(self, name: str) -> None:
        draft = self.folder / f".{LATEST}"
        draft.write_text(name)
        os.replace(draft, self.folder / LATEST)
        for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
            if old.name != name:
                shutil.rmtree(old)

    def _wait(self) -> None:
        if self.world_size > 1:
            dist.barrier()
