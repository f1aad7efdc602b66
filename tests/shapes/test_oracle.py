"""The oracle reads every true picture right, blurred and noisy ones too, and gives nothing away to pictures that ignore the prompt."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ccray.shapes.oracle import ATTRIBUTES, Fidelity, Reading, chance, compare, read, score, truth
from ccray.shapes.world import Pixels, Scene, Thing, draw, held_out_scene, train_scene

FIELDS = (*ATTRIBUTES, "all")


def mean_fidelity(results: list[Fidelity]) -> dict[str, float]:
    return {name: float(np.mean([getattr(result, name) for result in results])) for name in FIELDS}


def blurred(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.8)))


def noisy(pixels: Pixels) -> Pixels:
    noise = np.random.default_rng(int(pixels.sum())).normal(0, 12, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("split", [train_scene, held_out_scene])
def test_true_pictures_score_perfectly(split: Callable[[int, int], Scene]) -> None:
    scenes = [split(3, index) for index in range(1_200)]
    wrong = [scene for scene in scenes if not score(draw(scene), scene).all]
    assert wrong == []


@pytest.mark.parametrize("damage", [blurred, noisy])
def test_mild_damage_changes_nothing(damage: Callable[[Pixels], Pixels]) -> None:
    scenes = [held_out_scene(4, index) for index in range(600)]
    assert mean_fidelity([score(damage(draw(scene)), scene) for scene in scenes])["all"] >= 0.995


@pytest.mark.parametrize("size_px", [24, 48, 64, 256])
def test_other_sizes_read_alike(size_px: int) -> None:
    scenes = [held_out_scene(5, index) for index in range(100)]
    assert mean_fidelity([score(draw(scene, size_px), scene) for scene in scenes])["all"] == 1


def test_pictures_of_other_prompts_score_at_chance() -> None:
    results = [score(draw(held_out_scene(6, index)), held_out_scene(7, index)) for index in range(1_500)]
    measured, expected = mean_fidelity(results), chance()
    assert all(abs(measured[name] - expected[name]) < 0.04 for name in FIELDS)
    assert expected["all"] < 0.01


@pytest.mark.parametrize(
    "pixels",
    [
        np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8),
        np.random.default_rng(1).integers(120, 160, (32, 32, 3), dtype=np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.full((32, 32, 3), 255, np.uint8),
        np.full((32, 32, 3), (220, 40, 45), np.uint8),
        np.full((1, 1, 3), 77, np.uint8),
        np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (40, 1, 3)),
    ],
    ids=["noise", "grey noise", "black", "white", "red", "one pixel", "ramp"],
)
def test_pictures_without_things_score_nothing_but_perhaps_a_background(pixels: Pixels) -> None:
    assert read(pixels).things == ()
    results = mean_fidelity([score(pixels, held_out_scene(8, index)) for index in range(200)])
    assert results["background"] <= 0.35
    assert all(results[name] == 0 for name in FIELDS[1:])


def test_soft_noise_over_a_background_never_raises() -> None:
    generator = np.random.default_rng(2)
    for spread in range(5, 200, 5):
        read((140 + generator.normal(0, spread, (32, 32, 3))).clip(0, 255).astype(np.uint8))


RED = Thing("red", "circle", "large", "on the left")
BLUE = Thing("blue", "square", "small", "on the right")
PAIR = Scene("white", (RED, BLUE))


def test_things_may_be_named_in_any_order() -> None:
    assert score(draw(PAIR), Scene("white", (BLUE, RED))).all


def test_swapped_colours_fail_colour_only() -> None:
    swapped = Scene("white", (dataclasses.replace(RED, colour="blue"), dataclasses.replace(BLUE, colour="red")))
    assert score(draw(swapped), PAIR) == Fidelity(background=True, colour=False, shape=True, size=True, place=True, all=False)


@pytest.mark.parametrize("things", [(), (RED,)])
def test_a_missing_thing_fails_all_but_the_background(things: tuple[Thing, ...]) -> None:
    shown = draw(Scene("white", things))
    assert score(shown, PAIR) == Fidelity(background=True, colour=False, shape=False, size=False, place=False, all=False)


def test_one_thing_too_many_fails_all_but_the_background() -> None:
    assert not score(draw(PAIR), Scene("white", (RED,))).colour


def test_what_cannot_be_named_matches_nothing() -> None:
    assert not compare(Reading(None, ()), PAIR).background
    assert compare(truth(PAIR), PAIR).all


def test_a_thing_between_places_has_no_place() -> None:
    between = dataclasses.replace(RED, offset=(9, 9))
    assert read(draw(Scene("white", (between,)))).things[0].place is None
