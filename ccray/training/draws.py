"""Every row's randomness, from (seed, step, key) alone: the same wherever the row is computed and however often the run was continued.

Philox (Salmon et al., SC 2011) is a counter-based generator: its key is (seed, the image's key), its counter starts at (0, step), so
no two rows of a run share a stream. One row of 8 x 8 x 4 latents costs about 10 microseconds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Draws:
    """Random numbers of b rows."""

    dropout: np.ndarray  # float64 [b], uniform on [0, 1): the caption is dropped when below the rate
    time: np.ndarray  # float64 [b], uniform on [0, 1): decides the timestep
    noise: np.ndarray  # float32 [b C h w], normal
    posterior: np.ndarray  # float32 [b C h w], normal: which sample of the VAE's posterior


def draw(seed: int, step: int, keys: np.ndarray, shape: tuple[int, ...]) -> Draws:
    """The numbers of each row.

    Args:
        seed: of the run.
        step: of the run, from 0.
        keys: int64 [b].
        shape: C h w of a latent.
    """
    uniforms = np.empty((len(keys), 2))
    normals = np.empty((len(keys), 2, *shape), np.float32)
    bits = np.random.Philox(0)
    rows = np.random.Generator(bits)
    for row, key in enumerate(np.asarray(keys, np.int64).view(np.uint64)):
        bits.state = _start(seed, step, key)
        rows.random(out=uniforms[row])
        rows.standard_normal(out=normals[row], dtype=np.float32)
    return Draws(uniforms[:, 0], uniforms[:, 1], normals[:, 0], normals[:, 1])


def _start(seed: int, step: int, key: np.uint64) -> Any:
    return {
        "bit_generator": "Philox",
        "state": {"counter": np.array([0, step, 0, 0], np.uint64), "key": np.array([seed, key], np.uint64)},
        "buffer": np.zeros(4, np.uint64),
        "buffer_pos": 4,  # nothing buffered
        "has_uint32": 0,
        "uinteger": 0,
    }
