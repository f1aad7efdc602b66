"""Openverse's API, asked over HTTP: paging, patience, bounds."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ccray.config import CatalogConfig, Download
from ccray.data.listing import open_source, shards
from ccray.data.sources import openverse
from ccray.interfaces import Failed, Refused
from tests.data.sources.listings import as_json, as_lines, by_ref


def result(number: int) -> dict[str, Any]:
    """One image as https://api.openverse.org/v1/ describes it."""
    return {
        "id": f"36537842-b067-4ca0-ad67-{number:012d}",
        "title": f"Lighthouse &amp; sea {number}",
        "indexed_on": "2018-02-10T06:07:49.963625Z",
        "foreign_landing_url": f"https://www.flickr.com/photos/18090920@N07/{number}",
        "url": f"https://live.staticflickr.com/4032/{number}_3ee72d32e1_b.jpg",
        "creator": "barbourians",
        "creator_url": "https://www.flickr.com/photos/18090920@N07",
        "license": ("by", "by-nc", "cc0", "pdm")[number % 4],
        "license_version": ("2.0", "2.0", "1.0", "1.0")[number % 4],
        "license_url": None
        if number % 2
        else "https://creativecommons.org/licenses/by/2.0/"
        if number % 4 == 0
        else "https://creativecommons.org/publicdomain/zero/1.0/",
        "provider": "flickr",
        "source": "flickr",
        "attribution": "...",
        "mature": False,
        "thumbnail": "https://api.openverse.org/v1/images/x/thumb/",
    }


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        page = int(query.get("page", ["1"])[0])
        self.server.asked.append((time.monotonic(), page, query))
        status, body = self.server.answer(page)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "3600")
        if status == 302:
            self.send_header("Location", "http://169.254.169.254/")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Three pages of 4, 4 and 1 results; `fail` holds answers to give first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[float, int, dict[str, list[str]]]] = []
        self.fail: dict[int, list[tuple[int, bytes]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/images/?q=lighthouse&page_size=4"

    def answer(self, page: int) -> tuple[int, bytes]:
        if self.fail.get(page):
            return self.fail[page].pop(0)
        results = [result(number) for number in range(4 * (page - 1), min(4 * page, 9))]
        return 200, json.dumps({"result_count": 9, "page_count": 3, "page_size": 4, "page": page, "results": results}).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    served = Server()
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setattr(openverse, "PAUSE_SECONDS", 0.1)
    yield served
    served.shutdown()
    served.server_close()


def rows_of(config: CatalogConfig) -> dict[str, dict[str, Any]]:
    return {row["source_ref"]: row for table in shards(open_source(config), config) for row in table.to_pylist()}


def test_all_pages_each_asked_once_and_not_too_fast(server: Server) -> None:
    rows = rows_of(CatalogConfig(source=f"openverse:{server.url}", limit=8))
    assert len(rows) == 8
    assert [page for _, page, _ in server.asked] == [1, 2, 3]
    assert all(query["q"] == ["lighthouse"] and query["page_size"] == ["4"] for _, _, query in server.asked)
    times = [moment for moment, _, _ in server.asked]
    assert min(second - first for first, second in itertools.pairwise(times)) >= 0.1


def test_fields(server: Server) -> None:
    rows = rows_of(CatalogConfig(source=f"openverse:{server.url}"))
    row = rows[result(1)["id"]]
    assert (row["license_text"], row["license_evidence"]) == ("by-nc 2.0", "license=by-nc; license_version=2.0")
    assert (row["title"], row["title_original"]) == ("Lighthouse & sea 1", "Lighthouse &amp; sea 1")
    assert (row["creator"], row["creator_url"]) == ("barbourians", "https://www.flickr.com/photos/18090920@N07")
    assert (row["image_url"], row["source_url"]) == (result(1)["url"], result(1)["foreign_landing_url"])
    assert row["license_seen_at"].isoformat() == "2018-02-10T06:07:49.963625+00:00"
    assert rows[result(0)["id"]]["license_text"] == "https://creativecommons.org/licenses/by/2.0/"


def test_passing_failures_are_waited_out(server: Server) -> None:
    server.fail = {1: [(503, b"busy")], 2: [(429, b"slow down"), (502, b"")]}
    config = CatalogConfig(source=f"openverse:{server.url}", download=Download(max_wait_seconds=0.5))
    assert len(rows_of(config)) == 9
    times = [moment for moment, page, _ in server.asked if page == 2]
    assert 0.5 < times[1] - times[0] < 10


@pytest.mark.parametrize(
    "answer", [(404, b"no"), (302, b""), (200, b"<html>"), (200, b"[]"), (200, b'{"detail": "x"}'), (500, b"broken"), (200, b"[" * 100_000)]
)
def test_failures_that_stay(server: Server, answer: tuple[int, bytes]) -> None:
    server.fail = {1: [answer] * 9}
    with pytest.raises(Refused, match="cannot be read"):
        open_source(CatalogConfig(source=f"openverse:{server.url}"))
    server.fail = {2: [answer] * 9}
    with pytest.raises(Failed, match="page=2"):
        rows_of(CatalogConfig(source=f"openverse:{server.url}"))


def test_answers_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openverse, "MAX_ANSWER", 100)
    with pytest.raises(Refused, match="more than 100 bytes"):
        open_source(CatalogConfig(source=f"openverse:{server.url}"))
    monkeypatch.undo()
    monkeypatch.setattr(openverse, "MAX_PAGES", 2)
    monkeypatch.setattr(openverse, "PAUSE_SECONDS", 0)
    assert len(rows_of(CatalogConfig(source=f"openverse:{server.url}"))) == 8


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openverse, "PAUSE_SECONDS", 0)
    with pytest.raises(Refused, match="cannot be read"):
        open_source(CatalogConfig(source="openverse:http://127.0.0.1:9/v1/images/"))


def test_answers_kept_as_files(tmp_path: Any) -> None:
    pages = [{"page": 1, "results": [result(0), result(1), "odd"]}, {"page": 2, "results": [result(2)]}]
    for number, page in enumerate(pages):
        as_json(tmp_path / f"pages/{number}.json", page)
    folder = by_ref(f"openverse:{tmp_path}/pages")
    lines = by_ref(f"openverse:{as_lines(tmp_path / 'pages.jsonl', pages)}")
    assert {ref for ref in folder if "#" not in ref} == {ref for ref in lines if "#" not in ref} == {result(number)["id"] for number in range(3)}
    assert len(folder) == len(lines) == 4
    single = by_ref(f"openverse:{as_lines(tmp_path / 'results.jsonl', [result(0), result(1)])}")
    assert len(single) == 2
