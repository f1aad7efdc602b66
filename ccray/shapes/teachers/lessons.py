"""What the teachers learn from: labelled pictures of training scenes, in batches whose order is fixed by a seed.

Catalogs draw their scenes with seeds below FIRST_TEACHER_SEED and teachers with seeds from there on,
so that no picture is ever both a teacher's lesson and a catalog's image.
"""

from collections.abc import Iterator, Sequence

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


def batches(count: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """`steps` batches of indices below `count`, without repeats inside a pass; the short end of a pass is skipped."""
    generator = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    for _ in range(steps):
        if not order:
            order = list(torch.randperm(count, generator=generator).split(batch_size))
            order = [batch for batch in order if len(batch) == batch_size]
        yield order.pop()


def warm_cosine(step: int, steps: int, warm_up: int) -> float:
    """Share of the peak learning rate: a linear rise over `warm_up` steps, then half a cosine down to 1 % at `steps`."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * done)))
