"""The network that is trained: a diffusers UNet or PixArt transformer, built from a recipe, and one way to call either."""

from typing import Any

import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from ccray.config import DiTConfig, UNetConfig


def build(config: UNetConfig | DiTConfig) -> Any:
    """A denoiser (torch.nn.Module) with fresh random weights from torch's global generator: fp32, on torch's default device, in training mode."""
    settings = config.model_dump(exclude={"kind"})
    if isinstance(config, UNetConfig):
        return UNet2DConditionModel(**settings)
    transformer = PixArtTransformer2DModel(**settings)
    _initialize(transformer)
    return transformer


def meta(config: UNetConfig | DiTConfig) -> Any:
    """The same network without memory behind its weights, to count and to plan with."""
    with torch.device("meta"):
        return build(config)


def parameter_count(module: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in module.parameters())


def predict(model: nn.Module, latents: Tensor, timesteps: Tensor, features: Tensor, mask: Tensor) -> Tensor:
    """The denoiser's answer for noisy final latents, one call for both families.

    Args:
        model: what `build` returns, or the same class loaded from a folder; sharded or compiled as well.
        latents: B C h w.
        timesteps: B, long or float, on the scale 0 .. num_train_timesteps.
        features: B T W, of the text encoder.
        mask: B T bool, True where a token is. The UNet does not look at it, because stock StableDiffusionPipeline does not.

    Returns:
        B C' h w, with C' = 2 C where the variance is learned.
    """
    features = features.to(latents.dtype)
    if isinstance(getattr(model, "_orig_mod", model), UNet2DConditionModel):
        return model(latents, timesteps, encoder_hidden_states=features, return_dict=False)[0]
    return model(
        latents,
        encoder_hidden_states=features,
        encoder_attention_mask=mask,
        timestep=timesteps,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0]


def _initialize(transformer: Any) -> None:
    """PixArt's own start, which diffusers leaves out: `PixArtMS.initialize` of PixArt-sigma, after DiT (arXiv 2212.09748, section 3.2).

    Every block begins near the identity and the network's first answer is zero.
    """
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    patches = transformer.pos_embed.proj
    nn.init.xavier_uniform_(patches.weight.view(patches.weight.shape[0], -1))
    time = transformer.adaln_single
    for linear in (time.emb.timestep_embedder.linear_1, time.emb.timestep_embedder.linear_2, time.linear):
        nn.init.normal_(linear.weight, std=0.02)
    if transformer.caption_projection is not None:
        nn.init.normal_(transformer.caption_projection.linear_1.weight, std=0.02)
        nn.init.normal_(transformer.caption_projection.linear_2.weight, std=0.02)
    for block in transformer.transformer_blocks:
        nn.init.zeros_(block.attn2.to_out[0].weight)
    nn.init.zeros_(transformer.proj_out.weight)
