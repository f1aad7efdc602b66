"""Openverse as a source: `openverse:FILE_OR_FOLDER` of its API's answers or of its catalogue's TSV; `openverse:URL` asks the API itself.

    openverse:https://api.openverse.org/v1/images/?q=lighthouse&license_type=commercial

The API is asked one page a second, as its anonymous users may; pages are kept while the run lasts, so that each is asked for once.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import urllib3

from ccray.config import CatalogConfig
from ccray.data.sources.listed import Listed, declared_license, nothing
from ccray.data.sources.records import RecordSource, Said, is_json, listed, open_records, some, time_of, url_locator, versioned
from ccray.data.sources.rows import Row, kind_of, records_like
from ccray.interfaces import Failed, Refused
from ccray.schema import Reject
from ccray.storage import Root, now

PAUSE_SECONDS = 1.0  # between two pages
MAX_PAGES = 1_000
MAX_ANSWER = 16 << 20  # bytes of one page
CHUNK = 1 << 16

# The catalogue's TSV has no header: 20 columns in the image table, 17 in what its loaders wrote. `\N` is SQL's null.
TSV_20 = (
    *("id", "created_on", "updated_on", "ingestion_type", "_", "foreign_identifier", "foreign_landing_url", "url", "thumbnail"),
    *("width", "height", "filesize", "license", "_license", "license_version", "creator", "creator_url", "title", "provider", "source"),
)
TSV_17 = (
    *("foreign_identifier", "foreign_landing_url", "url", "thumbnail", "width", "height", "filesize", "license", "license_version"),
    *("creator", "creator_url", "title", "meta_data", "tags", "watermarked", "provider", "source"),
)
LAYOUTS = {20: TSV_20, 17: TSV_17}


def is_image(value: Row) -> bool:
    return "license" in value and ("url" in value or "foreign_landing_url" in value)


def read(row: Row, file: str, number: int) -> Iterator[Said]:
    """A result of the API, or a row of the catalogue's dumps, in which `\\N` stands for nothing."""
    said = {name: None if value == r"\N" else value for name, value in row.items()}
    yield Said(
        url_locator(said.get("url")),
        id=some(said.get("id"), said.get("foreign_identifier")),
        license=[
            ("license_url", said.get("license_url")),
            versioned(said.get("license"), said.get("license_version"), ("license", "license_version")),
        ],
        license_seen_at=some(said.get("updated_on"), said.get("indexed_on")),
        creator=said.get("creator"),
        creator_url=said.get("creator_url"),
        title=said.get("title"),
        source_url=said.get("foreign_landing_url"),
    )


class Api:
    """The answers to one query, page by page."""

    name = "openverse"
    base: Root | None = None
    image_column: str | None = None

    def __init__(self, url: str, config: CatalogConfig) -> None:
        self._parts = urlsplit(url)
        self._config = config
        self._pages: list[tuple[dict[str, Any], Any]] = []  # answer, time
        self._http = urllib3.PoolManager(retries=False, timeout=config.download.timeout_seconds, headers={"User-Agent": config.download.user_agent})
        self._page(1)

    def listing(self) -> Iterator[Listed]:
        """Page after page, as many as the API says there are, at most `MAX_PAGES`."""
        for number in range(1, MAX_PAGES + 1):
            answer, seen_at = self._page(number)
            for place, row in enumerate(answer["results"]):
                here = f"page-{number}#{place}"
                if not isinstance(row, dict):
                    yield Listed(here, here, nothing(Reject.MALFORMED_ROW, f"a result is {type(row).__name__}, expected an object"))
                    continue
                for said in read(row, "", place):
                    yield listed(said, here, self._config, seen_at)
            if not answer["results"] or number >= answer["page_count"]:
                return

    def _page(self, number: int) -> tuple[dict[str, Any], Any]:
        if number > len(self._pages):
            if self._pages:
                threading.Event().wait(PAUSE_SECONDS)
            self._pages.append((self._answer(number), time_of(now())))
        return self._pages[number - 1]

    def _answer(self, number: int) -> dict[str, Any]:
        query = [(name, value) for name, value in parse_qsl(self._parts.query, keep_blank_values=True) if name != "page"]
        url = urlunsplit(self._parts._replace(query=urlencode([*query, ("page", str(number))]), fragment=""))
        outcome = _Trouble("not asked", None)
        for attempt in range(self._config.download.attempts):
            if attempt:
                threading.Event().wait(min(outcome.wait_seconds or 0, self._config.download.max_wait_seconds) + PAUSE_SECONDS * 2**attempt)
            answered = self._ask(url)
            if isinstance(answered, dict):
                return answered
            outcome = answered
            if outcome.wait_seconds is None:
                break
        failure = Refused if number == 1 else Failed  # the first page is asked for at the door
        raise failure(f"{url} cannot be read: {outcome.what}")

    def _ask(self, url: str) -> "dict[str, Any] | _Trouble":
        deadline = time.monotonic() + self._config.download.timeout_seconds
        data = bytearray()
        try:
            response = self._http.request("GET", url, preload_content=False, redirect=False)
            while len(data) <= MAX_ANSWER and time.monotonic() < deadline and (chunk := response.read1(CHUNK)):
                data += chunk
            whole = len(data) <= MAX_ANSWER and time.monotonic() < deadline
            response.release_conn() if whole else response.close()
            answer = json.loads(data) if whole and response.status == 200 else None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return _Trouble(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", 0)
        except (ValueError, RecursionError) as error:
            return _Trouble(f"no JSON: {error}", None)
        if isinstance(answer, dict) and isinstance(answer.get("results"), list):
            pages = answer.get("page_count")
            return {"results": answer["results"], "page_count": pages if isinstance(pages, int) else MAX_PAGES}
        asked_to_wait = response.headers.get("Retry-After", "")
        passing = response.status == 429 or response.status >= 500
        size = f"{len(data)} bytes" if whole else f"more than {MAX_ANSWER} bytes, or slower than {self._config.download.timeout_seconds:g} s"
        what = f"it answers HTTP {response.status} with {size}, expected JSON with a list `results`"
        return _Trouble(what, float(asked_to_wait) if passing and asked_to_wait.isdigit() else 0 if passing else None)


@dataclass(frozen=True)
class _Trouble:
    """Why a page did not come; `wait_seconds` before it is asked for again, None where that would not help."""

    what: str
    wait_seconds: float | None


def open_source(config: CatalogConfig) -> Api | RecordSource:
    """Raises:
    Refused: when nothing is there, or the API does not answer.
    """
    place = config.source.removeprefix("openverse:")
    if place.startswith(("http://", "https://")):
        declared_license(config.license)
        return Api(place, config)
    return open_records(config, read, lambda name: is_json(name) or kind_of(name) == "tsv", records=records_like(is_image), layouts=LAYOUTS)
