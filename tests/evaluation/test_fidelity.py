"""Aggregates of the oracle: perfect pictures, pictures of other prompts, noise."""

import numpy as np
import pytest

from ccray.evaluation import fidelity
from ccray.evaluation.fidelity import Judged
from ccray.shapes import oracle, world


def judged(count: int, seed: int = 0) -> list[Judged]:
    scenes = [world.held_out_scene(seed, index) for index in range(count)]
    return [Judged(oracle.read(world.draw(scene)), scene) for scene in scenes]


def test_true_pictures_are_perfect_and_shuffled_ones_at_chance() -> None:
    rows = judged(150)
    perfect = fidelity.mean_fidelity(one.fidelity for one in rows)
    assert perfect == dict.fromkeys(fidelity.FIELDS, 1.0)
    assert fidelity.mean_of_five(perfect) == 1.0
    shuffled, chance = fidelity.shuffled(rows), oracle.chance(2000)
    for name in fidelity.FIELDS:
        assert shuffled[name] == pytest.approx(chance[name], abs=0.05)


def test_shuffling_leaves_no_prompt_in_its_place() -> None:
    scenes = [world.Scene("white", (world.Thing(colour, "circle", "large", "in the centre"),)) for colour in ("red", "blue", "green")]
    rows = [Judged(oracle.truth(scene), scene) for scene in scenes]
    for count in (2, 3):
        assert fidelity.shuffled(rows[:count])["colour"] == 0
        assert fidelity.shuffled(rows[:count])["shape"] == 1
    assert fidelity.shuffled(rows[:1]) == {}
    assert fidelity.mean_fidelity([]) == {}


def test_noise_shows_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    row = Judged(oracle.read(noise), world.held_out_scene(0, 0))
    assert fidelity.mean_fidelity([row.fidelity]) == dict.fromkeys(fidelity.FIELDS, 0.0)


def test_groups() -> None:
    rows = judged(4)
    wrong = Judged(oracle.Reading(None, ()), rows[0].scene)
    figures = fidelity.by_group([*rows, wrong], ["a", "a", "b", "b", "b"])
    assert figures["a"]["all"] == 1
    assert figures["b"]["all"] == pytest.approx(2 / 3)


def test_exact_matches() -> None:
    captions = [world.caption(world.train_scene(5, index)) for index in range(4)]
    refs = [f"5/{index}" for index in range(4)]
    assert fidelity.exact_matches(refs, captions) == 4
    assert fidelity.exact_matches(refs, [captions[0], None, captions[2] + " ", "a dog"]) == 1
