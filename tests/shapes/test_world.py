"""The world is the same bits everywhere, its splits do not meet, and its sentences can be read back."""

import hashlib
import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ccray.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    OPPOSITE_PLACES,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    caption,
    coverage,
    draw,
    held_out_scene,
    is_held_out,
    is_held_out_thing,
    parse,
    png_bytes,
    scenes_match,
    train_scene,
    words,
)

DRAWS = 20_000

# sha256 of the pixels; they change only with the world itself, and with them every golden figure of a run on it.
GOLDEN = {
    ("train", 0, 32): "3b3dd659190226ab5c296504825a00de9205d3b19b5bb135a9f1df33a963e5fe",
    ("train", 1, 32): "02a95b550eb119c60c13f47cfe2f1f0df53b8076331963bd65fb51bc6c079782",
    ("train", 1, 64): "2c844f8d4f4d6070dbdc2a60491bfc126702d97b460978695d83e69b0de185f3",
    ("held out", 0, 32): "093cba5f5e54e82bc90cb21a14616f5e6e3df94770819b336120da1bdd67893f",
    ("held out", 7, 48): "76fcb6a85083cd1729af70a3d533d17809eaf1ad67cf953f7cb37e758f7fe3de",
}


@pytest.mark.parametrize(("case", "expected"), GOLDEN.items(), ids=str)
def test_drawings_are_the_same_bits_everywhere(case: tuple[str, int, int], expected: str) -> None:
    split, index, size_px = case
    scene = train_scene(0, index) if split == "train" else held_out_scene(0, index)
    assert hashlib.sha256(draw(scene, size_px).tobytes()).hexdigest() == expected


def test_training_never_shows_a_held_out_combination() -> None:
    scenes = [train_scene(seed, index) for seed in (0, 1_000_000) for index in range(DRAWS)]
    assert not any(is_held_out_thing(thing) for scene in scenes for thing in scene.things)
    assert all(is_held_out(held_out_scene(0, index)) for index in range(DRAWS))


def test_training_shows_every_pair_of_a_held_out_combination() -> None:
    things = [thing for index in range(DRAWS) for thing in train_scene(0, index).things]
    assert {(one.colour, one.shape) for one in things} == set(itertools.product(COLOURS, SHAPES))
    assert {(one.colour, one.place) for one in things} == set(itertools.product(COLOURS, PLACES))
    assert {(one.shape, one.place) for one in things} == set(itertools.product(SHAPES, PLACES))


def test_held_out_combinations_cover_every_attribute() -> None:
    combinations = [
        (colour, shape, place)
        for colour, shape, place in itertools.product(COLOURS, SHAPES, PLACES)
        if is_held_out_thing(Thing(colour, shape, "small", place))
    ]
    assert len(combinations) == len(SHAPES) * len(PLACES)
    colours, shapes, places = zip(*combinations, strict=True)
    assert (set(colours), set(shapes), set(places)) == (set(COLOURS), set(SHAPES), set(PLACES))


@pytest.mark.parametrize("split", [train_scene, held_out_scene])
def test_a_fifth_of_the_scenes_hold_two_things_apart(split: Callable[[int, int], Scene]) -> None:
    pairs = [scene.things for scene in (split(0, index) for index in range(DRAWS)) if len(scene.things) == 2]
    assert 0.20 < len(pairs) / DRAWS < 0.25
    assert all((first.place, second.place) in OPPOSITE_PLACES and first.colour != second.colour for first, second in pairs)


def test_large_neighbours_do_not_touch() -> None:
    inward = [Thing("red", "square", "large", "on the left", (2, 0)), Thing("blue", "square", "large", "on the right", (-2, 0))]
    alone = [draw(Scene("white", (thing,))) != draw(Scene("white", ())) for thing in inward]
    columns = [np.flatnonzero(changed.any(axis=(0, 2))) for changed in alone]
    assert columns[1].min() - columns[0].max() > 2


def test_pictures_of_a_large_sample_are_all_different() -> None:
    assert len({draw(train_scene(0, index)).tobytes() for index in range(4_000)}) == 4_000


@pytest.mark.parametrize("split", [train_scene, held_out_scene])
def test_parse_is_the_inverse_of_caption(split: Callable[[int, int], Scene]) -> None:
    for index in range(2_000):
        scene = split(2, index)
        parsed = parse(caption(scene))
        assert parsed is not None
        assert scenes_match(parsed, scene)
        assert caption(parsed) == caption(scene)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "a large red circle on the left on a white background.",
        "a large red circle on the left on a pink background",
        "a large red circle on the left and on a white background",
        "a large red circle on the left and a large red circle on the left and a large red circle on the left on a white background",
    ],
)
def test_parse_refuses_other_sentences(text: str) -> None:
    assert parse(text) is None


def test_scenes_match_whatever_the_order_and_the_jitter() -> None:
    left, right = Thing("red", "circle", "small", "on the left"), Thing("blue", "square", "large", "on the right", (1, 2), (3, 0, 0))
    assert scenes_match(Scene("white", (left, right)), Scene("white", (right, left), (1, 1, 1)))
    assert not scenes_match(Scene("white", (left, right)), Scene("grey", (left, right)))
    assert not scenes_match(Scene("white", (left,)), Scene("white", (left, right)))


def test_the_vocabulary_holds_every_caption() -> None:
    assert {word for index in range(2_000) for word in caption(train_scene(0, index)).split()} == set(words())


def test_png_gives_the_pixels_back() -> None:
    pixels = draw(train_scene(0, 3))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(pixels)))), pixels)


def test_the_areas_of_the_two_sizes_are_well_apart() -> None:
    areas = {(shape, size): coverage(shape, SIZES[size], (32, 32), 32).sum() for shape in SHAPES for size in SIZES}
    assert all(areas[shape, "large"] > 2.5 * areas[shape, "small"] for shape in SHAPES)


def test_an_unknown_shape_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'hexagon'"):
        coverage("hexagon", 8, (32, 32), 32)


def test_every_background_occurs_in_training() -> None:
    assert {train_scene(0, index).background for index in range(200)} == set(BACKGROUNDS)
