"""A text encoder that runs elsewhere gives the same bits as one beside training, asked ahead or not."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ccray import config, recipes
from ccray.config import Recipe
from ccray.interfaces import LatentBatch
from ccray.models import pipeline
from ccray.training.distant import AHEAD, Answer, AskedAhead, DistantText, TextHost
from ccray.training.features import WIDTH, Features
from tests import folders


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    text = folders.text_folder(tmp_path_factory.mktemp("text") / "text")
    words = [f"text.model={text}", "text.width=32", "denoiser.cross_attention_dim=32", f"text.precision={request.param}"]
    return config.build(recipes.tiny(), words)


class Line:
    """A line to a host that answers when it is waited for."""

    def __init__(self, host: TextHost) -> None:
        self.host = host
        self.asked: Counter[str] = Counter()

    def __call__(self, texts: list[str]) -> Callable[[], Answer]:
        self.asked.update(texts)
        return lambda: self.host.encode(texts)


def batch(number: int) -> LatentBatch:
    keys = np.arange(20) + 10 * number
    return LatentBatch(keys, np.zeros((20, 4, 2, 2), np.float16), np.zeros((20, 4, 2, 2), np.float16), [f"picture {key}" for key in keys], keys)


class Batches:
    """Thirty batches, of which neighbours share captions."""

    taken = 0

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        for number in range(start_step, 30):
            self.taken += 1
            yield batch(number)

    def captions(self, count: int) -> list[str]:
        return [f"picture {number}" for number in range(count)]


def test_features_are_the_same_bits(recipe: Recipe) -> None:
    line = Line(TextHost(recipe, "cpu"))
    distant = DistantText(line, line.host.facts(), "cpu")
    beside, apart = Features(pipeline.text_of(recipe)), Features(distant)
    data = Batches()
    for number, one in enumerate(AskedAhead(data, distant).batches(0)):
        assert data.taken == min(30, number + 1 + AHEAD), "held ahead"
        assert all(line.asked[caption] for caption in batch(min(29, number + AHEAD)).captions), "asked for before it is used"
        captions = ["", *one.captions[1:]]
        for mine, theirs in zip(apart.of(captions), beside.of(captions), strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)
    assert {caption: count for caption, count in line.asked.items() if caption and count != 1} == {}, "each caption once"


def test_what_was_not_asked_for_is_asked_now(recipe: Recipe) -> None:
    """As prompts of sample grids are: together, whatever their number, as an encoder here takes them."""
    line = Line(TextHost(recipe, "cpu"))
    distant, here = DistantText(line, line.host.facts(), "cpu"), pipeline.text_of(recipe)
    assert (distant.width, distant.max_tokens) == (here.width, here.max_tokens)
    for texts in (["a red circle"], [f"square {number}" for number in range(WIDTH)]):
        for mine, theirs in zip(distant.encode(texts), here.encode(texts), strict=True):
            assert torch.equal(mine, theirs)


def test_a_model_around_it_is_the_recipes(recipe: Recipe, tmp_path: Path) -> None:
    """From the recipe, and from a stock folder: all but the text encoder, which is put in to save it."""
    stock = folders.stable_diffusion_folder(tmp_path / "stock")
    for one in (recipe, config.build(recipes.tiny(), [f"train.start_from={stock}"])):
        line = Line(TextHost(one, "cpu"))
        model = pipeline.from_recipe(one, text=DistantText(line, line.host.facts(), "cpu"))
        assert model.text.module is None
        whole = pipeline.from_recipe(one)
        assert (model.max_tokens, model.size_px, model.objective) == (whole.max_tokens, whole.size_px, whole.objective)
        path = tmp_path / f"saved-{one.train.start_from is None}"
        pipeline.save_folder(replace(model, text=pipeline.text_of(one)), path)
        saved, own = pipeline.load_folder(path).text.module.state_dict(), whole.text.module.state_dict()
        assert all(torch.equal(saved[name].float(), own[name].float()) for name in own)
