"""Checkpoints are written while training goes on; whatever happens meanwhile, the last complete one stays."""

import json
import resource
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from ccray.interfaces import Failed
from ccray.models import pipeline
from ccray.storage import Root
from ccray.training import checkpoint, optimizer
from ccray.training.ema import Ema
from ccray.training.local import LocalRuntime
from ccray.training.loop import Trained
from ccray.training.shelf import newest_step
from tests.training.datasets import Around, Logged
from tests.training.tables import DIT, UNET, Place

WORDS = ("train.steps=8", "train.checkpoint_every=3", "train.ema_steps=0", "train.keep_checkpoints=9")


class Waiting(LocalRuntime):
    """A shelf that takes the first checkpoint only once it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, keep=9)
        self.told = threading.Event()
        self.first_was_told = False

    def put(self, step: int, directory: Path) -> None:
        if step == 3:
            self.first_was_told = self.told.wait(timeout=60)
        super().put(step, directory)


def at(step: int, act: object) -> Around:
    """Around a dataset: something done when the rows of a step are made."""
    return lambda data: Logged(data, [], step, act)  # type: ignore[arg-type]


def saved_weights(folder: Path, place: Place) -> dict[str, torch.Tensor]:
    """The raw weights of a checkpoint."""
    network = pipeline.fresh_denoiser(place.recipe(UNET))
    tensors = {"model": {name: parameter.detach() for name, parameter in network.named_parameters()}}
    dcp.load(tensors, checkpoint_id=folder, no_dist=True)
    return tensors["model"]


def assert_equal(found: Trained | None, expected: Trained | None) -> None:
    assert found is not None
    assert expected is not None
    assert found.weights is not None
    assert expected.weights is not None
    assert found.progress == expected.progress
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())


@pytest.fixture(scope="module")
def straight(place: Place) -> Trained:
    trained = place.train(place.recipe(UNET, *WORDS), "saving-straight")
    assert trained is not None
    return trained


def test_training_goes_on_while_a_checkpoint_is_written(place: Place, straight: Trained) -> None:
    """The shelf takes checkpoint 3 only when the rows of step 5 are made, two steps later; it holds the weights of step 3 all the same."""
    runtime = Waiting(place.path / "overlapped")
    found = place.train(place.recipe(UNET, *WORDS), "overlapped", runtime=runtime, around=at(5, runtime.told.set))
    assert runtime.first_was_told
    assert_equal(found, straight)
    three = place.train(place.recipe(UNET, *WORDS, "train.steps=3"), "three-steps")
    assert three is not None
    assert three.weights is not None
    for name, tensor in saved_weights(place.path / "overlapped" / "step-00000003", place).items():
        assert torch.equal(tensor, three.weights[name])
    progress = json.loads((place.path / "overlapped" / "step-00000003" / "progress.json").read_text())
    assert (progress["step"], progress["samples"]) == (3, 36)


def test_a_run_that_ends_by_an_error_completes_its_checkpoint_first(place: Place) -> None:
    runtime = Waiting(place.path / "erring")
    threading.Timer(0.5, runtime.told.set).start()
    place.train(place.recipe(UNET, *WORDS), "erring", until=4, runtime=runtime)
    assert newest_step(place.root, "erring") == 3
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("checkpoint", "rows"))]


class Lost(LocalRuntime):
    """A run whose lease another one took."""

    def publish(self, step: int) -> None:
        raise Failed("another run has taken over")


def test_what_ends_a_checkpoint_ends_the_run(place: Place) -> None:
    with pytest.raises(Failed, match=r"^another run has taken over$"):
        place.train(place.recipe(UNET, *WORDS), "lost", runtime=Lost(place.path / "lost"))
    assert newest_step(place.root, "lost") == 0


class Filling(LocalRuntime):
    """A disk on which, once the first checkpoint is complete, no file may grow beyond 100 kB; checkpoints have two megabytes."""

    def publish(self, step: int) -> None:
        super().publish(step)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_is_told_and_costs_only_the_newest_steps(
    place: Place, straight: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room again, the same command goes on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    recipe, limits = place.recipe(UNET, *WORDS), resource.getrlimit(resource.RLIMIT_FSIZE)
    told = r"rank 0 could not write the checkpoint of step 6: .*; the one before it stays the newest: .*room"
    try:
        with pytest.raises(Failed, match=told) as error:
            place.train(recipe, "full", runtime=Filling(place.path / "full"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) in str(error.value)
    assert list(tmp_path.iterdir()) == [], "what was begun is cleared away"
    assert newest_step(place.root, "full") == 3
    assert_equal(place.train(recipe, "full"), straight)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("name", "harm", "fault"),
    [
        ("__0_0.distcp", shorten, r"__0_0\.distcp has [\d,]+ bytes, expected"),
        ("__0_0.distcp", Path.unlink, r"__0_0\.distcp is missing"),
        (".metadata", shorten, r"its \.metadata cannot be read"),
        (".metadata", Path.unlink, r"its \.metadata cannot be read"),
        ("progress.json", Path.unlink, r"its progress\.json cannot be read"),
        ("seen.parquet", shorten, r"its seen\.parquet cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_can_be_gone_back_from(
    place: Place, straight: Trained, tmp_path: Path, name: str, harm: object, fault: str
) -> None:
    recipe, run = place.recipe(UNET, *WORDS), tmp_path / "run"
    shutil.copytree(place.path / "saving-straight", run)
    harm(run / "step-00000008" / name)  # type: ignore[operator]
    with pytest.raises(Failed, match=rf"{run}/step-00000008 is damaged: {fault}.*delete this directory"):
        place.train(recipe, "damaged", runtime=LocalRuntime(run))
    shutil.rmtree(run / "step-00000008")
    assert newest_step(Root(str(tmp_path)), "run") == 6
    shutil.rmtree(place.path / "damaged", ignore_errors=True)
    assert_equal(place.train(recipe, "damaged", runtime=LocalRuntime(run)), straight)


def test_a_checkpoint_of_another_recipe_is_refused(place: Place, straight: Trained) -> None:
    other = place.recipe(UNET, *WORDS, "train.learning_rate=0.5")
    with pytest.raises(Failed, match=r"is of another recipe: it was made with train\.learning_rate=0\.001, this run has 0\.5"):
        place.train(other, "saving-straight")
    with pytest.raises(Failed, match=r"is of another recipe: it was made with denoiser\."):
        place.train(place.recipe(DIT, *WORDS), "saving-straight")


def test_a_checkpoint_of_another_model_is_refused(place: Place, straight: Trained) -> None:
    """Settings alike, but other weights, as with a `train.start_from` of the same name on another machine."""
    recipe = place.recipe(UNET.replace("[16, 32]", "[16, 24]"), *WORDS)
    network = pipeline.fresh_denoiser(recipe)
    folder = place.path / "saving-straight" / "step-00000008"
    adamw = optimizer.build(network.parameters(), recipe.train)
    with pytest.raises(Failed, match=r"weight \S+ is of shape \(.*32.*\) in it and of shape \(.*24.*\) in this recipe's denoiser"):
        checkpoint.load(folder, network, adamw, Ema(network, 0.9), straight.progress.settings)


def test_checkpoints_with_and_without_averages_are_read(place: Place, straight: Trained) -> None:
    """Into an average that is not open, and from a checkpoint that has none."""
    averaged = place.train(place.recipe(UNET, *WORDS, "train.ema_steps=8"), "saving-averaged")
    assert averaged is not None
    assert averaged.weights is not None
    for run, trained in (("saving-averaged", averaged), ("saving-straight", straight)):
        network = pipeline.fresh_denoiser(place.recipe(UNET))
        ema = Ema(network, 0.9)
        adamw = optimizer.build(network.parameters(), place.recipe(UNET).train)
        checkpoint.load(place.path / run / "step-00000008", network, adamw, ema, trained.progress.settings)
        assert bool(ema.average) == (run == "saving-averaged")
    assert all(torch.equal(tensor, straight.weights[name]) for name, tensor in network.named_parameters())  # type: ignore[index]
