"""From prompts to pictures: the same for training's sample grids, evaluation and serving.

A row's picture depends on its prompt, seed and settings and, in its last bits, on the batch width; not on the other rows.
So callers who want the same bits every time name one `width`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ccray.diffusion.sampler import OnStep, guided, sample
from ccray.interfaces import Refused


class Text(Protocol):
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]: ...


class Decoder(Protocol):
    @property
    def factor(self) -> int: ...

    @property
    def latent_channels(self) -> int: ...

    def decode(self, final: Tensor) -> np.ndarray: ...


class Parts(Protocol):
    """What drawing needs of a model; `models.pipeline.Components` is one."""

    scheduler: Any
    size_px: int
    default_steps: int
    default_guidance: float

    @property
    def text(self) -> Text: ...

    @property
    def autoencoder(self) -> Decoder: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def predict(self, latents: Tensor, timesteps: Tensor, features: Tensor, mask: Tensor) -> Tensor: ...


def generate(
    components: Parts,
    prompts: Sequence[str],
    seeds: Sequence[int],
    negative_prompts: Sequence[str] | None = None,
    steps: int | None = None,
    guidance: float | Sequence[float] | None = None,
    size_px: tuple[int, int] | None = None,
    width: int | None = None,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """Draw one picture a prompt: uint8, N H W 3. Arguments and errors as `generate_latents`."""
    height_px, width_px = _size(components, size_px)
    width = width or max(len(prompts), 1)
    latents = generate_latents(components, prompts, seeds, negative_prompts, steps, guidance, size_px, width, on_step)
    pictures = [components.autoencoder.decode(_pad(rows, width))[: len(rows)] for rows in latents.split(width)] if len(latents) else []
    return np.concatenate([np.empty((0, height_px, width_px, 3), np.uint8), *pictures])


def generate_latents(
    components: Parts,
    prompts: Sequence[str],
    seeds: Sequence[int],
    negative_prompts: Sequence[str] | None = None,
    steps: int | None = None,
    guidance: float | Sequence[float] | None = None,
    size_px: tuple[int, int] | None = None,
    width: int | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Final latents (N C h w) of one picture a prompt, those of the stock pipeline given `generator=[...]` of the same seeds.

    Args:
        components: the model.
        prompts: N texts.
        seeds: N seeds of the noise, each drawn on the CPU from a generator of its own.
        negative_prompts: N texts; None = empty ones.
        steps: of the sampler; None = the model's default.
        guidance: one scale, or one a prompt; None = the model's default. 1 and less mean none.
        size_px: (height, width) in pixels; None = the square the model was made for.
        width: rows drawn at once, the last batch padded to as many; None = all in one batch.
        on_step: called after every step of every batch with the number of steps done and the batch's latents.

    Raises:
        Refused: on a size the model cannot draw, or lists of different lengths.
    """
    size = _size(components, size_px)
    count = len(prompts)
    negatives = negative_prompts if negative_prompts is not None else [""] * count
    scales = _scales(components.default_guidance if guidance is None else guidance, count)
    if not len(seeds) == len(negatives) == len(scales) == count:
        raise Refused(
            f"{count} prompts with {len(seeds)} seeds, {len(negatives)} negative prompts, {len(scales)} guidance scales: expected as many of each"
        )
    width = width or max(count, 1)
    latents = _empty(components, size, count)
    for rows in _batches(scales, width):
        spare = width - len(rows)
        drawn = _draw(
            components,
            [*(prompts[row] for row in rows), *[""] * spare],
            [*(seeds[row] for row in rows), *[0] * spare],
            [*(negatives[row] for row in rows), *[""] * spare],
            [*(scales[row] for row in rows), *[scales[rows[-1]]] * spare],
            steps or components.default_steps,
            size,
            on_step,
        )
        latents[rows] = drawn[: len(rows)]
    return latents


def _batches(scales: Sequence[float], width: int) -> list[list[int]]:
    """Row numbers of each batch. Rows without guidance go apart: beside guided ones they would be drawn at twice the width."""
    groups = [[row for row, scale in enumerate(scales) if guided(scale) is wanted] for wanted in (True, False)]
    return [group[start : start + width] for group in groups for start in range(0, len(group), width)]


def _draw(
    components: Parts,
    prompts: list[str],
    seeds: list[int],
    negatives: list[str],
    scales: list[float],
    steps: int,
    size_px: tuple[int, int],
    on_step: OnStep | None,
) -> Tensor:
    features, mask = components.text.encode(prompts)
    guidance = torch.tensor(scales, dtype=torch.float64)
    null_features, null_mask = components.text.encode(negatives) if guided(guidance) else (None, None)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    shape = _empty(components, size_px, 0).shape[1:]
    noise = torch.cat([torch.randn((1, *shape), generator=generator, dtype=components.dtype) for generator in generators])
    return sample(
        components.predict,
        components.scheduler,
        noise.to(components.device),
        steps,
        guidance,
        features,
        mask,
        null_features,
        null_mask,
        on_step,
        generators,
    )


def size_multiple_px(components: Parts) -> int:
    """What both sides of a picture are multiples of, in pixels."""
    return max(8, 2 * components.autoencoder.factor)


def _size(components: Parts, size_px: tuple[int, int] | None) -> tuple[int, int]:
    height_px, width_px = size_px or (components.size_px, components.size_px)
    multiple = size_multiple_px(components)
    if height_px < multiple or width_px < multiple or height_px % multiple or width_px % multiple:
        raise Refused(f"size {width_px}x{height_px} px: expected multiples of {multiple} px")
    return height_px, width_px


def _empty(components: Parts, size_px: tuple[int, int], count: int) -> Tensor:
    height, width = (side // components.autoencoder.factor for side in size_px)
    return torch.empty((count, components.autoencoder.latent_channels, height, width), device=components.device, dtype=components.dtype)


def _scales(guidance: float | Sequence[float], count: int) -> list[float]:
    return [float(guidance)] * count if isinstance(guidance, int | float) else list(guidance)


def _pad(rows: Tensor, width: int) -> Tensor:
    return torch.cat([rows, rows[-1:].expand(width - len(rows), *rows.shape[1:])])
