"""Two ranks under FSDP2 against one rank without it."""

import numpy as np
import pytest
import torch

from ccray.training.seen import Seen
from tests.training import ranks
from tests.training.ranks import Job
from tests.training.tables import DIT, UNET, Place

FP64 = ("train.precision=fp64", "text.precision=fp64")
# Batches of 12 and a tail of 11, in micro-batches of at most 4: uneven slices, uneven pieces. Grids on the way must leave no trace.
UNET_WORDS = (UNET, *FP64, "train.micro_batch_size=4", "train.sample_every=7")
DIT_WORDS = (DIT, *FP64, "train.gradient_checkpointing=true", "train.clip_norm=0.05")
# A batch of one row: one rank has nothing to do but its share of the collectives.
LONELY_WORDS = (UNET, *FP64, "train.global_batch_size=1", "train.steps=3")
FP32_WORDS = (UNET, "train.steps=1")


@pytest.fixture(scope="module")
def both(place: Place) -> Place:
    """Every run once on two ranks and once on one."""
    recipes = {
        name: place.recipe(*words) for name, words in (("unet", UNET_WORDS), ("dit", DIT_WORDS), ("lonely", LONELY_WORDS), ("fp32", FP32_WORDS))
    }
    jobs = [Job(recipe, f"two-{name}") for name, recipe in recipes.items()]
    resumed = [Job(recipes["unet"], "two-resumed", until=13), Job(recipes["unet"], "two-resumed")]
    place.train(recipes["unet"], "one-to-two", until=13)
    ranks.run(place, [*jobs, *resumed, Job(recipes["unet"], "one-to-two")])
    for name, recipe in recipes.items():
        trained = place.train(recipe, f"one-{name}")
        assert trained is not None
        torch.save(trained.weights, place.path / f"one-{name}.pt")
    return place


@pytest.mark.parametrize("name", ["unet", "dit", "lonely"])
def test_two_ranks_equal_one_in_float64(both: Place, name: str) -> None:
    one, two = both.metrics(f"one-{name}"), both.metrics(f"two-{name}")
    assert len(one) == len(two) == (3 if name == "lonely" else 20)
    for key in ("loss", "grad_norm", "learning_rate", "samples"):
        np.testing.assert_allclose([line[key] for line in two], [line[key] for line in one], rtol=1e-10)
    _assert_near(ranks.weights(both, f"two-{name}"), ranks.weights(both, f"one-{name}"), 1e-10)


def test_two_ranks_equal_one_for_a_step_in_float32(both: Place) -> None:
    """Loss and gradient: AdamW's first update is nearly the sign of the gradient, so weights whose true gradient is zero follow rounding."""
    one, two = both.metrics("one-fp32")[0], both.metrics("two-fp32")[0]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-6)


def test_two_ranks_resume_bit_for_bit(both: Place) -> None:
    assert both.metrics("two-resumed") == both.metrics("two-unet")
    _assert_near(ranks.weights(both, "two-resumed"), ranks.weights(both, "two-unet"), 0)
    seen = [Seen.read(both.path / name / "step-00000020").table() for name in ("two-resumed", "two-unet", "one-unet")]
    assert seen[0] == seen[1] == seen[2]


def test_a_run_of_one_rank_continues_on_two(both: Place) -> None:
    _assert_near(ranks.weights(both, "one-to-two"), ranks.weights(both, "one-unet"), 1e-10)


def _assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
