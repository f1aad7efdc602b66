import logging

import numpy as np
import pytest
import torch
from PIL import Image

from ccray.interfaces import Failed
from tests.training.tables import DIT, UNET, Place


def losses(place: Place, name: str, *words: str, denoiser: str = UNET, other_words: bool = False) -> list[float]:
    place.train(place.recipe(denoiser, "train.checkpoint_every=1000", *words), name, other_words=other_words)
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


def test_grids_leave_no_trace(place: Place) -> None:
    assert losses(place, "drawn", "train.steps=4", "train.sample_every=1") == losses(place, "undrawn", "train.steps=4")


def test_threads_and_determinism_are_put_back(place: Place) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    losses(place, "tidy", "train.steps=1")
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
