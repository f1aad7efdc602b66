"""One run of two phases: latents of another size, another batch, rate and window of averaging; one line of metrics, one record."""

import itertools

import pytest
import torch
import torch.distributed.checkpoint as dcp

from ccray.models import pipeline
from ccray.training.local import LocalRuntime
from ccray.training.loop import Trained, train
from ccray.training.seen import Seen
from ccray.training.tracking import Silence
from tests.training.tables import DIT, UNET, Place

FIRST, SECOND = 8, 6
SECOND_PHASE = "{large: {size_px: 64, steps: 6, global_batch_size: 8, micro_batch_size: 3, learning_rate: 5e-4, ema_steps: 3}}"
WORDS = (
    f"train.steps={FIRST}",
    "train.schedule=constant",
    "train.ema_steps=2",
    f"train.phases={SECOND_PHASE}",
    "train.checkpoint_every=4",
    "train.keep_checkpoints=9",
)
DENOISERS = {"unet": UNET.replace("sample_size: 8", "sample_size: 16"), "dit": DIT.replace("sample_size: 8", "sample_size: 16")}


@pytest.fixture(scope="module", params=DENOISERS)
def straight(place: Place, request: pytest.FixtureRequest) -> tuple[str, Trained]:
    name = f"phases-{request.param}"
    trained = place.train(place.recipe(DENOISERS[request.param], *WORDS), name, runtime=LocalRuntime(place.path / name, keep=9))
    assert trained is not None
    return request.param, trained


def test_settings_change_at_the_border(place: Place, straight: tuple[str, Trained]) -> None:
    lines = place.metrics(f"phases-{straight[0]}")
    assert [line["step"] for line in lines] == list(range(1, FIRST + SECOND + 1))
    samples = [line["samples"] for line in lines]
    sizes = [samples[0], *(after - before for before, after in itertools.pairwise(samples))]
    assert sizes == [12, 12, 12, 12, 11, 12, 12, 12, *[8] * SECOND]
    assert [line["learning_rate"] for line in lines][-7:] == [1e-3, *[5e-4] * SECOND]


def test_averages_exist_only_in_their_windows(place: Place, straight: tuple[str, Trained]) -> None:
    """Of checkpoints 4, 8, 12 and 14; the windows are updates 7, 8 and 12, 13, 14."""
    for step, averaged in ((4, False), (8, True), (12, True), (14, True)):
        metadata = dcp.FileSystemReader(place.path / f"phases-{straight[0]}" / f"step-{step:08d}").read_metadata()
        assert any(name.startswith("average.") for name in metadata.state_dict_metadata) == averaged


@pytest.mark.parametrize(("until", "newest"), [(6, 4), (9, 8), (13, 12)], ids=["before", "at", "after"])
def test_a_run_continues_before_at_and_after_the_border(place: Place, straight: tuple[str, Trained], until: int, newest: int) -> None:
    kind, expected = straight
    recipe, name = place.recipe(DENOISERS[kind], *WORDS), f"phases-{kind}-{until}"
    place.train(recipe, name, until=until)
    assert max(path.name for path in (place.path / name).glob("step-*")) == f"step-{newest:08d}"
    found = place.train(recipe, name)
    assert found is not None
    assert found.progress == expected.progress
    assert place.metrics(name) == place.metrics(f"phases-{kind}")
    assert found.weights is not None
    assert expected.weights is not None
    assert all(torch.equal(found.weights[key], tensor) for key, tensor in expected.weights.items())
    last = f"step-{FIRST + SECOND:08d}"
    assert Seen.read(place.path / name / last).table() == Seen.read(place.path / f"phases-{kind}" / last).table()


def test_without_a_window_the_model_is_the_weights_themselves(place: Place) -> None:
    """The same run with and without averaging: no average is saved, and the weights are those that training itself went on with."""
    recipe = place.recipe(UNET, "train.steps=4", "train.ema_steps=0")
    components = pipeline.from_recipe(recipe)
    own = dict(components.denoiser.named_parameters())
    trained = train(recipe, LocalRuntime(place.path / "unaveraged"), place.data(recipe), components, Silence())
    averaged = place.train(place.recipe(UNET, "train.steps=4"), "averaged")
    assert trained.weights is not None
    assert averaged is not None
    assert averaged.weights is not None
    assert all(torch.equal(trained.weights[name], weight) for name, weight in own.items())
    assert not all(torch.equal(averaged.weights[name], weight) for name, weight in own.items())
    assert averaged.progress.last_loss == trained.progress.last_loss
