from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ccray.config import CaptionConfig
from ccray.interfaces import Refused, Subject
from ccray.models.captioners.build import captioner_of
from ccray.models.captioners.decoding import Speed
from ccray.models.captioners.florence2 import TASKS, Florence2Captioner
from ccray.models.captioners.pictures import fitted
from tests import folders
from tests.models.captioners.test_blip2 import pictures, subjects

EOS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.florence2_folder(tmp_path_factory.mktemp("florence2"))


def config(folder: Path, **changes: object) -> CaptionConfig:
    return CaptionConfig(**{"family": "florence2", "model": str(folder), "batch_size": 3, "max_new_tokens": 10} | changes)


@pytest.mark.parametrize("task", ["", *TASKS])
@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_those_of_stock_transformers(folder: Path, beams: int, task: str) -> None:
    """Whose own settings force the last token to be an end: ours leaves that place to the model, so the stock answer is one token longer there."""
    images = pictures(3)
    answer = Florence2Captioner(config(folder, prompt=task, num_beams=beams)).caption(subjects(images))
    model, processor = Florence2ForConditionalGeneration.from_pretrained(folder).eval(), Florence2Processor.from_pretrained(folder)
    model.generation_config.forced_eos_token_id = None
    token = task or "<DETAILED_CAPTION>"
    inputs = processor(images=images, text=[token] * 3, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=10, num_beams=beams, do_sample=False, early_stopping=beams > 1)
    for row, caption in enumerate(answer):
        words = [word for word in tokens[row, 1:].tolist() if word != 1]  # without padding
        expected = processor.post_process_generation(text=processor.tokenizer.decode(words), task=token)[token]
        assert caption.text == expected.strip()
        assert caption.ended == (EOS in words)
        assert beams > 1 or caption.mean_logprob == pytest.approx(teacher_forced(model, inputs, words, row), abs=1e-4)


def teacher_forced(model: Florence2ForConditionalGeneration, inputs: dict[str, torch.Tensor], words: list[int], row: int) -> float:
    one = slice(row, row + 1)
    with torch.no_grad():
        logits = model(
            pixel_values=inputs["pixel_values"][one], input_ids=inputs["input_ids"][one], decoder_input_ids=torch.tensor([[EOS, *words[:-1]]])
        ).logits[0]
    logs = torch.log_softmax(logits, dim=-1)
    return sum(logs[place, word].item() for place, word in enumerate(words)) / len(words)


def test_tasks_ask_differently(folder: Path) -> None:
    prompts = [Florence2Captioner(config(folder, prompt=task)).prompt["input_ids"] for task in TASKS]
    assert len({tuple(prompt[0].tolist()) for prompt in prompts}) == 3


def test_another_prompt_is_refused_and_the_three_are_named(folder: Path) -> None:
    with pytest.raises(Refused, match=r"'<OCR>'.*<CAPTION>, <DETAILED_CAPTION>, <MORE_DETAILED_CAPTION>"):
        captioner_of(config(folder, prompt="<OCR>"))


def test_a_cut_caption_does_not_count_as_ended(folder: Path) -> None:
    """The published configuration forces an end token at the last place."""
    captions = captioner_of(config(folder, min_new_tokens=4, max_new_tokens=4)).caption(subjects(pictures(3)))
    assert [caption.ended for caption in captions] == [False] * 3


def test_a_caption_depends_neither_on_company_nor_on_place(folder: Path) -> None:
    captioner = Florence2Captioner(config(folder))
    images = pictures(5)
    together = captioner.caption(subjects(images))
    assert len({caption.text for caption in together}) > 1
    backwards = captioner.caption(subjects(images[::-1]))[::-1]
    assert [caption.text for caption in backwards] == [caption.text for caption in together]
    assert captioner.caption(subjects([images[0], images[4], images[3]]))[0] == together[0]


@pytest.mark.parametrize("backend", [None, "eager"])
def test_the_static_cache_and_the_traced_step_say_the_same(folder: Path, backend: str | None) -> None:
    images = pictures(7)
    plain = Florence2Captioner(config(folder)).caption(subjects(images))
    fast = Florence2Captioner(config(folder), "cpu", Speed(static=True, backend=backend)).caption(subjects(images))
    torch._dynamo.reset()
    assert [caption.text for caption in fast] == [caption.text for caption in plain]
    assert [caption.mean_logprob for caption in fast] == pytest.approx([caption.mean_logprob for caption in plain], abs=1e-5)


def test_the_published_squash_on_real_photos(folder: Path, tmp_path: Path, shared_data: Path) -> None:
    """768 px, whatever the shape, with ImageNet's mean and deviation: the settings of Florence-2-base."""
    captioner = Florence2Captioner(config(folder))
    large = {"size": {"height": 768, "width": 768}, "do_center_crop": False, "crop_size": {"height": 768, "width": 768}}
    processor = CLIPImageProcessorPil(**large, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    fit = type(captioner.fit)(768, 768, 3, processor.rescale_factor, captioner.fit.mean, captioner.fit.std)
    photos = [Image.open(path).convert("RGB") for path in sorted((shared_data / "coco_cc_photos").rglob("*.jpg"))[:4]]
    photos.append(photos[0].crop((0, 0, 301, 77)))
    host = torch.from_numpy(np.stack([fitted(np.array(photo), fit, None) for photo in photos]))
    assert torch.equal(captioner.pixel_values(host), processor(photos, return_tensors="pt").pixel_values)


def test_prepared_pictures_and_any_others_are_captioned_alike(folder: Path) -> None:
    captioner = Florence2Captioner(config(folder, crop_px=36))
    images = pictures(4)
    prepared = [Subject(fitted(image, captioner.fit, 36)) for image in images]
    assert captioner.caption(prepared) == captioner.caption(subjects(images))


def test_a_folder_without_rules_for_reading_answers_is_refused(folder: Path, tmp_path: Path) -> None:
    Florence2ForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path)
    processor = Florence2Processor.from_pretrained(folder)
    Florence2Processor(processor.image_processor, processor.tokenizer).save_pretrained(tmp_path)
    with pytest.raises(Refused, match="pure_text"):
        captioner_of(config(tmp_path))
