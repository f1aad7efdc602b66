"""Megalith-10M as a source: `megalith:FILE_OR_FOLDER`, links to Flickr photos that are free in one of four ways (Flickr's licences 7 to 10).

The tables may not say which photo is under which; then no licence is stated here, and `catalog.license` would have to vouch for all. "No known
copyright restrictions" (7) grants nothing: it is kept as the statement that it is.
"""

from collections.abc import Iterator

from ccray.config import CatalogConfig
from ccray.data.sources.flickr import license_of
from ccray.data.sources.records import RecordSource, Said, last_number, open_records, some, url_locator
from ccray.data.sources.rows import Row, kind_of


def read(row: Row, file: str, number: int) -> Iterator[Said]:
    """A row of a links file; pages are known where the original URL was kept."""
    url = some(row.get("url_highres"), row.get("url"), row.get("url_source"))
    photo = some(last_number(row.get("url_source")), last_number(url))
    page = row.get("url_source")
    name = next((name for name in ("license_url", "license", "license_id", "license_name") if row.get(name) is not None), "license")
    yield Said(
        url_locator(url),
        id=some(row.get("id"), photo, url),
        license=[license_of(row.get(name))],
        creator=some(row.get("ownername"), row.get("creator"), row.get("author")),
        title=row.get("title"),
        source_url=page if "flickr.com/photos/" in str(page) else f"https://www.flickr.com/photo.gne?id={photo}" if photo else None,
        captions=tuple((name, row.get(name), "en") for name in sorted(row) if name.startswith("caption")),
    )


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when nothing is there.
    """
    return open_records(config, read, lambda name: kind_of(name) is not None)
