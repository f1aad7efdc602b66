"""The shipped teachers: loaded by their libraries' own calls, measured on held-out scenes, small, and taught nothing they should not know."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer, Blip2ForConditionalGeneration, CLIPTextModel

from ccray.shapes import WEIGHTS
from ccray.shapes.oracle import score
from ccray.shapes.teachers.captioner import train_captioner
from ccray.shapes.teachers.learning import Plan, batches, warm_cosine
from ccray.shapes.teachers.lessons import (
    FIRST_TEACHER_SEED,
    exam_scenes,
    lesson_scenes,
    nameless_colours,
    pixel_arrays,
    pixel_tensor,
    repainted,
    unseen_training_scenes,
)
from ccray.shapes.teachers.slots import IGNORED, SLOT_SIZES, scene_slots, slots_said_so_far, without_colour_slots
from ccray.shapes.teachers.text import measure_text, train_text
from ccray.shapes.teachers.translator import MAX_NEW_TOKENS, measure_translator, train_translator, translate
from ccray.shapes.teachers.vae import measure_vae, train_vae
from ccray.shapes.teachers.words import translation_tokenizer
from ccray.shapes.world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, Thing, caption, draw, is_held_out, parse, train_scene

EXAMS = 300
LIMIT_BYTES = 8_000_000


def test_the_weights_are_safetensors_and_small() -> None:
    files = list(WEIGHTS.rglob("*"))
    assert sum(file.stat().st_size for file in files if file.is_file()) <= LIMIT_BYTES
    assert {file.suffix for file in files if file.is_file()} == {".safetensors", ".json", ".md"}
    assert {file.parent.name for file in WEIGHTS.rglob("*.safetensors")} == {"vae", "captioner", "text", "translator"}


@pytest.mark.parametrize("name", ["vae", "captioner", "text", "translator"])
def test_the_weights_are_finite_float32(name: str) -> None:
    (file,) = (WEIGHTS / name).glob("*.safetensors")
    with safe_open(file, "pt") as tensors:
        loaded = [tensors.get_tensor(key) for key in tensors.keys()]  # noqa: SIM118 (not a dict)
    assert all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in loaded)


@pytest.mark.parametrize("name", ["vae", "captioner", "text", "translator"])
def test_each_card_names_licence_and_command(name: str) -> None:
    card = (WEIGHTS / name / "README.md").read_text()
    assert "license: cc0-1.0" in card
    assert f"--only {name}" in card


def test_lessons_hold_no_held_out_scene_and_no_catalog_picture() -> None:
    lessons = lesson_scenes(24_000)
    assert not any(is_held_out(scene) for scene in lessons)
    assert FIRST_TEACHER_SEED == 1_000_000
    assert not set(lessons) & {train_scene(seed, index) for seed in (0, 1) for index in range(8_000)}
    assert all(is_held_out(scene) for scene in exam_scenes(200))
    assert not any(is_held_out(scene) for scene in unseen_training_scenes(200))


def test_repainted_scenes_show_only_colours_without_a_name() -> None:
    scenes = lesson_scenes(200)
    for scene, painted in zip(scenes, repainted(scenes, seed=0), strict=True):
        assert all(tuple(np.add(COLOURS[thing.colour], thing.tint)) in nameless_colours() for thing in painted.things)
        assert caption(painted) == caption(scene)


def test_the_vae_keeps_pictures_and_colours() -> None:
    figures = measure_vae(WEIGHTS / "vae", EXAMS)
    assert figures["psnr_db"] >= 28
    assert figures["oracle_colour"] >= 0.97
    assert figures["oracle_all"] >= 0.97


def test_final_latents_have_unit_size() -> None:
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae").eval()
    with torch.no_grad():
        raw = vae.encode(pixel_tensor(exam_scenes(EXAMS))).latent_dist.sample(torch.Generator().manual_seed(0))
    assert raw.shape == (EXAMS, 4, 8, 8)
    assert 0.9 < float(raw.std() * vae.config.scaling_factor) < 1.1


@torch.no_grad()
def test_the_captioner_is_right_to_the_letter_through_stock_calls() -> None:
    processor = AutoProcessor.from_pretrained(WEIGHTS / "captioner")
    captioner = Blip2ForConditionalGeneration.from_pretrained(WEIGHTS / "captioner").eval()
    scenes = exam_scenes(EXAMS)
    inputs = processor(images=[draw(scene) for scene in scenes], return_tensors="pt")
    tokens = captioner.generate(**inputs, max_new_tokens=20, do_sample=False)
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    assert np.mean([text == caption(scene) for text, scene in zip(texts, scenes, strict=True)]) >= 0.95
    assert all(parse(text) for text in texts)


def test_an_empty_prompt_captions_like_none() -> None:
    processor = AutoProcessor.from_pretrained(WEIGHTS / "captioner")
    captioner = Blip2ForConditionalGeneration.from_pretrained(WEIGHTS / "captioner").eval()
    picture = draw(exam_scenes(1)[0])
    plain = captioner.generate(**processor(images=[picture], return_tensors="pt"), max_new_tokens=20)
    prompted = captioner.generate(**processor(images=[picture], text=[""], return_tensors="pt"), max_new_tokens=20)
    assert torch.equal(plain, prompted)


def test_the_text_encoder_binds_attributes_to_things() -> None:
    figures = measure_text(WEIGHTS / "text", EXAMS)
    assert figures["probe_slots"] >= 0.99


def test_the_tokenizer_pads_truncates_and_admits_what_it_does_not_know() -> None:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "text")
    pad, bos, unk, eos = (tokenizer.convert_tokens_to_ids(token) for token in ("<pad>", "<bos>", "<unk>", "<eos>"))
    encode = lambda text: tokenizer(text, padding="max_length", truncation=True, max_length=tokenizer.model_max_length).input_ids  # noqa: E731
    assert tokenizer.model_max_length == CLIPTextModel.from_pretrained(WEIGHTS / "text").config.max_position_embeddings == 24
    assert encode("") == [bos, eos] + [pad] * 22
    assert encode("zebra") == [bos, unk, eos] + [pad] * 21
    assert encode("A Red") == encode("a red")
    assert len(encode("red " * 50)) == 24
    assert encode("red " * 50)[-1] == eos
    assert all(unk not in encode(caption(scene)) for scene in exam_scenes(200))


def test_the_translator_is_right_to_the_letter_on_captions_it_never_saw() -> None:
    figures = measure_translator(WEIGHTS / "translator", EXAMS)
    assert figures["exact_match"] >= 0.99
    assert figures["exact_match_training_split"] >= 0.99


def test_the_translator_knows_every_sentence_of_one_thing() -> None:
    scenes = [Scene(ground, (Thing(*kind),)) for ground in BACKGROUNDS for kind in itertools.product(COLOURS, SHAPES, SIZES, PLACES)]
    answers = translate(WEIGHTS / "translator", [caption(scene) for scene in scenes])
    assert [parse(answer, "ja") for answer in answers] == scenes


@torch.no_grad()
def test_the_translator_answers_stock_calls_greedily_and_alike_in_any_batch() -> None:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "translator")
    translator = AutoModelForSeq2SeqLM.from_pretrained(WEIGHTS / "translator").eval()
    scenes = exam_scenes(24)
    assert {len(scene.things) for scene in scenes} == {1, 2}, "rows of one length would need no padding"
    tokens = translator.generate(**tokenizer([caption(scene) for scene in scenes], return_tensors="pt", padding=True), max_new_tokens=MAX_NEW_TOKENS)
    answers = [tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
    assert [answer.encode() for answer in answers] == [caption(scene, "ja").encode() for scene in scenes]
    assert not translator.generation_config.do_sample
    for scene, answer in zip(scenes, answers, strict=True):
        alone = translator.generate(**tokenizer(caption(scene), return_tensors="pt"))
        assert tokenizer.decode(alone[0], skip_special_tokens=True) == answer


def test_the_translators_tokenizer_gives_japanese_back_byte_for_byte() -> None:
    for tokenizer in (AutoTokenizer.from_pretrained(WEIGHTS / "translator"), translation_tokenizer(32)):
        unknown, end = tokenizer.unk_token_id, tokenizer.eos_token_id
        for scene in (*exam_scenes(200), *lesson_scenes(200)):
            ids = tokenizer(caption(scene, "ja")).input_ids
            assert tokenizer.decode(ids, skip_special_tokens=True).encode() == caption(scene, "ja").encode()
            assert len(ids) <= MAX_NEW_TOKENS
            assert unknown not in ids + tokenizer(caption(scene)).input_ids
            assert ids.count(end) == 1
        assert tokenizer("A Zebra").input_ids == [*tokenizer.convert_tokens_to_ids(["a", "<unk>"]), end]


def test_what_is_said_so_far_grows_with_the_caption() -> None:
    scene = next(scene for scene in lesson_scenes(100) if len(scene.things) == 2)
    slots = slots_said_so_far(scene, 24)
    assert slots.shape == (24, len(SLOT_SIZES))
    assert (slots[:7] == 0).all()
    assert [int((row > 0).sum()) for row in slots[[8, 16, 20, 23]]] == [3, 6, 7, 7]
    assert np.array_equal(slots[-1], scene_slots(scene))
    assert (without_colour_slots(scene_slots(scene)) == IGNORED).sum() == 2


def test_batches_repeat_themselves_and_visit_everything_once_a_pass() -> None:
    first, second = (list(batches(10, 3, 6, seed=4)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert len(set(torch.cat(first[:3]).tolist())) == 9


def test_the_learning_rate_rises_then_falls() -> None:
    shares = [warm_cosine(step, 100, 10) for step in range(100)]
    assert shares[0] == 0.1
    assert max(shares) == 1
    assert shares[-1] < 0.02


def test_pixels_survive_the_trip_to_tensors() -> None:
    scenes = exam_scenes(3)
    assert all(np.array_equal(back, draw(scene)) for back, scene in zip(pixel_arrays(pixel_tensor(scenes)), scenes, strict=True))


@pytest.mark.parametrize(
    ("name", "train"), [("vae", train_vae), ("captioner", train_captioner), ("text", train_text), ("translator", train_translator)]
)
def test_each_teacher_has_a_pulse(name: str, train: Callable[[Path, Plan], None], tmp_path: Path) -> None:
    train(tmp_path / name, Plan(name=name, lessons=64, steps=2, batch_size=8, peak_learning_rate=1e-3, seed=0))
    assert {file.name for file in (tmp_path / name).iterdir()} >= {file.name for file in (WEIGHTS / name).iterdir()} - {"README.md"}


def test_a_wrong_colour_would_be_noticed() -> None:
    vae, scenes = AutoencoderKL.from_pretrained(WEIGHTS / "vae").eval(), exam_scenes(60)
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pixel_tensor(scenes).flip(1)).latent_dist.mean).sample
    assert np.mean([score(pixels, scene).colour for pixels, scene in zip(pixel_arrays(decoded), scenes, strict=True)]) < 0.5
