"""A `Runtime` without a cluster: one process, or the ranks of a torch process group that share a disk."""

from contextlib import AbstractContextManager
from pathlib import Path

import torch.distributed as dist

from ccray.storage import Root
from ccray.training.shelf import Shelf


class LocalRuntime:
    """Checkpoints on a `Shelf` in `folder` (`interfaces.Runtime`)."""

    def __init__(self, folder: Path, device: str = "cpu", keep: int = 2) -> None:
        self.device = device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self._shelf = Shelf(Root(str(folder.parent)), folder.name, keep)

    def latest(self) -> AbstractContextManager[Path | None]:
        """A local directory with the newest checkpoint, or None on a fresh start."""
        return self._shelf.opened()

    def report(self, metrics: dict[str, float], directory: Path | None) -> None:
        """Put this rank's files beside the others', then let rank 0 say that the checkpoint is complete."""
        if directory is None:
            return
        step = int(metrics["step"])
        self._shelf.put(step, directory)
        self._wait()
        if self.rank == 0:
            self._shelf.publish(step)
        self._wait()

    def deadline(self) -> float | None:
        """A machine of one's own does not go away."""
        return None

    def _wait(self) -> None:
        if self.world_size > 1:
            dist.barrier()
