"""Curves and pictures for Weights & Biases, beside those under the root: `resources.train.trackers=[wandb]`.

`WANDB_MODE=offline` needs no network: `wandb sync` uploads what lies in the run's `wandb/` later. A run that is continued goes on under its
own id; of steps that come again, after a kill, the service keeps the first telling.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ccray.interfaces import Refused
from ccray.storage import Root

PROJECT = "ccray"


def check() -> None:
    """Raises:
    Refused: when the package is not installed.
    """
    _package()


class WandbTracker:
    """An `interfaces.Tracker`."""

    def __init__(self, root: Root, directory: str) -> None:
        """directory: of the run, relative to the root."""
        self._wandb = _package()
        folder = Path(root.path(directory)) if root.is_local else Path(tempfile.mkdtemp(prefix="ccray-wandb-"))
        folder.mkdir(parents=True, exist_ok=True)
        place = root.path(directory)
        self._run = self._wandb.init(
            project=PROJECT,
            name=directory.rsplit("/", maxsplit=1)[-1],
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            resume="allow",
            dir=str(folder),
            config={"root": root.uri, "directory": directory},
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One point of each curve."""
        self._run.log(dict(values), step=step)

    def images(self, step: int, name: str, grid: np.ndarray) -> None:
        """One picture (uint8, H W 3)."""
        self._run.log({name: self._wandb.Image(grid)}, step=step)

    def close(self) -> None:
        """Wait until all is written, or uploaded."""
        self._run.finish()
        self._wandb.teardown()  # its own process writes the files, and has only then


def _package() -> Any:
    try:
        import wandb
    except ImportError:
        raise Refused("resources.train.trackers names wandb, which is not installed: pip install ccray[wandb], or leave it out") from None
    return wandb
