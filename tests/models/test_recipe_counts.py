"""Every part of every CommonCanvas recipe at its full size, as the published configurations have it, without memory behind the weights."""

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig, CLIPTextConfig, CLIPTextModel, OPTConfig

from ccray import recipes
from ccray.models import denoiser

NAMES = ("commoncanvas-s-c", "commoncanvas-s-nc", "commoncanvas-l-nc")
SD2_UNET, SDXL_UNET = 865_910_724, 2_567_463_684
VAE = 83_653_863  # of SD2 and SDXL alike
OPENCLIP_H_TEXT = 340_387_840  # without its last layer, as SD2 has it
BLIP2_OPT = 3_744_679_936  # before transformers widened the table of words by a token for pictures


def count(module: nn.Module) -> int:
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    return denoiser.parameter_count(module)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def large_unet(**settings: Any) -> UNet2DConditionModel:
    """The UNet of the large recipe with other settings."""
    ours = recipes.commoncanvas_l_nc().denoiser.model_dump(exclude={"kind"})
    with torch.device("meta"):
        return UNet2DConditionModel(**ours | settings)


def test_the_small_denoisers_are_the_unet_of_sd2() -> None:
    found = [count(denoiser.meta(recipes.named(name).denoiser)) for name in NAMES[:2]]
    assert found == [SD2_UNET, SD2_UNET]


def test_the_large_denoiser_is_the_unet_of_sdxl_less_two_parts() -> None:
    """Micro-conditioning, and keys and values of text features twice as wide: nothing else, and nothing of the rest in another shape."""
    published = large_unet(
        cross_attention_dim=2048, addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816
    )
    assert count(published) == SDXL_UNET
    ours, theirs = shapes(large_unet()), shapes(published)
    assert ours == shapes(denoiser.meta(recipes.commoncanvas_l_nc().denoiser))
    alone = [name for name in theirs if name not in ours]
    assert alone == [f"add_embedding.linear_{layer}.{part}" for layer in (1, 2) for part in ("weight", "bias")]
    assert set(ours) <= set(theirs)
    wider = [name for name in ours if ours[name] != theirs[name]]
    assert {name.rpartition("attn2.")[2] for name in wider} == {"to_k.weight", "to_v.weight"}
    assert all(theirs[name] == (width, 2048) and inner == 1024 for name in wider for width, inner in [ours[name]])
    embedding = (2816 * 1280 + 1280) + (1280 * 1280 + 1280)
    text = sum(width * (2048 - 1024) for width, _ in map(ours.get, wider))  # type: ignore[misc]
    assert SDXL_UNET - count(large_unet()) == embedding + text


def test_the_vae_is_as_published() -> None:
    """SD2's configuration, which SDXL's shares but for its scaling factor and its sample size."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=32,
        )
    assert count(vae) == VAE
    for name in NAMES:
        recipe = recipes.named(name)
        assert recipe.denoiser.in_channels == vae.config.latent_channels
        assert recipe.denoiser.sample_size * 2 ** (len(vae.config.block_out_channels) - 1) == 512


def test_the_text_encoder_is_as_published() -> None:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        max_position_embeddings=77,
        hidden_act="gelu",
    )
    with torch.device("meta"):
        encoder = CLIPTextModel(config)
    assert count(encoder) == OPENCLIP_H_TEXT
    for name in NAMES:
        text = recipes.named(name).text
        assert (text.width, text.max_tokens) == (config.hidden_size, config.max_position_embeddings)


def test_the_captioner_is_as_published() -> None:
    language = OPTConfig(
        vocab_size=50272,
        hidden_size=2560,
        ffn_dim=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
        word_embed_proj_dim=2560,
        activation_function="relu",
    )
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(
            Blip2Config(vision_config=Blip2VisionConfig(), qformer_config=Blip2QFormerConfig(), text_config=language, num_query_tokens=32)
        )
    assert count(model) == BLIP2_OPT
