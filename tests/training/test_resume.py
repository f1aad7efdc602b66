"""A run that was interrupted and continued is the run that never was, bit for bit."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ccray.training.checkpoint import Progress
from ccray.training.local import LocalRuntime
from ccray.training.seen import Seen
from tests.training.tables import DIT, UNET, Place


@pytest.mark.parametrize("denoiser", [UNET, DIT], ids=["unet", "dit"])
def test_resume_equals_uninterrupted(place: Place, denoiser: str) -> None:
    """Interrupted at step 13, continued from the checkpoint of step 10; lines of metrics span three steps and cut across it."""
    recipe = place.recipe(denoiser, "train.log_every=3", "train.ema_steps=15")
    straight, halved = f"straight-{recipe.denoiser.kind}", f"halved-{recipe.denoiser.kind}"
    expected = place.train(recipe, straight)
    place.train(recipe, halved, until=13)
    assert [line["step"] for line in place.metrics(halved)] == [3, 6, 9, 12]
    found = place.train(recipe, halved)
    assert expected is not None
    assert found is not None
    assert found.progress == expected.progress
    assert place.metrics(halved) == place.metrics(straight)
    assert found.weights is not None
    assert expected.weights is not None
    for name, tensor in expected.weights.items():
        assert torch.equal(found.weights[name], tensor), name
    assert Seen.read(place.path / halved / "step-00000020").table() == Seen.read(place.path / straight / "step-00000020").table()


def test_a_finished_run_only_reads_its_weights(place: Place) -> None:
    recipe = place.recipe(UNET, "train.steps=3")
    first = place.train(recipe, "finished")
    before = (place.path / "finished" / "metrics.jsonl").read_bytes()
    again = place.train(recipe, "finished")
    assert first is not None
    assert again is not None
    assert again.progress == first.progress
    assert again.images_seen == first.images_seen == 36
    assert again.weights is not None
    assert first.weights is not None
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in first.weights.items())
    assert (place.path / "finished" / "metrics.jsonl").read_bytes() == before


def test_checkpoints_say_what_was_seen_and_old_ones_go(place: Place) -> None:
    recipe = place.recipe(UNET, "train.steps=7", "train.checkpoint_every=2")
    place.train(recipe, "record")
    assert sorted(path.name for path in (place.path / "record").glob("step-*")) == ["step-00000006", "step-00000007"]
    progress = Progress(**json.loads((place.path / "record" / "step-00000006" / "progress.json").read_text()))
    assert (progress.step, progress.steps, progress.samples) == (6, 7, 59 + 12)
    table = Seen.read(place.path / "record" / "step-00000006").table()
    assert table.num_rows == 59
    assert sorted(table["times"].to_pylist()) == [1] * 47 + [2] * 12


class Leaving(LocalRuntime):
    """A machine that is told to go at a certain question."""

    def __init__(self, folder: Path, deadlines: list[float | None]) -> None:
        super().__init__(folder, keep=10)
        self.deadlines = deadlines

    def deadline(self) -> float | None:
        return self.deadlines.pop(0)


@pytest.mark.parametrize(
    ("deadlines", "saved"),
    [
        ([None, 4e9, 4e9, 4e9], ["step-00000020", "step-00000045"]),  # heard of at step 20, far away: saved once, and at the end
        ([None, 4e9, 0.0, 0.0], ["step-00000020", "step-00000030", "step-00000040", "step-00000045"]),
    ],
    ids=["far", "near"],
)
def test_a_deadline_is_honoured(place: Place, tmp_path: Path, deadlines: list[float | None], saved: list[str]) -> None:
    recipe = place.recipe(DIT, "train.steps=45", "train.checkpoint_every=1000", "train.log_every=100")
    place.train(recipe, "leaving", runtime=Leaving(tmp_path, list(deadlines)))
    assert sorted(path.name for path in tmp_path.glob("step-*")) == saved


def test_progress_survives_json() -> None:
    progress = Progress(step=3, sums=[0.1 + 0.2, 1e-300], last_loss=1 / 3, settings={"train.betas": [0.9, 0.999]})
    assert Progress(**json.loads(json.dumps(dataclasses.asdict(progress)))) == progress
