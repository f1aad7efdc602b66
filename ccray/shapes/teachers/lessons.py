"""What the teachers learn from: training scenes, and their pictures as tensors.

Catalogs draw their scenes with seeds below FIRST_TEACHER_SEED and teachers with seeds from there on,
so that no picture is ever both a teacher's lesson and a catalog's image.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ccray.shapes.world import BACKGROUNDS, COLOURS, Scene, Thing, draw, held_out_scene, train_scene

FIRST_TEACHER_SEED = 1_000_000
LESSON_SEED = FIRST_TEACHER_SEED
EXAM_SEED = FIRST_TEACHER_SEED + 1
UNSEEN_SEED = FIRST_TEACHER_SEED + 2
# RGB levels; named colours are 110 or more apart.
NAMELESS_DISTANCE = 80


def lesson_scenes(count: int) -> list[Scene]:
    """The first `count` training scenes that teachers learn from."""
    return [train_scene(LESSON_SEED, index) for index in range(count)]


def exam_scenes(count: int) -> list[Scene]:
    """The first `count` held-out scenes, on which the figures of the cards are measured."""
    return [held_out_scene(EXAM_SEED, index) for index in range(count)]


def unseen_training_scenes(count: int) -> list[Scene]:
    """The first `count` training scenes of a seed that no lesson uses."""
    return [train_scene(UNSEEN_SEED, index) for index in range(count)]


def nameless_colours() -> list[tuple[int, int, int]]:
    """RGB colours, on a grid, that lie far from all that the grammar has a word for."""
    named = np.array([*COLOURS.values(), *BACKGROUNDS.values()])
    grid = itertools.product(range(20, 256, 40), repeat=3)
    return [(red, green, blue) for red, green, blue in grid if np.linalg.norm(named - (red, green, blue), axis=1).min() > NAMELESS_DISTANCE]


def repainted(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """The scenes with every thing in a colour that has no name (its `tint` carries it there; its `colour` no longer holds)."""
    generator, colours = np.random.default_rng(seed), nameless_colours()

    def repaint(thing: Thing) -> Thing:
        red, green, blue = np.subtract(colours[generator.integers(len(colours))], COLOURS[thing.colour]).tolist()
        return dataclasses.replace(thing, tint=(red, green, blue))

    return [dataclasses.replace(scene, things=tuple(map(repaint, scene.things))) for scene in scenes]


def pixel_tensor(scenes: Sequence[Scene]) -> Tensor:
    """The pictures of `scenes` at 32 px: N 3 32 32 float32 in [-1, 1]."""
    pixels = np.stack([draw(scene) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def pixel_arrays(images: Tensor) -> list[np.ndarray]:
    """N 3 H W float in [-1, 1] => N arrays of H W 3 uint8, clipped."""
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return list(levels.permute(0, 2, 3, 1).numpy())
