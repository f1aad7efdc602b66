"""A loss or gradient that is no number changes nothing but the count of skipped steps; too many in a row end the run."""

import json
import math
from functools import partial

import pytest
import torch

from ccray.interfaces import Failed
from ccray.training.loop import Trained
from tests.training.datasets import Poisoned
from tests.training.tables import UNET, Place

BAD = frozenset({3, 6, 7})


def weights(trained: Trained | None) -> dict[str, torch.Tensor]:
    assert trained is not None
    assert trained.weights is not None
    return trained.weights


@pytest.mark.parametrize(("value", "ema_steps"), [(math.nan, 0), (math.inf, 4)])
def test_a_skipped_step_leaves_everything_as_it_was(place: Place, value: float, ema_steps: int) -> None:
    """Four steps of which the last is skipped, against three: weights, and averages, bit for bit; fused kernel and torch's default."""
    for fused in ("true", "false"):
        words = (f"train.ema_steps={ema_steps}", f"train.fused_optimizer={fused}")
        three = weights(place.train(place.recipe(UNET, "train.steps=3", *words), f"three-{value}-{fused}"))
        around = partial(Poisoned, steps=frozenset({3}), value=value)
        four = place.train(place.recipe(UNET, "train.steps=4", *words), f"four-{value}-{fused}", around=around)
        assert all(torch.equal(weights(four)[name], tensor) for name, tensor in three.items())
        assert four is not None
        assert (four.progress.step, four.progress.skipped, four.progress.samples) == (4, 1, 48)


def test_a_run_with_skipped_steps_continues_bit_for_bit(place: Place) -> None:
    """Interrupted in the middle of two skipped ones; AdamW's count of updates, which corrects its moments, goes on from those made."""
    recipe = place.recipe(UNET, "train.steps=12", "train.checkpoint_every=7", "train.max_skipped=2")
    around = partial(Poisoned, steps=BAD)
    straight = place.train(recipe, "skipping", around=around)
    place.train(recipe, "skipping-halved", until=9, around=around)
    found = place.train(recipe, "skipping-halved", around=around)
    assert straight is not None
    assert found is not None
    assert found.progress == straight.progress
    assert found.progress.skipped == 3
    assert all(torch.equal(weights(found)[name], tensor) for name, tensor in weights(straight).items())
    lines = place.metrics("skipping-halved")
    assert lines == place.metrics("skipping")
    assert [line["skipped"] for line in lines] == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3]
    assert [step for step, line in enumerate(lines) if "loss" not in line] == sorted(BAD)
    assert "NaN" not in (place.path / "skipping" / "metrics.jsonl").read_text(), "which is no JSON"


def test_too_many_in_a_row_end_the_run_and_its_resumes(place: Place) -> None:
    recipe = place.recipe(UNET, "train.steps=12", "train.checkpoint_every=6", "train.max_skipped=2")
    around = partial(Poisoned, steps=frozenset(range(4, 12)))
    for _ in range(2):  # the second time from the checkpoint of step 6, two of them skipped
        with pytest.raises(Failed, match=r"3 steps in a row up to about step 7 .* train\.max_skipped allows 2: lower train\.learning_rate"):
            place.train(recipe, "persistent", around=around)
    progress = json.loads((place.path / "persistent" / "step-00000006" / "progress.json").read_text())
    assert (progress["skipped"], progress["skipped_in_a_row"]) == (2, 2)
