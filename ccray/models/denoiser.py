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
    return PixArtTransformer2DModel(**settings)


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
