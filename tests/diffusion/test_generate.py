from pathlib import Path

import numpy as np
import pytest
import torch

from ccray.diffusion.generate import generate, generate_latents
from ccray.interfaces import Refused
from ccray.models.pipeline import Components, load_folder
from tests import folders

PROMPTS, SEEDS = ["a red circle", "青い四角", "a small star"], [1, 2, 3]


@pytest.fixture(scope="module", params=["unet", "pixart"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Components:
    place: Path = tmp_path_factory.mktemp("model")
    return load_folder(folders.stable_diffusion_folder(place) if request.param == "unet" else folders.pixart_folder(place))


def test_a_picture_does_not_depend_on_its_company(model: Components) -> None:
    together = generate(model, PROMPTS, SEEDS, steps=3, width=4)
    assert together.shape == (3, 32, 32, 3)
    assert together.dtype == np.uint8
    assert len({picture.tobytes() for picture in together}) == 3
    latents = generate_latents(model, PROMPTS, SEEDS, steps=3, width=4)
    for row in range(3):
        alone = generate_latents(model, PROMPTS[row : row + 1], SEEDS[row : row + 1], steps=3, width=4)
        assert torch.equal(alone[0], latents[row])
        assert np.array_equal(generate(model, PROMPTS[row : row + 1], SEEDS[row : row + 1], steps=3, width=4)[0], together[row])


def test_more_prompts_than_width_go_in_batches(model: Components) -> None:
    steps: list[int] = []
    batched = generate_latents(model, PROMPTS, SEEDS, steps=2, width=2, on_step=lambda number, latents: steps.append(number))
    assert steps == [1, 2, 1, 2]
    torch.testing.assert_close(batched, generate_latents(model, PROMPTS, SEEDS, steps=2), rtol=0, atol=1e-2)
    assert torch.equal(batched[2:], generate_latents(model, PROMPTS[2:], SEEDS[2:], steps=2, width=2))


def test_settings_reach_the_picture(model: Components) -> None:
    base = generate_latents(model, PROMPTS, SEEDS, steps=3, guidance=3.0)
    assert torch.equal(base, generate_latents(model, PROMPTS, SEEDS, ["", "", ""], 3, [3.0, 3.0, 3.0]))
    changed = {
        "seed": generate_latents(model, PROMPTS, [1, 2, 99], steps=3, guidance=3.0),
        "prompt": generate_latents(model, [*PROMPTS[:2], "赤"], SEEDS, steps=3, guidance=3.0),
        "negative prompt": generate_latents(model, PROMPTS, SEEDS, ["", "", "blue"], 3, 3.0),
        "guidance": generate_latents(model, PROMPTS, SEEDS, steps=3, guidance=[3.0, 3.0, 5.0]),
    }
    for what, latents in changed.items():
        assert not torch.equal(latents[2], base[2]), what
        assert torch.equal(latents[:2], base[:2]), what


def test_a_row_without_guidance_does_not_feel_guided_company(model: Components) -> None:
    mixed = generate_latents(model, PROMPTS, SEEDS, steps=3, guidance=[3.0, 1.0, 7.5], width=2)
    for row, scale in enumerate([3.0, 1.0, 7.5]):
        alone = generate_latents(model, PROMPTS[row : row + 1], SEEDS[row : row + 1], steps=3, guidance=scale, width=2)
        assert torch.equal(mixed[row], alone[0])


def test_nothing_asked_nothing_drawn(model: Components) -> None:
    assert generate(model, [], []).shape == (0, 32, 32, 3)
    assert generate_latents(model, [], []).shape == (0, 4, 8, 8)


@pytest.mark.parametrize("size_px", [(20, 32), (32, 0), (-32, 32)])
def test_a_size_it_cannot_draw_is_refused(model: Components, size_px: tuple[int, int]) -> None:
    with pytest.raises(Refused, match="expected multiples of 8 px"):
        generate(model, PROMPTS, SEEDS, size_px=size_px)


def test_lists_of_different_lengths_are_refused(model: Components) -> None:
    with pytest.raises(Refused, match="3 prompts with 2 seeds"):
        generate(model, PROMPTS, SEEDS[:2])


def test_wide_and_high_pictures(model: Components) -> None:
    assert generate(model, PROMPTS[:1], SEEDS[:1], steps=1, size_px=(16, 48)).shape == (1, 16, 48, 3)
