"""Pictures drawn together are the pictures drawn alone, bit for bit, and the queue is bounded."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from ccray.diffusion.generate import generate
from ccray.interfaces import GenerationRequest, Overloaded, Refused
from ccray.models.pipeline import load_folder
from ccray.serving.engine import LocalEngine

REQUESTS = [
    GenerationRequest("a red circle", 1, steps=2, guidance=3.0),
    GenerationRequest("a blue square", 2, negative_prompt="red", steps=2, guidance=7.5),
    GenerationRequest("夕焼け", 3, steps=2, guidance=1.0),  # no guidance: another kind of batch
    GenerationRequest("a red circle", 4, steps=3, guidance=3.0),
    GenerationRequest("a red circle", 5, steps=2, guidance=3.0, height_px=16, width_px=48),
    GenerationRequest("", 6, steps=2, guidance=0.0),
]


@pytest.mark.parametrize("model", ["sd", "pixart"])
def test_company_changes_no_bit(engine: LocalEngine, model: str) -> None:
    async def together() -> list[list[np.ndarray]]:
        return await asyncio.gather(*(engine.generate(model, [request]) for request in REQUESTS))

    alone = [asyncio.run(engine.generate(model, [request]))[0] for request in REQUESTS]
    for one, [other] in zip(alone, asyncio.run(together()), strict=True):
        assert np.array_equal(one, other)
    assert [picture.shape for picture in alone] == [(r.height_px or 32, r.width_px or 32, 3) for r in REQUESTS]
    assert all(picture.dtype == np.uint8 for picture in alone)
    assert len({picture.tobytes() for picture in alone}) == len(REQUESTS)


@pytest.mark.parametrize("model", ["sd", "pixart"])
def test_draws_what_generate_draws(engine: LocalEngine, model_folders: dict[str, str], model: str) -> None:
    [served] = asyncio.run(engine.generate(model, REQUESTS[:1]))
    request = REQUESTS[0]
    drawn = generate(load_folder(model_folders[model]), [request.prompt], [request.seed], steps=2, guidance=3.0, width=engine.width)
    assert np.array_equal(served, drawn[0])


def test_unset_settings_are_the_models_own(engine: LocalEngine) -> None:
    info = {model.id: model for model in asyncio.run(engine.models())}["pixart"]
    assert (info.size_px, info.size_step_px, info.default_steps, info.default_guidance) == (32, 8, 20, 4.5)
    plain, spelt = (
        asyncio.run(engine.generate("pixart", [request]))[0]
        for request in (GenerationRequest("x", 1), GenerationRequest("x", 1, "", 20, 4.5, 32, 32))
    )
    assert np.array_equal(plain, spelt)


def test_a_full_queue_refuses_and_a_client_that_goes_away_is_not_drawn_for(model_folders: dict[str, str]) -> None:
    engine = LocalEngine({"sd": model_folders["sd"]}, width=1, max_waiting=2, threads=1)

    async def crowd() -> None:
        first = asyncio.ensure_future(engine.generate("sd", REQUESTS[:1]))
        await asyncio.sleep(0)  # it is queued
        second = asyncio.ensure_future(engine.generate("sd", REQUESTS[:1]))
        await asyncio.sleep(0)
        third = asyncio.ensure_future(engine.generate("sd", REQUESTS[:1]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="wait to be drawn"):
            await engine.generate("sd", REQUESTS[:2])
        second.cancel()
        await asyncio.gather(first, third)
        assert second.cancelled()
        await engine.generate("sd", REQUESTS[:2])  # there is room again

    asyncio.run(crowd())


def test_a_failed_batch_fails_its_own_requests_only(engine: LocalEngine) -> None:
    async def both() -> list[object]:
        bad = GenerationRequest("x", -(2**70), steps=2)  # torch takes no such seed
        return await asyncio.gather(engine.generate("sd", [bad]), engine.generate("pixart", REQUESTS[:1]), return_exceptions=True)

    failure, pictures = asyncio.run(both())
    assert isinstance(failure, Exception)
    assert isinstance(pictures, list)
    engine.check()


@pytest.mark.parametrize(
    ("model", "request_", "said"),
    [
        ("sdxl", GenerationRequest("x", 0), "model 'sdxl' is not here: expected one of sd, pixart"),
        ("sd", GenerationRequest("x", 0, height_px=36, width_px=32), "size 32x36 cannot be drawn by 'sd': expected multiples of 8"),
    ],
)
def test_refuses_what_it_cannot_draw(engine: LocalEngine, model: str, request_: GenerationRequest, said: str) -> None:
    with pytest.raises(Refused) as refusal:
        asyncio.run(engine.generate(model, [request_]))
    assert said in str(refusal.value)


def test_refuses_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="has no model_index"):
        LocalEngine({"empty": str(tmp_path)}, width=1)
