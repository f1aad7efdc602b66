"""The small Protocols by which rooms of one floor meet, and the two ways a run ends badly.

A stage builds objects of one room and passes them to another, typed by what stands here; neither room imports the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

Batch = dict[str, np.ndarray]  # column name -> one entry a row


class Refused(Exception):
    """Bad input, found before any write: exit code 2. The message names the key, the value and what was expected."""


class Failed(Exception):
    """A run that started and cannot be finished: exit code 1. The message says what happened and what to do."""


class Overloaded(Exception):
    """An engine that cannot take a request now (its queue is full, its replica is being replaced): the same request may succeed later."""


@dataclass(frozen=True)
class Subject:
    """What a captioner is given: a picture, words about it, or a caption to translate."""

    image: np.ndarray | None = None  # uint8, H W 3
    text: str | None = None


@dataclass(frozen=True)
class Caption:
    """One caption with its mean log-probability a token (nan when the decoder does not give it)."""

    text: str
    mean_logprob: float
    ended: bool = True  # by the model; False: cut off at the most tokens allowed


class Captioner(Protocol):
    """A model that describes pictures, or translates descriptions."""

    def caption(self, subjects: Sequence[Subject]) -> list[Caption]:
        """A caption of each subject, in their order; it does not depend on the others."""
        ...


class Encoder(Protocol):
    """A variational autoencoder's encoder."""

    def encode(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (uint8, N H W 3) to the raw posterior's mean and std (float32, N C h w each)."""
        ...


class Worker(Protocol):
    """What a stage hands to Ray: a plain callable, batch -> batch of as many rows.

    A worker may also have `given_up(batch, why) -> Batch`: its answer for rows whose processing ends the process, as a picture may that needs
    more memory than there is. Without it such rows end the run.
    """

    def __call__(self, batch: Batch) -> Batch: ...


@dataclass(frozen=True)
class LatentBatch:
    """This rank's rows of one global batch."""

    keys: np.ndarray  # int64 [b]
    latent_mean: np.ndarray  # float16 [b C h w], raw
    latent_std: np.ndarray  # float16 [b C h w], raw; zeros when only the mean was kept
    captions: list[str]  # b texts
    global_keys: np.ndarray  # int64 [B]: the whole batch, the same on every rank
    drawn: dict[str, int] = field(default_factory=dict)  # directory of a caption table -> captions of the whole batch that are from it


class Latents(Protocol):
    """Training data in an order that does not know the number of ranks."""

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        """This rank's contiguous slice of every global batch from `start_step` on, without end; a slice may be empty."""
        ...

    def captions(self, count: int) -> list[str]:
        """A few different captions, always the same."""
        ...


class Tracker(Protocol):
    """Where a training run writes its curves and pictures."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def images(self, step: int, name: str, grid: np.ndarray) -> None:
        """One picture (uint8, H W 3), usually a grid of samples."""
        ...


class Runtime(Protocol):
    """All that the training loop knows of where it runs. `report` and `deadline` are barriers: every rank, the same steps. `put` and `publish`
    are not, and may be called from another thread; a checkpoint counts once it is published, which the first rank does when all have put theirs."""

    device: str  # "cpu", "cuda:0"
    rank: int
    world_size: int

    def latest(self) -> AbstractContextManager[Path | None]:
        """A local directory with the newest checkpoint, or None on a fresh start."""
        ...

    def report(self, metrics: dict[str, float]) -> None:
        """Say how far the run is."""
        ...

    def put(self, step: int, directory: Path) -> None:
        """Move this rank's part of a checkpoint from a local directory to where the others' are."""
        ...

    def publish(self, step: int) -> None:
        """Name the checkpoint of `step` the newest one."""
        ...

    def deadline(self) -> float | None:
        """Unix seconds at which this machine goes away, or None."""
        ...


@dataclass(frozen=True)
class GenerationRequest:
    """One picture to draw. `steps` and `guidance` of None mean the model's own defaults."""

    prompt: str
    seed: int
    negative_prompt: str = ""
    steps: int | None = None
    guidance: float | None = None
    width_px: int | None = None
    height_px: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What an endpoint says of one model. Where a foreign folder does not tell, the text says so."""

    id: str
    created: int  # Unix seconds
    owned_by: str
    license: str
    provenance: str
    size_px: int
    size_step_px: int  # sides of a picture are multiples of this
    default_steps: int
    default_guidance: float


class Engine(Protocol):
    """Prompt -> picture, for one or more models, asynchronous because it may sit behind a network."""

    async def models(self) -> list[ModelInfo]: ...

    async def generate(self, model: str, requests: Sequence[GenerationRequest]) -> list[np.ndarray]:
        """One picture (uint8, H W 3) a request, in the order of `requests`.

        Raises:
            Refused: on a model that is not here, or a size it cannot draw.
            Overloaded: when the queue is full.
        """
        ...
