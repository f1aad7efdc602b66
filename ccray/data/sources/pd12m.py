"""PD12M as a source: `pd12m:FILE_OR_FOLDER`, with the columns of its current card or of the older one (s3_key, md5_hash, license_type).

Its captions are synthetic, in English.
"""

from collections.abc import Iterator

from ccray.config import CatalogConfig
from ccray.data.sources.records import RecordSource, Said, open_records, some, text_of, url_locator
from ccray.data.sources.rows import Row, kind_of

BUCKET = "https://pd12m.s3.us-west-2.amazonaws.com/"


def read(row: Row, file: str, number: int) -> Iterator[Said]:
    """A row of any of the card's forms: the present one with `url`, the older ones with `s3_key`."""
    key = text_of(row.get("s3_key"))
    yield Said(
        url_locator(some(row.get("url"), BUCKET + key.lstrip("/") if key is not None else None)),
        id=some(row.get("id"), key, row.get("hash"), row.get("md5_hash")),
        license=[(name, row.get(name)) for name in ("license", "license_type")],
        source_url=row.get("source"),
        captions=(("caption", row.get("caption"), "en"),),
    )


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when nothing is there.
    """
    return open_records(config, read, lambda name: kind_of(name) is not None)
