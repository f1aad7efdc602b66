"""catalog/report.html: what it counts, that nothing of a stranger's text acts, and that it forgets what was taken down."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccray import schema
from ccray.config import CatalogConfig
from ccray.data.index import report
from ccray.data.index.report import write_report
from ccray.schema import hex_key, key_of
from ccray.storage import Root
from tests.data.index import shards
from tests.data.index.shards import Row

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """What a browser would find on the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(number: int, size: tuple[int, int] = (60, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), number, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


ROWS = [
    Row("evil", picture(1), creator=EVIL, title=EVIL, source_url="javascript:alert(1)", creator_url="data:text/html,x", size=(60, 40)),
    Row("plain", picture(2), license="CC0-1.0", creator=None, source="met", source_url="https://example.org/?a=1&b=2", size=(300, 100)),
    Row("third", picture(3, (400, 90)), license="CC-BY-SA-2.0", creator=None, title="Sea", size=(4000, 900)),
    Row("nc", picture(4), license="CC-BY-NC-2.0"),
    Row("gone", reason="download_not_found"),
    Row("cut", b"not a picture", title="unreadable"),
]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path / "root"))
    shards.write(root, ROWS, rows_per_shard=2)
    shards.index(root)
    return root


def page(root: Root, **settings: object) -> Page:
    write_report(root, CatalogConfig(**settings))  # type: ignore[arg-type]
    return Page(root.read(report.REPORT).decode())


def test_what_is_counted(root: Root) -> None:
    words = " ".join(page(root).words.split())
    assert "6listed" in words.replace(" ", "")
    assert "4accepted" in words.replace(" ", "")
    text = root.read(report.REPORT).decode()
    cells = [re.sub(r"<[^>]*>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    rows = [tuple(cell for cell in row.split("|") if cell) for row in cells]
    assert ("met", "1", "0") in rows
    assert ("table", "3", "2") in rows
    assert ("CC-BY-SA-2.0", "C", "1", "25.0%") in rows
    assert ("no creator named", "2", "50.0%") in rows
    assert ("of these, the licence demands one", "1", "25.0%") in rows
    assert ("license_noncommercial", "1", "16.7%") in rows


def test_plots_are_told_in_words(root: Root) -> None:
    labels = {(chart["aria-label"] or "").partition(":")[0]: chart["aria-label"] or "" for chart in page(root).of("svg")}
    assert labels.keys() == {"licences", "width in px", "height in px", "width over height", "reject reasons"}
    assert "under 128: 1, " in labels["width in px"]
    assert "256–383: 1" in labels["width in px"]
    assert "3072–4095: 1" in labels["width in px"]
    assert "2.5 and more: 2" in labels["width over height"]


def test_labels_of_charts_have_room(root: Root) -> None:
    """The longest label that is shown whole, in letters of 11 px, of which a wide one takes 0.6."""
    assert report.LABEL_PX - 6 >= report.LABEL_AT_MOST * 11 * 0.6
    assert all(len(reason) <= report.LABEL_AT_MOST for reason in schema.Reject)


def test_the_page_names_no_path_of_this_machine(root: Root) -> None:
    words = page(root, source="yfcc100m:/home/someone/lists/yfcc.tsv").words
    assert "yfcc100m:yfcc.tsv" in words
    assert "someone" not in words


def test_nothing_of_others_acts_and_nothing_is_loaded(root: Root) -> None:
    found = page(root, source=f"openverse:{EVIL[:-1].replace(chr(47), chr(92))}")
    assert not found.of("script")
    assert EVIL in found.words
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") and "onerror" not in image for image in found.of("img"))
    links = [link["href"] or "" for link in found.of("a")]
    assert "https://example.org/?a=1&b=2" in links
    assert all(link.startswith("https://") for link in links)
    policy = next(meta["content"] or "" for meta in found.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert not found.of("link")
    assert "url(" not in root.read(report.REPORT).decode()


def test_the_sample_shows_pictures_with_their_attribution(root: Root) -> None:
    found = page(root)
    assert len(found.of("figure")) == 3  # one of the four is no picture
    alts = {image["alt"] for image in found.of("img")}
    assert alts == {EVIL, "met plain", "Sea"}
    assert "no creator named" in found.words
    assert "4000 × 900 px" in found.words


def test_what_was_taken_down_leaves_the_page(root: Root) -> None:
    before = page(root)
    assert any(image["alt"] == "Sea" for image in before.of("img"))
    root.write("takedowns/1.jsonl", json.dumps({"key": hex_key(key_of(ROWS[2].bytes))}).encode())
    after = page(root)
    assert not any(image["alt"] == "Sea" for image in after.of("img"))
    assert "Sea" not in after.words
    assert "1taken down since" in after.words
    assert "CC-BY-SA-2.0" not in after.words


def test_the_same_page_every_time(root: Root) -> None:
    write_report(root, CatalogConfig())
    first = root.read(report.REPORT)
    write_report(root, CatalogConfig())
    assert root.read(report.REPORT) == first


def test_a_large_catalog_shows_a_fixed_sample(tmp_path: Path) -> None:
    rows = [Row(f"picture {number}", picture(number % 256, (16 + number // 256, 16))) for number in range(120)]
    samples = []
    for size in (7, 120):
        root = Root(str(tmp_path / str(size)))
        shards.write(root, rows, rows_per_shard=size)
        shards.index(root)
        samples.append([figure["id"] for figure in page(root).of("figure")])
    assert len(samples[0]) == report.SAMPLE
    assert samples[0] == samples[1]


def test_an_empty_catalog_has_a_page(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    shards.write(root, [Row("gone", reason="download_not_found")])
    shards.index(root)
    assert "None." in page(root).words
