"""What the teachers learn from: labelled pictures of training scenes, as tensors.

Catalogs draw their scenes with seeds below FIRST_TEACHER_SEED and teachers with seeds from there on,
so that no picture is ever both a teacher's lesson and a catalog's image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ccray.shapes.world import Scene, draw, held_out_scene, train_scene

FIRST_TEACHER_SEED = 1_000_000
LESSON_SEED = FIRST_TEACHER_SEED
EXAM_SEED = FIRST_TEACHER_SEED + 1


def lesson_scenes(count: int) -> list[Scene]:
    """The first `count` training scenes that teachers learn from."""
    return [train_scene(LESSON_SEED, index) for index in range(count)]


def exam_scenes(count: int) -> list[Scene]:
    """The first `count` held-out scenes, on which the figures of the cards are measured."""
    return [held_out_scene(EXAM_SEED, index) for index in range(count)]


def pixel_tensor(scenes: Sequence[Scene]) -> Tensor:
    """The pictures of `scenes` at 32 px: N 3 32 32 float32 in [-1, 1]."""
    pixels = np.stack([draw(scene) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def pixel_arrays(images: Tensor) -> list[np.ndarray]:
    """N 3 H W float in [-1, 1] => N arrays of H W 3 uint8, clipped."""
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return list(levels.permute(0, 2, 3, 1).numpy())
