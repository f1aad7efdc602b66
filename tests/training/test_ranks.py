"""Two and three ranks under FSDP2 against one rank without it."""

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ccray.config import Recipe
from ccray.training.seen import Seen
from ccray.training.shelf import newest_step
from tests.training import ranks
from tests.training.ranks import Job
from tests.training.tables import DIT, UNET, Place

FP64 = ("train.precision=fp64", "text.precision=fp64")
STEPS = 20  # of the short run
# Batches of 12 and every fifth of 11, in micro-batches of at most 4: uneven slices, uneven pieces. Averages over the last third, captions dropped.
# Grids on the way must leave no trace.
LONG = (UNET, *FP64, "train.steps=60", "train.micro_batch_size=4", "train.ema_steps=20", "train.sample_every=25")
# What is interrupted: lines of metrics span three steps and cut across checkpoints, which fall before and into the window of averages.
SHORT = (
    DIT,
    *FP64,
    "train.gradient_checkpointing=true",
    "train.clip_norm=0.05",
    "train.log_every=3",
    "train.checkpoint_every=5",
    "train.ema_steps=8",
)
# A batch of one row: the other ranks have nothing to do but their share of the collectives.
LONELY = (UNET, *FP64, "train.global_batch_size=1", "train.steps=3")
FP32 = (UNET, "train.steps=1")
SKIPPING = (UNET, *FP64, "train.steps=8", "train.max_skipped=2", "train.checkpoint_every=4")
POISONED, PERSISTENT = frozenset({2, 5, 6}), frozenset(range(3, 8))
WORDS = {"long": LONG, "short": SHORT, "lonely": LONELY, "fp32": FP32, "skipping": SKIPPING}
BAD = {"skipping": POISONED}
# Where runs are interrupted; drawn once, so that a failure can be repeated.
AT = dict(zip(("two", "killed", "3-1", "1-2", "2-3"), np.random.default_rng(5).integers(6, STEPS, 5).tolist(), strict=True))


@pytest.fixture(scope="module")
def made(place: Place) -> Place:
    """Every run on one, two and three ranks; runs that are interrupted and continue on as many ranks, and on others."""
    recipes = {name: place.recipe(*words) for name, words in WORDS.items()}
    short = recipes["short"]
    for name, recipe in recipes.items():
        _alone(place, Job(recipe, f"1-{name}", poisoned=BAD.get(name, frozenset())))
    place.train(short, "1-2", until=AT["1-2"])
    interrupted = [Job(short, "two", AT["two"]), Job(short, "2-3", AT["2-3"])]
    failing = Job(recipes["skipping"], "2-persistent", poisoned=PERSISTENT)
    ranks.run(place, 2, [*_all(recipes, 2), *interrupted, Job(short, "two"), Job(short, "1-2"), failing])
    with pytest.raises((ProcessExitedException, ProcessRaisedException)):
        ranks.run(place, 3, [*_all(recipes, 3), Job(short, "3-1", AT["3-1"]), Job(short, "killed", killed=AT["killed"])])
    ranks.run(place, 3, [Job(short, "killed"), Job(short, "2-3")])
    _alone(place, Job(short, "3-1"))
    return place


def _all(recipes: dict[str, Recipe], world_size: int) -> list[Job]:
    return [Job(recipe, f"{world_size}-{name}", poisoned=BAD.get(name, frozenset())) for name, recipe in recipes.items()]


def _alone(place: Place, job: Job) -> None:
    trained = place.train(job.recipe, job.name, around=ranks.around(job))
    assert trained is not None
    assert trained.weights is not None
    ranks.keep(place, job.name, trained.weights)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("name", ["long", "short", "lonely", "skipping"])
def test_many_ranks_equal_one_in_float64(made: Place, name: str, world_size: int) -> None:
    one, many = made.metrics(f"1-{name}"), made.metrics(f"{world_size}-{name}")
    assert len(one) == len(many) == {"long": 60, "short": 7, "lonely": 3, "skipping": 8}[name]
    for found, expected in zip(many, one, strict=True):
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-10)
    _assert_near(ranks.weights(made, f"{world_size}-{name}"), ranks.weights(made, f"1-{name}"), 1e-9)


@pytest.mark.parametrize("world_size", [2, 3])
def test_many_ranks_equal_one_for_a_step_in_float32(made: Place, world_size: int) -> None:
    """Loss and gradient: AdamW's first update is nearly the sign of the gradient, so weights whose true gradient is zero follow rounding."""
    one, many = made.metrics("1-fp32")[0], made.metrics(f"{world_size}-fp32")[0]
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-6)


@pytest.mark.parametrize(("resumed", "straight"), [("two", "2-short"), ("killed", "3-short")])
def test_a_run_continues_on_as_many_ranks_bit_for_bit(made: Place, resumed: str, straight: str) -> None:
    """Two ranks by an exception on both; three by SIGKILL on one, in the middle of whatever the others did."""
    assert made.metrics(resumed) == made.metrics(straight)
    _assert_near(ranks.weights(made, resumed), ranks.weights(made, straight), 0)
    assert _seen(made, resumed) == _seen(made, straight) == _seen(made, "1-short")


@pytest.mark.parametrize("moved", ["3-1", "1-2", "2-3"])
def test_a_run_continues_on_another_number_of_ranks(made: Place, moved: str) -> None:
    for found, expected in zip(made.metrics(moved), made.metrics("1-short"), strict=True):
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-9)
    _assert_near(ranks.weights(made, moved), ranks.weights(made, "1-short"), 1e-9)
    assert _seen(made, moved) == _seen(made, "1-short")


def test_what_one_rank_alone_sees_is_skipped_by_all(made: Place) -> None:
    """The first row is no number: it lies on the first rank, or on one rank's only."""
    for world_size in (1, 2, 3):
        assert [line["skipped"] for line in made.metrics(f"{world_size}-skipping")] == [0, 0, 1, 1, 1, 2, 3, 3]


def test_too_many_in_a_row_end_every_rank_alike(made: Place) -> None:
    reasons = {(made.path / f"2-persistent-{rank}.txt").read_text() for rank in range(2)}
    assert len(reasons) == 1
    assert "3 steps in a row up to about step 6" in reasons.pop()
    assert newest_step(made.root, "2-persistent") == 4, "the last checkpoint stays"


def _seen(place: Place, name: str) -> object:
    return Seen.read(place.path / name / f"step-{STEPS:08d}").table()


def _assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
