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
    """average <- decay * average + (1 - decay) * weights after each update of a phase's window; the weights themselves outside of it."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._model = model
        self.average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, averages_now: bool) -> None:
        """Take in the weights as an update left them; `averages_now`: it is one of those that are averaged."""
        averages, weights = self._both()
        if averages_now:
            torch._foreach_lerp_(averages, weights, 1 - self.decay)
        else:
            torch._foreach_copy_(averages, weights)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights; afterwards it has its own again, bit for bit."""
        averages, weights = self._both()
        with torch.no_grad():
            kept = [weight.clone() for weight in weights]
            torch._foreach_copy_(weights, averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)

    def _both(self) -> tuple[list[Tensor], list[Tensor]]:
        weights = dict(self._model.named_parameters())
        return [local(tensor) for tensor in self.average.values()], [local(weights[name].detach()) for name in self.average]
