"""AdamW on full-precision weights, its learning rate over time, and the clipping of gradients."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ccray.config import TrainConfig


def build(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over all parameters alike, as Stable Diffusion's recipes have it: one kernel, or torch's default, some ten a list."""
    fused = config.fused_optimizer
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=fused,
        foreach=not fused,
    )


def step(adamw: torch.optim.AdamW, finite: Tensor) -> None:
    """One update, or none where `finite` (a bool without dimensions, the same on every rank) is false: weights, moments and counts stay bit for bit.

    The fused kernel reads the answer on the device itself (`found_inf`, made for loss scaling), so the program does not wait for it.
    """
    fused: Any = adamw
    if adamw.defaults["fused"]:
        fused.found_inf = (~finite).to(torch.float32)
        adamw.step()
        del fused.found_inf
    elif finite:
        adamw.step()


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
