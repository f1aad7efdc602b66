"""The variational autoencoder, and the one place where raw latents become final ones.

*raw*: the posterior as the VAE gives it. *final*: what the denoiser sees, `(raw - shift_factor) * scaling_factor`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ccray.config import Precision
from ccray.interfaces import Refused
from ccray.models.loading import loading
from ccray.models.precision import DTYPES
from ccray.storage import model_path


@dataclass(frozen=True)
class LatentScale:
    """How far raw and final latents are apart; both numbers come with the VAE."""

    scaling_factor: float
    shift_factor: float = 0.0


def raw_to_final(raw: Any, scale: LatentScale) -> Any:
    """Raw latents (tensor or array of any shape) as the denoiser sees them."""
    return (raw - scale.shift_factor) * scale.scaling_factor if scale.shift_factor else raw * scale.scaling_factor


def final_to_raw(final: Any, scale: LatentScale) -> Any:
    """The inverse of `raw_to_final`, in the order of operations of the stock pipelines."""
    return final / scale.scaling_factor + scale.shift_factor if scale.shift_factor else final / scale.scaling_factor


def sample_raw(mean: Any, std: Any | None, noise: Any) -> Any:
    """One raw latent of the posterior: `mean + std * noise`, or the mean where no std was kept."""
    return mean if std is None else mean + std * noise


class Autoencoder:
    """A diffusers AutoencoderKL with its scale, frozen, on one device."""

    def __init__(self, model: str, subfolder: str | None = None, precision: Precision = "fp32", device: str = "cpu") -> None:
        """Load safetensors weights.

        Args:
            model: a folder, a hub name, or `shapes:NAME`.
            subfolder: where the VAE lies inside it.
            precision: of weights and activations; the answers are fp32 anyway. In fp16 SDXL's own VAE overflows (its `force_upcast` says so, but
                SD2's, which does not overflow, says nothing else): what is not finite its users have to look for.
            device: "cpu", "cuda:0".

        Raises:
            Refused: when it cannot be loaded, or scales its latents by more than two numbers.
        """
        with loading(f"the VAE {model}"):
            self.module = AutoencoderKL.from_pretrained(
                model_path(model), subfolder=subfolder, torch_dtype=DTYPES[precision], use_safetensors=True, low_cpu_mem_usage=False
            )
        if self.module.config.latents_mean is not None or self.module.config.latents_std is not None:
            raise Refused(
                f"the VAE {model} scales each channel by its own latents_mean and latents_std: expected one with scaling_factor and shift_factor"
            )
        self.module.requires_grad_(False).eval().to(device)
        self.model = model
        self.subfolder = subfolder

    @property
    def scale(self) -> LatentScale:
        return LatentScale(self.module.config.scaling_factor, self.module.config.shift_factor or 0.0)

    @property
    def factor(self) -> int:
        """Pixels a latent, along each side."""
        return 2 ** (len(self.module.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        return self.module.config.latent_channels

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (uint8, N H W 3; sides divisible by `factor`) to the raw posterior's mean and std (float32, N C h w each)."""
        images = torch.tensor(pixels).to(self.module.device).permute(0, 3, 1, 2).to(self.module.dtype)
        posterior = self.module.encode(images / 127.5 - 1.0).latent_dist
        return posterior.mean.float().cpu().numpy(), posterior.std.float().cpu().numpy()

    @torch.inference_mode()
    def decode(self, final: Tensor) -> np.ndarray:
        """Final latents (N C h w, any float) to pixels (uint8, N H W 3), rounded as the stock pipelines round."""
        raw = final_to_raw(final.to(self.module.device, self.module.dtype), self.scale)
        images = (self.module.decode(raw, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
        return (images.permute(0, 2, 3, 1).float() * 255).round().to(torch.uint8).cpu().numpy()
