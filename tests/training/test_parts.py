"""The loop's parts, each against a slow or independent way to say the same."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from ccray.config import TrainConfig
from ccray.storage import Root
from ccray.training import optimizer
from ccray.training.draws import draw
from ccray.training.ema import Ema
from ccray.training.features import WIDTH, Features
from ccray.training.seen import Seen
from ccray.training.tracking import FileTracker
from tests import folders

KEYS = np.array([5, -(2**63), 2**63 - 1, 0, -1], np.int64)


def test_a_rows_numbers_do_not_depend_on_its_company() -> None:
    together = draw(3, 7, KEYS, (4, 2, 2))
    for row, key in enumerate(KEYS):
        alone = draw(3, 7, np.array([key]), (4, 2, 2))
        for name in ("dropout", "time", "noise", "posterior"):
            assert np.array_equal(getattr(alone, name)[0], getattr(together, name)[row])


@pytest.mark.parametrize("other", [(4, 7, 0), (3, 8, 0), (3, 7, 1)], ids=["seed", "step", "key"])
def test_seed_step_and_key_each_matter(other: tuple[int, int, int]) -> None:
    noises = [draw(seed, step, KEYS[key : key + 1], (4, 8, 8)).noise.ravel() for seed, step, key in ((3, 7, 0), other)]
    assert abs(np.corrcoef(noises)[0, 1]) < 0.25


def test_draws_have_the_right_distributions() -> None:
    many = draw(0, 0, np.arange(20_000), (1, 2, 2))
    for uniform in (many.dropout, many.time):
        histogram, _ = np.histogram(uniform, bins=10, range=(0, 1))
        assert np.abs(histogram / 2_000 - 1).max() < 0.1
    for normal in (many.noise, many.posterior):
        assert abs(normal.mean()) < 0.01
        assert abs(normal.std() - 1) < 0.01
    assert abs(np.corrcoef(many.dropout, many.time)[0, 1]) < 0.03
    assert abs(np.corrcoef(many.noise.ravel(), many.posterior.ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_captions_are_dropped_at_the_asked_rate_step_after_step(rate: float) -> None:
    dropped = np.stack([draw(0, step, np.arange(2_000), (1, 1, 1)).dropout < rate for step in range(20)])
    assert abs(dropped.mean() - rate) < 0.01
    assert abs((dropped.mean(axis=0) - rate).mean()) < 0.01
    assert not np.array_equal(dropped[0], dropped[1])


YES, NO = torch.tensor(True), torch.tensor(False)


def test_the_average_is_the_formula() -> None:
    """average_k = decay * average_(k-1) + (1 - decay) * weights_k inside the window, from the weights before it; number by number."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    ema = Ema(model, decay=0.9)
    for step in range(8):
        if step == 2:
            slow = model.weight.detach().numpy().copy()
            ema.open()
        made = YES if step != 5 else NO
        with torch.no_grad():
            model.weight += torch.randn_like(model.weight) * made
        ema.update(made)
        assert bool(ema.average) == (step >= 2), "no copy is held outside of the window"
        if step < 2:
            continue
        weights = model.weight.detach().numpy()
        for place in np.ndindex(*slow.shape):
            slow[place] = 0.9 * slow[place] + 0.1 * weights[place] if made else slow[place]
        np.testing.assert_allclose(ema.average["weight"].numpy(), slow, rtol=1e-12)
    ema.close()
    assert ema.average == {}


def test_the_average_is_applied_and_taken_back() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, decay=0.5)
    own = model.weight.detach().clone()
    with ema.applied():
        assert torch.equal(model.weight, own), "without an average the model is itself"
    ema.open()
    ema.average["weight"].fill_(7)
    with ema.applied():
        assert torch.equal(model.weight, torch.full((2, 3), 7.0))
    assert torch.equal(model.weight, own)


def test_the_learning_rate_rises_and_falls() -> None:
    constant = TrainConfig(warmup_steps=4)
    assert [optimizer.learning_rate(step, constant, 2.0, 10) for step in (0, 1, 3, 4, 9)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    cosine = TrainConfig(warmup_steps=4, schedule="cosine")
    assert optimizer.learning_rate(3, cosine, 2.0, 10) == optimizer.learning_rate(4, cosine, 2.0, 10) == 2.0
    assert optimizer.learning_rate(7, cosine, 2.0, 10) == pytest.approx(1.0)
    assert optimizer.learning_rate(9, cosine, 2.0, 10) == pytest.approx(1 + math.cos(math.pi * 5 / 6))
    assert optimizer.learning_rate(0, TrainConfig(warmup_steps=0, schedule="cosine"), 1e-3, 1) == 1e-3


def test_gradients_are_clipped_to_the_norm() -> None:
    weights = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 4.0])
    assert optimizer.clip(weights, None).item() == 5.0
    assert optimizer.clip(weights, 1.0).item() == 5.0
    assert optimizer.clip(weights, None).item() == pytest.approx(1.0, abs=1e-5)


class Counting:
    """A text encoder that notes how it is asked."""

    def __init__(self, folder: Path) -> None:
        from ccray.models.text import TextEncoder

        self.encoder = TextEncoder(str(folder), max_tokens=12)
        self.widths: list[int] = []

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        self.widths.append(len(texts))
        return self.encoder.encode(texts)


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.text_folder(tmp_path_factory.mktemp("text"))


def test_features_are_encoded_once_at_one_width(text_folder: Path) -> None:
    encoder = Counting(text_folder)
    features = Features(encoder)
    captions = [f"caption {number % 20}" for number in range(50)]
    first, mask = features.of(captions)
    again, _ = features.of(captions[:7])
    assert encoder.widths == [WIDTH, WIDTH]
    assert torch.equal(again, first[:7])
    assert first.shape == (50, 12, 32)
    assert mask.dtype == torch.bool
    alone = Features(Counting(text_folder)).of(["caption 13"])[0]
    assert torch.equal(alone[0], first[13]), "a caption's bits do not depend on its company, so a resumed run sees the same features"


def test_features_make_room(text_folder: Path) -> None:
    encoder = Counting(text_folder)
    row = encoder.encode(["x"])[0][0].nbytes
    features = Features(encoder, bytes_kept=4 * row)
    kept = {text: features.of([text])[0][0].clone() for text in ("a", "b", "c", "d")}
    features.of(["a"])
    features.of(["e"])  # takes the place of b, which was not used for longest
    before = features.encoded
    for text in ("a", "c", "d"):
        assert torch.equal(features.of([text])[0][0], kept[text])
    assert features.encoded == before
    assert torch.equal(features.of(["b"])[0][0], kept["b"])
    assert features.encoded == before + 1
    many = [f"m{number}" for number in range(9)]
    assert features.of(many)[0].shape[0] == 9, "a batch of more captions than there is room for gets the room"
    assert torch.equal(features.of(["m3"])[0][0], Features(encoder).of(["m3"])[0][0])


def test_a_step_told_again_replaces_what_followed(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    first = FileTracker(root, "run")
    for step in (10, 20, 30):
        first.scalars(step, {"loss": float(step)})
    first.close()
    second = FileTracker(root, "run")
    second.scalars(20, {"loss": 0.5})
    second.images(20, "samples", np.zeros((4, 4, 3), np.uint8))
    second.close()
    assert [json.loads(line) for line in root.read("run/metrics.jsonl").splitlines()] == [{"step": 10, "loss": 10.0}, {"step": 20, "loss": 0.5}]
    events = EventAccumulator(root.path("run/tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 10.0), (20, 0.5)]
    assert root.exists("run/samples/step-00000020-samples.png")


def test_seen_counts() -> None:
    seen = Seen()
    for keys in ([3, -1], [3, 9], [3]):
        seen.add(np.array(keys, np.int64))
    assert seen.table().to_pydict() == {"key": [-1, 3, 9], "times": [1, 3, 1]}
    seen.add(np.array([-1, 4], np.int64))
    assert seen.table().to_pydict() == {"key": [-1, 3, 4, 9], "times": [2, 3, 1, 1]}
