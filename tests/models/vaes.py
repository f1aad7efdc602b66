"""VAEs of the published configurations with small random weights, as stock diffusers writes them: 8 pixels a latent, 4 channels."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from tests.folders import carded

# What each one's config.json says of scale and precision. SD2's leaves out both: diffusers' defaults, 0.18215 and force_upcast, are its own.
KINDS: dict[str, dict[str, Any]] = {
    "sd2": {"sample_size": 768},
    "sdxl": {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    "fp16-fix": {
        "sample_size": 512,
        "scaling_factor": 0.13025,
        "force_upcast": False,
        "latents_mean": None,
        "latents_std": None,
        "shift_factor": None,
    },
}


def published(kind: str, seed: int = 0, **settings: Any) -> AutoencoderKL:
    """One of `KINDS`, or with other settings."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=8,
        **KINDS[kind] | settings,
    ).eval()


def published_folder(path: Path, kind: str, seed: int = 0, **settings: Any) -> Path:
    published(kind, seed, **settings).save_pretrained(path)
    return carded(path)


def overflowing_folder(path: Path) -> Path:
    """A VAE that overflows in half precision where a picture is not grey."""
    vae = published("sdxl")
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(5e4)
    vae.save_pretrained(path)
    return carded(path)
