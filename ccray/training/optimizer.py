"""AdamW on full-precision weights, its learning rate over time, and the clipping of gradients."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ccray.config import TrainConfig


def build(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over all parameters alike, as Stable Diffusion's recipes have it."""
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, eps=config.adam_eps, weight_decay=config.weight_decay, fused=config.fused_optimizer
    )


def learning_rate(step: int, config: TrainConfig, peak: float, steps: int) -> float:
    """The rate of update number `step`, from 0, of `steps`: a linear rise to `peak` over `warmup_steps`, then constant or half a cosine down to zero."""
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return peak
    done = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def clip(parameters: list[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale the gradients of all ranks' shards to at most `max_norm` (None = leave them); their norm before, a scalar."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
