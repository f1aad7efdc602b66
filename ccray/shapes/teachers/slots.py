"""A scene as a fixed row of numbers: for each place the colour, shape and size of what stands there, then the background; 0 is nothing.

Linear heads that must name these slots teach a tower to bind attributes to things faster than a caption's or a contrast's loss alone does.
The heads are thrown away.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ccray.shapes.world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, Thing, caption, phrase

SLOT_SIZES = (len(COLOURS) + 1, len(SHAPES) + 1, len(SIZES) + 1) * len(PLACES) + (len(BACKGROUNDS) + 1,)
IGNORED = -100


def _fill(slots: NDArray[np.int64], thing: Thing) -> None:
    """Write `thing` into ... S slots, in place."""
    place = 3 * list(PLACES).index(thing.place)
    slots[..., place] = list(COLOURS).index(thing.colour) + 1
    slots[..., place + 1] = SHAPES.index(thing.shape) + 1
    slots[..., place + 2] = list(SIZES).index(thing.size) + 1


def scene_slots(scene: Scene) -> NDArray[np.int64]:
    """All that a caption of `scene` says: S numbers."""
    slots = np.zeros(len(SLOT_SIZES), np.int64)
    for thing in scene.things:
        _fill(slots, thing)
    slots[-1] = list(BACKGROUNDS).index(scene.background) + 1
    return slots


def slots_said_so_far(scene: Scene, tokens: int) -> NDArray[np.int64]:
    """For each of `tokens` tokens of <bos> `caption(scene)` <eos> <pad> ..., what it and those before it have said: tokens x S.

    A thing is said with the last word of its place: only then is it known where it belongs. <bos> makes word k token k.
    """
    slots = np.zeros((tokens, len(SLOT_SIZES)), np.int64)
    said = 0
    for thing in scene.things:
        said += len(phrase(thing).split())
        _fill(slots[said:], thing)
        said += 1  # "and"
    slots[len(caption(scene).split()) - 1 :, -1] = list(BACKGROUNDS).index(scene.background) + 1
    return slots


def without_colour_slots(slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same, with the colours of things ignored: what is known of a repainted scene."""
    blind = slots.copy()
    colours = blind[..., 0:-1:3]
    colours[colours > 0] = IGNORED
    return blind


def slot_loss(heads: nn.Linear, states: Tensor, slots: Tensor) -> Tensor:
    """Mean cross-entropy over rows and slots of what linear heads read from ... C states; slots ... S int64."""
    answers = heads(states).flatten(0, -2).split(SLOT_SIZES, dim=-1)
    truths = slots.flatten(0, -2).unbind(dim=-1)
    losses = [F.cross_entropy(answer, truth, ignore_index=IGNORED) for answer, truth in zip(answers, truths, strict=True)]
    return torch.stack(losses).mean()
