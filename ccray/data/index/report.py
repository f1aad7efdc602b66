"""`catalog/report.html`: what a catalog holds, on one page that anybody can open.

One self-contained file: no script, nothing loaded from elsewhere. What it shows of others (titles, names, links) is escaped, and only http(s) links
become links. The sample is the same on every run; images that were taken down are not shown.
"""

import base64
import html
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from ccray import licenses
from ccray.components import public_name
from ccray.config import CatalogConfig
from ccray.data.index.verdicts import without_creator
from ccray.data.pictures.images import Pixels, within
from ccray.data.pictures.pixels import OK, Box, LoadPixels, pixels_of
from ccray.schema import hex_key
from ccray.storage import Root, sealed_shards, shard_name
from ccray.takedowns import taken_down

REPORT = "catalog/report.html"
SAMPLE = 48  # pictures
THUMBNAIL_PX = 240  # longer side
JPEG_QUALITY = 72
MOST_ROWS = 25  # of a table or a chart; the rest is added up
SIDES_PX = (0, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144)
ASPECTS = (0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95, 1.05, 1.25, 1.4, 1.6, 2.0, 2.5)
COUNTED = ["key", "license", "license_url", "attribution", "creator", "source", "width", "height", "split", "copies"]
SHOWN = [
    "key",
    "shard",
    "title",
    "creator",
    "creator_url",
    "license",
    "license_url",
    "source",
    "source_ref",
    "source_url",
    "width",
    "height",
    "split",
]


@dataclass
class Tally:
    """What is counted over the catalog's images that were not taken down, and over its rejects."""

    images: int = 0
    taken_down: int = 0  # since the catalog was written
    sources: Counter[str] = field(default_factory=Counter)
    rejected_sources: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    urls: dict[str, str] = field(default_factory=dict)  # licence -> deed
    reasons: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    no_creator: int = 0
    no_creator_owed: int = 0  # of these, under licences that demand attribution
    copies: int = 0  # named beside the images that are kept
    widths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIDES_PX), np.int64))
    heights: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIDES_PX), np.int64))
    aspects: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(ASPECTS), np.int64))
    sample: list[tuple[int, int, int]] = field(default_factory=list)  # (order, shard, key): the first few

    @property
    def listed(self) -> int:
        return self.images + self.taken_down + self.reasons.total()


def write_report(root: Root, config: CatalogConfig) -> None:
    """Write `catalog/report.html` from `catalog/`, `rejects/` and `images/`; again after a takedown, so that what was taken down leaves it."""
    gone = pa.array(sorted(taken_down(root)), pa.int64())
    tally = count(root, gone)
    cards = [_card(row, thumbnail) for row, thumbnail in _sample(root, tally)]
    root.write(REPORT, _page(config, tally, cards).encode())


def count(root: Root, gone: pa.Array) -> Tally:
    """Read every shard's columns once; `gone` holds the keys of images that were taken down."""
    tally = Tally()
    for shard in sealed_shards(root, "catalog"):
        table = root.read_table(f"catalog/{shard_name(shard)}", columns=COUNTED)
        left = table.filter(pc.invert(pc.is_in(table.column("key"), gone)))
        tally.taken_down += table.num_rows - left.num_rows
        _count(tally, shard, left)
    for shard in sealed_shards(root, "rejects"):
        table = root.read_table(f"rejects/{shard_name(shard)}", columns=["reason", "source"])
        _add(tally.reasons, table, "reason")
        _add(tally.rejected_sources, table, "source")
    return tally


def _count(tally: Tally, shard: int, table: pa.Table) -> None:
    tally.images += table.num_rows
    for counter, name in ((tally.sources, "source"), (tally.licenses, "license"), (tally.splits, "split")):
        _add(counter, table, name)
    pairs = table.select(["license", "license_url"]).group_by(["license", "license_url"], use_threads=False).aggregate([])
    for license, url in zip(pairs.column("license").to_pylist(), pairs.column("license_url").to_pylist(), strict=True):
        tally.urls.setdefault(license, url or "")
    nobody = without_creator(table)
    tally.no_creator += int(nobody.sum())
    tally.no_creator_owed += int((nobody & pc.fill_null(table.column("attribution"), True).to_numpy()).sum())
    tally.copies += pc.sum(pc.list_value_length(table.column("copies"))).as_py() or 0
    width, height = (table.column(name).to_numpy().astype(np.int64) for name in ("width", "height"))
    tally.widths += _binned(width, SIDES_PX)
    tally.heights += _binned(height, SIDES_PX)
    tally.aspects += _binned(width / np.maximum(height, 1), ASPECTS)
    # A key is a hash already; turned around, its bytes give an order that is not the shards' own.
    order = table.column("key").to_numpy().view(np.uint64).byteswap()
    first = np.argsort(order)[:SAMPLE]
    fresh = [(int(order[place]), shard, table.column("key")[int(place)].as_py()) for place in first]
    tally.sample = sorted(tally.sample + fresh)[:SAMPLE]


def _add(counter: Counter[str], table: pa.Table, name: str) -> None:
    for each in pc.value_counts(table.column(name)).to_pylist():
        counter[each["values"] or "unknown"] += each["counts"]


def _binned(values: NDArray[Any], edges: Sequence[float]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(np.array(edges[1:]), values, side="right"), minlength=len(edges))


def _sample(root: Root, tally: Tally) -> list[tuple[dict[str, Any], bytes]]:
    """Rows of the catalog and their thumbnails, in the sample's order; pictures that cannot be read are left out."""
    found: dict[int, tuple[dict[str, Any], bytes]] = {}
    load = LoadPixels(root, partial(_small, side_px=THUMBNAIL_PX))
    for shard in sorted({shard for _, shard, _ in tally.sample}):
        keys = np.array(sorted(key for _, of_shard, key in tally.sample if of_shard == shard), np.int64)
        table = root.read_table(f"catalog/{shard_name(shard)}", columns=SHOWN)
        rows = {row["key"]: row for row in table.filter(pc.is_in(table.column("key"), pa.array(keys))).to_pylist()}
        for key in keys:
            batch = load({"key": np.array([key]), "shard": np.array([shard])})
            if batch["status"][0] == OK:
                found[int(key)] = (rows[int(key)], _jpeg(pixels_of(batch, 0)))
    return [found[key] for _, _, key in tally.sample if key in found]


def _small(pixels: Pixels, side_px: int) -> tuple[Pixels, Box]:
    return within(pixels, side_px), (0, 0, pixels.shape[1], pixels.shape[0])


def _jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def text(value: object) -> str:
    """Anything as text of a page: escaped, also for attributes in quotes."""
    return html.escape(str(value), quote=True)


def link(address: str | None, words: str) -> str:
    """A link when the address is one that a browser only opens (http, https); otherwise the words alone."""
    plain = (address or "").strip()
    if not plain.lower().startswith(("http://", "https://")):
        return text(words)
    return f'<a href="{text(plain)}" rel="noopener noreferrer nofollow">{text(words)}</a>'


def _card(row: dict[str, Any], thumbnail: bytes) -> str:
    """One picture with its attribution: title, creator, licence, source."""
    title = (row["title"] or "").strip() or f"{row['source']} {row['source_ref']}"
    creator = (row["creator"] or "").strip()
    who = f"by <bdi>{link(row['creator_url'], creator)}</bdi>" if creator else "<span class=none>no creator named</span>"
    encoded = base64.b64encode(thumbnail).decode()
    only = ' <span class=tag title="allows no derivatives: never trained on">evaluation only</span>' if row["split"] == "evaluation" else ""
    return (
        f'<figure id="k{hex_key(row["key"])}"><div class=frame><img alt="{text(title)}" src="data:image/jpeg;base64,{encoded}"></div>'
        f"<figcaption><b><bdi>{text(title)}</bdi></b>{who}<br>{link(row['license_url'], row['license'] or 'unknown')}{only}<br>"
        f"{link(row['source_url'], row['source'])} · {row['width']} × {row['height']} px</figcaption></figure>\n"
    )


def _page(config: CatalogConfig, tally: Tally, cards: Sequence[str]) -> str:
    """The whole page."""
    body = [
        _summary(config, tally),
        _section("Sources", "", _table(("source", "accepted", "rejected"), _source_rows(tally))),
        _section("Licences", "Of the images that were accepted.", _bars("licences", _most(tally.licenses)) + _license_table(tally)),
        _section("Sizes", "Pixels as received, upright.", _sizes(tally)),
        _section("Creators", "", _creators(tally)),
        _section("Rejected", "Why images are not in the catalog, with shares of all listed; <code>rejects/</code> names each.", _rejects(tally)),
        _section("Sample", f"{len(cards)} images, chosen by their keys.", f"<div class=grid>{''.join(cards)}</div>" if cards else "<p>None.</p>"),
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="referrer" content="no-referrer">'
        f'<meta name="color-scheme" content="light dark"><title>Catalog of {text(public_name(config.source))}</title><style>{STYLE}</style></head>\n'
    )
    return f"{head}<body><main>\n{''.join(body)}</main></body></html>\n"


def _summary(config: CatalogConfig, tally: Tally) -> str:
    figures = [("listed", tally.listed), ("accepted", tally.images), ("rejected", tally.reasons.total())]
    figures += [(split, tally.splits[split]) for split in ("train", "validation", "evaluation") if tally.splits[split]]
    figures += [("taken down since", tally.taken_down)] if tally.taken_down else []
    figures += [("copies named beside them", tally.copies)] if tally.copies else []
    boxes = "".join(f"<div><b>{number:,}</b><span>{text(name)}</span></div>" for name, number in figures)
    near = "not compared" if config.near_duplicate_bits is None else f"up to {config.near_duplicate_bits} of 64 bits"
    said = f"Source <code>{text(public_name(config.source))}</code>, policy <code>{text(config.policy)}</code>, near duplicates {near}."
    return f"<h1>Catalog</h1>\n<p>{said}</p>\n<div class=figures>{boxes}</div>\n"


def _section(heading: str, note: str, body: str) -> str:
    return f"<section><h2>{heading}</h2>\n{f'<p>{note}</p>' if note else ''}\n{body}</section>\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; the first column is a name, the others figures."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in columns)
    body = "".join(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>\n' for first, *rest in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"


def _most(counter: Counter[str]) -> list[tuple[str, int]]:
    """Most frequent first, equal ones by name; what is beyond `MOST_ROWS` is added up."""
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    rest = ordered[MOST_ROWS:]
    return ordered[:MOST_ROWS] + ([(f"{len(rest)} others", sum(number for _, number in rest))] if rest else [])


def _source_rows(tally: Tally) -> list[tuple[str, str, str]]:
    both = tally.sources + tally.rejected_sources
    return [(text(name), f"{tally.sources[name]:,}", f"{tally.rejected_sources[name]:,}") for name, _ in _most(both) if name in both]


def _license_table(tally: Tally) -> str:
    rows = [
        (link(tally.urls.get(name), name), licenses.parse(name).bucket, f"{number:,}", f"{number / max(tally.images, 1):.1%}")
        for name, number in _most(tally.licenses)
    ]
    note = "<p>Bucket C: any use. NC: no commercial use. ND: no derivatives, so never trained on.</p>\n"
    return _table(("licence", "bucket", "images", "share"), rows) + note


def _creators(tally: Tally) -> str:
    if not tally.no_creator:
        return "<p>Every image names its creator.</p>\n"
    return _table(
        ("", "images", "share"),
        [
            ("no creator named", f"{tally.no_creator:,}", f"{tally.no_creator / max(tally.images, 1):.1%}"),
            ("of these, the licence demands one", f"{tally.no_creator_owed:,}", f"{tally.no_creator_owed / max(tally.images, 1):.1%}"),
        ],
    )


def _rejects(tally: Tally) -> str:
    if not tally.reasons:
        return "<p>Nothing was rejected.</p>\n"
    rows = [(f"<code>{text(name)}</code>", f"{number:,}", f"{number / tally.listed:.1%}") for name, number in _most(tally.reasons)]
    return _bars("reject reasons", _most(tally.reasons)) + _table(("reason", "images", "share"), rows)


def _sizes(tally: Tally) -> str:
    aspects = [f"{low:g}–{high:g}" for low, high in zip(ASPECTS, [*ASPECTS[1:], 0], strict=True)]
    aspects[0], aspects[-1] = f"under {ASPECTS[1]:g}", f"{ASPECTS[-1]:g} and more"
    sides = [f"{low}–{high - 1}" for low, high in zip(SIDES_PX, [*SIDES_PX[1:], 0], strict=True)]
    sides[0], sides[-1] = f"under {SIDES_PX[1]}", f"{SIDES_PX[-1]} and more"
    plots = [("width in px", sides, tally.widths), ("height in px", sides, tally.heights), ("width over height", aspects, tally.aspects)]
    drawn = "".join(
        f"<div><h3>{name[0].upper()}{name[1:]}</h3>{_bars(name, list(zip(labels, counts.tolist(), strict=True)))}</div>"
        for name, labels, counts in plots
    )
    return f"<div class=plots>{drawn}</div>\n"


def _bars(name: str, values: Sequence[tuple[str, int]]) -> str:
    """Horizontal bars with their numbers, as SVG; a screen reader hears the same numbers."""
    most = max((number for _, number in values), default=0) or 1
    told = ", ".join(f"{label}: {number:,}" for label, number in values) or "none"
    rows = "".join(_bar(place, label, number, most) for place, (label, number) in enumerate(values))
    height = BAR_PX * len(values)
    return (
        f'<svg viewBox="0 0 {CHART_PX} {height}" role="img" aria-label="{text(name)}: {text(told)}"><title>{text(name)}</title>'
        f"<desc>{text(told)}</desc>{rows}</svg>\n"
    )


def _bar(place: int, label: str, number: int, most: int) -> str:
    top, room = BAR_PX * place, CHART_PX - LABEL_PX - NUMBER_PX
    width = room * number / most
    shown = label if len(label) <= LABEL_AT_MOST else f"{label[: LABEL_AT_MOST - 1]}…"
    return (
        f'<text x="{LABEL_PX - 6}" y="{top + 13}" text-anchor="end">{text(shown)}</text>'
        f'<rect x="{LABEL_PX}" y="{top + 3}" width="{width:.1f}" height="{BAR_PX - 6}" rx="2"/>'
        f'<text x="{LABEL_PX + width + 5:.1f}" y="{top + 13}">{number:,}</text>'
    )


CHART_PX, LABEL_PX, NUMBER_PX, BAR_PX, LABEL_AT_MOST = 360, 154, 62, 18, 22  # a letter takes 6.6 px of a label, at most
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1a; --soft: #5d5d59; --paper: #fbfbf9; --line: #dddcd6; --bar: #3b6ea8; --link: #1d5693; }
@media (prefers-color-scheme: dark) { :root { --ink: #ecebe6; --soft: #a9a8a2; --paper: #161614; --line: #3a3935; --bar: #6ea3de; --link: #93c0f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 1160px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.8rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; } h3 { font-size: 1rem; margin: .6rem 0; }
a { color: var(--link); } p { margin: .3rem 0 .8rem; color: var(--soft); max-width: 46rem; } code { font-size: .92em; }
.figures { display: flex; flex-wrap: wrap; gap: .7rem 2rem; margin: 1rem 0; } .figures b { display: block; font-size: 1.5rem; line-height: 1.2; }
.figures span { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .8rem 0; }
th { text-align: left; } td { text-align: right; font-variant-numeric: tabular-nums; }
thead th, td, th code { white-space: nowrap; overflow-wrap: normal; } thead th:not(:first-child) { text-align: right; }
th, td { padding: .3rem 1.1rem .3rem 0; font-weight: 400; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; } thead th { color: var(--soft); }
svg { display: block; width: 100%; max-width: 440px; height: auto; margin: .6rem 0; }
svg text { font-size: 11px; fill: var(--ink); } rect { fill: var(--bar); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 0 2rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(150px, 44%), 1fr)); gap: 1.4rem 1rem; }
figure { margin: 0; } .frame { aspect-ratio: 1; background: color-mix(in srgb, var(--line) 35%, transparent); }
.frame img { width: 100%; height: 100%; object-fit: contain; display: block; }
figcaption { font-size: .82rem; line-height: 1.35; margin-top: .4rem; color: var(--soft); }
figcaption b { color: var(--ink); font-weight: 600; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
.none { font-style: italic; } .tag { border: 1px solid var(--line); border-radius: 3px; padding: 0 .3em; font-size: .9em; white-space: nowrap; }
@media print { a { color: inherit; } .wide { overflow: visible; } }
"""
