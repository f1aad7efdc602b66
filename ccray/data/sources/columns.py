"""Which column of a strange table holds what: common names are known, others are mapped in `catalog.columns`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ccray.config import ColumnMap
from ccray.data.sources.records import Said, versioned
from ccray.data.sources.rows import Row
from ccray.interfaces import Refused

# Names are compared without case, blanks and punctuation; the first that is there wins.
COMMON: dict[str, tuple[str, ...]] = {
    "image": (
        *("image", "file", "filename", "filepath", "imagefile", "imagefilename", "imagepath", "path", "localpath"),
        *("img", "imgpath", "jpg", "jpeg", "png", "webp", "bytes", "imagebytes"),
    ),
    "url": ("imageurl", "imgurl", "downloadurl", "originalurl", "contenturl", "fileurl", "mediaurl", "url"),
    "id": ("id", "imageid", "photoid", "key", "uid", "uuid", "identifier", "foreignidentifier", "cocoid"),
    "license": ("licenseurl", "licenceurl", "licenselink", "cclicense", "license", "licence", "licensename", "licencename", "rights"),
    "license_version": ("licenseversion", "licenceversion"),
    "license_seen_at": ("licenseseenat", "licenceseenat", "retrievedat", "crawledat"),
    "creator": ("creator", "author", "artist", "photographer", "unickname", "ownername", "username", "owner", "uploader"),
    "creator_url": ("creatorurl", "authorurl", "authorprofileurl", "artisturl", "ownerurl", "userurl", "profileurl"),
    "title": ("title", "imagetitle", "headline"),
    "alt_text": ("alttext", "alt", "caption", "text", "description"),
    "source_url": (
        *("sourcepage", "sourcepageurl", "pageurl", "sourceurl", "foreignlandingurl", "originallandingurl", "landingurl"),
        *("landingpage", "photopage", "webpage"),
    ),
}

# What tells of persons, by the words of `catalog.keep`; left out unless asked for.
PRIVATE: dict[str, frozenset[str]] = {
    "geolocation": frozenset({"latitude", "longitude", "lat", "lon", "lng", "long", "geolocation", "gps", "accuracy", "machinetags", "location"}),
    "exif": frozenset({"exif", "exifdata", "capturedevice", "camera", "cameramodel"}),
    "user_id": frozenset({"userid", "uid", "nsid", "ownerid", "ownernsid", "authorid", "creatorid", "uploaderid"}),
}


@dataclass(frozen=True)
class Columns:
    """The table's own names of the columns we need; None where it has none."""

    image: str | None = None
    url: str | None = None
    id: str | None = None
    license: str | None = None
    license_version: str | None = None
    license_seen_at: str | None = None
    creator: str | None = None
    creator_url: str | None = None
    title: str | None = None
    alt_text: str | None = None
    source_url: str | None = None
    private: tuple[tuple[str, str], ...] = ()  # word of `catalog.keep`, column
    captions: tuple[tuple[str, str | None], ...] = ()  # column, language

    def present(self) -> list[str]:
        """The table's columns to read, each once."""
        named = [name for field, name in vars(self).items() if field not in ("private", "captions") and name is not None]
        return list(dict.fromkeys([*named, *(column for _, column in self.private), *(column for column, _ in self.captions)]))

    def said(self, row: Row, locator: str) -> Said:
        """What a row says of the picture behind `locator`."""

        def value(field: str) -> Any:
            column = getattr(self, field)
            return None if column is None else row.get(column)

        private: dict[str, dict[str, Any]] = {}
        for kind, column in self.private:
            private.setdefault(kind, {})[column] = row.get(column)
        return Said(
            locator,
            id=value("id"),
            license=(versioned(value("license"), value("license_version"), (str(self.license), str(self.license_version))),),
            private=private,
            captions=[one for column, language in self.captions for one in _texts(row.get(column), column, language)],
            **{field: value(field) for field in ("license_seen_at", "creator", "creator_url", "title", "alt_text", "source_url")},
        )


def find(present: Sequence[str], mapped: ColumnMap, table: str, keep: Sequence[str] = ()) -> Columns:
    """The columns that we need among those that are present; of those that tell of persons the ones that `keep` asks for.

    Raises:
        Refused: when a mapped column is not there.
    """
    given = {field: column for field, column in mapped.model_dump(exclude={"captions"}).items() if column is not None}
    captions = tuple((column, language or None) for column, _, language in (one.partition(":") for one in mapped.captions))
    for field, column in [*given.items(), *(("captions", column) for column, _ in captions)]:
        if column not in present:
            raise Refused(f"catalog.columns.{field} is {column!r}, but {table} has no such column: it has {_names(present)}")
    by_name: dict[str, str] = {}
    for column in present:
        by_name.setdefault(_plain(column), column)
    common = {field: next((by_name[name] for name in names if name in by_name), None) for field, names in COMMON.items()}
    if "url" in given and "image" not in given:  # asked to download: a column of file names is then only a name
        common["image"] = None
    private = tuple((kind, column) for kind in keep for column in present if _plain(column) in PRIVATE[kind])
    return Columns(**(common | given), private=private, captions=captions)


def require(columns: Columns, present: Sequence[str], table: str, declared: str | None) -> None:
    """Raises:
    Refused: when no column gives an image, or none gives a licence and none was declared.
    """
    if columns.image is None and columns.url is None:
        raise Refused(
            f"{table} has no column that we know as an image (such as file, image, url): it has {_names(present)}; "
            "name it by catalog.columns.image=COLUMN or catalog.columns.url=COLUMN"
        )
    if columns.license is None and declared is None:
        raise Refused(
            f"{table} has no column that we know as a licence (such as license, license_url): it has {_names(present)}; "
            "name it by catalog.columns.license=COLUMN, or declare one licence for all by --license SPDX"
        )


def _texts(value: Any, column: str, language: str | None) -> list[tuple[str, Any, str | None]]:
    """A column's caption, or its captions, each under a name of its own."""
    texts = value if isinstance(value, list | tuple) else [value]
    return [(f"{column}-{number}" if number > 1 else column, text, language) for number, text in enumerate(texts, 1)]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _names(present: Sequence[str]) -> str:
    shown = ", ".join(map(repr, present[:40]))
    return f"{shown} and {len(present) - 40} more" if len(present) > 40 else shown or "none"
