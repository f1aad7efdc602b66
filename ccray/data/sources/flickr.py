"""Flickr's API records as a source: `flickr:FILE_OR_FOLDER`, answers of photos.search, photosets.getPhotos, photos.getInfo and the like.

They may stand in JSON or JSONL, wrapped as the API wraps them or bare, each photo with its licence as a number (`license_names.FLICKR`).
"""

from collections.abc import Iterator
from typing import Any

from ccray import licenses
from ccray.config import CatalogConfig
from ccray.data.sources.listed import nothing
from ccray.data.sources.records import RecordSource, Said, at, is_json, last_number, open_records, some, text_of, url_locator
from ccray.data.sources.rows import Row, records_like
from ccray.schema import Reject

WORDS = {"0": "All Rights Reserved", "7": "No known copyright restrictions", "8": "United States Government Work"}  # of numbers that are no licence
SIZES = ("o", "6k", "5k", "4k", "3k", "k", "h", "l", "c", "z", "m", "w", "n", "s", "t", "q", "sq")  # largest first
PAGES = "https://www.flickr.com"
STATIC = "https://live.staticflickr.com"


def license_of(value: Any) -> tuple[str, Any]:
    """A licence told by number, as a statement with its words; what is no number stays as it is."""
    number = text_of(value)
    if number is None or not number.isdecimal():
        return "license", value
    return f"license={number}", WORDS.get(number) or licenses.parse(number).url or number


def is_photo(value: Row) -> bool:
    return "photo" not in value and ("license" in value or ("id" in value and ("owner" in value or "secret" in value)))


def read(photo: Row, file: str, number: int) -> Iterator[Said]:
    """A photo as any of the API's methods gives it, its largest picture first."""
    owner = photo.get("owner")
    address = _address(photo)
    nsid = some(at(owner, "nsid"), photo.get("owner_id"), owner if "@" in str(owner) else None)
    name = some(at(owner, "realname"), at(owner, "username"), photo.get("ownername"), None if nsid == owner else owner)
    id = text_of(some(photo.get("id"), last_number(address)))
    page = at(photo, "urls", "url", "0", "_content")
    video = photo.get("media") == "video"
    yield Said(
        nothing(Reject.NO_IMAGE, "the record is a video's") if video else url_locator(address),
        id=id,
        license=[license_of(photo.get("license"))],
        creator=name,
        creator_url=f"{PAGES}/people/{nsid}/" if nsid else None,
        title=some(at(photo, "title", "_content"), photo.get("title")),
        alt_text=some(at(photo, "description", "_content"), photo.get("description")),
        source_url=some(page, f"{PAGES}/photos/{nsid}/{id}" if nsid and id else None),
        private=_private(photo, nsid),
    )


def _address(photo: Row) -> str | None:
    """The largest picture that the record names, else the one that its id and secret give (flickr.com/services/api/misc.urls.html)."""
    named = text_of(some(*(photo.get(f"url_{size}") for size in SIZES), photo.get("url")))
    if named is not None:
        return named
    server, id, secret, original = (text_of(photo.get(name)) for name in ("server", "id", "secret", "originalsecret"))
    if server is None or id is None or secret is None:
        return None
    return f"{STATIC}/{server}/{id}_{original}_o.{photo.get('originalformat') or 'jpg'}" if original else f"{STATIC}/{server}/{id}_{secret}_b.jpg"


def _private(photo: Row, nsid: Any) -> dict[str, dict[str, Any]]:
    place = photo.get("location") if isinstance(photo.get("location"), dict) else photo
    names = ("latitude", "longitude", "accuracy", "machine_tags")
    geolocation = {name: at(place, name) if name != "machine_tags" else photo.get(name) for name in names}
    taken_here = text_of(geolocation["latitude"]) not in (None, "0") or text_of(geolocation["longitude"]) not in (None, "0")
    return {"geolocation": geolocation if taken_here else {}, "exif": {"exif": photo.get("exif")}, "user_id": {"owner": nsid}}


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when nothing is there.
    """
    return open_records(config, read, is_json, records=records_like(is_photo))
