"""`captions/report.html`: the captions of a run beside their pictures, on one page that anybody can open.

    tables of captions  ->  one pass (`survey`)  ->  `captions/statistics.json` and this page

Figures by captioner, what is flagged with examples, and a sample of images with all that was said of each. Like the catalog's page it is one file without
script, the same on every run, and shows nothing that was taken down.
"""

import re
from collections.abc import Sequence
from typing import Any

from ccray.data import page
from ccray.data.captioning.statistics import Agreement, Spread, Statistics, TableFigures, surveys, write_figures
from ccray.data.captioning.survey import Row, Survey, rows_of, tables
from ccray.data.page import attribution, document, picture, section, table, text
from ccray.flags import FLAGS
from ccray.schema import hex_key
from ccray.shapes.oracle import ATTRIBUTES
from ccray.storage import CAPTIONS, Root

REPORT = f"{CAPTIONS}/report.html"
IMAGES = 60  # of the sample
EXAMPLES = 5  # of each flag, over all captioners
SHOWN_CHARACTERS = 1_200  # of one caption, of those that the survey keeps
EXAMPLE_CHARACTERS = 240  # of one that is flagged: enough to see why
TINY_PX = 64  # pictures no larger are drawn with their pixels
LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
Images = dict[int, tuple[dict[str, Any], bytes]]  # key -> the catalog's row, thumbnail


def write_report(root: Root, catalog: str = "catalog", directories: Sequence[str] | None = None) -> Statistics:
    """Write `captions/report.html` and `captions/statistics.json` from one pass over the tables.

    Args:
        root: what the run lives under.
        catalog: directory whose rows the captions are of.
        directories: of captions; every folder under `captions/` with a manifest by default.
    """
    found = surveys(root, directories)
    statistics = write_figures(root, catalog, found)
    examples = {flag: _examples(found, flag) for flag in FLAGS}
    sample = _sample(found)
    wanted = [*sample, *((row.shard, row.key) for rows in examples.values() for _, row in rows)]
    images = page.shown(root, catalog, wanted)
    said = {one.name: rows_of(root, one.directory, sample) for one in found}
    root.write(REPORT, _page(statistics, examples, [key for _, key in sample], images, said).encode())
    return statistics


def write_anew(root: Root, catalog: str = "catalog") -> bool:
    """Write page and statistics again where there is a table of captions, as after a takedown; whether there was one."""
    there = tables(root)
    if there:
        write_report(root, catalog, there)
    return bool(there)


def _sample(found: Sequence[Survey]) -> list[tuple[int, int]]:
    """(shard, key) of the first images in the order of all samples."""
    first = {row.order: (row.shard, row.key) for one in found for row in one.sample[:IMAGES]}
    return [first[order] for order in sorted(first)[:IMAGES]]


def _examples(found: Sequence[Survey], flag: str) -> list[tuple[str, Row]]:
    """A few rows of a flag with their tables' names, of each table in turn."""
    turns = [(place, number, one.name, row) for number, one in enumerate(found) for place, row in enumerate(one.examples.get(flag, []))]
    return [(name, row) for _, _, name, row in sorted(turns, key=lambda turn: turn[:2])[:EXAMPLES]]


def _page(
    statistics: Statistics, examples: dict[str, list[tuple[str, Row]]], sample: Sequence[int], images: Images, said: dict[str, dict[int, Row]]
) -> str:
    cards = [_card(key, images[key], {name: rows[key] for name, rows in said.items() if key in rows}) for key in sample if key in images]
    parts = [
        ("captioners", "Captioners", "", _captioners(statistics)),
        (
            "statuses",
            "What became of the images",
            "Rows of each table by status. Flagged captions are kept, but not trained on by default.",
            _statuses(statistics),
        ),
        ("truth", "Truth", TRUTH_NOTE, _truth(statistics)),
        ("agreement", "Agreement", AGREEMENT_NOTE, _agreement(statistics.agreements)),
        ("flags", "Flags", "", _flags(statistics, examples, images)),
        ("sample", "Sample", f"{len(cards)} images, chosen by their keys, with all that was said of each.", "".join(cards) or "<p>None.</p>"),
    ]
    there = [part for part in parts if part[3]]
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _, _ in there)
    body = "".join(section(heading, note, html, name) for name, heading, note, html in there)
    return document("Captions", f"{_summary(statistics)}<nav aria-label='parts of this page'>{links}</nav>\n{body}", STYLE)


def _summary(statistics: Statistics) -> str:
    rows = sum(one.rows for one in statistics.tables)
    good, flagged = (sum(_with(one, names) for one in statistics.tables) for names in (("ok",), tuple(FLAGS)))
    figures = [("tables of captions", len(statistics.tables)), ("rows", rows), ("captions without a flag", good), ("flagged", flagged)]
    figures += [("without a caption to use", rows - good - flagged)] if rows > good + flagged else []
    boxes = "".join(f"<div><b>{number:,}</b><span>{text(name)}</span></div>" for name, number in figures)
    note = f"Lengths, trigrams, agreement and truth are of up to {statistics.sample:,} images a table, chosen by their keys."
    return f"<h1>Captions</h1>\n<p>{note}</p>\n<div class=figures>{boxes}</div>\n"


def _with(one: TableFigures, names: Sequence[str] | frozenset[str]) -> int:
    return sum(one.statuses.get(name, 0) for name in names)


def _captioners(statistics: Statistics) -> str:
    columns = ("", "language", "rows", "flagged", "characters", "words", "distinct trigrams", "log-probability")
    rows = [
        (
            _captioner(one),
            ", ".join(text(language) for language in one.languages or [one.language]),
            f"{one.rows:,}",
            f"{one.flagged:.1%}",
            _spread(one.characters),
            _spread(one.words),
            "–" if one.distinct_trigrams is None else f"{one.distinct_trigrams:.1%} of {one.trigrams:,}",
            _number(one.mean_logprob),
        )
        for one in statistics.tables
    ]
    most = "".join(_most_frequent(one) for one in statistics.tables if one.most_frequent is not None)
    note = "<p>Characters and words: mean, median and 95th percentile. The log-probability is the mean of a token.</p>\n"
    return table(columns, rows, "figures by captioner") + note + f"<h3>Most frequent captions</h3>\n<ul class=said>{most}</ul>\n"


def _captioner(one: TableFigures) -> str:
    model = f"<small>{text(one.model)}</small>" if one.model else "<small>shipped by the source</small>"
    return f"<b>{text(one.table)}</b>{model}{'' if one.finished else ' <span class=tag>not finished</span>'}"


def _most_frequent(one: TableFigures) -> str:
    share = f"{one.most_frequent_share:.1%} of {one.sampled:,}"
    language = next(iter(one.languages), one.language) if len(one.languages) < 2 else None
    return f"<li><div class=meta><b>{text(one.table)}</b><span>{share}</span></div>{_words(one.most_frequent, len(one.most_frequent or ''), language)}</li>"


def _spread(spread: Spread | None) -> str:
    return "–" if spread is None else f"{spread.mean:.1f} · {spread.median:.0f} · {spread.p95:.0f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _statuses(statistics: Statistics) -> str:
    order = ["ok", *FLAGS]
    there = {status for one in statistics.tables for status in one.statuses}
    names = [*(name for name in order if name in there), *sorted(there - set(order))]
    rows = [(f"<code>{text(name)}</code>", *(_share(one.statuses.get(name, 0), one.rows) for one in statistics.tables)) for name in names]
    return table(("status", *(one.table for one in statistics.tables)), rows, "statuses by captioner") if rows else ""


def _share(number: int, rows: int) -> str:
    return f"{number:,} <small>{number / max(rows, 1):.1%}</small>" if number else "<small>–</small>"


TRUTH_NOTE = "Drawn scenes have a true caption. Shares of the captions that have each attribute of their scene right, of all its things."
AGREEMENT_NOTE = "How many words (characters, in languages without spaces) two captions of one image share: the mean F1. 1 is the same words."


def _truth(statistics: Statistics) -> str:
    truths = [(one, one.truth) for one in statistics.tables if one.truth is not None]
    rows = [
        (_captioner(one), f"{truth.captions:,}", f"{truth.exact:.1%}", *(f"{getattr(truth, name):.1%}" for name in (*ATTRIBUTES, "all")))
        for one, truth in truths
    ]
    return table(("", "captions", "word for word", *ATTRIBUTES, "whole scene"), rows, "truth by captioner") if rows else ""


def _agreement(agreements: Sequence[Agreement]) -> str:
    rows = [
        (f"{text(one.first)} – {text(one.second)}", text(one.language), f"{one.images:,}", f"{one.unigram_f1:.2f}")
        for one in sorted(agreements, key=lambda one: -one.unigram_f1)
    ]
    return table(("captioners", "language", "images", "agreement"), rows, "agreement of captioners") if rows else ""


def _flags(statistics: Statistics, examples: dict[str, list[tuple[str, Row]]], images: Images) -> str:
    counts = {flag: sum(one.statuses.get(flag, 0) for one in statistics.tables) for flag in FLAGS}
    parts = [
        f"<h3><code>{flag}</code> {text(FLAGS[flag])} <span class=tag>{counts[flag]:,}</span></h3>\n"
        f"<div class=flagged>{''.join(_example(name, row, images) for name, row in examples[flag])}</div>\n"
        for flag in FLAGS
        if counts[flag]
    ]
    none = [f"<code>{flag}</code> ({text(FLAGS[flag])})" for flag in FLAGS if not counts[flag]]
    absent = f"<p>{'None' if not parts else 'No others'} of: {', '.join(none)}.</p>\n" if none else ""
    return "".join(parts) + absent


def _example(name: str, row: Row, images: Images) -> str:
    """One flagged caption beside its picture, whose attribution is there in full; without the picture where it cannot be read."""
    image = f"{_framed(*images[row.key])}<figcaption>{attribution(images[row.key][0])}</figcaption>" if row.key in images else ""
    return f"<figure>{image}<ul class=said>{_said(name, row, EXAMPLE_CHARACTERS)}</ul></figure>\n"


def _card(key: int, image: tuple[dict[str, Any], bytes], rows: dict[str, Row]) -> str:
    """One image with its attribution, and what each captioner said of it."""
    said = "".join(_said(name, row) for name, row in rows.items())
    return (
        f'<article id="k{hex_key(key)}"><figure>{_framed(*image)}<figcaption>{attribution(image[0])}</figcaption></figure>'
        f"<ul class=said>{said}</ul></article>\n"
    )


def _framed(row: dict[str, Any], thumbnail: bytes) -> str:
    tiny = max(row["width"], row["height"]) <= TINY_PX
    return f"<div class=tiny>{picture(row, thumbnail)}</div>" if tiny else picture(row, thumbnail)


def _said(name: str, row: Row, most: int = SHOWN_CHARACTERS) -> str:
    """One caption with its captioner, language, status and log-probability."""
    status = "" if row.is_ok else f"<span class='tag bad'>{text(row.status)}</span>"
    logprob = "" if row.mean_logprob is None else f"<span title='mean log-probability of a token'>{_number(row.mean_logprob)}</span>"
    meta = f"<div class=meta><b>{text(name)}</b><span>{text(row.language or 'und')}</span>{logprob}{status}</div>"
    return f"<li>{meta}{_words(row.caption, row.characters, row.language, most)}</li>"


def _words(caption: str | None, characters: int, language: str | None, most: int = SHOWN_CHARACTERS) -> str:
    """A caption in its own language and direction; what it does to the direction of letters ends with it."""
    if caption is None:
        return "<p class=none>no caption</p>"
    tag = language if language and LANGUAGE_TAG.fullmatch(language) and language not in ("und", "mul") else ""
    shown = caption[:most]
    more = f" <small>… {characters - len(shown):,} more characters</small>" if characters > len(shown) else ""
    return f'<p lang="{tag}" dir="auto">{text(shown)}{more}</p>'


STYLE = """
:root { --bad: #a3341f; --card: #f3f2ed; } @media (prefers-color-scheme: dark) { :root { --bad: #f0967f; --card: #1f1f1c; } }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: .6rem 0; border-block: 1px solid var(--line); }
small { color: var(--soft); font-size: .82em; } tbody th { min-width: 10rem; } th small { display: block; } td small { margin-left: .3em; }
section { scroll-margin-top: 1rem; } h3 { font-size: 1rem; font-weight: 400; margin: 1.6rem 0 .6rem; } h3 code { font-weight: 600; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.said { list-style: none; margin: 0; padding: 0; display: grid; gap: .8rem; align-content: start; } .said li { min-width: 0; }
.said p { margin: .1rem 0 0; color: var(--ink); max-width: 44rem; line-height: 1.45; unicode-bidi: isolate; white-space: pre-line; }
.said p.none { color: var(--soft); }
.meta { display: flex; flex-wrap: wrap; gap: .1rem .7rem; align-items: baseline; font-size: .78rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.meta b { font-weight: 600; } .bad { color: var(--bad); border-color: currentColor; }
article { display: grid; grid-template-columns: 200px minmax(0, 1fr); gap: 1rem 1.6rem; padding: 1.2rem 0; border-bottom: 1px solid var(--line); }
article .said { grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem 1.6rem; }
.flagged { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(200px, 46%), 1fr)); gap: 1.2rem 1rem; }
.flagged figure { background: var(--card); border-radius: 6px; overflow: hidden; display: flex; flex-direction: column; }
.flagged .said { order: 1; padding: .7rem .8rem; flex: 1; } .flagged figcaption { order: 2; padding: 0 .8rem .7rem; margin: 0; font-size: .75rem; }
.flagged .said p { font-size: .92rem; } .frame { position: relative; } .frame img { position: absolute; inset: 0; }
.tiny img { image-rendering: pixelated; }
:lang(ja) { font-family: "Hiragino Sans", "Yu Gothic UI", "Noto Sans JP", "Noto Sans CJK JP", Meiryo, sans-serif; line-break: strict; }
:lang(zh) { font-family: "PingFang SC", "Microsoft YaHei", "Noto Sans SC", "Noto Sans CJK SC", sans-serif; }
:lang(ko) { font-family: "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans KR", "Noto Sans CJK KR", sans-serif; }
@media (max-width: 560px) { article { grid-template-columns: minmax(0, 1fr); } article .frame { max-width: 240px; } }
@media print { article, .flagged figure { break-inside: avoid; } nav { display: none; } }
"""
