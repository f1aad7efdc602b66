"""Smithsonian Open Access as a source: `smithsonian:FILE_OR_FOLDER`, EDAN records in JSON, JSONL or the bulk files' line-by-line .txt.

A record lists its media, and each has a usage of its own. The record's `metadata_usage` speaks of the words, not of the pictures, so it
counts for nothing here.
"""

from collections.abc import Iterator
from typing import Any

from ccray.config import CatalogConfig
from ccray.data.sources.listed import nothing
from ccray.data.sources.records import RecordSource, Said, at, is_json, open_records, some, text_of, url_locator
from ccray.data.sources.rows import Row, records_like
from ccray.schema import Reject

# Labels of freetext names, the one who made the picture's subject first; a collector is named when nobody else is.
MAKERS = ("photographer", "artist", "creator", "author", "maker", "designer", "illustrator", "engraver", "printer", "manufacturer", "collector")


def is_record(value: Row) -> bool:
    return "descriptiveNonRepeating" in value.get("content", {}) if isinstance(value.get("content"), dict) else False


def read(record: Row, file: str, number: int) -> Iterator[Said]:
    facts = at(record, "content", "descriptiveNonRepeating")
    media = at(facts, "online_media", "media")
    for one in media if isinstance(media, list) and media else [None]:
        yield _said(record, facts, one)


def _said(record: Row, facts: Any, media: Any) -> Said:
    id = some(at(media, "guid"), at(media, "idsId"), at(media, "id"), at(facts, "record_ID"), record.get("id"))
    return Said(
        _locator(media),
        id=id,
        license=[("usage.access", at(media, "usage", "access")), ("usage.text", at(media, "usage", "text"))],
        license_seen_at=some(record.get("lastTimeUpdated"), record.get("timestamp")),
        creator=_maker(record),
        title=some(record.get("title"), at(facts, "title", "content")),
        alt_text=some(at(media, "altTextAccessibility"), at(media, "caption")),
        source_url=some(at(facts, "record_link"), at(facts, "guid")),
        private={"geolocation": {"geoLocation": at(record, "content", "indexedStructured", "geoLocation")}},
    )


def _locator(media: Any) -> str:
    if media is None:
        return nothing(Reject.NO_IMAGE, "the record lists no media")
    kind = at(media, "type")
    if text_of(kind) is not None and kind != "Images":
        return nothing(Reject.NO_IMAGE, f"the medium is of type {text_of(kind)}")
    resources = at(media, "resources")
    found = {text_of(at(one, "label")): at(one, "url") for one in resources} if isinstance(resources, list) else {}
    return url_locator(some(found.get("High-resolution JPEG"), at(media, "content"), found.get("Screen Image")))


def _maker(record: Row) -> Any:
    names = at(record, "content", "freetext", "name")
    labelled = [(str(at(one, "label")).lower(), at(one, "content")) for one in names] if isinstance(names, list) else []
    return next((name for maker in MAKERS for label, name in labelled if maker in label), None)


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when nothing is there.
    """
    return open_records(config, read, lambda name: is_json(name) or ".txt" in name.lower(), records=records_like(is_record))
