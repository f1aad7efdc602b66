"""What the denoiser learns: noising, targets, losses a row, and the conversions between the three ways to say the same.

Everywhere `noisy = alpha * final + sigma * noise`; see `schedule.coefficients`. All tensors B C h w unless said otherwise;
alpha and sigma broadcast against them.
"""

import math

import torch
from torch import Tensor

from ccray.config import ObjectiveConfig
from ccray.diffusion.schedule import alphas_cumprod, betas, coefficients, signal_to_noise

# Weight of the variational bound beside the simple loss: Improved DDPM (arXiv 2102.09672), equation 16.
BOUND_WEIGHT = 0.001


def noise_latents(final: Tensor, noise: Tensor, timesteps: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Final latents at each row's noise level: DDPM (arXiv 2006.11239) equation 4, or (1 - s) x + s n for a flow."""
    alpha, sigma = _rows(timesteps, objective, final)
    return alpha * final + sigma * noise


def target(final: Tensor, noise: Tensor, timesteps: Tensor, objective: ObjectiveConfig) -> Tensor:
    """What the denoiser should answer: the noise; v (arXiv 2202.00512, appendix D); or the flow's velocity, noise - final."""
    if objective.kind == "epsilon":
        return noise
    if objective.kind == "flow":
        return noise - final
    alpha, sigma = _rows(timesteps, objective, final)
    return alpha * noise - sigma * final


def loss_per_row(prediction: Tensor, final: Tensor, noise: Tensor, timesteps: Tensor, objective: ObjectiveConfig) -> Tensor:
    """The training loss of each row, [B]: mean squared error times the row's weight, with `learned_sigma` plus the variational bound.

    The hybrid of Improved DDPM (arXiv 2102.09672), equation 16: L_simple + 0.001 L_vlb, where L_vlb is estimated as
    num_train_timesteps times the term of the drawn timestep and does not move the mean. The weight is L_simple's alone: the bound
    brings its own.

    Args:
        prediction: B C h w, or B 2C h w with `learned_sigma`: mean's part, then variance's.
        final: the clean final latents.
        noise: the noise they were mixed with.
        timesteps: B.
        objective: what `prediction` means.
    """
    if not objective.learned_sigma:
        return _simple(prediction, final, noise, timesteps, objective)
    mean_part, variance_part = prediction.chunk(2, dim=1)
    simple = _simple(mean_part, final, noise, timesteps, objective)
    bound = variational_bound(mean_part.detach(), variance_part, final, noise, timesteps, objective)
    return simple + BOUND_WEIGHT * objective.num_train_timesteps * bound


def loss_weight(timesteps: Tensor, objective: ObjectiveConfig) -> Tensor:
    """What each row's squared error weighs, float64 [B]: 1, or min-SNR.

    Min-SNR (arXiv 2303.09556) weighs the squared error of the final latents by min(SNR, gamma). That of epsilon is
    SNR times as large, that of v SNR + 1 times, so they weigh min(SNR, gamma) / SNR and min(SNR, gamma) / (SNR + 1).
    """
    if objective.min_snr_gamma is None:
        return torch.ones(len(timesteps), dtype=torch.float64, device=timesteps.device)
    ratio = signal_to_noise(timesteps, objective)
    return ratio.clamp(max=objective.min_snr_gamma) / (ratio if objective.kind == "epsilon" else ratio + 1)


def variational_bound(
    mean_part: Tensor, variance_part: Tensor, final: Tensor, noise: Tensor, timesteps: Tensor, objective: ObjectiveConfig
) -> Tensor:
    """The bound's term at each row's timestep, bits a latent number, [B].

    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0 (DDPM, arXiv 2006.11239, equations 5 to 7), the discretised decoder likelihood
    for t = 0 (equation 13, as Improved DDPM and PixArt apply it to latents). The variance lies between the two bounds of Improved
    DDPM, equation 15: log variance = f log beta + (1 - f) log beta~ with f = (variance_part + 1) / 2.
    """
    noisy = noise_latents(final, noise, timesteps, objective)
    predicted = prediction_to_final(mean_part, noisy, timesteps, objective)
    weight_final, weight_noisy, log_lower, log_upper = (_broadcast(part, final) for part in _posterior(timesteps, objective))
    true_mean = weight_final * final + weight_noisy * noisy
    mean = weight_final * predicted + weight_noisy * noisy
    fraction = (variance_part + 1) / 2
    log_variance = fraction * log_upper + (1 - fraction) * log_lower
    divergence = _mean(_normal_kl(true_mean, log_lower, mean, log_variance))
    decoder = _mean(-_discretised_log_likelihood(final, mean, 0.5 * log_variance))
    return torch.where(timesteps.long() == 0, decoder, divergence) / math.log(2)


def prediction_to_final(prediction: Tensor, noisy: Tensor, timesteps: Tensor, objective: ObjectiveConfig) -> Tensor:
    """The clean latents that a prediction of this objective (mean's part only) speaks of."""
    alpha, sigma = _rows(timesteps, objective, noisy)
    if objective.kind == "epsilon":
        return epsilon_to_final(prediction, noisy, alpha, sigma)
    if objective.kind == "v":
        return v_to_final(prediction, noisy, alpha, sigma)
    return flow_to_final(prediction, noisy, sigma)


def epsilon_to_final(epsilon: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return (noisy - sigma * epsilon) / alpha


def final_to_epsilon(final: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return (noisy - alpha * final) / sigma


def v_to_final(v: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """For alpha^2 + sigma^2 = 1 (arXiv 2202.00512, appendix D)."""
    return alpha * noisy - sigma * v


def final_to_v(final: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """For alpha^2 + sigma^2 = 1."""
    return (alpha * noisy - final) / sigma


def epsilon_to_v(epsilon: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """For alpha^2 + sigma^2 = 1."""
    return (epsilon - sigma * noisy) / alpha


def v_to_epsilon(v: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """For alpha^2 + sigma^2 = 1."""
    return sigma * noisy + alpha * v


def flow_to_final(velocity: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """For alpha = 1 - sigma, velocity = noise - final."""
    return noisy - sigma * velocity


def final_to_flow(final: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """For alpha = 1 - sigma."""
    return (noisy - final) / sigma


def flow_to_epsilon(velocity: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """For alpha = 1 - sigma."""
    return noisy + (1 - sigma) * velocity


def epsilon_to_flow(epsilon: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """For alpha = 1 - sigma."""
    return (epsilon - noisy) / (1 - sigma)


def _rows(timesteps: Tensor, objective: ObjectiveConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = coefficients(timesteps, objective)
    return _broadcast(alpha, like), _broadcast(sigma, like)


def _broadcast(rows: Tensor, like: Tensor) -> Tensor:
    return rows.to(like.device, like.dtype).view(-1, *[1] * (like.ndim - 1))


def _simple(prediction: Tensor, final: Tensor, noise: Tensor, timesteps: Tensor, objective: ObjectiveConfig) -> Tensor:
    """DDPM's equation 14, weighted, [B]."""
    error = _mean((prediction - target(final, noise, timesteps, objective)).square())
    return error * loss_weight(timesteps, objective).to(error.device, error.dtype)


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1)


def _posterior(timesteps: Tensor, objective: ObjectiveConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of q(x_{t-1} | x_t, x_0), [B] each: weights of x_0 and x_t in its mean, its log variance (lower bound), log beta (upper bound).

    DDPM equation 7. The variance at t = 0 is zero; the next step's stands in for it, as in Improved DDPM's code.
    """
    step = timesteps.long()
    beta, signal = betas(objective).to(step.device), alphas_cumprod(objective).to(step.device)
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    variance = beta * (1 - before) / (1 - signal)
    log_variance = torch.cat([variance[1:2], variance[1:]]).log()
    weight_final = beta * before.sqrt() / (1 - signal)
    weight_noisy = (1 - before) * (1 - beta).sqrt() / (1 - signal)
    return weight_final[step], weight_noisy[step], log_variance[step], beta.log()[step]


def _normal_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(other)), nats a number."""
    ratio = log_variance - other_log_variance
    return 0.5 * (-1 - ratio + ratio.exp() + (mean - other_mean).square() * torch.exp(-other_log_variance))


def _discretised_log_likelihood(final: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability of the bin of width 2/255 around `final`, the outermost bins open: DDPM equation 13, nats a number."""
    inverse = torch.exp(-log_scale)
    upper = _normal_cdf((final - mean + 1 / 255) * inverse)
    lower = _normal_cdf((final - mean - 1 / 255) * inverse)
    mass = torch.where(final < -0.999, upper, torch.where(final > 0.999, 1 - lower, upper - lower))
    return mass.clamp(min=1e-12).log()


def _normal_cdf(values: Tensor) -> Tensor:
    """The tanh approximation of Improved DDPM's code (`approx_standard_normal_cdf`)."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))
