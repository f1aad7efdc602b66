"""From noise to final latents: the denoising loop of the stock pipelines around any diffusers scheduler."""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Noisy latents B C h w, timesteps B, features B T W, mask B T -> prediction B C' h w.
Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# The number of steps done (from 1) and the latents after them, B C h w.
OnStep = Callable[[int, Tensor], None]


def guided(guidance: float | Tensor) -> bool:
    """Whether any row asks for classifier-free guidance; the stock pipelines take 1 and less as no guidance."""
    return bool((torch.as_tensor(guidance) > 1).any())


@torch.no_grad()
def sample(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    steps: int,
    guidance: float | Tensor,
    features: Tensor,
    mask: Tensor,
    null_features: Tensor | None = None,
    null_mask: Tensor | None = None,
    on_step: OnStep | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Denoise with classifier-free guidance (arXiv 2207.12598, equation 6), in the stock pipelines' order of operations.

    Args:
        predict: the denoiser.
        scheduler: a diffusers scheduler; a copy is used, so one may serve several threads.
        noise: B C h w from N(0, 1), on the denoiser's device and in its dtype.
        steps: of the scheduler, at least 1.
        guidance: one scale, or one a row (B).
        features: B T W; mask: B T.
        null_features, null_mask: of the negative (usually empty) prompt; needed only when `guided(guidance)`.
        on_step: called after every step.
        generators: one a row, for schedulers that add noise on the way.

    Returns:
        Final latents B C h w.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps, device=noise.device)
    extra = {"generator": list(generators)} if generators is not None and "generator" in inspect.signature(scheduler.step).parameters else {}
    two = guided(guidance)
    if two:
        if null_features is None or null_mask is None:
            raise ValueError(f"guidance {guidance} needs null_features and null_mask")
        features, mask = torch.cat([null_features, features]), torch.cat([null_mask, mask])
    scale = _row_scale(guidance, noise)
    latents = noise * scheduler.init_noise_sigma
    for number, timestep in enumerate(scheduler.timesteps, start=1):
        pair = torch.cat([latents] * 2) if two else latents
        pair = scheduler.scale_model_input(pair, timestep)
        prediction = predict(pair, timestep.expand(len(pair)), features, mask)
        if two:
            prediction = _guide(prediction, scale)
        if prediction.shape[1] == 2 * latents.shape[1]:  # learned sigma: samplers use the mean's part only
            prediction = prediction.chunk(2, dim=1)[0]
        latents = scheduler.step(prediction, timestep, latents, **extra, return_dict=False)[0]
        if on_step is not None:
            on_step(number, latents)
    return latents


def _row_scale(guidance: float | Tensor, like: Tensor) -> Tensor:
    """1 or B, 1 1 1; at least fp32, which is how a plain number multiplies half-precision tensors in the stock pipelines."""
    return torch.as_tensor(guidance).to(like.device, torch.promote_types(like.dtype, torch.float32)).view(-1, 1, 1, 1)


def _guide(prediction: Tensor, scale: Tensor) -> Tensor:
    without, with_text = prediction.chunk(2)
    guided_rows = without + (scale * (with_text - without)).to(prediction.dtype)
    return torch.where(scale > 1, guided_rows, with_text)
