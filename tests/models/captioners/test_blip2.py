from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from ccray.config import CaptionConfig
from ccray.interfaces import Captioner, Refused, Subject
from ccray.models.captioners.blip2 import Blip2Captioner
from ccray.models.captioners.build import captioner_of
from ccray.models.captioners.decoding import Speed
from ccray.models.captioners.pictures import fitted
from tests import folders

EOS = 3
MAKERS: dict[str, Callable[[Path], Path]] = {"opt": folders.blip2_folder, "t5": folders.blip2_t5_folder}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an OPT decoder, and with a T5 encoder and decoder."""
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.blip2_folder(tmp_path_factory.mktemp("blip2"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(folder: Path, **changes: object) -> CaptionConfig:
    return CaptionConfig(**{"model": str(folder), "batch_size": 3, "max_new_tokens": 8} | changes)


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (32 + 4 * n, 40, 3), dtype=np.uint8) for n in range(count)]


def subjects(images: Sequence[np.ndarray]) -> list[Subject]:
    return [Subject(image) for image in images]


@pytest.mark.parametrize("prompt", ["", "a picture of"])
@pytest.mark.parametrize("beams", [1, 3])
def test_captions_and_probabilities_are_those_of_stock_transformers(folder: Path, beams: int, prompt: str) -> None:
    images = pictures(3)
    captioner: Captioner = Blip2Captioner(config(folder, prompt=prompt, num_beams=beams, max_new_tokens=24))
    answer = captioner.caption(subjects(images))
    model, processor = Blip2ForConditionalGeneration.from_pretrained(folder).eval(), Blip2Processor.from_pretrained(folder)
    inputs = processor(images=images, text=[prompt] * 3, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=24, num_beams=beams, do_sample=False)
    start = 1 if model.language_model.config.is_encoder_decoder else inputs.input_ids.shape[1]
    texts = processor.tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)
    assert [caption.text for caption in answer] == [text.strip() for text in texts]
    for row in range(3):
        assert answer[row].ended == (EOS in tokens[row, start:].tolist())
        assert answer[row].mean_logprob == pytest.approx(teacher_forced(model, inputs, tokens, row, start), abs=1e-4)


def teacher_forced(model: Blip2ForConditionalGeneration, inputs: dict[str, torch.Tensor], tokens: torch.Tensor, row: int, start: int) -> float:
    """Mean log-probability of one row's words, from one forward pass over the finished sentence."""
    words = tokens[row].tolist()
    end = next((place + 1 for place in range(start, len(words)) if words[place] == EOS), len(words))
    ids, one = torch.tensor([words[:end]]), slice(row, row + 1)
    with torch.no_grad():
        if start == 1:
            answer = model(pixel_values=inputs["pixel_values"][one], input_ids=inputs["input_ids"][one], decoder_input_ids=ids[:, :-1])
            logits = answer.logits[0]
        else:
            logits = model(pixel_values=inputs["pixel_values"][one], input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, start - 1 : -1]
    logs = torch.log_softmax(logits, dim=-1)
    return sum(logs[place, words[start + place]].item() for place in range(end - start)) / (end - start)


@pytest.mark.parametrize("penalty", [{"repetition_penalty": 1.5}, {"min_new_tokens": 8}])
def test_a_probability_is_the_models_own_whatever_the_decoding_forbids(folder: Path, penalty: dict[str, float]) -> None:
    images = pictures(3)
    answer = Blip2Captioner(config(folder, **penalty)).caption(subjects(images))
    model, processor = Blip2ForConditionalGeneration.from_pretrained(folder).eval(), Blip2Processor.from_pretrained(folder)
    inputs = processor(images=images, text=[""] * 3, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False, **penalty)
    start = 1 if model.language_model.config.is_encoder_decoder else inputs.input_ids.shape[1]
    for row in range(3):
        assert answer[row].mean_logprob == pytest.approx(teacher_forced(model, inputs, tokens, row, start), abs=1e-4)


def test_a_caption_does_not_depend_on_its_company(folder: Path) -> None:
    captioner = Blip2Captioner(config(folder))
    images = pictures(7)
    together = captioner.caption(subjects(images))
    assert len({caption.text for caption in together}) > 1
    for place in range(3):
        company = [images[place] if other == place else images[other + 3] for other in range(3)]
        assert captioner.caption(subjects(company))[place] == together[place]


def test_a_caption_does_not_depend_on_its_place_in_the_batch(folder: Path, one_thread: None) -> None:
    """With several threads a row's place decides which of them computes it, and in which block: then only its last bits change."""
    captioner = Blip2Captioner(config(folder))
    images = pictures(7)
    together = captioner.caption(subjects(images))
    assert [captioner.caption(subjects([image]))[0] for image in images] == together
    assert captioner.caption(subjects(images[::-1])) == together[::-1]


@pytest.mark.parametrize("width", [1, 2, 8])
def test_another_width_says_the_same(folder: Path, width: int) -> None:
    images = pictures(5)
    one, other = (Blip2Captioner(config(folder, batch_size=size)).caption(subjects(images)) for size in (3, width))
    assert [caption.text for caption in one] == [caption.text for caption in other]
    assert [caption.mean_logprob for caption in one] == pytest.approx([caption.mean_logprob for caption in other], abs=1e-4)


@pytest.mark.parametrize("backend", [None, "eager"])
def test_the_static_cache_and_the_traced_step_say_the_same(folder: Path, backend: str | None) -> None:
    """What CUDA runs, as far as a CPU can: the kept cache, the tower and the step through torch.compile's tracing, without its code generator."""
    images = pictures(7)
    plain = Blip2Captioner(config(folder)).caption(subjects(images))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    fast = Blip2Captioner(config(folder), "cpu", Speed(static=True, backend=backend)).caption(subjects(images))
    traced = torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs
    torch._dynamo.reset()
    assert [caption.text for caption in fast] == [caption.text for caption in plain]
    assert [caption.mean_logprob for caption in fast] == pytest.approx([caption.mean_logprob for caption in plain], abs=1e-5)
    assert traced == (0 if backend is None else 2)  # the tower and the step, each once for three batches


def test_without_a_working_compiler_captions_come_all_the_same(opt: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = pictures(4)

    def no_compiler(graph: object, inputs: object) -> Callable[..., object]:
        raise OSError("no C compiler found")

    torch._dynamo.reset()
    fast = Blip2Captioner(config(opt), "cpu", Speed(static=True, backend=no_compiler))
    assert fast.caption(subjects(images)) == Blip2Captioner(config(opt)).caption(subjects(images))
    assert "no C compiler found" in caplog.text
    torch._dynamo.reset()


def test_beams_decode_without_the_static_cache(opt: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    images = pictures(3)
    fast = Blip2Captioner(config(opt, num_beams=2), "cpu", Speed(static=True))
    assert fast.caption(subjects(images)) == Blip2Captioner(config(opt, num_beams=2)).caption(subjects(images))
    assert "without a static cache" in caplog.text


def test_no_pictures_no_captions(opt: Path) -> None:
    assert Blip2Captioner(config(opt)).caption([]) == []


@pytest.mark.parametrize("least", [0, 5])
def test_words_are_bounded(opt: Path, least: int) -> None:
    captioner = Blip2Captioner(config(opt, min_new_tokens=least, max_new_tokens=5))
    said = captioner._said(captioner._host(subjects(pictures(3)))["pixels"])
    assert said.tokens.shape == (3, 5)
    assert bool(said.real.all()) or not least
    assert all(-20 < score <= 0 for score in said.mean_logprob.tolist())


def test_a_caption_that_the_model_ends(folder: Path, tmp_path: Path) -> None:
    """A model whose end token outweighs all others ends at once; forbidden to, it ends as soon as it may; with too few tokens, never."""
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    head = model.language_model.lm_head
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    captioner = Blip2Captioner(config(folder, min_new_tokens=4))
    captioner.model.language_model.lm_head = head
    with torch.no_grad():
        head.bias[EOS] = 1000.0
    captions = captioner.caption(subjects(pictures(2)))
    assert [caption.ended for caption in captions] == [True, True]
    assert all(caption.mean_logprob < -100 for caption in captions)  # four words that it did not want, and the end
    cut = Blip2Captioner(config(folder, min_new_tokens=4, max_new_tokens=4))
    cut.model.language_model.lm_head = head
    assert [caption.ended for caption in cut.caption(subjects(pictures(2)))] == [False, False]


@pytest.mark.parametrize("crop_px", [None, 32, 48])
def test_prepared_pictures_and_any_others_are_captioned_alike(folder: Path, crop_px: int | None) -> None:
    captioner = Blip2Captioner(config(folder, crop_px=crop_px))
    images = pictures(5)
    prepared = [fitted(image, captioner.fit, crop_px) for image in images]
    assert {image.shape for image in prepared} == {(32, 32, 3)}
    assert captioner.caption(subjects(prepared)) == captioner.caption(subjects(images))


def test_the_device_sees_what_the_processor_gives(opt: Path, shared_data: Path) -> None:
    captioner = Blip2Captioner(config(opt))
    photos = [Image.open(path).convert("RGB") for path in sorted((shared_data / "coco_cc_photos").rglob("*.jpg"))[:12]]
    photos += [photo.crop((0, 0, 333 + 7 * number, 111)) for number, photo in enumerate(photos[:3])]
    expected = captioner.processor.image_processor(photos, return_tensors="pt").pixel_values
    host = captioner._host(subjects([np.array(photo) for photo in photos]))["pixels"]
    assert host.dtype == torch.uint8
    assert torch.equal(captioner.pixel_values(host), expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp64"])
def test_other_number_formats(folder: Path, precision: str) -> None:
    captions = Blip2Captioner(config(folder, precision=precision)).caption(subjects(pictures(3)))
    assert all(-20 < caption.mean_logprob < 0 for caption in captions)


def test_an_old_processor_that_does_not_know_its_queries(opt: Path, tmp_path: Path) -> None:
    processor = Blip2Processor.from_pretrained(opt)
    processor.num_query_tokens = None
    Blip2ForConditionalGeneration.from_pretrained(opt).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    old, new = (Blip2Captioner(config(place)).caption(subjects(pictures(2))) for place in (tmp_path, opt))
    assert old == new


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be loaded"):
        captioner_of(config(tmp_path))


def test_pickled_weights_are_refused(opt: Path, tmp_path: Path) -> None:
    model = Blip2ForConditionalGeneration.from_pretrained(opt)
    model.config.save_pretrained(tmp_path)
    Blip2Processor.from_pretrained(opt).save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(Refused, match="safetensors"):
        captioner_of(config(tmp_path))


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    folder = folders.florence2_folder(tmp_path)
    with pytest.raises(Refused, match=r"type 'florence2', but family 'blip2' loads 'blip-2'"):
        captioner_of(config(folder))
