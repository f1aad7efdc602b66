"""Where a run's curves and pictures go: `metrics.jsonl`, TensorBoard's event files, and PNGs, all below the run's directory under the root;
and services beside them, where they are asked for."""

import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ccray.interfaces import Tracker
from ccray.storage import Root
from ccray.training.weights_and_biases import WandbTracker

METRICS = "metrics.jsonl"
SAMPLES = "samples"
EVENTS = "tensorboard"


MEASURED = ("samples_per_second", "seconds_per_step", "memory_mib", "peak_share")  # what differs between two runs of the same numbers


def progress_line(step: int, steps: int, values: dict[str, float]) -> str:
    """One line of metrics for people: `train: step 120/1000  loss 0.1234  160 samples/s  0:05:52 left`."""
    minutes, seconds = divmod(round((steps - step) * values["seconds_per_step"]), 60)
    left = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    loss = f"{values['loss']:.4f}" if "loss" in values else "no number"
    skipped = f"  {values['skipped']} skipped" if values["skipped"] else ""
    return f"train: step {step}/{steps}  loss {loss}{skipped}  {values['samples_per_second']:.0f} samples/s  {left} left"


class ClosingTracker(Tracker, Protocol):
    """A tracker that is told when the run ends."""

    def close(self) -> None: ...


def opened(root: Root, directory: str, others: Sequence[str] = ()) -> ClosingTracker:
    """Files under the run's directory, and what `resources.train.trackers` names beside them.

    Raises:
        Refused: when a package for one of those is not installed.
    """
    kinds = {"wandb": WandbTracker}
    return Several([FileTracker(root, directory), *(kinds[name](root, directory) for name in others)])


class FileTracker:
    """An `interfaces.Tracker`. A step that comes again, after a resume, takes the place of its first telling and of all that followed it."""

    def __init__(self, root: Root, directory: str) -> None:
        """directory: of the run, relative to the root."""
        self._root, self._directory = root, directory
        self._lines: list[dict[str, Any]] | None = None
        self._events: SummaryWriter | None = None
        self._folder = Path(root.path(f"{directory}/{EVENTS}")) if root.is_local else Path(tempfile.mkdtemp(prefix="ccray-events-"))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add one line of metrics; the file is replaced in one atomic step."""
        if self._lines is None:
            self._lines = [line for line in self._before() if line["step"] < step]
        self._lines.append({"step": step, **values})
        self._root.write(f"{self._directory}/{METRICS}", "".join(json.dumps(line) + "\n" for line in self._lines).encode())
        for name, value in values.items():
            self._writer(step).add_scalar(name, value, step)
        self._flush()

    def images(self, step: int, name: str, grid: np.ndarray) -> None:
        """One picture (uint8, H W 3) as `samples/step-00000100-<name>.png`, and in TensorBoard."""
        png = io.BytesIO()
        Image.fromarray(grid).save(png, "PNG")
        self._root.write(f"{self._directory}/{SAMPLES}/step-{step:08d}-{name}.png", png.getvalue())
        self._writer(step).add_image(name, grid, step, dataformats="HWC")
        self._flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            self._events.close()
            self._flush()
        if not self._root.is_local:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _before(self) -> list[dict[str, Any]]:
        path = f"{self._directory}/{METRICS}"
        return [json.loads(line) for line in self._root.read(path).splitlines()] if self._root.exists(path) else []

    def _writer(self, step: int) -> SummaryWriter:
        if self._events is None:
            self._events = SummaryWriter(str(self._folder), purge_step=step)
        return self._events

    def _flush(self) -> None:
        if self._events is not None:
            self._events.flush()
            if not self._root.is_local:
                self._root.upload(self._folder, f"{self._directory}/{EVENTS}")


class Several:
    """Trackers that are all told the same."""

    def __init__(self, trackers: Sequence[ClosingTracker]) -> None:
        self._trackers = trackers

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Pass it on."""
        for tracker in self._trackers:
            tracker.scalars(step, values)

    def images(self, step: int, name: str, grid: np.ndarray) -> None:
        """Pass it on."""
        for tracker in self._trackers:
            tracker.images(step, name, grid)

    def close(self) -> None:
        """Close them all."""
        for tracker in self._trackers:
            tracker.close()


class Silence:
    """The tracker of every rank but the first."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Say nothing."""

    def images(self, step: int, name: str, grid: np.ndarray) -> None:
        """Show nothing."""

    def close(self) -> None:
        """There is nothing to finish."""
