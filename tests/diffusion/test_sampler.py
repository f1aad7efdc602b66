import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from torch import Tensor

from ccray.config import ObjectiveConfig
from ccray.diffusion import objective as objectives
from ccray.diffusion.sampler import guided, sample
from ccray.diffusion.schedule import coefficients
from ccray.models.pipeline import scheduler_for

MEAN, STD = 0.7, 0.4
NOTHING = torch.zeros(2, 1, 1), torch.ones(2, 1, dtype=torch.bool)


class Gaussian:
    """The exact denoiser of latents from N(MEAN, STD^2): E[final | noisy], said in the objective's words."""

    def __init__(self, objective: ObjectiveConfig) -> None:
        self.objective = objective

    def __call__(self, noisy: Tensor, timesteps: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        alpha, sigma = (part.to(noisy.dtype).view(-1, 1, 1, 1) for part in coefficients(timesteps, self.objective))
        final = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (noisy - alpha * MEAN)
        if self.objective.kind == "epsilon":
            return objectives.final_to_epsilon(final, noisy, alpha, sigma)
        if self.objective.kind == "v":
            return objectives.final_to_v(final, noisy, alpha, sigma)
        return objectives.final_to_flow(final, noisy, sigma)


@pytest.mark.parametrize("steps", [20, 200])
@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
def test_an_exact_denoiser_of_a_gaussian_reaches_its_mean_and_std(kind: str, steps: int) -> None:
    """The sampler is then an affine map: where a latent of MEAN would begin it ends at MEAN, and one std away it ends STD away.

    It begins at the first step's own level: SD's noise schedule still holds 7 % of the signal there, a flow's 0.1 %.
    """
    objective = ObjectiveConfig(kind=kind)
    scheduler = scheduler_for(objective)
    scheduler.set_timesteps(steps)
    alpha, sigma = (part.item() for part in coefficients(scheduler.timesteps[:1], objective))
    begin = torch.tensor([alpha * MEAN, alpha * MEAN + (alpha**2 * STD**2 + sigma**2) ** 0.5], dtype=torch.float64)
    drawn = sample(Gaussian(objective), scheduler, begin.view(2, 1, 1, 1), steps, 1.0, *NOTHING).flatten()
    assert drawn[0].item() == pytest.approx(MEAN, abs=2e-3)
    assert (drawn[1] - drawn[0]).item() == pytest.approx(STD, abs={20: 0.06, 200: 0.006}[steps])


def test_with_zero_terminal_snr_pure_noise_is_where_pictures_begin() -> None:
    """So nothing of the mean need be in the noise: where SD's schedule misses it by the 7 % of signal that its last step holds, this one does not."""
    begin = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    missed = {}
    for terminal in (False, True):
        objective = ObjectiveConfig(kind="v", zero_terminal_snr=terminal)
        drawn = sample(Gaussian(objective), scheduler_for(objective), begin, 200, 1.0, *NOTHING).flatten()
        missed[terminal] = abs(drawn[0].item() - MEAN), abs((drawn[1] - drawn[0]).item() - STD)
    assert max(missed[True]) < 0.006
    assert missed[False][0] > 0.015


def toy(noisy: Tensor, timesteps: Tensor, features: Tensor, mask: Tensor) -> Tensor:
    """A denoiser that listens to time and text."""
    return noisy * 0.5 + timesteps.view(-1, 1, 1, 1) / 1000 + features.mean(dim=(1, 2)).view(-1, 1, 1, 1) * mask.sum(1).view(-1, 1, 1, 1)


def inputs(rows: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, 4, 2, 2, generator=generator)
    features, null_features = torch.randn(2, rows, 5, 6, generator=generator)
    mask, null_mask = torch.arange(5).expand(rows, 5) < 3, torch.arange(5).expand(rows, 5) < 1
    return noise, features, mask, null_features, null_mask


def test_a_scale_a_row_equals_each_scale_alone() -> None:
    noise, *text = inputs()
    scheduler = DDIMScheduler()
    together = sample(toy, scheduler, noise, 5, torch.tensor([2.0, 0.5, 7.5]), *text)
    for row, scale in enumerate([2.0, 0.5, 7.5]):
        alone = sample(toy, scheduler, noise, 5, scale, *text)
        torch.testing.assert_close(together[row], alone[row])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_one_and_less_mean_no_guidance(scale: float) -> None:
    noise, features, mask, null_features, null_mask = inputs()
    assert not guided(scale)
    without = sample(toy, DDIMScheduler(), noise, 5, scale, features, mask)
    assert torch.equal(without, sample(toy, DDIMScheduler(), noise, 5, scale, features, mask, null_features, null_mask))
    with pytest.raises(ValueError, match="needs null_features"):
        sample(toy, DDIMScheduler(), noise, 5, 3.0, features, mask)


def test_a_learned_sigma_is_left_aside_after_guidance() -> None:
    noise, *text = inputs()

    def both(*arguments: Tensor) -> Tensor:
        mean = toy(*arguments)
        return torch.cat([mean, torch.full_like(mean, 9.0)], dim=1)

    scheduler = DPMSolverMultistepScheduler()
    assert torch.equal(sample(both, scheduler, noise, 5, 3.0, *text), sample(toy, scheduler, noise, 5, 3.0, *text))


def test_the_scheduler_is_left_as_it_was_and_steps_are_told() -> None:
    noise, *text = inputs()
    scheduler = DPMSolverMultistepScheduler()
    seen: list[tuple[int, Tensor]] = []
    final = sample(toy, scheduler, noise, 4, 3.0, *text, on_step=lambda number, latents: seen.append((number, latents)))
    assert scheduler.num_inference_steps is None
    assert [number for number, _ in seen] == [1, 2, 3, 4]
    assert torch.equal(seen[-1][1], final)


def test_noise_on_the_way_comes_from_the_rows_own_generators() -> None:
    noise, *text = inputs()

    def draw(seeds: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return sample(toy, EulerAncestralDiscreteScheduler(), noise, 5, 3.0, *text, generators=generators)

    one, other = draw([1, 2, 3]), draw([1, 5, 3])
    assert torch.equal(one[[0, 2]], other[[0, 2]])
    assert not torch.equal(one[1], other[1])
