"""What the pages of a run have in common: one self-contained HTML file, no script, nothing loaded from elsewhere, everything of others escaped.

Only http(s) addresses become links. Pictures are small JPEG files inside the page.
"""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ccray.data.pictures.images import Pixels, within
from ccray.data.pictures.pixels import OK, Box, LoadPixels, pixels_of
from ccray.storage import Root, shard_name

THUMBNAIL_PX = 240  # longer side
JPEG_QUALITY = 72
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
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # no page may hold them


def shown(root: Root, catalog: str, wanted: Iterable[tuple[int, int]]) -> dict[int, tuple[dict[str, Any], bytes]]:
    """Key -> columns `SHOWN` of the catalog's row and its thumbnail, of (shard, key); pictures that cannot be read are left out."""
    found: dict[int, tuple[dict[str, Any], bytes]] = {}
    load = LoadPixels(root, partial(_small, side_px=THUMBNAIL_PX))
    pairs = sorted(set(wanted))
    for shard in sorted({shard for shard, _ in pairs}):
        keys = np.array([key for of_shard, key in pairs if of_shard == shard], np.int64)
        table = root.read_table(f"{catalog}/{shard_name(shard)}", columns=SHOWN)
        rows = {row["key"]: row for row in table.filter(pc.is_in(table.column("key"), pa.array(keys))).to_pylist()}
        for key, row in rows.items():
            batch = load({"key": np.array([key]), "shard": np.array([shard])})
            if batch["status"][0] == OK:
                found[key] = (row, _jpeg(pixels_of(batch, 0)))
    return found


def _small(pixels: Pixels, side_px: int) -> tuple[Pixels, Box]:
    return within(pixels, side_px), (0, 0, pixels.shape[1], pixels.shape[0])


def _jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def text(value: object) -> str:
    """Anything as text of a page: escaped, also for attributes in quotes."""
    return html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True)


def link(address: str | None, words: str) -> str:
    """A link when the address is one that a browser only opens (http, https); otherwise the words alone."""
    plain = (address or "").strip()
    if not plain.lower().startswith(("http://", "https://")):
        return text(words)
    return f'<a href="{text(plain)}" rel="noopener noreferrer nofollow">{text(words)}</a>'


def title_of(row: dict[str, Any]) -> str:
    """The title of an image, or its source and the source's own id."""
    return (row["title"] or "").strip() or f"{row['source']} {row['source_ref']}"


def picture(row: dict[str, Any], thumbnail: bytes) -> str:
    """One picture, in a square frame."""
    encoded = base64.b64encode(thumbnail).decode()
    return f'<div class=frame><img alt="{text(title_of(row))}" src="data:image/jpeg;base64,{encoded}"></div>'


def attribution(row: dict[str, Any]) -> str:
    """Title, creator, licence and source of one picture."""
    creator = (row["creator"] or "").strip()
    who = f"by <bdi>{link(row['creator_url'], creator)}</bdi>" if creator else "<span class=none>no creator named</span>"
    only = ' <span class=tag title="allows no derivatives: never trained on">evaluation only</span>' if row["split"] == "evaluation" else ""
    return (
        f"<b><bdi>{text(title_of(row))}</bdi></b>{who}<br>{link(row['license_url'], row['license'] or 'unknown')}{only}<br>"
        f"{link(row['source_url'], row['source'])} · {row['width']} × {row['height']} px"
    )


def section(heading: str, note: str, body: str, name: str = "") -> str:
    """A part of a page; `note` and `body` are HTML, `name` is for links to it."""
    place = f' id="{text(name)}"' if name else ""
    return f"<section{place}><h2>{heading}</h2>\n{f'<p>{note}</p>' if note else ''}\n{body}</section>\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], name: str = "") -> str:
    """Cells are HTML; the first column is a name, the others figures. With a `name` the table can be scrolled by keys, too."""
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = "".join(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>\n' for first, *rest in rows)
    reach = f' role="region" tabindex="0" aria-label="{text(name)}"' if name else ""
    return f"<div class=wide{reach}><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"


def document(title: str, body: str, style: str = "") -> str:
    """The whole page."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="referrer" content="no-referrer">'
        f'<meta name="color-scheme" content="light dark"><title>{text(title)}</title><style>{STYLE}{style}</style></head>\n'
    )
    return f"{head}<body><main>\n{body}</main></body></html>\n"


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
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(150px, 44%), 1fr)); gap: 1.4rem 1rem; }
figure { margin: 0; } .frame { aspect-ratio: 1; background: color-mix(in srgb, var(--line) 35%, transparent); }
.frame img { width: 100%; height: 100%; object-fit: contain; display: block; }
figcaption { font-size: .82rem; line-height: 1.35; margin-top: .4rem; color: var(--soft); }
figcaption b { color: var(--ink); font-weight: 600; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
.none { font-style: italic; } .tag { border: 1px solid var(--line); border-radius: 3px; padding: 0 .3em; font-size: .9em; white-space: nowrap; }
@media print { a { color: inherit; } .wide { overflow: visible; } }
"""
