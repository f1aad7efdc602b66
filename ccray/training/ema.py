"""The exponential moving average of the weights: each rank averages its own shards, so nothing is communicated."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; an ordinary tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Ema:
    """average <- decay * average + (1 - decay) * weights after each update of a phase's window; outside of it there is no average, and no copy."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}  # by the names of the model's parameters; empty outside of a window
        self._model = model
        self._shards: tuple[list[Tensor], list[Tensor]] | None = None  # of averages and weights; to ask for them takes longer than to average

    def open(self) -> None:
        """Begin a window with the weights as they are; one that is open stays as it is."""
        if not self.average:
            self.average = {name: parameter.detach().clone() for name, parameter in self._model.named_parameters()}
            self._shards = self._both()

    def close(self) -> None:
        """Forget the average."""
        self.average, self._shards = {}, None

    @torch.no_grad()
    def update(self, made: Tensor) -> None:
        """Take in the weights as an update left them.

        Args:
            made: bool scalar on the weights' device; where it is false, the update was skipped and the average stays.
        """
        if self._shards is not None:
            averages, weights = self._shards
            share = made.to(averages[0].dtype) * (1 - self.decay)
            torch._foreach_lerp_(averages, weights, [share] * len(averages))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights, where there are any; afterwards it has its own again, bit for bit."""
        averages, weights = self._both()
        with torch.no_grad():
            kept = [weight.clone() for weight in weights]
            for weight, average in zip(weights, averages, strict=True):
                weight.copy_(average)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, own in zip(weights, kept, strict=True):
                    weight.copy_(own)

    def _both(self) -> tuple[list[Tensor], list[Tensor]]:
        weights = dict(self._model.named_parameters())
        return [local(tensor) for tensor in self.average.values()], [local(weights[name].detach()) for name in self.average]
