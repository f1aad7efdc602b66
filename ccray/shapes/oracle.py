"""What does a picture show? A measurement of pixels, not a network, so its answers are the same for every model it judges.

    pixels  ->  background (most common)  ->  what differs from it  ->  one mask a colour  ->  connected blobs  ->  things
                                                                                         each blob: best of six drawn outlines

A pixel on the edge of a thing is a blend of the thing's colour and the background, so colours are told apart by the direction in
which a pixel leaves the background, and areas by how far it went: both survive the blur of a VAE or of a denoiser.
`read` answers for any picture; what it cannot name it leaves None, and None matches nothing.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccray.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    SUBPIXELS,
    UNITS,
    Pixels,
    Scene,
    coverage,
    held_out_scene,
)

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

READ_AT_PX = 32
# Distances in RGB levels. Backgrounds lie at least 110 from each other and from every colour of a thing.
NEAR_BACKGROUND = 40.0
NEAR_COLOUR = 75.0
AWAY_FROM_BACKGROUND = 45.0
# No colour comes nearer than 63 to the half-line from any background through another colour.
ON_RAY = 40.0
# A picture without this share of one background is noise; two large squares leave 67 %.
LEAST_BACKGROUND = 0.4
# Pixels. The smallest thing, a small triangle, covers 32; a blur may leave half of them near their colour.
LEAST_CORE_PX = 6
LEAST_BLOB_PX = 12.0
# Overlap (intersection over union) below which a blob has no shape, and the furthest a thing may lie from its place, in 64ths.
LEAST_OVERLAP = 0.6
NEAR_PLACE = 8.0

ATTRIBUTES = ("background", "colour", "shape", "size", "place")


@dataclass(frozen=True)
class Seen:
    """One blob. None where the picture does not tell."""

    colour: str
    shape: str | None
    size: str | None
    place: str | None


@dataclass(frozen=True)
class Reading:
    """What a picture shows."""

    background: str | None
    things: tuple[Seen, ...]


@dataclass(frozen=True)
class Fidelity:
    """Which attributes of a prompt its picture shows; with two things, both must. `all` is all five at once."""

    background: bool
    colour: bool
    shape: bool
    size: bool
    place: bool
    all: bool


def _at_reading_size(pixels: Pixels) -> Floats:
    """Any H W 3 picture to READ_AT_PX square, by the mean of the covered area."""
    if pixels.shape[:2] == (READ_AT_PX, READ_AT_PX):
        return pixels.astype(np.float32)
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((READ_AT_PX, READ_AT_PX), Image.Resampling.BOX)
    return np.asarray(resized, dtype=np.float32)


def _distances(pixels: Floats, palette: dict[str, tuple[int, int, int]]) -> Floats:
    """H W 3 pixels to their distance from each colour: H W len(palette)."""
    return np.linalg.norm(pixels[:, :, None] - np.array(list(palette.values()), np.float32), axis=-1)


def _find_background(pixels: Floats) -> tuple[str, Floats] | None:
    """Name and RGB as it appears here of the background that covers most, or None if none covers enough."""
    near = _distances(pixels, BACKGROUNDS) < NEAR_BACKGROUND
    share = near.mean(axis=(0, 1))
    best = int(share.argmax())
    if share[best] < LEAST_BACKGROUND:
        return None
    return list(BACKGROUNDS)[best], np.median(pixels[near[:, :, best]], axis=0)


def _off_ray(pixels: Floats, ground: Floats, colour: Floats) -> Floats:
    """Distance of H W 3 pixels from the half-line from `ground` through `colour`, on which their blends lie: H W.

    A half-line, because blue and yellow leave grey in opposite directions.
    """
    ray = (colour - ground) / np.linalg.norm(colour - ground)
    leaving = pixels - ground
    return np.linalg.norm(leaving - (leaving @ ray).clip(0)[:, :, None] * ray, axis=-1)


def _colour_cores(pixels: Floats, ground: Floats, foreground: Mask) -> dict[str, Mask]:
    """The pixels well inside things, by colour, most frequent colour first.

    The rim of a thing can come near another colour (cyan on brown passes close to green): what lies on the line of blends
    of a more frequent colour belongs to that colour.
    """
    distances = _distances(pixels, COLOURS)
    left = foreground & (distances.min(axis=-1) < NEAR_COLOUR)
    nearest = distances.argmin(axis=-1)
    counts = [int((left & (nearest == number)).sum()) for number in range(len(COLOURS))]
    cores: dict[str, Mask] = {}
    for number in sorted(range(len(COLOURS)), key=lambda one: -counts[one]):
        core = left & (nearest == number)
        if core.sum() >= LEAST_CORE_PX:
            cores[list(COLOURS)[number]] = core
            left = left & (_off_ray(pixels, ground, np.median(pixels[core], axis=0)) > ON_RAY)
    return cores


def _shares(pixels: Floats, ground: Floats, cores: dict[str, Mask]) -> tuple[Floats, NDArray[np.intp]]:
    """How much of each pixel is thing rather than background (H W, 0 to 1), and which of `cores` it leans to (H W)."""
    rays = np.stack([np.median(pixels[core], axis=0) - ground for core in cores.values()])
    lengths = np.linalg.norm(rays, axis=-1)
    along = (pixels - ground) @ (rays / lengths[:, None]).T
    owner = along.argmax(axis=-1)
    share = np.take_along_axis(along / lengths, owner[:, :, None], axis=-1)[:, :, 0]
    return share.clip(0, 1), owner


def _blobs(mask: Mask) -> list[Mask]:
    """Connected parts of `mask` (eight neighbours). Every pixel takes the largest number around it until nothing changes."""
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(numbers, 1)
        rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
        spread = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
        spread = np.where(mask, spread, 0)
        if np.array_equal(spread, numbers):
            return [numbers == number for number in np.unique(numbers[mask])]
        numbers = spread


def _centroid(share: Floats) -> tuple[float, float]:
    """Centre of mass of H W shares, (x, y) in 64ths of the picture."""
    middles = (np.arange(READ_AT_PX) + 0.5) * UNITS / READ_AT_PX
    total = share.sum()
    return float(share.sum(axis=0) @ middles / total), float(share.sum(axis=1) @ middles / total)


def _box_centre(shape: str, half: float, centroid: tuple[float, float]) -> tuple[float, float]:
    """A triangle's centre of mass lies a third of `half` below the middle of its box; the other shapes' lie in it."""
    x, y = centroid
    return (x, y - half / 3) if shape == "triangle" else (x, y)


def _overlap(share: Floats, shape: str, half: float, centre: tuple[float, float]) -> float:
    """Soft intersection over union of a blob's shares with the shape drawn at `centre`."""
    drawn = coverage(shape, half, centre, READ_AT_PX) / SUBPIXELS**2
    return float(np.minimum(share, drawn).sum() / np.maximum(share, drawn).sum())


def _nearest_place(centre: tuple[float, float]) -> str | None:
    place = min(PLACES, key=lambda name: np.hypot(*np.subtract(centre, PLACES[name])))
    return place if np.hypot(*np.subtract(centre, PLACES[place])) <= NEAR_PLACE else None


def _see(colour: str, share: Floats) -> Seen:
    """Name a blob by the outline, of every shape in every size, that fits it best."""
    centroid = _centroid(share)
    outlines = [(shape, size) for shape in SHAPES for size in SIZES]
    centres = [_box_centre(shape, SIZES[size], centroid) for shape, size in outlines]
    fits = [_overlap(share, shape, SIZES[size], centre) for (shape, size), centre in zip(outlines, centres, strict=True)]
    best = int(np.argmax(fits))
    shape, size = outlines[best]
    known = fits[best] >= LEAST_OVERLAP
    return Seen(colour, shape if known else None, size if known else None, _nearest_place(centres[best]))


def _things(pixels: Floats, ground: Floats) -> tuple[Seen, ...]:
    foreground = np.linalg.norm(pixels - ground, axis=-1) > AWAY_FROM_BACKGROUND
    cores = _colour_cores(pixels, ground, foreground)
    if not cores:
        return ()
    share, owner = _shares(pixels, ground, cores)
    things = []
    for number, colour in enumerate(cores):
        for blob in _blobs(foreground & (owner == number)):
            reach = _grown(blob) & (owner == number)
            if share[blob].sum() >= LEAST_BLOB_PX:
                things.append(_see(colour, np.where(reach, share, 0)))
    return tuple(things)


def _grown(blob: Mask) -> Mask:
    """`blob` and the ring of pixels around it, which hold the faint part of a soft edge."""
    padded = np.pad(blob, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def read(pixels: Pixels) -> Reading:
    """What `pixels` (uint8, H W 3, any size) show. Answers for noise and blank pictures too, with little or nothing."""
    image = _at_reading_size(pixels)
    background = _find_background(image)
    if background is None:
        return Reading(None, ())
    name, ground = background
    return Reading(name, _things(image, ground))


def _agreements(seen: Sequence[Seen], scene: Scene) -> dict[str, bool]:
    return {name: all(getattr(one, name) == getattr(other, name) for one, other in zip(seen, scene.things, strict=True)) for name in ATTRIBUTES[1:]}


def compare(reading: Reading, scene: Scene) -> Fidelity:
    """Attribute by attribute, with the things paired so that most attributes agree. A wrong number of things fails all four of theirs."""
    background = reading.background == scene.background
    agreed = dict.fromkeys(ATTRIBUTES[1:], False)
    if len(reading.things) == len(scene.things):
        pairings = [_agreements(order, scene) for order in itertools.permutations(reading.things)]
        agreed = max(pairings, key=lambda one: (sum(one.values()), one["place"]))
    return Fidelity(background=background, **agreed, all=background and all(agreed.values()))


def score(pixels: Pixels, scene: Scene) -> Fidelity:
    """Does the picture (uint8, H W 3) show what `scene` says?"""
    return compare(read(pixels), scene)


def truth(scene: Scene) -> Reading:
    """What a perfect picture of `scene` reads as."""
    return Reading(scene.background, tuple(Seen(one.colour, one.shape, one.size, one.place) for one in scene.things))


@functools.cache
def chance(pairs: int = 20_000) -> dict[str, float]:
    """Mean of each field of `Fidelity` for a true picture of another, independent held-out prompt: what ignoring the prompt scores.

    Estimated from `pairs` fixed pairs of scenes; with the default its standard error is below 0.004.
    """
    results = [compare(truth(held_out_scene(1, index)), held_out_scene(2, index)) for index in range(pairs)]
    return {name: float(np.mean([getattr(result, name) for result in results])) for name in (*ATTRIBUTES, "all")}
