"""What a run needs to continue as if nothing had happened, as a directory.

`*.distcp`, `.metadata`: weights, averages and both moments of AdamW, each rank its shards (torch.distributed.checkpoint), so any number of
ranks can read them. `progress.json`: how far the run is. `seen.parquet`: which images it has seen, and how often (`schema.SEEN`).
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from ccray import schema
from ccray.training.ema import Ema

PROGRESS = "progress.json"
SEEN = "seen.parquet"
Tensors = dict[str, dict[str, Tensor]]


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # updates made
    steps: int = 0  # updates in all
    samples: int = 0  # images, counted each time they were seen
    loss_sum: float = 0.0  # over the steps since the last line of metrics
    loss_steps: int = 0
    drawn: dict[str, int] = field(default_factory=dict)  # captions by table, over the same steps
    last_loss: float = 0.0  # mean of the last line of metrics
    parameters: int = 0


class Seen:
    """Which images the run has seen, and how often."""

    def __init__(self, keys: np.ndarray | None = None, times: np.ndarray | None = None) -> None:
        self._keys = np.empty(0, np.int64) if keys is None else keys
        self._times = np.empty(0, np.int64) if times is None else times
        self._fresh: list[np.ndarray] = []

    def add(self, keys: np.ndarray) -> None:
        """One batch: int64 [B]."""
        self._fresh.append(keys)

    def table(self) -> pa.Table:
        """`schema.SEEN`, ascending by key."""
        if self._fresh:
            keys = np.concatenate([self._keys, *self._fresh])
            times = np.concatenate([self._times, np.ones(len(keys) - len(self._keys), np.int64)])
            self._keys, places = np.unique(keys, return_inverse=True)
            self._times = np.bincount(places, weights=times, minlength=len(self._keys)).astype(np.int64)
            self._fresh = []
        return pa.table({"key": self._keys, "times": self._times}, schema=schema.SEEN)

    @classmethod
    def read(cls, directory: Path) -> "Seen":
        """The record of a checkpoint."""
        table = pq.read_table(directory / SEEN)
        return cls(table["key"].to_numpy(), table["times"].to_numpy())


def save(directory: Path, model: nn.Module, optimizer: torch.optim.AdamW, ema: Ema) -> None:
    """Write this rank's part of the tensors; a collective of all ranks."""
    with _one_process_is_fine():
        dcp.save(_tensors(model, optimizer, ema), checkpoint_id=directory, no_dist=not torch.distributed.is_initialized())


def save_record(directory: Path, progress: Progress, seen: Seen) -> None:
    """Write what one rank knows for all."""
    (directory / PROGRESS).write_text(json.dumps(asdict(progress)))
    pq.write_table(seen.table(), directory / SEEN, compression="zstd")


def load(directory: Path, model: nn.Module, optimizer: torch.optim.AdamW, ema: Ema) -> Progress:
    """Put a checkpoint's numbers into model, optimizer and average, in place; a collective of all ranks."""
    progress = Progress(**json.loads((directory / PROGRESS).read_text()))
    tensors = _tensors(model, optimizer, ema)
    with _one_process_is_fine():
        dcp.load(tensors, checkpoint_id=directory, no_dist=not torch.distributed.is_initialized())
    for name, parameter in model.named_parameters():
        moments = {moment: tensors[moment][name] for moment in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(float(progress.step), device=parameter.device), **moments}
    return progress


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        yield


def _tensors(model: nn.Module, optimizer: torch.optim.AdamW, ema: Ema) -> Tensors:
    """By the names of the model's parameters; moments that do not exist yet are zeros."""
    parameters = dict(model.named_parameters())
    tensors = {"model": {name: parameter.detach() for name, parameter in parameters.items()}, "average": ema.average}
    for moment in ("exp_avg", "exp_avg_sq"):
        tensors[moment] = {name: optimizer.state[parameter].get(moment, torch.zeros_like(parameter)) for name, parameter in parameters.items()}
    return tensors
