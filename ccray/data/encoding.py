"""The encode worker: pixels in, raw latents out, at any number of sizes.

Rows of several sizes travel together, so that a picture is read and decoded once: the columns of each size go by its prefix (`prefixes`), and a
seal parts them into one table a size. A latent's bits depend on the picture, the size and the batch width, and on nothing else: each size is
encoded by itself, in batches of `encode.batch_size`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ccray import schema
from ccray.config import EncodeConfig
from ccray.data.pictures.pixels import OK, as_objects, pixels_of, prefixed
from ccray.interfaces import Batch, Encoder, Refused
from ccray.models.autoencoder import Autoencoder
from ccray.models.device import usable
from ccray.storage import model_path, weights_digest

log = logging.getLogger(__name__)
Latent = tuple[np.ndarray, np.ndarray]  # raw mean and std, C h w, float16
SHARED = ("key", "shard")
MEANING = "raw posterior mean and std of the VAE, C h w flattened in C order; final = (raw - shift_factor) * scaling_factor"


def prefixes(sizes_px: Sequence[int]) -> dict[int, str]:
    """Size -> what its columns' names begin with. The first's keep their names: by these a purge knows latents that wait to be sealed."""
    return {size_px: "" if size_px == sizes_px[0] else f"{size_px}px_" for size_px in sizes_px}


def latents_of(prefixes: Sequence[str]) -> pa.Schema:
    """`schema.LATENTS` of several sizes beside each other."""
    return prefixed(schema.LATENTS, prefixes, SHARED)


class EncodeImages:
    """Rows of `pixels.PIXELS`, all of one size -> rows of `schema.LATENTS`; of several sizes, `pixels.with_views` -> `latents_of`."""

    def __init__(self, config: EncodeConfig, device: str = "cpu", threads: int | None = None, prefixes: Sequence[str] = ("",)) -> None:
        """Load the VAE; `threads` is the number of torch threads, as torch finds them when None; each of `prefixes` is a size."""
        if threads is not None:
            torch.set_num_threads(threads)
        self._config = config
        self._prefixes = tuple(prefixes)
        self._encoder: Encoder = Autoencoder(config.model, config.subfolder, config.precision, usable(device))

    def __call__(self, batch: Batch) -> Batch:
        answer = {name: batch[name] for name in SHARED}
        for prefix in self._prefixes:
            answer |= self._sized(batch, prefix)
        return answer

    def _sized(self, batch: Batch, prefix: str) -> Batch:
        """The columns of one size."""
        statuses = batch["status"].copy()
        latents: dict[int, Latent] = {}
        good = [row for row, status in enumerate(statuses) if status == OK]
        for start in range(0, len(good), self._config.batch_size):
            rows = good[start : start + self._config.batch_size]
            pixels = np.stack([pixels_of(batch, row, prefix) for row in rows])
            latents |= dict(zip(rows, self._encoded(pixels), strict=True))
        for row, (mean, std) in list(latents.items()):
            if not (np.isfinite(mean).all() and np.isfinite(std).all()):
                statuses[row] = "latents are not finite in float16"
                del latents[row]
        return self._columns(batch, prefix, latents, statuses)

    def given_up(self, batch: Batch, why: str) -> Batch:
        """Rows whose pictures end the process."""
        answer = {name: batch[name] for name in SHARED}
        for prefix in self._prefixes:
            answer |= self._columns(batch, prefix, {}, as_objects([why] * len(batch["key"])))
        return answer

    def _encoded(self, pixels: np.ndarray) -> list[Latent]:
        """Pixels (N H W 3) to latents, the batch padded to the fixed width with its last picture."""
        padding = np.repeat(pixels[-1:], self._config.batch_size - len(pixels), axis=0)
        mean, std = self._encoder.encode(np.concatenate([pixels, padding]))
        with np.errstate(over="ignore"):  # judged by the caller
            halves = mean.astype(np.float16), std.astype(np.float16)
        return [(halves[0][row], halves[1][row]) for row in range(len(pixels))]

    def _columns(self, batch: Batch, prefix: str, latents: dict[int, Latent], statuses: np.ndarray) -> Batch:
        rows = range(len(statuses))
        keep_std = self._config.store_std
        columns = {
            "latent_mean": as_objects([latents[row][0].ravel() if row in latents else None for row in rows]),
            "latent_std": as_objects([latents[row][1].ravel() if row in latents and keep_std else None for row in rows]),
            "latent_shape": as_objects([list(latents[row][0].shape) if row in latents else None for row in rows]),
            "crop": batch[f"{prefix}crop"],
            "original_size": batch["original_size"],
            "status": statuses,
        }
        return {prefix + name: values for name, values in columns.items()}


def vae_facts(config: EncodeConfig) -> dict[str, Any]:
    """What readers of the latents of `config.size_px` must know of the VAE; the same words stand in the manifest and in every file's metadata.

    Raises:
        Refused: when the VAE cannot be loaded, or does not divide the size.
    """
    return facts_of(config, [config.size_px])[config.size_px]


def facts_of(config: EncodeConfig, sizes_px: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The same for several sizes.

    Raises:
        Refused: when the VAE cannot be loaded, or does not divide one of them.
    """
    try:
        vae = Autoencoder(config.model, config.subfolder)
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused(f"encode.model {config.model!r} cannot be loaded as an AutoencoderKL: {' '.join(str(error).split())[:300]}") from None
    for size_px in sizes_px:
        if size_px % vae.factor:
            key = "encode.size_px" if size_px == config.size_px else "size_px of a phase (train.phases)"
            raise Refused(f"{key} is {size_px}: expected a multiple of {vae.factor}, the pixels a latent of {config.model}")
    facts = {
        "latents": MEANING,
        "vae": config.vae,
        "model": config.model,
        "subfolder": config.subfolder,
        "vae_sha256": weights_digest(str(Path(model_path(config.model), config.subfolder or ""))),
        "scaling_factor": vae.scale.scaling_factor,
        "shift_factor": vae.scale.shift_factor,
        "precision": config.precision,
        "latent_channels": vae.latent_channels,
    }
    return {size_px: facts | {"latent_size": size_px // vae.factor, "size_px": size_px} for size_px in sizes_px}


def file_schema(facts: dict[str, Any]) -> pa.Schema:
    """`schema.LATENTS` with the facts as metadata, so that a file explains itself."""
    return schema.LATENTS.with_metadata({name: str(value) for name, value in facts.items() if value is not None})
