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

    def report(self, metrics: dict[str, float]) -> None:
        """Nobody else wants to know."""

    def put(self, step: int, directory: Path) -> None:
        """Move this rank's files beside the others'."""
        self._shelf.put(step, directory)

    def publish(self, step: int) -> None:
        """Say that the checkpoint is complete."""
        self._shelf.publish(step)

    def deadline(self) -> float | None:
        """A machine of one's own does not go away."""
        return None
