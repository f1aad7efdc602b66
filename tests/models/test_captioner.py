import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from ccray.config import CaptionConfig
from ccray.interfaces import Caption, Captioner, Refused
from ccray.models.captioner import Blip2Captioner
from tests import folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.blip2_folder(tmp_path_factory.mktemp("blip2"))


def config(folder: Path, **changes: object) -> CaptionConfig:
    return CaptionConfig(**{"model": str(folder), "batch_size": 3, "max_new_tokens": 8} | changes)


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (32 + 4 * n, 40, 3), dtype=np.uint8) for n in range(count)]


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_and_probabilities_are_those_of_stock_transformers(folder: Path, beams: int) -> None:
    images = pictures(3)
    captioner: Captioner = Blip2Captioner(config(folder, prompt="a picture of", num_beams=beams))
    answer = captioner.caption(images)
    model, processor = Blip2ForConditionalGeneration.from_pretrained(folder).eval(), Blip2Processor.from_pretrained(folder)
    inputs = processor(images=images, text=["a picture of"] * 3, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=8, num_beams=beams, do_sample=False)
    new = tokens[:, inputs.input_ids.shape[1] :]
    assert [caption.text for caption in answer] == [text.strip() for text in processor.tokenizer.batch_decode(new, skip_special_tokens=True)]
    for row in range(3):
        assert answer[row].mean_logprob == pytest.approx(_teacher_forced(model, inputs, tokens, row), abs=1e-4)


def _teacher_forced(model: Blip2ForConditionalGeneration, inputs: dict[str, torch.Tensor], tokens: torch.Tensor, row: int) -> float:
    """Mean log-probability of one row's words, from one forward pass over the finished sentence."""
    words = tokens[row].tolist()
    start = inputs["input_ids"].shape[1]
    end = next((place + 1 for place in range(start, len(words)) if words[place] == 3), len(words))
    ids = torch.tensor([words[:end]])
    with torch.no_grad():
        logits = model(pixel_values=inputs["pixel_values"][row : row + 1], input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    logs = torch.log_softmax(logits[0, start - 1 : -1], dim=-1)
    return sum(logs[place, words[start + place]].item() for place in range(end - start)) / (end - start)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_caption_does_not_depend_on_its_company(folder: Path) -> None:
    captioner = Blip2Captioner(config(folder))
    images = pictures(7)
    together = captioner.caption(images)
    assert len({caption.text for caption in together}) > 1
    for place in range(3):
        company = [images[place] if other == place else images[other + 3] for other in range(3)]
        assert captioner.caption(company)[place] == together[place]


def test_a_caption_does_not_depend_on_its_place_in_the_batch(folder: Path, one_thread: None) -> None:
    """With several threads a row's place decides which of them computes it, and in which block: then only its last bits change."""
    captioner = Blip2Captioner(config(folder))
    images = pictures(7)
    together = captioner.caption(images)
    assert [captioner.caption([image])[0] for image in images] == together
    assert captioner.caption(images[::-1]) == together[::-1]


def test_no_pictures_no_captions(folder: Path) -> None:
    assert Blip2Captioner(config(folder)).caption([]) == []


def test_words_are_bounded(folder: Path) -> None:
    captioner = Blip2Captioner(config(folder, min_new_tokens=5, max_new_tokens=5))
    inputs = captioner.processor(images=pictures(2), text=[""] * 2, return_tensors="pt")
    tokens, scores = captioner._generate(inputs)
    assert tokens.shape == (2, 5)
    assert all(-math.inf < score <= 0 for score in scores.tolist())


def test_crop_takes_the_centre_square(folder: Path) -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, 20:80] = 255  # the centre square, all white
    captioner = Blip2Captioner(config(folder, crop_px=32))
    cropped = captioner._picture(image)
    assert cropped.size == (32, 32)
    assert np.asarray(cropped).min() == 255
    assert captioner._picture(image[:20, :20]).size == (20, 20)  # never enlarged here
    whole = Blip2Captioner(config(folder))._picture(image)
    assert isinstance(whole, Image.Image)
    assert whole.size == (100, 60)


def test_an_old_processor_that_does_not_know_its_queries(folder: Path, tmp_path: Path) -> None:
    processor = Blip2Processor.from_pretrained(folder)
    processor.num_query_tokens = None
    Blip2ForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    old, new = (Blip2Captioner(config(place)).caption(pictures(2)) for place in (tmp_path, folder))
    assert old == new
    assert isinstance(old[0], Caption)


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be loaded"):
        Blip2Captioner(config(tmp_path))
