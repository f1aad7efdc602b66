import pytest
import torch
from diffusers import UNet2DConditionModel

from ccray import recipes
from ccray.config import DiTConfig, UNetConfig
from ccray.models import denoiser

# SD2: 865.9 M; PixArt-Sigma XL/2: 0.61 B, both as published. SDXL with a 1024-wide cross-attention: nobody published a count; see below.
COUNTS = {
    "tiny": 4_237_956,
    "tiny-dit": 2_298_512,
    "commoncanvas-s-c": 865_910_724,
    "commoncanvas-s-nc": 865_910_724,
    "commoncanvas-l-nc": 2_391_824_644,
    "commonart-beta": 610_856_096,
}
UNET = UNetConfig(
    sample_size=8,
    block_out_channels=(16, 32),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=24,
    attention_head_dim=4,
    norm_num_groups=8,
)
DIT = DiTConfig(sample_size=8, out_channels=8, num_layers=2, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, caption_channels=24)


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    module = denoiser.meta(recipes.named(name).denoiser)
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    assert denoiser.parameter_count(module) == COUNTS[name]


def test_the_large_unet_is_sdxl_but_for_text_width_and_micro_conditioning() -> None:
    settings = recipes.named("commoncanvas-l-nc").denoiser.model_dump(exclude={"kind"})
    published = settings | {
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    with torch.device("meta"):
        sdxl = UNet2DConditionModel(**published)
    assert denoiser.parameter_count(sdxl) == 2_567_463_684  # as published


@pytest.mark.parametrize("config", [UNET, DIT], ids=["unet", "pixart"])
def test_one_call_for_both_families(config: UNetConfig | DiTConfig) -> None:
    torch.manual_seed(0)
    model = denoiser.build(config)
    latents, features, mask = torch.randn(3, 4, 8, 8), torch.randn(3, 7, 24), torch.ones(3, 7, dtype=torch.bool)
    for timesteps in (torch.tensor([0, 500, 999]), torch.tensor([0.0, 437.5, 1000.0])):
        answer = denoiser.predict(model, latents, timesteps, features.to(torch.bfloat16), mask)
        assert answer.shape == (3, config.out_channels, 8, 8)
        assert answer.dtype == torch.float32


def test_the_transformer_ignores_masked_tokens() -> None:
    torch.manual_seed(0)
    model = denoiser.build(DIT)
    latents, features = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 24)
    mask = torch.arange(7).expand(2, 7) < torch.tensor([[3], [7]])
    timesteps = torch.tensor([10, 900])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    before = denoiser.predict(model, latents, timesteps, features, mask)
    features[0, 3:] += 1.0
    after = denoiser.predict(model, latents, timesteps, features, mask)
    assert torch.equal(before[0], after[0])
    features[1, 6] += 1.0
    assert not torch.equal(denoiser.predict(model, latents, timesteps, features, mask)[1], after[1])


def test_every_weight_of_the_transformer_learns() -> None:
    torch.manual_seed(0)
    model = denoiser.build(DIT)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mask = torch.ones(2, 7, dtype=torch.bool)
    denoiser.predict(model, torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), torch.randn(2, 7, 24), mask).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
