import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling

from ccray.config import ObjectiveConfig
from ccray.diffusion.schedule import alphas_cumprod, coefficients, draw_timesteps, shift_sigma

EPSILON = ObjectiveConfig(kind="epsilon")
FLOW = ObjectiveConfig(kind="flow")


@pytest.mark.parametrize(("name", "start", "end"), [("linear", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012)])
def test_noise_levels_are_those_of_diffusers(name: str, start: float, end: float) -> None:
    ours = alphas_cumprod(ObjectiveConfig(kind="epsilon", beta_schedule=name, beta_start=start, beta_end=end))
    theirs = DDPMScheduler(beta_schedule=name, beta_start=start, beta_end=end).alphas_cumprod
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-5, atol=0)


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


def test_logit_normal_has_the_density_of_diffusers() -> None:
    objective = ObjectiveConfig(kind="flow", timestep_density="logit_normal", logit_mean=0.3, logit_std=0.8)
    ours = draw_timesteps((torch.arange(20_000) + 0.5) / 20_000, objective) / 1000
    torch.manual_seed(0)
    theirs = compute_density_for_timestep_sampling("logit_normal", 200_000, logit_mean=0.3, logit_std=0.8)
    levels = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(ours.quantile(levels), theirs.quantile(levels), rtol=0, atol=5e-3)
    assert torch.isfinite(draw_timesteps(torch.tensor([0.0, 1.0]), objective)).all()
