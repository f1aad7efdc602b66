"""The VAE: 32 px RGB to 8 x 8 latents of four channels, with unit standard deviation once scaled.

The KL weight decides how many channels speak. At 1e-3 two of the four fell silent and the other two carried ten colours on a plane;
at 3e-5 all four speak, pictures come back at 37 dB, and the posterior is 3 % as wide as the latents.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from ccray.shapes.oracle import score
from ccray.shapes.teachers.learning import Plan, learn
from ccray.shapes.teachers.lessons import exam_scenes, lesson_scenes, pixel_arrays, pixel_tensor

PLAN = Plan(name="vae", lessons=24_000, steps=5_000, batch_size=32, peak_learning_rate=2e-3, seed=11)
KL_WEIGHT = 3e-5


def new_vae() -> AutoencoderKL:
    """The untrained network."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )


def vae_loss(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Reconstruction (L1 keeps edges sharp, the square keeps colours true) plus the posterior's divergence, each a mean over elements."""
    posterior = vae.encode(images).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return F.l1_loss(decoded, images) + 2 * F.mse_loss(decoded, images) + KL_WEIGHT * divergence


@torch.no_grad()
def measured_scale(vae: AutoencoderKL, images: Tensor) -> float:
    """1 / standard deviation of sampled latents over all elements: what makes final latents of unit size."""
    generator = torch.Generator().manual_seed(PLAN.seed)
    return 1 / float(vae.encode(images).latent_dist.sample(generator).std())


def train_vae(folder: Path, plan: Plan = PLAN) -> None:
    """Train from the plan's seed and save to `folder`."""
    torch.manual_seed(plan.seed)
    vae, images = new_vae(), pixel_tensor(lesson_scenes(plan.lessons))
    learn(plan, list(vae.parameters()), lambda batch: vae_loss(vae, images[batch]))
    vae.register_to_config(scaling_factor=round(measured_scale(vae, images[:2048]), 4))
    vae.save_pretrained(folder)


@torch.no_grad()
def measure_vae(folder: Path, exams: int) -> dict[str, float]:
    """Figures of the saved VAE on `exams` held-out scenes.

    `psnr_db` is the mean over pictures of the reconstruction from the posterior's mean; `oracle_*` the share of pictures whose
    reconstruction the oracle reads right, from the mean and, `noisy`, with a fifth of the latents' size in noise added.
    """
    vae, scenes = AutoencoderKL.from_pretrained(folder).eval(), exam_scenes(exams)
    images = pixel_tensor(scenes)
    posterior = vae.encode(images).latent_dist
    generator = torch.Generator().manual_seed(PLAN.seed)
    noise = 0.2 / vae.config.scaling_factor * torch.randn(posterior.mean.shape, generator=generator)
    clean, noisy = vae.decode(posterior.mean).sample, vae.decode(posterior.mean + noise).sample
    squares = (clean.clamp(-1, 1) - images).square().mean(dim=(1, 2, 3)) / 4
    read = [score(pixels, scene) for pixels, scene in zip(pixel_arrays(clean), scenes, strict=True)]
    read_noisy = [score(pixels, scene) for pixels, scene in zip(pixel_arrays(noisy), scenes, strict=True)]
    return {
        "psnr_db": float((-10 * squares.log10()).mean()),
        "oracle_colour": float(np.mean([one.colour for one in read])),
        "oracle_shape": float(np.mean([one.shape for one in read])),
        "oracle_all": float(np.mean([one.all for one in read])),
        "oracle_all_noisy": float(np.mean([one.all for one in read_noisy])),
        "posterior_std": float(posterior.std.mean() * vae.config.scaling_factor),
        "final_latent_std": float(posterior.mean.std() * vae.config.scaling_factor),
    }
