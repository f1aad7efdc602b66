"""A step that is left out leaves no trace."""

import pytest
import torch
from torch import Tensor, nn

from ccray.config import TrainConfig
from ccray.training import optimizer

KINDS = pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))


def give(model: nn.Module, number: int, poison: float | None = None) -> Tensor:
    """Gradients of update `number`; whether they are all numbers."""
    generator = torch.Generator().manual_seed(number)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    if poison is not None:
        last = list(model.parameters())[-1].grad
        assert last is not None
        last[1] = poison
    return torch.isfinite(optimizer.clip(list(model.parameters()), 1.0))


def state(adamw: torch.optim.AdamW) -> list[Tensor]:
    return [moment.clone() for group in adamw.state.values() for moment in group.values()]


@KINDS
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("bad", [0, 2], ids=["first", "third"])
def test_a_step_that_is_no_number_is_as_if_it_had_not_been(fused: bool, poison: float, bad: int) -> None:
    config = TrainConfig(fused_optimizer=fused)
    with_it, without = network(), network()
    one, other = optimizer.build(with_it.parameters(), config), optimizer.build(without.parameters(), config)
    for number in range(4):
        if number == bad:
            finite = give(with_it, 100, poison)
            assert not finite
            before = [weight.detach().clone() for weight in with_it.parameters()]
            optimizer.step(one, finite)
            assert all(torch.equal(now, then) for now, then in zip(with_it.parameters(), before, strict=True))
        for model, adamw in ((with_it, one), (without, other)):
            optimizer.step(adamw, give(model, number))
    for found, expected in zip([*with_it.parameters(), *state(one)], [*without.parameters(), *state(other)], strict=True):
        assert torch.equal(found, expected)
    assert {float(group["step"]) for group in one.state.values()} == {4.0}


@KINDS
def test_a_step_is_adamw_by_the_formula(fused: bool) -> None:
    """Algorithm 2 of arXiv 1711.05101."""
    config = TrainConfig(fused_optimizer=fused, weight_decay=0.1, learning_rate=0.01)
    model = network().double()
    adamw = optimizer.build(model.parameters(), config)
    weight = next(iter(model.parameters()))
    expected, first, second = weight.detach().clone(), torch.zeros_like(weight), torch.zeros_like(weight)
    for number in range(1, 4):
        for each in model.parameters():
            each.grad = torch.sin(number + torch.arange(each.numel(), dtype=torch.float64)).view_as(each)
        gradient = weight.grad
        assert gradient is not None
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        expected = expected - 0.01 * (first / (1 - 0.9**number) / ((second / (1 - 0.999**number)).sqrt() + 1e-8) + 0.1 * expected)
        optimizer.step(adamw, torch.tensor(True))
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-14)
