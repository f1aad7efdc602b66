"""The VAE: 32 px RGB to 8 x 8 latents of four channels, with unit standard deviation once scaled.

A KL weight as large as this one blurs nothing here, because the world is simple, and keeps the posterior wide:
the decoder learns to read latents with noise on them, which is what a denoiser gives it.
"""

import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from ccray.shapes.teachers.lessons import batches, lesson_scenes, pixel_tensor, warm_cosine

LESSONS = 24_000
STEPS = 8_000
BATCH_SIZE = 32
PEAK_LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-3
SEED = 11


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
    generator = torch.Generator().manual_seed(SEED)
    return 1 / float(vae.encode(images).latent_dist.sample(generator).std())


def train_vae(folder: Path) -> None:
    """Train from SEED and save to `folder`."""
    torch.manual_seed(SEED)
    vae, images = new_vae(), pixel_tensor(lesson_scenes(LESSONS))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, STEPS, 200))
    began = time.monotonic()
    for step, batch in enumerate(batches(LESSONS, BATCH_SIZE, STEPS, SEED)):
        loss = vae_loss(vae, images[batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"vae step {step} of {STEPS}: loss {loss.item():.4f}, {time.monotonic() - began:.0f} s", flush=True)
    vae.register_to_config(scaling_factor=round(measured_scale(vae, images[:2048]), 4))
    vae.save_pretrained(folder)
