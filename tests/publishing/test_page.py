"""The attribution page: every row in the file where the script looks for it, nothing that a browser would run, and a search that finds."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ccray.schema import hex_key
from ccray.stages import publish
from ccray.storage import Root
from tests.publishing import roots

COUNT = 400
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = roots.recipe_of("publish.page_rows=60")
    root = roots.finished(tmp_path_factory.mktemp("page"), recipe, COUNT)
    publish.run(recipe, root)
    return Path(root.path("published/dataset/attribution"))


def call(text: str, name: str) -> list[Any]:
    """The arguments with which a script calls a function."""
    found = re.fullmatch(rf"{name}\((.*)\);\n", text, re.DOTALL)
    assert found is not None
    return list(json.loads(f"[{found[1]}]"))


def test_every_row_is_where_its_key_says(page: Path) -> None:
    [index] = call((page / "index.js").read_text(), "ccrayIndex")
    assert (index["rows"], index["files"]) == (COUNT, 7)
    seen = {}
    for number in range(index["files"]):
        own, lines = call((page / f"rows/000/{number:06d}.js").read_text(), "ccrayRows")
        assert own == number
        assert lines == sorted(lines, key=lambda row: row[0])
        for row in lines:
            assert int(row[0], 16) * index["files"] >> 64 == number
            seen[row[0]] = row
    for number in range(COUNT):
        one = roots.row(number)
        row = seen.pop(hex_key(one["key"]))
        title, creator, creator_url, source, source_url, license = row[1:7]
        assert title == (" ".join(one["title"].split()) if one["title"] else None)
        assert (creator, creator_url, source) == (one["creator"], one["creator_url"], one["source"])
        assert index["licenses"][license] == [one["license"], one["license_url"]]
        assert source_url == (one["source_url"] if (one["source_url"] or "").startswith("https:") else None)
        assert (len(row) > 7) == bool(one["copies"])
    assert not seen


def test_no_file_carries_a_strangers_tag(page: Path) -> None:
    for path in page.rglob("*"):
        if path.suffix in (".js", ".html") and path.name != "page.js":
            text = path.read_text(encoding="utf-8")
            assert "<script>" not in text
            assert "<img" not in text
            assert "javascript:" not in text
    assert "Content-Security-Policy" in (page / "index.html").read_text()
    assert 'href="plain/00000.html"' in (page / "index.html").read_text()


def test_plain_pages_list_all_for_readers_without_scripts(page: Path) -> None:
    pages = sorted((page / "plain").iterdir())
    keys = [key for one in pages for key in re.findall(r'<li id="([0-9a-f]{16})">', one.read_text(encoding="utf-8"))]
    assert keys == sorted(hex_key(roots.row(number)["key"]) for number in range(COUNT))
    assert 'href="00001.html">Next' in pages[0].read_text(encoding="utf-8")


def test_a_large_set_has_no_plain_pages(tmp_path: Path) -> None:
    recipe = roots.recipe_of("publish.plain_pages_up_to=10")
    root = Root(roots.finished(tmp_path, recipe, 12).uri)
    publish.run(recipe, root)
    assert not root.exists("published/dataset/attribution/plain")
    assert "plain/" not in root.read("published/dataset/attribution/index.html").decode()


def dom(page: Path, asked: str, home: Path) -> str:
    """The page as a browser has it, opened from the disk with a search in its address."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", f"--user-data-dir={home}", "--dump-dom"]
    answer = subprocess.run([CHROMIUM, *options, f"{(page / 'index.html').as_uri()}#{asked}"], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_searches_from_the_disk(page: Path, tmp_path: Path) -> None:
    def keys(text: str) -> list[str]:
        return re.findall(r'id="image-([0-9a-f]{16})"', text)

    hostile = dom(page, f"q={quote('<script>')}", tmp_path)
    assert "<title>tiny: whose images these are</title>" in hostile, "a title was run as a script"
    assert len(keys(hostile)) == 50
    assert "&lt;script&gt;" in hostile
    expected = {
        hex_key(one["key"])
        for one in map(roots.row, range(COUNT))
        if one["creator"] == roots.CREATORS[5] and one["title"] == roots.TITLES[1] and one["license"] == "LicenseRef-CC-BY-2.1-JP"
    }
    assert 0 < len(expected) < 50
    assert set(keys(dom(page, f"q={quote('ＸＸＸＸ 猫')}&license=LicenseRef-CC-BY-2.1-JP", tmp_path))) == expected
    wanted = hex_key(roots.row(123)["key"])
    by_key = dom(page, f"q={wanted.upper()}", tmp_path)
    assert keys(by_key) == [wanted]
    assert "1 image has this key." in by_key
    assert "0 images found among 400." in dom(page, "q=nothing+like+this", tmp_path)
