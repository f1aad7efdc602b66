"""A transformer at sizes it was not made for: the first phase of a run is drawn smaller than the last, and any size may be asked for."""

import pytest
import torch
from torch import Tensor

from ccray.config import DiTConfig
from ccray.models import denoiser

DIT = DiTConfig(sample_size=16, num_layers=1, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, caption_channels=24)


def positions(config: DiTConfig, side: int) -> Tensor:
    """What the model adds to each patch of a latent of that side: side / 2, side / 2, width."""
    embed = denoiser.build(config).pos_embed
    with torch.no_grad():
        embed.proj.weight.zero_()
        embed.proj.bias.zero_()
        return embed(torch.zeros(1, 4, side, side)).view(side // 2, side // 2, -1)


def test_a_smaller_picture_spans_the_same_positions() -> None:
    """Its patches lie where every second one of the full size lies: what is learned of left and right in the first phase holds in the next."""
    torch.testing.assert_close(positions(DIT, 8), positions(DIT, 16)[::2, ::2], rtol=0, atol=1e-6)
    assert positions(DIT, 16).flatten(0, 1).unique(dim=0).shape[0] == 64


def test_that_is_how_pixart_sigma_goes_from_size_to_size() -> None:
    """Its configurations scale positions by the size: 0.5 at 256 px, 1 at 512 px, 2 at 1024 px."""
    half = DIT.model_copy(update={"sample_size": 8, "interpolation_scale": 0.5})
    torch.testing.assert_close(positions(DIT, 8), positions(half, 8), rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [8, 16, 24])
def test_every_weight_learns_at_any_size(side: int) -> None:
    torch.manual_seed(0)
    model = denoiser.build(DIT)
    answer = denoiser.predict(
        model, torch.randn(2, 4, side, side), torch.tensor([10, 900]), torch.randn(2, 7, 24), torch.ones(2, 7, dtype=torch.bool)
    )
    assert answer.shape == (2, 4, side, side)
    answer.square().mean().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in model.parameters())
