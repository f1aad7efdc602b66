"""Captions that go round in circles, in any script, and at a cost that grows with them alone."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccray.data.captioning.looping import LONGEST_PERIOD, LOOK_AT, is_looping
from tests.data.captioning import real

WORDS = st.text(st.characters(categories=["Lu", "Ll", "Lo"]), min_size=1, max_size=12)


@pytest.mark.parametrize(
    "text",
    [
        "a cat and the the the the",
        "a man with a dog, a man with a dog, a man with a dog",
        "there is a cat a cat a cat",
        "白い犬と白い犬と白い犬と白い",
        "ああああああああああああ",
        "公園で遊ぶ子供と、公園で遊ぶ子供と、公園で遊ぶ子供と、",
        "!!!!!!!!!!!!!!!!!!!!!",
        "a dog hahahahahahahahahahahaha",
        "A dog runs on grass. Trees are green. A dog runs on grass. The sky is blue. A dog runs on grass.",
        "犬が芝生の上を走っている。空は青い。犬が芝生の上を走っている。木が緑だ。犬が芝生の上を走っている。",
        " ".join(f"{number} cats" for number in range(60)),
        "คนกับหมาคนกับหมาคนกับหมาคนกับหมา",
    ],
)
def test_loops_are_found(text: str) -> None:
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    [
        "a very, very, very tall tree",
        "a man and a woman and a child and a dog on a bench",
        "big cat, small cat and another cat",
        "ゴロゴロと転がる猫、ワンワンと吠える犬",
        "いろいろな色の風船が空に浮かんでいる",
        "no no no, says the sign",
        "1 1 2 3 5 8 on a blackboard",
        "",
        "a",
    ],
)
def test_descriptions_are_not_loops(text: str) -> None:
    assert not is_looping(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=12), st.integers(4, 30), st.text(max_size=80))
def test_words_four_times_in_a_row_are_a_loop_after_whatever(unit: list[str], times: int, before: str) -> None:
    assert is_looping(f"{before} {' '.join(unit * times)}")


@settings(max_examples=200, deadline=None)
@given(st.text("白黒犬猫鳥空海山川花のとがに", min_size=4, max_size=60), st.integers(3, 20), st.text("白黒犬猫鳥空海山川花のとがに", max_size=30))
def test_japanese_three_times_in_a_row_is_a_loop(unit: str, times: int, around: str) -> None:
    assert is_looping(around + unit * times + around)


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=40, unique_by=str.casefold))
def test_words_that_all_differ_are_no_loop(words: list[str]) -> None:
    letters = "".join(words)
    if len(set(letters)) >= len(letters) / 2:  # not one letter, or two, over and over
        assert not is_looping(" ".join(words))


def test_no_real_caption_loops(shared_data: Path) -> None:
    said = [*real.coco(shared_data), *real.photos(shared_data), *real.japanese(shared_data), *real.parti(shared_data), *real.titles(shared_data)]
    assert len(said) > 28_000
    assert [text for text in said if is_looping(text)] == []


def test_a_long_caption_takes_milliseconds() -> None:
    """Texts of 10,000 characters made to be slow: few letters, so that every period is tried, and all of it again ten times as long."""
    random.seed(0)
    unlike = ["".join(random.choices("ab", k=8)) for _ in range(LOOK_AT // 9)]
    nearly = [f"{' '.join(unlike[:LONGEST_PERIOD])} {number}" for number in range(6)]
    for text in (" ".join(unlike), " ".join(nearly), "".join(random.choices("犬猫", k=LOOK_AT)), "あ" * LOOK_AT, " ".join(unlike * 10)):
        started = time.process_time()
        is_looping(text)
        assert time.process_time() - started < 0.3  # measured: 1 to 10 ms
