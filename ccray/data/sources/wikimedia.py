"""Wikimedia Commons as a source: `wikimedia:FILE_OR_FOLDER`, answers of `action=query&prop=imageinfo&iiprop=url|user|extmetadata` in JSON or JSONL.

Texts there are HTML; a licence is told up to four times over, and the strictest counts.
"""

from collections.abc import Iterator
from typing import Any

from ccray.config import CatalogConfig
from ccray.data.sources.listed import nothing
from ccray.data.sources.records import RecordSource, Said, at, is_json, open_records, some, text_of, url_locator
from ccray.data.sources.rows import Row, records_like
from ccray.data.sources.text import first_link
from ccray.schema import Reject

LICENSE_FIELDS = ("LicenseUrl", "LicenseShortName", "License", "UsageTerms")


def is_page(value: Row) -> bool:
    return "imageinfo" in value or "extmetadata" in value or ("title" in value and ("pageid" in value or "missing" in value))


def read(page: Row, file: str, number: int) -> Iterator[Said]:
    """A page of `action=query`, or its `imageinfo` alone; the stricter of its licence statements counts."""
    info = page if "extmetadata" in page else at(page, "imageinfo", "0")

    def told(name: str) -> Any:
        value = at(info, "extmetadata", name)
        return at(value, "value") if isinstance(value, dict) else value

    artist = text_of(some(told("Artist"), told("Attribution")))
    own_work = "own work" in str(told("Credit")).lower()
    title = text_of(page.get("title"))
    kind = at(info, "mediatype")
    yield Said(
        nothing(Reject.NO_IMAGE, f"the page is of a file of kind {kind}") if kind in ("VIDEO", "AUDIO") else url_locator(at(info, "url")),
        id=some(page.get("pageid"), title, at(info, "url")),
        license=[(name, told(name)) for name in LICENSE_FIELDS],
        creator=some(artist, at(info, "user") if own_work else None),
        creator_url=first_link(artist) if artist is not None else None,
        title=some(told("ObjectName"), title.removeprefix("File:") if title is not None else None),
        alt_text=told("ImageDescription"),
        source_url=some(at(info, "descriptionurl"), at(info, "descriptionshorturl")),
        private={
            "geolocation": {name: told(name) for name in ("GPSLatitude", "GPSLongitude", "GPSMapDatum")},
            "exif": {"metadata": at(info, "metadata"), "commonmetadata": at(info, "commonmetadata")},
            "user_id": {"user": at(info, "user"), "userid": at(info, "userid")},
        },
    )


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when nothing is there.
    """
    return open_records(config, read, is_json, records=records_like(is_page))
