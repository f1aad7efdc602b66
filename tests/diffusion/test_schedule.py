import math

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3, compute_snr
from torch import Tensor

from ccray.config import ObjectiveConfig
from ccray.diffusion.schedule import alphas_cumprod, betas, coefficients, draw_timesteps, shift_sigma, signal_to_noise

EPSILON = ObjectiveConfig(kind="epsilon")
FLOW = ObjectiveConfig(kind="flow")
TERMINAL = ObjectiveConfig(kind="v", zero_terminal_snr=True)
SCHEDULES = [("linear", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012)]


@pytest.mark.parametrize(("name", "start", "end"), SCHEDULES)
def test_noise_levels_are_those_of_diffusers(name: str, start: float, end: float) -> None:
    ours = alphas_cumprod(ObjectiveConfig(kind="epsilon", beta_schedule=name, beta_start=start, beta_end=end))
    theirs = DDPMScheduler(beta_schedule=name, beta_start=start, beta_end=end).alphas_cumprod
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-5, atol=0)


@pytest.mark.parametrize(("name", "start", "end"), SCHEDULES)
def test_without_signal_at_the_end_as_in_diffusers(name: str, start: float, end: float) -> None:
    plain = ObjectiveConfig(kind="v", beta_schedule=name, beta_start=start, beta_end=end)
    ours = plain.model_copy(update={"zero_terminal_snr": True})
    torch.testing.assert_close(betas(ours), rescale_zero_terminal_snr(betas(plain)), rtol=0, atol=1e-12)
    theirs = DDPMScheduler(beta_schedule=name, beta_start=start, beta_end=end, rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(alphas_cumprod(ours).float(), theirs, rtol=0, atol=1e-5)
    assert alphas_cumprod(ours)[-1] == 0
    assert alphas_cumprod(ours)[0] == pytest.approx(alphas_cumprod(plain)[0].item(), abs=1e-15)
    assert alphas_cumprod(plain)[-1] > 0
    assert (alphas_cumprod(ours).diff() < 0).all()


def test_signal_to_noise_is_that_of_diffusers() -> None:
    steps = torch.arange(1000)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    torch.testing.assert_close(signal_to_noise(steps, EPSILON).float(), compute_snr(scheduler, steps), rtol=1e-4, atol=1e-5)
    assert signal_to_noise(torch.tensor([999]), TERMINAL).item() == 0


def test_coefficients() -> None:
    alpha, sigma = coefficients(torch.tensor([0, 500, 999]), EPSILON)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3, dtype=torch.float64))
    alpha, sigma = coefficients(torch.tensor([0.0, 250.0, 1000.0]), FLOW)
    assert sigma.tolist() == [0.0, 0.25, 1.0]
    assert alpha.tolist() == [1.0, 0.75, 0.0]


def test_whole_timesteps_are_equally_likely() -> None:
    uniforms = (torch.arange(4000) + 0.5) / 4000
    drawn = draw_timesteps(uniforms, EPSILON)
    assert drawn.dtype == torch.long
    assert torch.equal(drawn.bincount(minlength=1000), torch.full((1000,), 4))
    assert draw_timesteps(torch.tensor([1.0]), EPSILON).item() == 999


def test_a_flow_is_drawn_continuously() -> None:
    uniforms = torch.tensor([0.0, 0.1234567, 1.0])
    torch.testing.assert_close(draw_timesteps(uniforms, FLOW), uniforms * 1000)
    shifted = draw_timesteps(uniforms, FLOW.model_copy(update={"flow_shift": 3.0}))
    torch.testing.assert_close(shifted, shift_sigma(uniforms, 3.0) * 1000)
    assert shifted[1] > 123.4567


def logit_normal_density(level: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Stable Diffusion 3, equation 19."""
    logit, mean, std = torch.logit(level), objective.logit_mean, objective.logit_std
    return torch.exp(-((logit - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi) * level * (1 - level))


def cumulative(levels: Tensor, objective: ObjectiveConfig) -> Tensor:
    """The density's integral from 0 to each noise level, by the midpoint rule; the levels before the shift, which is undone (equation 23)."""
    unshifted = levels / (objective.flow_shift - (objective.flow_shift - 1) * levels)
    cells = 2_000_000
    middles = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    whole = torch.cat([torch.zeros(1, dtype=torch.float64), logit_normal_density(middles, objective).cumsum(0) / cells])
    return whole[(unshifted * cells).round().long()]


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (0.3, 0.8, 1.0), (-0.5, 1.0, 3.0)])
def test_flow_timesteps_follow_the_published_density(mean: float, std: float, shift: float) -> None:
    """Kolmogorov-Smirnov over evenly spread numbers: nothing but the density itself can be in the way."""
    objective = ObjectiveConfig(kind="flow", timestep_density="logit_normal", logit_mean=mean, logit_std=std, flow_shift=shift)
    count = 100_000
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = draw_timesteps(uniforms, objective) / objective.num_train_timesteps
    assert (cumulative(drawn, objective) - uniforms).abs().max() < 1e-5


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_timesteps_drawn_at_random_pass_kolmogorov_and_smirnov(shift: float) -> None:
    objective = ObjectiveConfig(kind="flow", timestep_density="logit_normal", logit_mean=0.2, flow_shift=shift)
    count = 50_000
    drawn = draw_timesteps(torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64), objective) / 1000
    known = cumulative(drawn.sort().values, objective)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    distance = torch.maximum((steps[1:] - known).max(), (known - steps[:-1]).max())
    assert distance < 1.63 / math.sqrt(count)  # the 1 % level
    other = cumulative(drawn.sort().values, objective.model_copy(update={"logit_mean": 0.25}))
    assert (steps[1:] - other).abs().max() > 1.63 / math.sqrt(count)


def test_logit_normal_has_the_density_of_diffusers() -> None:
    objective = ObjectiveConfig(kind="flow", timestep_density="logit_normal", logit_mean=0.3, logit_std=0.8)
    torch.manual_seed(0)
    theirs = compute_density_for_timestep_sampling("logit_normal", 1000, logit_mean=0.3, logit_std=0.8)
    torch.manual_seed(0)
    uniforms = torch.special.ndtr(torch.normal(mean=0.3, std=0.8, size=(1000,)).sub(0.3).div(0.8).double())
    torch.testing.assert_close(draw_timesteps(uniforms, objective) / 1000, theirs.double(), rtol=0, atol=1e-5)
    assert torch.isfinite(draw_timesteps(torch.tensor([0.0, 1.0]), objective)).all()
    assert torch.equal(compute_loss_weighting_for_sd3("logit_normal", torch.rand(4)), torch.ones(4))  # the density is all there is to weigh by


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_whole_timesteps_of_a_logit_normal_fall_as_often_as_its_integral_says(kind: str) -> None:
    objective = ObjectiveConfig(kind=kind, timestep_density="logit_normal", logit_mean=0.3, logit_std=0.8)
    count = 1_000_000
    drawn = draw_timesteps((torch.arange(count, dtype=torch.float64) + 0.5) / count, objective)
    edges = cumulative(torch.arange(1001, dtype=torch.float64) / 1000, objective)
    torch.testing.assert_close(drawn.bincount(minlength=1000) / count, edges.diff(), rtol=0, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_shift_and_flow_noise_are_those_of_diffusers(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    plain = torch.arange(1000, 0, -1, dtype=torch.float64) / 1000
    torch.testing.assert_close(shift_sigma(plain, shift).float(), scheduler.sigmas, rtol=0, atol=1e-5)
    final, noise = torch.randn(2, 1000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    timesteps = draw_timesteps(plain, FLOW.model_copy(update={"flow_shift": shift}))
    alpha, sigma = (part.float().view(-1, 1, 1, 1) for part in coefficients(timesteps, FLOW))
    torch.testing.assert_close(alpha * final + sigma * noise, scheduler.scale_noise(final, scheduler.timesteps, noise), rtol=0, atol=1e-5)
