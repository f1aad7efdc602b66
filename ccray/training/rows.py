"""One step's rows: all of their making that needs no model, and how a GPU does not wait for it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ccray.interfaces import LatentBatch
from ccray.training.draws import draw

T = TypeVar("T")


@dataclass(frozen=True)
class HostRows:
    """This rank's rows of one global batch in host memory (pinned where a GPU waits for them); one row of nothing for an empty slice."""

    rows: int  # that count
    captions: list[str]  # "" where dropped
    mean: Tensor  # float16 [b C h w], raw
    std: Tensor  # likewise
    posterior: Tensor  # float32 [b C h w], normal
    noise: Tensor  # likewise
    time: Tensor  # float64 [b], uniform on [0, 1)
    global_keys: np.ndarray  # int64 [B]
    drawn: dict[str, int]


def prepare(batch: LatentBatch, seed: int, step: int, dropout: float, pinned: bool) -> HostRows:
    """Draw what step number `step` needs of randomness, drop captions with probability `dropout`."""
    count = len(batch.keys)
    if not count:
        batch = _blank(batch)
    draws = draw(seed, step, batch.keys, batch.latent_mean.shape[1:])
    captions = ["" if drop else caption for drop, caption in zip(draws.dropout < dropout, batch.captions, strict=True)]
    mean, std, posterior, noise, time = (
        tensor.pin_memory() if pinned else tensor
        for tensor in map(torch.from_numpy, (batch.latent_mean, batch.latent_std, draws.posterior, draws.noise, draws.time))
    )
    return HostRows(count, captions, mean, std, posterior, noise, time, batch.global_keys, batch.drawn)


def _blank(batch: LatentBatch) -> LatentBatch:
    """One row of nothing in the shape of a batch's rows."""
    latent = np.zeros((1, *batch.latent_mean.shape[1:]), batch.latent_mean.dtype)
    return LatentBatch(np.zeros(1, np.int64), latent, latent, [""], batch.global_keys, batch.drawn)


def one_by_one(make: Callable[[], T | None]) -> Iterator[T]:
    """What `make` returns until it returns None."""
    while (value := make()) is not None:
        yield value


def one_ahead(make: Callable[[], T | None]) -> Iterator[T]:
    """The same, each value made in a thread while the one before is used; errors come where the value would.

    For steps that a GPU computes: on a CPU the thread takes from the step what it gives (no gain in 2 x 132 steps on two busy cores).
    """
    with ThreadPoolExecutor(1, thread_name_prefix="rows") as thread:
        coming = thread.submit(make)
        while (value := coming.result()) is not None:
            coming = thread.submit(make)
            yield value
