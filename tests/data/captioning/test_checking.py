"""Which flag a caption gets, and that real captions get none."""

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccray.config import CaptionConfig
from ccray.data.captioning.checking import is_refusal, status_of
from ccray.flags import FLAGS
from ccray.interfaces import Caption
from ccray.shapes import world
from tests.data.captioning import real

NAMES = list(FLAGS)
TITLE = {"title": "Portrait of John Smith", "alt_text": None, "creator": None}


def status(text: str, *, ended: bool = True, hints: dict[str, str | None] | None = None, **values: object) -> str:
    return status_of(Caption(text, -0.5, ended), CaptionConfig.model_validate(values), hints)


@pytest.mark.parametrize("text", ["", "  \n ", "...", "「」。", "!?", "🙂"])
def test_nothing_said_is_empty(text: str) -> None:
    assert status(text) == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot identify people in images.",
        "“I am unable to view images.”",
        "As an AI language model, I do not see pictures.",
        "Sorry, I can't do that",
        "Unfortunately, I cannot describe this.",
        "Please upload an image so that I can describe it.",
        "There is no image here to provide a caption for.",
        "申し訳ありませんが、この画像を説明することはできません。",
        "申し訳ございません。",
        "この画像の人物を特定することはできません。",
        "抱歉，我无法描述这张图片。",
        "죄송합니다. 이미지를 볼 수 없습니다.",
        "Es tut mir leid, ich kann das Bild nicht sehen.",
        "Je suis désolé, je ne peux pas décrire cette image.",
        "Lo siento, no puedo ayudar con eso.",
    ],
)
def test_excuses_are_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        'a card that says "I\'m sorry" in red letters',
        "A sorry-looking dog in the rain",
        "the sign says no image of this place may be taken",
        "As an AI-generated picture, a robot holds a rose",
        "通り抜けできませんと書かれた看板",
        "a woman in a t-shirt that reads I can't adult today",
        "There is no picture on the wall",
    ],
)
def test_pictures_of_excuses_are_not(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("expected", "text", "values"),
    [
        ("looping", "a dog " * 30, {"max_characters": 20}),
        ("looping", "I'm sorry. " * 5, {}),
        ("refusal", "I'm sorry, I cannot describe John Smith.", {"max_characters": 20}),
        ("person_name", "Ein Mann, John Smith, steht am Strand und schaut auf das Meer", {}),
        ("wrong_language", "Ein Mann steht am Strand und schaut auf das Meer", {}),
        ("truncated", "a man on a", {"min_characters": 20}),
        ("truncated", "a man on a", {"max_characters": 2}),
    ],
)
def test_the_most_telling_flag_wins(expected: str, text: str, values: dict[str, object]) -> None:
    assert status(text, ended=False, hints=TITLE, **values) == expected


def test_bounds_are_of_characters() -> None:
    assert status("a dog", min_characters=6) == "too_short"
    assert status("a dog", min_characters=5) == "ok"
    assert status("白い犬", language="ja", max_characters=2) == "too_long"
    assert status("白い犬", language="ja", max_characters=3) == "ok"


def test_names_count_only_where_the_model_was_told_of_them() -> None:
    assert status("John Smith on a chair") == "ok"
    assert status("John Smith on a chair", hints=TITLE) == "person_name"
    assert status("John Smith on a chair", hints=TITLE, keep_names=True) == "ok"
    assert status("a man on a chair", hints=TITLE) == "ok"


def test_each_flag_has_one_name_and_a_meaning() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(FLAGS[flag] and "\n" not in FLAGS[flag] for flag in FLAGS)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.booleans(), st.sampled_from(["en", "ja", "zh", "de", "ru", "th", "und", "xx-nowhere"]))
def test_any_text_gets_one_status(text: str, ended: bool, language: str) -> None:
    found = status_of(Caption(text, math.nan, ended), CaptionConfig(language=language), {"title": text, "alt_text": None, "creator": text})
    assert found == "ok" or found in NAMES


def test_drawn_scenes_are_ok() -> None:
    said = {world.caption(world.train_scene(0, index)) for index in range(2000)}
    assert Counter(status(text) for text in said) == {"ok": len(said)}


def test_real_captions_are_ok_but_for_real_refusals(shared_data: Path) -> None:
    """COCO has captions by people to whom no picture was shown, five different ones, and one that looks Italian, letter by letter."""
    found = {text: status(text) for text in real.coco(shared_data)}
    refused = [text for text, what in found.items() if what == "refusal"]
    assert len(refused) == 5
    assert all("image" in text and ("unable" in text or "no image" in text) for text in refused)
    assert sum(what not in ("ok", "refusal") for what in found.values()) <= 0.0002 * len(found)
    assert {status(text) for text in real.photos(shared_data)} == {"ok"}
    assert {status(text, language="ja") for text in real.japanese(shared_data)} == {"ok"}
    assert sum(status(text) != "ok" for text in real.parti(shared_data)) <= 3
