"""YFCC100M as a source: `yfcc100m:FILE_OR_FOLDER`, its headerless TSV files, plain or .bz2 or .gz, with 25 columns or the older 23.

Texts are URL-encoded. Each row has its licence's name and deed; all are Flickr's of 2014, version 2.0.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus

from ccray.config import CatalogConfig
from ccray.data.sources.listed import nothing
from ccray.data.sources.records import RecordSource, Said, open_records, text_of, url_locator
from ccray.data.sources.rows import Row
from ccray.schema import Reject

COLUMNS_23 = (
    *("photoid", "uid", "unickname", "datetaken", "dateuploaded", "capturedevice", "title", "description", "usertags", "machinetags"),
    *("longitude", "latitude", "accuracy", "pageurl", "downloadurl", "licensename", "licenseurl"),
    *("serverid", "farmid", "secret", "secretoriginal", "ext", "marker"),
)
COLUMNS_25 = ("line", COLUMNS_23[0], "hash", *COLUMNS_23[1:])
LAYOUTS = {25: COLUMNS_25, 23: COLUMNS_23}
GEOLOCATION = ("longitude", "latitude", "accuracy", "machinetags")


def read(row: Row, file: str, number: int) -> Iterator[Said]:
    marker = text_of(row.get("marker"))
    yield photo(row, url_locator(row.get("downloadurl")) if marker != "1" else nothing(Reject.NO_IMAGE, "the row is a video's (marker 1)"), decoded)


def photo(row: Row, locator: str, decode: Any) -> Said:
    """What a row with YFCC100M's columns says; CommonCatalog has the same."""
    owner = text_of(row.get("uid"))
    return Said(
        locator,
        id=row.get("photoid"),
        license=(("licenseurl", row.get("licenseurl")), ("licensename", row.get("licensename"))),
        creator=decode(row.get("unickname")),
        creator_url=f"https://www.flickr.com/people/{decoded(owner)}/" if owner is not None else None,
        title=decode(row.get("title")),
        alt_text=decode(row.get("description")),
        source_url=row.get("pageurl"),
        private={
            "geolocation": {name: row.get(name) for name in GEOLOCATION},
            "exif": {name: row.get(name) for name in ("capturedevice", "exif")},
            "user_id": {"uid": owner},
        },
    )


def decoded(value: Any) -> str | None:
    """A URL-encoded cell as text: `Canon+PowerShot`."""
    text = text_of(value)
    return None if text is None else unquote_plus(text)


def is_dataset(name: str) -> bool:
    """Leaves out the autotags, places and hashes that may lie in the same folder."""
    file = name.rpartition("/")[2].lower()
    return file.startswith("yfcc100m_dataset") or ("yfcc100m_" not in file and ".tsv" in file)


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when nothing is there.
    """
    return open_records(config, read, is_dataset, layouts=LAYOUTS)
