"""`catalog/report.html`: what a catalog holds, on one page that anybody can open.

One self-contained file: no script, nothing loaded from elsewhere. What it shows of others (titles, names, links) is escaped, and only http(s) links
become links. The sample is the same on every run; images that were taken down are not shown.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ccray import licenses
from ccray.components import public_name
from ccray.config import CatalogConfig
from ccray.data.index.verdicts import without_creator
from ccray.data.page import attribution, document, link, picture, section, shown, table, text
from ccray.schema import hex_key
from ccray.storage import Root, sealed_shards, shard_name
from ccray.takedowns import taken_down

REPORT = "catalog/report.html"
SAMPLE = 48  # pictures
MOST_ROWS = 25  # of a table or a chart; the rest is added up
SIDES_PX = (0, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144)
ASPECTS = (0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95, 1.05, 1.25, 1.4, 1.6, 2.0, 2.5)
COUNTED = ["key", "license", "license_url", "attribution", "creator", "source", "width", "height", "split", "copies"]


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
    found = shown(root, "catalog", [(shard, key) for _, shard, key in tally.sample])
    return [found[key] for _, _, key in tally.sample if key in found]


def _card(row: dict[str, Any], thumbnail: bytes) -> str:
    """One picture with its attribution: title, creator, licence, source."""
    return f'<figure id="k{hex_key(row["key"])}">{picture(row, thumbnail)}<figcaption>{attribution(row)}</figcaption></figure>\n'


def _page(config: CatalogConfig, tally: Tally, cards: Sequence[str]) -> str:
    """The whole page."""
    body = [
        _summary(config, tally),
        section("Sources", "", table(("source", "accepted", "rejected"), _source_rows(tally))),
        section("Licences", "Of the images that were accepted.", _bars("licences", _most(tally.licenses)) + _license_table(tally)),
        section("Sizes", "Pixels as received, upright.", _sizes(tally)),
        section("Creators", "", _creators(tally)),
        section("Rejected", "Why images are not in the catalog, with shares of all listed; <code>rejects/</code> names each.", _rejects(tally)),
        section("Sample", f"{len(cards)} images, chosen by their keys.", f"<div class=grid>{''.join(cards)}</div>" if cards else "<p>None.</p>"),
    ]
    return document(f"Catalog of {public_name(config.source)}", "".join(body), STYLE)


def _summary(config: CatalogConfig, tally: Tally) -> str:
    figures = [("listed", tally.listed), ("accepted", tally.images), ("rejected", tally.reasons.total())]
    figures += [(split, tally.splits[split]) for split in ("train", "validation", "evaluation") if tally.splits[split]]
    figures += [("taken down since", tally.taken_down)] if tally.taken_down else []
    figures += [("copies named beside them", tally.copies)] if tally.copies else []
    boxes = "".join(f"<div><b>{number:,}</b><span>{text(name)}</span></div>" for name, number in figures)
    near = "not compared" if config.near_duplicate_bits is None else f"up to {config.near_duplicate_bits} of 64 bits"
    said = f"Source <code>{text(public_name(config.source))}</code>, policy <code>{text(config.policy)}</code>, near duplicates {near}."
    return f"<h1>Catalog</h1>\n<p>{said}</p>\n<div class=figures>{boxes}</div>\n"


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
    return table(("licence", "bucket", "images", "share"), rows) + note


def _creators(tally: Tally) -> str:
    if not tally.no_creator:
        return "<p>Every image names its creator.</p>\n"
    return table(
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
    return _bars("reject reasons", _most(tally.reasons)) + table(("reason", "images", "share"), rows)


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
STYLE = """
svg { display: block; width: 100%; max-width: 440px; height: auto; margin: .6rem 0; }
svg text { font-size: 11px; fill: var(--ink); } rect { fill: var(--bar); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 0 2rem; }
"""
