import json
import logging
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from ccray.interfaces import Failed, LatentBatch, Latents
from ccray.training import loop, meter
from ccray.training.checkpoint import Progress
from ccray.training.meter import Meter
from ccray.training.rows import one_ahead
from tests.training.datasets import OtherWords
from tests.training.tables import DIT, UNET, Place


def losses(place: Place, name: str, *words: str, denoiser: str = UNET, other_words: bool = False) -> list[float]:
    place.train(place.recipe(denoiser, "train.checkpoint_every=1000", *words), name, around=OtherWords if other_words else None)
    return [line["loss"] for line in place.metrics(name)]


def test_micro_batches_do_not_change_the_numbers(place: Place) -> None:
    words = ("train.precision=fp64", "train.steps=6")
    whole = losses(place, "micro-none", *words)
    np.testing.assert_allclose(losses(place, "micro-5", *words, "train.micro_batch_size=5"), whole, rtol=1e-12)


@pytest.mark.parametrize("denoiser", [UNET, DIT], ids=["unet", "dit"])
def test_gradient_checkpointing_does_not_change_the_numbers(place: Place, denoiser: str) -> None:
    name = "unet" if denoiser is UNET else "dit"
    plain = losses(place, f"plain-{name}", "train.steps=3", denoiser=denoiser)
    assert losses(place, f"checkpointed-{name}", "train.steps=3", "train.gradient_checkpointing=true", denoiser=denoiser) == plain


def test_bf16_is_near_fp32_and_keeps_full_weights(place: Place) -> None:
    plain = losses(place, "fp32", "train.steps=3")
    recipe = place.recipe(UNET, "train.steps=3", "train.precision=bf16")
    trained = place.train(recipe, "bf16")
    found = [line["loss"] for line in place.metrics("bf16")]
    np.testing.assert_allclose(found, plain, rtol=0.02)
    assert found != plain
    assert trained is not None
    assert trained.weights is not None
    assert {tensor.dtype for tensor in trained.weights.values()} == {torch.float32}


def test_dropped_captions_are_the_empty_caption(place: Place) -> None:
    """With every caption dropped, the captions do not matter; with none dropped they do."""
    found = {
        (rate, other): losses(place, f"dropped-{rate}-{other}", "train.steps=2", f"train.caption_dropout={rate}", other_words=other)
        for rate in (0, 1)
        for other in (False, True)
    }
    assert found[1, False] == found[1, True]
    assert found[0, False] != found[0, True]
    assert found[0, False] != found[1, False]


def test_objectives_learn(place: Place) -> None:
    for number, objective in enumerate(("{kind: epsilon}", "{kind: v}", "{kind: flow, timestep_density: logit_normal, flow_shift: 3.0}")):
        found = losses(place, f"objective-{number}", f"objective={objective}", "train.steps=12")
        assert np.mean(found[-3:]) < np.mean(found[:3])


def test_learned_sigma_trains(place: Place) -> None:
    denoiser = DIT.replace("num_layers", "out_channels: 8, num_layers")
    found = losses(place, "sigma", "objective={kind: epsilon, learned_sigma: true}", "train.steps=3", denoiser=denoiser)
    assert np.isfinite(found).all()


def test_a_loss_that_is_no_number_fails_with_a_cure(place: Place) -> None:
    with pytest.raises(Failed, match=r"lower train\.learning_rate"):
        losses(place, "burst", "train.learning_rate=1e18", "train.clip_norm=null", "train.warmup_steps=0")


def test_grids_and_events_are_written(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    words = ("train.steps=2", "train.sample_every=2", "train.sample_prompts=[]")
    with caplog.at_level(logging.INFO, logger="ccray.training.loop"):
        losses(place, "grids", *words)
    with Image.open(place.path / "grids" / "samples" / "step-00000002-samples.png") as grid:
        assert grid.size == (96, 96)  # eight captions of the data, three columns of 32 px
    assert list((place.path / "grids" / "tensorboard").glob("events.out.tfevents.*"))
    assert any("step 2/2" in message and "left" in message for message in caplog.messages)


def test_rows_made_ahead_are_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's loop does, on this machine."""
    plain = losses(place, "one-by-one", "train.steps=7")
    monkeypatch.setattr(loop, "one_by_one", one_ahead)
    assert losses(place, "one-ahead", "train.steps=7") == plain


def test_grids_leave_no_trace(place: Place) -> None:
    assert losses(place, "drawn", "train.steps=4", "train.sample_every=1") == losses(place, "undrawn", "train.steps=4")


class Asking:
    """A dataset that notes how torch is set while a run lasts."""

    def __init__(self, data: Latents) -> None:
        self._data, self.found = data, set[tuple[bool, bool]]()

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        for batch in self._data.batches(start_step):
            self.found.add((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
            yield batch

    def captions(self, count: int) -> list[str]:
        return self._data.captions(count)


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_are_as_asked_and_put_back(place: Place, deterministic: bool) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    recipe = place.recipe(UNET, "train.steps=1", f"train.deterministic={str(deterministic).lower()}")
    asking = Asking(place.data(recipe))
    place.train(recipe, f"kernels-{deterministic}", around=lambda data: asking)
    assert asking.found == {(deterministic, not deterministic)}
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_metrics_say_how_the_run_goes(place: Place) -> None:
    """Over a line of four steps: the bands' means, weighed by their rows, are the mean of all rows; the rest is there."""
    place.train(place.recipe(UNET, "train.steps=8", "train.log_every=4", "train.global_batch_size=20"), "told")
    first, second = (json.loads(line) for line in (place.path / "told" / "metrics.jsonl").read_text().splitlines())
    assert {"loss", "grad_norm", "learning_rate", "samples", "skipped", "captions/test", *meter.BANDS, "memory_mib"} <= first.keys()
    assert min(first[name] for name in meter.BANDS) < first["loss"] < max(first[name] for name in meter.BANDS)
    assert first["memory_mib"] > 50
    assert second["samples_per_second"] * second["seconds_per_step"] * 4 == pytest.approx(second["samples"] - first["samples"])
    assert first["captions/test"] == first["samples"]


def test_losses_by_band_are_those_of_their_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    found, progress, rows = Meter("cpu"), Progress(), []
    for made in (True, True, False, True):
        level, losses = torch.rand(2, 6, generator=generator, dtype=torch.float64)
        found.add(losses.mean(), losses * (1 if made else math.nan), level)
        found.close(torch.tensor(made))
        rows += [(loss, share) for loss, share in zip(losses.tolist(), level.tolist(), strict=True) if made]
    assert found.share(progress) == 1
    assert (progress.loss_steps, progress.skipped, progress.skipped_in_a_row) == (3, 1, 0)
    told = meter.losses(progress)
    assert told["loss"] == pytest.approx(np.mean([loss for loss, _ in rows]))
    for band, name in enumerate(meter.BANDS):
        assert told[name] == pytest.approx(np.mean([loss for loss, share in rows if band / 4 <= share < (band + 1) / 4]))
    assert (progress.sums, progress.loss_steps) == ([], 0)
