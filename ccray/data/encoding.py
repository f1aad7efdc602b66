"""The encode worker: pixels in, raw latents out."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ccray import schema
from ccray.config import EncodeConfig
from ccray.data.pictures.pixels import OK, as_objects, pixels_of
from ccray.interfaces import Batch, Encoder, Refused
from ccray.models.autoencoder import Autoencoder
from ccray.models.device import usable
from ccray.storage import model_path, weights_digest

log = logging.getLogger(__name__)
Latent = tuple[np.ndarray, np.ndarray]  # raw mean and std, C h w, float16


class EncodeImages:
    """Rows of `pixels.PIXELS`, all of one size -> rows of `schema.LATENTS`."""

    def __init__(self, config: EncodeConfig, device: str = "cpu", threads: int | None = None) -> None:
        """Load the VAE; `threads` is the number of torch threads, as torch finds them when None."""
        if threads is not None:
            torch.set_num_threads(threads)
        self._config = config
        self._encoder: Encoder = Autoencoder(config.model, config.subfolder, config.precision, usable(device))

    def __call__(self, batch: Batch) -> Batch:
        statuses = batch["status"].copy()
        latents: dict[int, Latent] = {}
        good = [row for row, status in enumerate(statuses) if status == OK]
        for start in range(0, len(good), self._config.batch_size):
            rows = good[start : start + self._config.batch_size]
            pixels = np.stack([pixels_of(batch, row) for row in rows])
            latents |= dict(zip(rows, self._encoded(pixels), strict=True))
        for row, (mean, std) in list(latents.items()):
            if not (np.isfinite(mean).all() and np.isfinite(std).all()):
                statuses[row] = "latents are not finite in float16"
                del latents[row]
        return self._answer(batch, latents, statuses)

    def given_up(self, batch: Batch, why: str) -> Batch:
        """Rows whose pictures end the process."""
        return self._answer(batch, {}, as_objects([why] * len(batch["key"])))

    def _encoded(self, pixels: np.ndarray) -> list[Latent]:
        """Pixels (N H W 3) to latents, the batch padded to the fixed width with its last picture."""
        padding = np.repeat(pixels[-1:], self._config.batch_size - len(pixels), axis=0)
        mean, std = self._encoder.encode(np.concatenate([pixels, padding]))
        with np.errstate(over="ignore"):  # judged by the caller
            halves = mean.astype(np.float16), std.astype(np.float16)
        return [(halves[0][row], halves[1][row]) for row in range(len(pixels))]

    def _answer(self, batch: Batch, latents: dict[int, Latent], statuses: np.ndarray) -> Batch:
        rows = range(len(statuses))
        keep_std = self._config.store_std
        columns = {
            "key": batch["key"],
            "shard": batch["shard"],
            "latent_mean": as_objects([latents[row][0].ravel() if row in latents else None for row in rows]),
            "latent_std": as_objects([latents[row][1].ravel() if row in latents and keep_std else None for row in rows]),
            "latent_shape": as_objects([list(latents[row][0].shape) if row in latents else None for row in rows]),
            "crop": batch["crop"],
            "original_size": batch["original_size"],
            "status": statuses,
        }
        return {name: columns[name] for name in schema.LATENTS.names}


def vae_facts(config: EncodeConfig) -> dict[str, Any]:
    """What readers of the latents must know of the VAE; the same words stand in the manifest and in every file's metadata.

    Raises:
        Refused: when the VAE cannot be loaded, or does not divide the size.
    """
    try:
        vae = Autoencoder(config.model, config.subfolder)
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused(f"encode.model {config.model!r} cannot be loaded as an AutoencoderKL: {' '.join(str(error).split())[:300]}") from None
    if config.size_px % vae.factor:
        raise Refused(f"encode.size_px is {config.size_px}: expected a multiple of {vae.factor}, the pixels a latent of {config.model}")
    return {
        "vae": config.vae,
        "model": config.model,
        "subfolder": config.subfolder,
        "vae_sha256": weights_digest(str(Path(model_path(config.model), config.subfolder or ""))),
        "scaling_factor": vae.scale.scaling_factor,
        "shift_factor": vae.scale.shift_factor,
        "latent_channels": vae.latent_channels,
        "latent_size": config.size_px // vae.factor,
        "size_px": config.size_px,
    }
