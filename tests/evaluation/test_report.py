"""The contact sheet and the page: everything is on them, nothing overflows, nothing is executed."""

import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from ccray.evaluation import report
from ccray.evaluation.report import Card, Figures
from ccray.shapes import oracle, world


def shapes_cards(count: int) -> list[Card]:
    scenes = [world.held_out_scene(3, index) for index in range(count)]
    return [
        Card(world.caption(scene), world.draw(world.train_scene(3, index)), world.draw(scene), oracle.ATTRIBUTES[: index % 6])
        for index, scene in enumerate(scenes)
    ]


def test_sheet_of_shapes(tmp_path: Path) -> None:
    cards = shapes_cards(10)
    sheet = report.contact_sheet(cards, "tiny, 256 prompts", "fidelity 0.93, chance 0.21\nsecond line")
    sheet.save(tmp_path / "sheet.png")
    assert report.PAIRED_PX >= 128
    assert sheet.width == report.GAP_PX + 4 * (2 * report.PAIRED_PX + 4 + report.GAP_PX)
    pixels = np.asarray(sheet)
    picture = np.asarray(report.enlarged(cards[5].generated, report.PAIRED_PX))[1:-1, 1:-1]
    left = report.GAP_PX + (2 * report.PAIRED_PX + 4 + report.GAP_PX) + 1  # second column
    column = pixels[:, left : left + picture.shape[1]]
    found = [y for y in range(sheet.height - picture.shape[0]) if (column[y : y + picture.shape[0]] == picture).all()]
    assert len(found) == 1
    assert (pixels[:, -report.GAP_PX :] == report.PAPER).all(), "text runs over the right edge"


def test_sheet_of_foreign_prompts() -> None:
    photo = np.zeros((512, 300, 3), np.uint8)
    cards = [Card("夕焼けの海を歩く猫と、" * 6, photo), Card("a" * 2000, photo), Card("", photo)]
    sheet = report.contact_sheet(cards, "photos", "")
    assert (np.asarray(sheet)[:, -report.GAP_PX :] == report.PAPER).all()
    assert Image.open(io.BytesIO(report.png(sheet))).size == sheet.size


def test_wrapping_keeps_every_letter() -> None:
    font = report._font(["a"])
    text = "a small red circle at the top and aVeryLongWordThatDoesNotFitOnOneLineOfTheSheet of it"
    lines = report._wrapped(text, font, 150)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font.getlength(line) <= 150 for line in lines)


def test_glyphs_are_known_or_not() -> None:
    font = ImageFont.load_default(15)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert report._has_glyphs(font, "a Large red circle, on the left")
    assert not report._has_glyphs(font, "猫")


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert all(not name.startswith("on") for name, _ in attrs)
        for name, value in attrs:
            if name in ("src", "href"):
                assert (value or "").startswith("data:"), "the page must be self-contained"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_page_is_self_contained_and_escaped() -> None:
    sheet = report.png(report.contact_sheet(shapes_cards(2), "t", "s"))
    table = Figures("Fidelity", "higher is better & good", ("all",), (("<script>alert(1)</script>", (0.98765,)), ("untrained", (None,))))
    text = report.page("tiny <b>", [table], sheet, {"steps": 20, "prompts": "<img src=x>"})
    page = Collector()
    page.feed(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert {"0.988", "–", "tiny <b>", "<img src=x>", "higher is better & good"} <= set(page.texts)


@pytest.mark.parametrize(("value", "text"), [(0.98765, "0.988"), (1234.56, "1234.6"), (12, "12"), ("a", "a"), (None, "–"), (-0.0004, "-0.000")])
def test_figures_as_people_read_them(value: float | int | str | None, text: str) -> None:
    assert report.shown(value) == text
