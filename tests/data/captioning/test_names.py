"""What is taken for a person's name, what a model may be told instead, and what in a caption repeats it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccray.data.captioning.names import BLANK, names_in, names_of, without_names
from tests.data.captioning import real


@pytest.mark.parametrize(
    ("title", "told"),
    [
        ("Portrait of John Smith", f"Portrait of {BLANK}"),
        ("Rene Redzepi giving feedback at a meeting", f"{BLANK} giving feedback at a meeting"),
        ("Dr. Eleanor Vance at her desk", f"{BLANK} at her desk"),
        ("a tomb of King Arthur", f"a tomb of {BLANK}"),
        ("Vincent van Gogh: sunflowers", f"{BLANK}: sunflowers"),
        ("Happy birthday Emma!", f"Happy birthday {BLANK}!"),
        ("Emma's cake", f"{BLANK} cake"),
        ("田中さんと犬", f"{BLANK}さんと犬"),
        ("山田太郎氏の像", f"{BLANK}氏の像"),
        ("ウィリアムくん", f"{BLANK}くん"),
        ("渡辺先生の授業", f"{BLANK}先生の授業"),
        ("Portrait of John Smith, and John Smith again", f"Portrait of {BLANK}, and {BLANK} again"),
    ],
)
def test_names_are_not_told(title: str, told: str) -> None:
    assert without_names(title) == told


@pytest.mark.parametrize(
    "title",
    [
        "Golden Gate Bridge",
        "A red Ferrari in New York",
        "San Francisco at night",
        "Sunset over the lake",
        "The Dog and a Cat",
        "赤ちゃんと猫",
        "花柄の縞模様の皿",
        "お客様",
        "白い犬が走っている",
        "",
    ],
)
def test_other_titles_are_told_whole(title: str) -> None:
    assert without_names(title) == title
    assert names_of({"title": title}) == ()


def test_the_creator_is_not_told() -> None:
    assert without_names("Fish market, photo by sunny_side at noon", "sunny_side") == f"Fish market, photo by {BLANK} at noon"


@pytest.mark.parametrize(
    ("caption", "repeats"),
    [
        ("John Smith sits on a chair", True),
        ("john smith sits on a chair", True),
        ("A man called John sits on a chair", True),
        ("a smith at work", False),
        ("A Smith at work", False),
        ("a man sits on a chair", False),
        ("Johnson sits on a chair", False),
        ("a picture by ada lovelace", True),
        ("Lovelace's picture", True),
        ("山田太郎が立っている", True),
        ("山が立っている", False),
    ],
)
def test_captions_that_repeat_a_name(caption: str, repeats: bool) -> None:
    names = names_of({"title": "Portrait of John Smith", "alt_text": "山田太郎さん", "creator": "Ada Lovelace"})
    assert bool(names_in(caption, names)) == repeats


@given(st.text(max_size=200), st.text(max_size=30))
def test_any_text_can_be_asked_about(text: str, creator: str) -> None:
    told = without_names(text, creator)
    assert isinstance(told, str)
    names_in(text, names_of({"title": text, "creator": creator}))


def test_real_titles(shared_data: Path) -> None:
    """Measured: 425 of 1,800 titles of Open Images hold what looks like a name, most of them of places and things, and no caption of another
    picture repeats one by chance."""
    titles = real.titles(shared_data)
    found = [names for title in titles if (names := names_of({"title": title}))]
    assert 0.1 * len(titles) < len(found) < 0.35 * len(titles)
    assert any("Rene Redzepi" in names for names in found)
    captions = real.coco(shared_data)
    assert sum(bool(names_in(caption, found[place % len(found)])) for place, caption in enumerate(captions)) < 0.001 * len(captions)


@pytest.mark.parametrize(
    "title", ["BARACK OBAMA", "Barack Obama Speaks At The White House", "Xi Jinping Visits Paris With Ban Ki-moon", "DSC01234.JPG"]
)
def test_of_lines_whose_capitals_tell_nothing_nothing_is_told(title: str) -> None:
    assert without_names(title) == "…"
    assert without_names(f"a quiet harbour\n{title}") == "a quiet harbour\n…"


def test_what_is_not_searched_is_not_told() -> None:
    assert "Obama" not in without_names("a word " * 400 + "and Barack Obama")
