"""Mending: what is broken is mended, what is right stays as it is."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccray.data.sources.text import MAX_CHARACTERS, first_link, mend


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("Kylie &amp; Rob", "Kylie & Rob"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("&quot;Lizard&quot; at Riga Zoo", '"Lizard" at Riga Zoo'),
        ("Seán A. O&#x27;Hara", "Seán A. O'Hara"),
        ("1910&ndash;1925", "1910–1925"),
        ('<a rel="nofollow" href="https://example.org/?a=1&amp;b=2">Jeff &amp; Brian</a> from Eastbourne', "Jeff & Brian from Eastbourne"),
        ('<div class="fn value">\nJona Lendering</div>', "Jona Lendering"),
        ("<p>one</p><p>two<br/>three</p>", "one two three"),
        ("<i>Vase</i>, 1902", "Vase, 1902"),
        ("<script>alert('x')</script>Tower", "Tower"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("CafÃ© de Flore", "Café de Flore"),
        ("æ\x9d±äº¬ã\x81®å¤\x9c", "東京の夜"),
        ("Ð\x9fÑ\x80Ð¸Ð²ÐµÑ\x82 Ð¼Ð¸Ñ\x80", "Привет мир"),
        ("It\xe2\x80\x99s here", "It’s here"),
        ("a\nb\r\n  c\u2028d", "a b c d"),
        ("nul\x00inside\x1b[31m", "nulinside"),
        (" outer blanks ", "outer blanks"),
    ],
)
def test_what_is_broken_is_mended(broken: str, mended: str) -> None:
    assert mend(broken) == mended
    assert mend(mended) == mended


@pytest.mark.parametrize(
    "fine",
    [
        "I <3 you",
        "a < b > c",
        "<unknown>",
        "<> Comporta",
        "AT&T; R&D",
        "?a=1&copy=2",
        "two  blanks  inside",
        "全角　の空白　ＡＢＣ",
        "مسجد الحسن الثاني\u200f (الدار البيضاء)",
        "שלום עולם",
        "👩‍👩‍👧‍👦 ✈️ 🇯🇵",
        "ﬁne “curly” ‘quotes’ — dash…",
        "e\u0301 decomposed",
        "ÃO PAULO, SÃO",
        "Ã",
        "Mañana año",
        "Žluťoučký kůň",
        "naïve façade Ångström",
        "ภาษาไทย",
        "नमस्ते",
        "C++ + C#",
        "100% &",
    ],
)
def test_what_is_right_stays(fine: str) -> None:
    assert mend(fine) == fine


def test_real_titles_lose_nothing_but_entities(shared_data: Path) -> None:
    with (shared_data / "catalog_openimages_xm3600/image_attributions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [text for row in rows for text in (row["Title"], row["Author"]) if text.strip()]
    assert sum(not text.isascii() for text in texts) > 300
    changed = [text for text in texts if mend(text) != text.strip()]
    assert changed
    assert all("&" in text and ";" in text for text in changed)


@pytest.mark.parametrize("empty", ["", "  \n", "<br>", "&nbsp;", "<p></p>"])
def test_nothing_left_is_none(empty: str) -> None:
    assert mend(empty) is None


def test_long_texts_are_bounded() -> None:
    assert len(mend("<" * 10_000_000) or "") == MAX_CHARACTERS
    assert len(mend("&amp;" * 2_000_000) or "") <= MAX_CHARACTERS
    assert mend("<a " * 3_000_000) is not None


def test_the_first_link() -> None:
    assert (
        first_link('by <a class="x" href="//commons.wikimedia.org/wiki/User:A">A</a> and <a href="http://b">B</a>')
        == "//commons.wikimedia.org/wiki/User:A"
    )
    assert first_link("nobody <a>") is None


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200))
def test_any_text_comes_out_on_one_line_and_settles(text: str) -> None:
    once = mend(text)
    assert once is None or (once.strip() == once and not set("\n\r\x0b\x0c\u2028\u2029\x00") & set(once))
