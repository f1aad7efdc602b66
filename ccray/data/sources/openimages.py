"""Open Images attribution as a source: `openimages:FILE`, the CSV of storage.googleapis.com/openimages (image_ids_and_rotation, also XM3600's)."""

from collections.abc import Iterator

from ccray.config import CatalogConfig
from ccray.data.sources.records import RecordSource, Said, open_records, some, url_locator
from ccray.data.sources.rows import Row, kind_of


def read(row: Row, file: str, number: int) -> Iterator[Said]:
    """Thumbnail300KURL stands in where the original's address is missing."""
    yield Said(
        url_locator(some(row.get("OriginalURL"), row.get("Thumbnail300KURL"))),
        id=row.get("ImageID"),
        license=(("License", row.get("License")),),
        creator=row.get("Author"),
        creator_url=row.get("AuthorProfileURL"),
        title=row.get("Title"),
        source_url=row.get("OriginalLandingURL"),
    )


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when nothing is there.
    """
    return open_records(config, read, lambda name: kind_of(name) == "csv")
