"""How fast a run goes, what share of the machine it uses, and how much memory. None of it is the same twice."""

import resource
import time

import torch
from torch import nn

from ccray.config import Precision
from ccray.interfaces import Runtime
from ccray.models.text import TextEncoder
from ccray.training import cost
from ccray.training.checkpoint import Progress
from ccray.training.rows import HostRows

MIB = 2**20


class Pace:
    """Samples and operations since the last line of metrics, against the clock."""

    def __init__(self, model: nn.Module, runtime: Runtime, precision: Precision, text: TextEncoder) -> None:
        self._model, self._text, self._device, self._ranks = model, text, runtime.device, runtime.world_size
        self._peak = cost.peak_flops_per_second(runtime.device, precision)
        self._flops_of: dict[tuple[int, ...], float] = {}  # shape of a latent -> operations of one sample, forward and backward
        self._flops = 0.0
        self._clock, self._samples, self._steps = time.monotonic(), 0, 0

    def start(self, progress: Progress) -> None:
        """Begin to measure where the run stands."""
        self._clock, self._samples, self._steps, self._flops = time.monotonic(), progress.samples, progress.step, 0.0

    def step(self, rows: HostRows) -> None:
        """One step of all ranks."""
        if self._peak is None:
            return
        shape = tuple(rows.mean.shape[1:])
        if shape not in self._flops_of:
            self._flops_of[shape] = cost.training_flops(self._model, shape, self._text.max_tokens, self._text.width)
        self._flops += self._flops_of[shape] * len(rows.global_keys)

    def since_last(self, progress: Progress) -> dict[str, float]:
        """samples_per_second of all ranks, seconds_per_step, peak_share of the devices' FLOP/s where that is known, and this rank's peak memory_mib."""
        seconds = max(time.monotonic() - self._clock, 1e-9)
        values = {
            "samples_per_second": (progress.samples - self._samples) / seconds,
            "seconds_per_step": seconds / max(progress.step - self._steps, 1),
            "memory_mib": self._memory_bytes() / MIB,
        }
        if self._peak is not None:
            values["peak_share"] = self._flops / seconds / (self._peak * self._ranks)
        self.start(progress)
        return values

    def _memory_bytes(self) -> int:
        """The most that was in use at once: of the device by tensors, on a CPU of the process."""
        if torch.device(self._device).type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
