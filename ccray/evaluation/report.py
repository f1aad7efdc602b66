"""What people look at: a sheet of pictures with their prompts, and one page with the figures. No torch here.

The page is a single file: style, figures and the sheet are inside it.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

Pixels = NDArray[np.uint8]

PAIRED_PX = 144  # each picture of a pair
SINGLE_PX = 240
GAP_PX = 20
TEXT_PX = 15
TITLE_PX = 24
LINE_PX = 20
COLUMNS = 4
MOST_CARDS = 32
MOST_LINES = 10  # of one prompt
INK, PALE, PAPER, GOOD, BAD = (25, 25, 25), (110, 110, 110), (255, 255, 255), (20, 130, 50), (190, 35, 35)
# Pillow's own face has Latin letters only; these, where a machine has them, also have kana and kanji.
WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSerifCJK-Regular.ttc",
    "NotoSansJP-Regular.ttf",
    "ipaexg.ttf",
    "ipag.ttf",
    "Hiragino Sans GB.ttc",
    "YuGothM.ttc",
)
WIDE_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/System/Library/Fonts", "C:/Windows/Fonts")


@dataclass(frozen=True)
class Card:
    """One prompt on the sheet. `truth` and `missed` (the attributes that the picture does not show) where the world knows them."""

    prompt: str
    generated: Pixels  # H W 3
    truth: Pixels | None = None
    missed: tuple[str, ...] | None = None


def contact_sheet(cards: Sequence[Card], title: str, subtitle: str) -> Image.Image:
    """A grid of pictures, each at least 128 px wide with its prompt below; with its true picture and the oracle's verdict where there are any."""
    pairs = any(card.truth is not None for card in cards)
    side = PAIRED_PX if pairs else SINGLE_PX
    width = 2 * side + 4 if pairs else side
    font = _font([card.prompt for card in cards])
    texts = [_shortened(_wrapped(card.prompt, font, width)) for card in cards]
    rows = [range(start, min(start + COLUMNS, len(cards))) for start in range(0, len(cards), COLUMNS)]
    heights = [side + LINE_PX * (max(len(texts[number]) for number in row) + (1 if pairs else 0)) + 2 * GAP_PX for row in rows]
    head = _head_lines(title, subtitle, COLUMNS * (width + GAP_PX) - GAP_PX)
    top = GAP_PX + sum(step for _, _, step in head) + GAP_PX
    sheet = Image.new("RGB", (GAP_PX + COLUMNS * (width + GAP_PX), top + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    y = GAP_PX
    for line, face, step in head:
        draw.text((GAP_PX, y), line, INK, font=face)
        y += step
    y = top
    for row, height in zip(rows, heights, strict=True):
        for column, number in enumerate(row):
            _draw_card(sheet, draw, cards[number], texts[number], font, (GAP_PX + column * (width + GAP_PX), y), side)
        y += height
    return sheet


def _head_lines(title: str, subtitle: str, width: int) -> list[tuple[str, FreeTypeFont, int]]:
    title_font, font = _font([title], TITLE_PX), _font([subtitle])
    lines = [(line, title_font, TITLE_PX + 10) for line in _wrapped(title, title_font, width)]
    return lines + [(line, font, LINE_PX + 2) for part in subtitle.split("\n") for line in _wrapped(part, font, width)]


def _draw_card(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, card: Card, lines: Sequence[str], font: FreeTypeFont, corner: tuple[int, int], side: int
) -> None:
    x, y = corner
    for place, pixels in enumerate((card.generated, card.truth)):
        if pixels is not None:
            left = x + place * (side + 4)
            sheet.paste(enlarged(pixels, side), (left, y))
            draw.rectangle((left, y, left + side - 1, y + side - 1), outline=(205, 205, 205))
    y += side + 4
    if side == PAIRED_PX:
        small = _font(["drawn"], TEXT_PX - 2)
        draw.text((x, y), "drawn by the model", PALE, font=small)
        draw.text((x + side + 4, y), "true picture", PALE, font=small)
        y += LINE_PX
    for line in lines:
        draw.text((x, y), line, INK, font=font)
        y += LINE_PX
    if card.missed is not None:
        _draw_mark(draw, (x, y), good=not card.missed)
        draw.text((x + 20, y), _verdict(card.missed), BAD if card.missed else GOOD, font=font)


def _verdict(missed: Sequence[str]) -> str:
    """One line that fits below a pair of pictures."""
    if not missed:
        return "as the prompt says"
    return f"wrong: {', '.join(missed)}" if len(missed) < 5 else "nothing is as the prompt says"


def _draw_mark(draw: ImageDraw.ImageDraw, corner: tuple[int, int], good: bool) -> None:
    """A tick or a cross, drawn because few faces have them."""
    x, y = corner[0] + 1, corner[1] + 4
    if good:
        draw.line([(x, y + 6), (x + 4, y + 11), (x + 13, y)], fill=GOOD, width=3)
    else:
        draw.line([(x, y), (x + 11, y + 11)], fill=BAD, width=3)
        draw.line([(x + 11, y), (x, y + 11)], fill=BAD, width=3)


def enlarged(pixels: Pixels, side: int) -> Image.Image:
    """H W 3 to a square of `side` px: tiny pictures keep their pixels visible, others are resampled; what is not square gets a pale border."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = side / max(image.size)
    method = Image.Resampling.NEAREST if max(image.size) * 2 <= side else Image.Resampling.BICUBIC
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)
    framed = Image.new("RGB", (side, side), (240, 240, 240))
    framed.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return framed


def _font(texts: Sequence[str], size: int = TEXT_PX) -> FreeTypeFont:
    """Pillow's own face, or one of the machine's when the texts have letters that it lacks."""
    font = ImageFont.load_default(size)
    assert isinstance(font, FreeTypeFont), "Pillow was built without FreeType"
    if all(_has_glyphs(font, text) for text in texts):
        return font
    return next((ImageFont.truetype(path, size) for path in _wide_fonts()), font)


def _has_glyphs(font: FreeTypeFont, text: str) -> bool:
    unknown = bytes(font.getmask("\U0010ffff"))
    return all(letter.isspace() or bytes(font.getmask(letter)) != unknown for letter in set(text))


def _wide_fonts() -> list[str]:
    found = {path.name: str(path) for folder in WIDE_FOLDERS for path in Path(folder).rglob("*.tt[cf]")}
    return [found[name] for name in WIDE_FONTS if name in found]


def _wrapped(text: str, font: FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width` px, broken between words, and inside a word that is wider than a line (Japanese has no spaces)."""
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".strip()
        if font.getlength(candidate) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "…"]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 2rem auto; padding: 0 1rem; color: #191919; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #ddd; }
td.figure { text-align: right; font-variant-numeric: tabular-nums; } img { max-width: 100%; height: auto; } p.note { color: #555; max-width: 60rem; }
"""


@dataclass(frozen=True)
class Figures:
    """One table of the page: a heading, what it means, column names, and rows of a name and values (None = not measured)."""

    heading: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | int | str | None, ...]], ...]


def page(title: str, tables: Sequence[Figures], sheet_png: bytes, settings: Mapping[str, Any]) -> str:
    """The report as one HTML file. Every text is escaped: prompts come from files of others."""
    encoded = base64.b64encode(sheet_png).decode()
    body = "".join(_table_html(table) for table in tables)
    rows = tuple((name, (str(value),)) for name, value in settings.items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n{body}"
        f'<h2>Pictures</h2>\n<img alt="pictures with their prompts" src="data:image/png;base64,{encoded}">\n'
        f"{_table_html(Figures('Settings', '', ('',), rows))}</body></html>\n"
    )


def _table_html(table: Figures) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *table.columns))
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td class=figure>{html.escape(shown(value))}</td>' for value in values)}</tr>\n"
        for name, values in table.rows
    )
    return f"<h2>{html.escape(table.heading)}</h2>\n<p class=note>{html.escape(table.note)}</p>\n<table><tr>{head}</tr>\n{body}</table>\n"


def shown(value: float | int | str | None) -> str:
    """A figure as people read it: three decimals below 100; a dash when it was not measured."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return str(value)
