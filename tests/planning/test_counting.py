"""Counted from the configuration = counted by torch on the network itself."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel

from ccray import config, recipes
from ccray.config import Recipe, final_size_px, sizes_of
from ccray.interfaces import Refused
from ccray.models import denoiser
from ccray.planning import counting, rates
from ccray.planning.estimate import TEXT_WEIGHTS, denoiser_name

ODD = (
    "denoiser={kind: unet, sample_size: 24, in_channels: 8, out_channels: 16, block_out_channels: [32, 48, 64], layers_per_block: 3, "
    "down_block_types: [DownBlock2D, CrossAttnDownBlock2D, DownBlock2D], up_block_types: [UpBlock2D, CrossAttnUpBlock2D, UpBlock2D], "
    "cross_attention_dim: 96, attention_head_dim: 4, transformer_layers_per_block: [1, 3, 2], use_linear_projection: false, norm_num_groups: 16}"
)


def by_torch(recipe: Recipe, size_px: int) -> tuple[int, float]:
    """Weights, and 10^9 operations of one forward pass."""
    network = denoiser.meta(recipe.denoiser)
    side, tokens = size_px * recipe.denoiser.sample_size // final_size_px(recipe), recipe.text.max_tokens
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        latents, features = torch.empty(1, recipe.denoiser.in_channels, side, side), torch.empty(1, tokens, recipe.text.width)
        denoiser.predict(network, latents, torch.empty(1), features, torch.ones(1, tokens, dtype=torch.bool))
    return denoiser.parameter_count(network), counter.get_total_flops() / 1e9


@pytest.mark.parametrize("name", [*recipes.RECIPES, "odd"])
def test_weights_and_operations_are_those_that_torch_counts(name: str) -> None:
    recipe = config.build(recipes.tiny(), [ODD, "objective.kind=epsilon", "objective.learned_sigma=true"]) if name == "odd" else recipes.named(name)
    for size_px in sizes_of(recipe):
        found = counting.denoiser(recipe, size_px)
        assert (found.weights, found.gflop) == pytest.approx(by_torch(recipe, size_px), rel=1e-12)


def test_a_block_that_is_not_counted_is_refused() -> None:
    words = [ODD.replace("[DownBlock2D", "[AttnDownBlock2D"), "objective.kind=epsilon", "objective.learned_sigma=true"]
    recipe = config.build(recipes.tiny(), words)
    with pytest.raises(Refused, match=r"AttnDownBlock2D.*expected CrossAttnDownBlock2D"):
        counting.denoiser(recipe, 32)


def test_the_table_that_ships_knows_the_denoiser_and_its_operations() -> None:
    recipe = recipes.commoncanvas_s_c()
    rows = [rate.job for rate in rates.read() if rate.job.work == "train"]
    assert {row.model for row in rows} == {denoiser_name(recipe)}
    for row in rows:
        assert row.gflop == pytest.approx(counting.denoiser(recipe, *row.size_px).gflop, abs=0.005)


def test_text_weights_are_those_of_linear_layers() -> None:
    clip = CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16)
    llama = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)  # calm2-7b
    with torch.device("meta"):
        encoders = {"openclip-h": CLIPTextModel(clip), "calm2-7b": LlamaModel(llama)}
    linear = {name: [one.weight.numel() for one in encoder.modules() if isinstance(one, torch.nn.Linear)] for name, encoder in encoders.items()}
    assert {name: sum(numbers) for name, numbers in linear.items()} == TEXT_WEIGHTS
