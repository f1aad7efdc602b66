"""CommonCatalog as a source: `commoncatalog:PATH`, on a disk, S3 or the hub (`hf://datasets/common-canvas/commoncatalog-cc-by`).

Parquet files below `<shard>/least_dim_range=../aspect_ratio_bucket=../` hold the image's bytes (`jpg`) beside YFCC100M's columns and two captions:
`blip2_caption`, synthetic, and `caption`, of unknown hand. The repositories' tags say 4.0 while the photos are under Flickr's 2.0 licences, so
only the row's own `licenseurl` and `licensename` count.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ccray.config import CatalogConfig
from ccray.data.sources.records import RecordSource, Said, open_records, text_of
from ccray.data.sources.rows import Row, kind_of
from ccray.data.sources.yfcc100m import COLUMNS_23, decoded, photo

IMAGE = "jpg"
CAPTIONS = {"blip2_caption": "en", "caption": None}
ENCODED = re.compile(r"%[0-9A-Fa-f]{2}|\w\+\w")


def read(row: Row, file: str, number: int) -> Iterator[Said]:
    captions = tuple((column, row.get(column), language) for column, language in CAPTIONS.items())
    yield replace(photo(row, f"row:{file}#{number}", perhaps_decoded), captions=captions)


def perhaps_decoded(value: Any) -> str | None:
    """Text that may still be URL-encoded, as YFCC100M's is: without a blank, and with signs of it."""
    text = text_of(value)
    return decoded(text) if text is not None and not any(map(str.isspace, text)) and ENCODED.search(text) else text


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when nothing is there.
    """
    wanted = [*COLUMNS_23, "exif", *CAPTIONS]
    return open_records(config, read, lambda name: kind_of(name) == "parquet", wanted=wanted, image_column=IMAGE)
