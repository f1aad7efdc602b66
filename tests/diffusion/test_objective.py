import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from pydantic import ValidationError

from ccray.config import ObjectiveConfig
from ccray.diffusion import objective as objectives
from ccray.diffusion.objective import loss_per_row, loss_weight, noise_latents, prediction_to_final, target
from ccray.diffusion.schedule import coefficients

KINDS = ["epsilon", "v", "flow"]
LEARNED = ObjectiveConfig(kind="epsilon", learned_sigma=True, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)


def rows(kind: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, ObjectiveConfig]:
    """Final latents, noise (float64, 4 rows), timesteps, objective."""
    generator = torch.Generator().manual_seed(seed)
    final, noise = torch.randn(2, 4, 4, 3, 3, generator=generator, dtype=torch.float64)
    timesteps = torch.tensor([1.5, 333.3, 700.0, 999.0]) if kind == "flow" else torch.tensor([0, 333, 700, 999])
    return final, noise, timesteps, ObjectiveConfig(kind=kind)


@pytest.mark.parametrize(("kind", "terminal"), [("epsilon", False), ("v", False), ("v", True)])
def test_noise_and_target_are_those_of_diffusers(kind: str, terminal: bool) -> None:
    final, noise, timesteps, objective = rows(kind)
    objective = objective.model_copy(update={"zero_terminal_snr": terminal})
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=terminal)
    torch.testing.assert_close(noise_latents(final, noise, timesteps, objective), scheduler.add_noise(final, noise, timesteps), rtol=0, atol=1e-5)
    expected = noise if kind == "epsilon" else scheduler.get_velocity(final, noise, timesteps)
    torch.testing.assert_close(target(final, noise, timesteps, objective), expected, rtol=0, atol=1e-5)


def test_a_flow_is_a_straight_line() -> None:
    final, noise, timesteps, objective = rows("flow")
    share = (timesteps / 1000).double().view(-1, 1, 1, 1)
    torch.testing.assert_close(noise_latents(final, noise, timesteps, objective), (1 - share) * final + share * noise)
    assert torch.equal(target(final, noise, timesteps, objective), noise - final)


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_speaks_of_the_final_latents(kind: str) -> None:
    final, noise, timesteps, objective = rows(kind)
    noisy = noise_latents(final, noise, timesteps, objective)
    torch.testing.assert_close(prediction_to_final(target(final, noise, timesteps, objective), noisy, timesteps, objective), final)


def test_conversions_are_inverses_and_agree() -> None:
    final, noise, timesteps, objective = rows("v")
    noisy = noise_latents(final, noise, timesteps, objective)
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in coefficients(timesteps, objective))
    v = target(final, noise, timesteps, objective)
    torch.testing.assert_close(objectives.epsilon_to_v(noise, noisy, alpha, sigma), v)
    torch.testing.assert_close(objectives.v_to_epsilon(v, noisy, alpha, sigma), noise)
    torch.testing.assert_close(objectives.v_to_final(v, noisy, alpha, sigma), final)
    torch.testing.assert_close(objectives.final_to_v(final, noisy, alpha, sigma), v)
    torch.testing.assert_close(objectives.epsilon_to_final(noise, noisy, alpha, sigma), final)
    torch.testing.assert_close(objectives.final_to_epsilon(final, noisy, alpha, sigma), noise)


def test_at_pure_noise_v_still_speaks_of_everything() -> None:
    """With alpha = 0 the noise is what is seen, and v alone says what is to be drawn; epsilon would not."""
    objective = ObjectiveConfig(kind="v", zero_terminal_snr=True)
    final, noise = torch.randn(2, 4, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    timesteps = torch.tensor([0, 500, 998, 999])
    noisy, v = noise_latents(final, noise, timesteps, objective), target(final, noise, timesteps, objective)
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in coefficients(timesteps, objective))
    torch.testing.assert_close(prediction_to_final(v, noisy, timesteps, objective), final)
    torch.testing.assert_close(objectives.v_to_epsilon(v, noisy, alpha, sigma), noise)
    torch.testing.assert_close(objectives.final_to_v(final, noisy, alpha, sigma), v)
    torch.testing.assert_close(objectives.final_to_epsilon(final, noisy, alpha, sigma), noise)
    assert torch.equal(noisy[3], noise[3])
    assert torch.equal(v[3], -final[3])
    with pytest.raises(ValidationError, match="noise alone does not tell what to predict"):
        ObjectiveConfig(kind="epsilon", zero_terminal_snr=True)


def test_flow_conversions_are_inverses_and_agree() -> None:
    final, noise, timesteps, objective = rows("flow")
    noisy = noise_latents(final, noise, timesteps, objective)
    sigma = coefficients(timesteps, objective)[1].view(-1, 1, 1, 1)
    velocity = noise - final
    torch.testing.assert_close(objectives.flow_to_final(velocity, noisy, sigma), final)
    torch.testing.assert_close(objectives.final_to_flow(final, noisy, sigma), velocity)
    torch.testing.assert_close(objectives.flow_to_epsilon(velocity, noisy, sigma), noise)
    torch.testing.assert_close(objectives.epsilon_to_flow(noise, noisy, sigma), velocity)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_mean_squared_error_of_each_row(kind: str) -> None:
    final, noise, timesteps, objective = rows(kind)
    truth = target(final, noise, timesteps, objective)
    assert loss_per_row(truth, final, noise, timesteps, objective).abs().max() == 0
    wrong = truth + torch.arange(4).view(-1, 1, 1, 1)
    torch.testing.assert_close(loss_per_row(wrong, final, noise, timesteps, objective), torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=torch.float64))
    assert loss_per_row(wrong.float(), final.float(), noise.float(), timesteps, objective).dtype == torch.float32


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_as_its_users_of_diffusers_do(kind: str, gamma: float) -> None:
    steps = torch.arange(1000)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    ratio = compute_snr(scheduler, steps)
    expected = torch.stack([ratio, gamma * torch.ones_like(ratio)]).min(dim=0).values / (ratio if kind == "epsilon" else ratio + 1)
    ours = loss_weight(steps, ObjectiveConfig(kind=kind, min_snr_gamma=gamma))
    torch.testing.assert_close(ours.float(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_min_snr_is_one_weight_of_the_final_latents_error(kind: str) -> None:
    """Whatever the words, the loss is min(SNR, gamma) times the squared error of the final latents."""
    final, noise, timesteps, objective = rows(kind)
    objective = objective.model_copy(update={"min_snr_gamma": 5.0})
    wrong = target(final, noise, timesteps, objective) + 0.1 * noise.flip(0)
    noisy = noise_latents(final, noise, timesteps, objective)
    error = (prediction_to_final(wrong, noisy, timesteps, objective) - final).square().flatten(1).mean(1)
    alpha, sigma = coefficients(timesteps, objective)
    expected = (alpha / sigma).square().clamp(max=5.0) * error
    torch.testing.assert_close(loss_per_row(wrong, final, noise, timesteps, objective), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_without_min_snr_every_row_weighs_one(kind: str) -> None:
    _, _, timesteps, objective = rows(kind)
    assert loss_weight(timesteps, objective).tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "flow", "min_snr_gamma": 5.0}, "expected epsilon or v"),
        ({"kind": "v", "min_snr_gamma": 5.0, "zero_terminal_snr": True}, "would weigh nothing and never be learned"),
        ({"kind": "flow", "learned_sigma": True}, "a flow has no variance to learn"),
        ({"kind": "v", "flow_shift": 3.0}, "expected kind 'flow'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObjectiveConfig(**settings)


def slow_bound(mean_part: torch.Tensor, variance_part: torch.Tensor, final: torch.Tensor, noise: torch.Tensor, step: int) -> float:
    """Bits a number for one row, one number at a time, from DDPM's equations 5 to 7 and 13 with plain floats."""
    betas = [1e-4 + (0.02 - 1e-4) * n / 999 for n in range(1000)]
    share = [math.prod(1 - beta for beta in betas[: n + 1]) for n in range(1000)]

    def variance_of(n: int) -> float:
        return betas[n] * (1 - share[n - 1]) / (1 - share[n])

    beta, signal, before = betas[step], share[step], share[step - 1] if step else 1.0
    lower = math.log(variance_of(max(step, 1)))
    total = 0.0
    numbers = zip(*(part.flatten().tolist() for part in (mean_part, variance_part, final, noise)), strict=True)
    for epsilon, fraction, x, n in numbers:
        noisy = math.sqrt(signal) * x + math.sqrt(1 - signal) * n
        predicted = (noisy - math.sqrt(1 - signal) * epsilon) / math.sqrt(signal)
        weights = beta * math.sqrt(before) / (1 - signal), (1 - before) * math.sqrt(1 - beta) / (1 - signal)
        true_mean, mean = weights[0] * x + weights[1] * noisy, weights[0] * predicted + weights[1] * noisy
        log_variance = (fraction + 1) / 2 * math.log(beta) + (1 - (fraction + 1) / 2) * lower
        if step:
            total += 0.5 * (log_variance - lower + (math.exp(lower) + (true_mean - mean) ** 2) / math.exp(log_variance) - 1)
        else:
            scale = math.exp(0.5 * log_variance)
            upper, under = (0.5 * (1 + math.erf((x - mean + side / 255) / scale / math.sqrt(2))) for side in (1, -1))
            mass = upper if x < -0.999 else 1 - under if x > 0.999 else upper - under
            total += -math.log(max(mass, 1e-12))
    return total / final.numel() / math.log(2)


def test_the_variational_bound_equals_a_slow_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    final, noise, mean_part, variance_part = torch.randn(4, 5, 4, 3, 3, generator=generator, dtype=torch.float64)
    mean_part = noise + 0.01 * mean_part  # so that the bins of t = 0 hold some mass
    final[0] = 0.3 * final[0]
    timesteps = torch.tensor([0, 1, 2, 500, 999])
    ours = objectives.variational_bound(mean_part, variance_part.clamp(-1, 1), final, noise, timesteps, LEARNED)
    slow = [slow_bound(mean_part[n], variance_part[n].clamp(-1, 1), final[n], noise[n], int(timesteps[n])) for n in range(5)]
    torch.testing.assert_close(ours[1:], torch.tensor(slow[1:], dtype=torch.float64), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours[0], torch.tensor(slow[0], dtype=torch.float64), rtol=2e-3, atol=0)  # tanh in place of erf


def test_the_posterior_is_that_of_diffusers() -> None:
    scheduler = DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, variance_type="fixed_small_log", clip_sample=False)
    for step in (1, 500, 999):
        _, _, log_lower, log_upper = objectives._posterior(torch.tensor([step]), LEARNED)
        assert log_lower.exp().sqrt().item() == pytest.approx(scheduler._get_variance(step).item(), rel=1e-4)
        assert log_upper.exp().item() == pytest.approx(scheduler.betas[step].item(), rel=1e-4)


def test_learned_sigma_is_the_hybrid_loss_and_its_bound_does_not_move_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    final, noise, mean_part, variance_part = torch.randn(4, 3, 4, 3, 3, generator=generator, dtype=torch.float64)
    timesteps = torch.tensor([0, 10, 900])
    prediction = torch.cat([mean_part, variance_part], dim=1).requires_grad_()
    loss = loss_per_row(prediction, final, noise, timesteps, LEARNED)
    bound = objectives.variational_bound(mean_part, variance_part, final, noise, timesteps, LEARNED)
    torch.testing.assert_close(loss, (mean_part - noise).square().flatten(1).mean(1) + 0.001 * 1000 * bound)
    loss.sum().backward()
    assert prediction.grad is not None
    torch.testing.assert_close(prediction.grad[:, :4], 2 * (mean_part - noise) / mean_part[0].numel())
    assert prediction.grad[1:, 4:].abs().min() > 0
    assert torch.isfinite(prediction.grad).all()


def test_min_snr_leaves_the_bound_its_own_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    final, noise, mean_part, variance_part = torch.randn(4, 3, 4, 3, 3, generator=generator, dtype=torch.float64)
    timesteps, prediction = torch.tensor([0, 10, 900]), torch.cat([mean_part, variance_part], dim=1)
    weighed = LEARNED.model_copy(update={"min_snr_gamma": 5.0})
    difference = loss_per_row(prediction, final, noise, timesteps, LEARNED) - loss_per_row(prediction, final, noise, timesteps, weighed)
    simple = (mean_part - noise).square().flatten(1).mean(1)
    torch.testing.assert_close(difference, simple * (1 - loss_weight(timesteps, weighed)))
    assert difference[0] > 0.1


def test_the_bound_is_least_at_the_true_variance() -> None:
    """With the true mean, the KL falls to 0 where the variance part says "posterior variance" (-1)."""
    final, noise = torch.randn(2, 1, 4, 3, 3, dtype=torch.float64)
    bounds = [
        objectives.variational_bound(noise, torch.full_like(noise, part), final, noise, torch.tensor([50]), LEARNED).item()
        for part in (-1.0, 0.0, 1.0)
    ]
    assert bounds[0] == pytest.approx(0.0, abs=1e-9)
    assert bounds[0] < bounds[1] < bounds[2]
