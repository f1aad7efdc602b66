"""Noise levels: how much signal and noise a step has, and which steps training visits.

Everywhere `noisy = alpha * final + sigma * noise` with noise from N(0, 1).
"""

from functools import lru_cache

import torch
from torch import Tensor

from ccray.config import ObjectiveConfig


@lru_cache(maxsize=32)
def betas(objective: ObjectiveConfig) -> Tensor:
    """Variances added at each step (float64, T): `linear` of DDPM (arXiv 2006.11239, section 4) or `scaled_linear` of latent diffusion.

    With `zero_terminal_snr` the last is 1, so that the last step holds no signal.
    """
    power = 0.5 if objective.beta_schedule == "scaled_linear" else 1.0
    ends = objective.beta_start**power, objective.beta_end**power
    plain = torch.linspace(*ends, objective.num_train_timesteps, dtype=torch.float64) ** (1 / power)
    return without_terminal_signal(plain) if objective.zero_terminal_snr else plain


def without_terminal_signal(plain: Tensor) -> Tensor:
    """Betas (T) whose signal falls to 0 at the last step and is as before at the first: arXiv 2305.08891, algorithm 1."""
    root = torch.cumprod(1 - plain, dim=0).sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    signal = root.square()
    return 1 - torch.cat([signal[:1], signal[1:] / signal[:-1]])


@lru_cache(maxsize=32)
def alphas_cumprod(objective: ObjectiveConfig) -> Tensor:
    """The share of the signal's variance left after each step (float64, T): DDPM, below equation 4."""
    return torch.cumprod(1 - betas(objective), dim=0)


def coefficients(timesteps: Tensor, objective: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of each row's noise level, float64 [B] each.

    epsilon, v: DDPM equation 4 at whole timesteps. flow: (1 - s, s) with s = timestep / num_train_timesteps
    (rectified flow, arXiv 2209.03003; Stable Diffusion 3, arXiv 2403.03206, equation 13).
    """
    if objective.kind == "flow":
        sigma = timesteps.double() / objective.num_train_timesteps
        return 1 - sigma, sigma
    signal = alphas_cumprod(objective).to(timesteps.device)[timesteps.long()]
    return signal.sqrt(), (1 - signal).sqrt()


def signal_to_noise(timesteps: Tensor, objective: ObjectiveConfig) -> Tensor:
    """alpha^2 / sigma^2 of each row's noise level, float64 [B]."""
    alpha, sigma = coefficients(timesteps, objective)
    return (alpha / sigma).square()


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """A flow's noise level moved towards noise by `shift` > 1: Stable Diffusion 3 (arXiv 2403.03206), equation 23."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def draw_timesteps(uniforms: Tensor, objective: ObjectiveConfig) -> Tensor:
    """The timesteps that training visits, from numbers uniform on [0, 1), so that randomness stays the caller's.

    Args:
        uniforms: B, any float.
        objective: `timestep_density` "uniform", or "logit_normal" (Stable Diffusion 3, equation 19), then `flow_shift` for a flow.

    Returns:
        B; for a flow the dtype of `uniforms`, in [0, num_train_timesteps]; else long, 0 .. num_train_timesteps - 1.
    """
    level = uniforms.double()
    if objective.timestep_density == "logit_normal":
        tiny = torch.finfo(torch.float64).eps
        level = torch.sigmoid(objective.logit_mean + objective.logit_std * torch.special.ndtri(level.clamp(tiny, 1 - tiny)))
    steps = objective.num_train_timesteps
    if objective.kind == "flow":
        return (shift_sigma(level, objective.flow_shift) * steps).to(uniforms.dtype)
    return (level * steps).long().clamp(max=steps - 1)
