"""COCO annotations as a source: `coco:FILE`, JSON with `images`, a table of `licenses` and human captions as `annotations`.

A picture is read from a file beside the annotations where the first one lies there, and downloaded otherwise. COCO names no creators; the
photo's page follows from its Flickr number.
"""

from collections.abc import Iterator
from typing import Any

from ccray.config import CatalogConfig
from ccray.data.sources.listed import declared_license
from ccray.data.sources.places import find_files
from ccray.data.sources.records import RecordSource, Said, at, last_number, named_file, some, text_of, url_locator
from ccray.data.sources.rows import Row, kind_of
from ccray.interfaces import Refused


def photos(document: Any) -> Iterator[Any]:
    """The images of a document, each with its licence's entry and its captions."""
    images = at(document, "images")
    if not isinstance(images, list):
        raise Refused("a COCO file is an object with a list `images`, and this one has none")
    table = at(document, "licenses")
    licenses = {text_of(at(one, "id")): one for one in table} if isinstance(table, list) else {}
    captions: dict[str | None, list[Any]] = {}
    annotations = at(document, "annotations")
    for one in annotations if isinstance(annotations, list) else []:
        if at(one, "caption") is not None:
            captions.setdefault(text_of(at(one, "image_id")), []).append(at(one, "caption"))
    for image in images:
        if isinstance(image, dict):
            yield image | {"terms": licenses.get(text_of(image.get("license"))), "captions": captions.get(text_of(image.get("id")), [])}
        else:
            yield image


def read(image: Row, local: bool) -> Said:
    """An image with its licence's entry and its captions; `local` when the files lie beside the annotations."""
    name = text_of(image.get("file_name"))
    photo = last_number(image.get("flickr_url"))
    url, words = at(image, "terms", "url"), at(image, "terms", "name")
    stated = ("license.url", url), ("license.name", words)
    return Said(
        named_file(name) if local and name is not None else url_locator(some(image.get("coco_url"), image.get("flickr_url"))),
        id=image.get("id"),
        license=stated if "creativecommons.org" in str(url) else stated[::-1],
        license_seen_at=image.get("date_captured"),
        source_url=f"https://www.flickr.com/photo.gne?id={photo}" if photo else None,
        captions=[(f"caption-{number}" if number > 1 else "caption", text, None) for number, text in enumerate(image["captions"], 1)],
    )


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when nothing is there, or it is no COCO file.
    """
    declared_license(config.license)
    place = find_files(config.source.removeprefix("coco:"), f"catalog.source {config.source!r}", lambda name: kind_of(name) == "json")
    local: dict[str, bool] = {}

    def said(image: Row, file: str, number: int) -> Iterator[Said]:
        name = text_of(image.get("file_name"))
        if file not in local and name is not None:
            local[file] = place.base.exists(name)
        yield read(image, local.get(file, False))

    return RecordSource("coco", place, said, config, records=photos)
