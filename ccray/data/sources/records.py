"""From what a record says of a picture, in the source's own words, to a listed row: the one way that all catalogs of records go.

An adapter only says which field holds what (`Said`); mending text, joining licence statements, dating them, dropping what tells of
persons and naming evidence happen here, once.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ccray import licenses
from ccray.config import CatalogConfig
from ccray.data.sources.listed import Listed, Shipped, declared_license, file_locator, nothing
from ccray.data.sources.places import Place, find_files
from ccray.data.sources.rows import Layouts, Malformed, Records, Row, kind_of, open_table
from ccray.data.sources.text import MAX_CHARACTERS, mend
from ccray.interfaces import Failed, Refused
from ccray.schema import Reject
from ccray.storage import Root

MAX_URL = 8_000  # characters; servers refuse longer ones
MAX_LICENSE = 2_000  # a longer statement is not cut, since its end may forbid what its beginning allows
MAX_REFERENCE = 1_000
MAX_PRIVATE = 100_000
HOST = re.compile(r"^[a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?(/|$)", re.IGNORECASE)
BREAK = re.compile(r"[^\S ]")  # blanks that no address has, but for the space
PHOTO = re.compile(r"(?:/|[?&]id=)(\d{6,})(?:[_/?#&]|$)")
# Words that take a permission back, in statements that name no licence.
FORBIDS = re.compile(
    r"all rights reserved|fair use|non-?free|non-?commercial|no ?-?deriv|conditions apply|restrictions apply|restricted|permission|personal use",
    re.IGNORECASE,
)
NO_URL = nothing(Reject.NO_IMAGE, "the record names no image to download")


@dataclass(frozen=True)
class Said:
    """What a record says of one picture. Values are as they came, of any type; what cannot be used becomes None."""

    locator: str
    id: Any = None
    license: Sequence[tuple[str, Any]] = ()  # field, or `field=words` where ours differ, and words; the strictest statement counts
    license_seen_at: Any = None
    creator: Any = None
    creator_url: Any = None
    title: Any = None
    alt_text: Any = None
    source_url: Any = None
    captions: Sequence[tuple[str, Any, str | None]] = ()  # column, words, language
    private: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by the words of `catalog.keep`


Read = Callable[[Row, str, int], Iterable[Said]]  # a record, its file and its number there -> its pictures


class RecordSource:
    """The pictures of all records in some files."""

    def __init__(self, name: str, place: Place, read: Read, config: CatalogConfig, **table: Any) -> None:
        """`table`: `wanted` columns, `records` or `layouts` of the files, `image_column` of embedded images."""
        self.name = name
        self.base: Root | None = place.base
        self.image_column: str | None = table.get("image_column")
        self._place = place
        self._read = read
        self._config = config
        self._wanted: list[str] | None = table.get("wanted")
        self._records: Records | None = table.get("records")
        self._layouts: Layouts | None = table.get("layouts")

    def listing(self) -> Iterator[Listed]:
        """Raises:
        Refused: when the first file cannot be read.
        Failed: when another one cannot.
        """
        first, *others = self._place.names
        yield from self._file(first)
        for name in others:
            try:
                yield from self._file(name)
            except Refused as refusal:
                raise Failed(str(refusal)) from None

    def _file(self, name: str) -> Iterator[Listed]:
        file = open_table(self._place.base, name, self._records, self._layouts)
        for number, row in file.rows(self._wanted):
            here = f"{name}#{number}"
            if isinstance(row, Malformed):
                yield Listed(here, here, nothing(Reject.MALFORMED_ROW, row.detail))
                continue
            for said in self._read(row, name, number):
                yield listed(said, here, self._config, file.seen_at)


def open_records(config: CatalogConfig, read: Read, accepts: Callable[[str], bool], **table: Any) -> RecordSource:
    """The source that `catalog.source` names: the file, or those in the folder that `accepts` takes; `table` as in `RecordSource`.

    Raises:
        Refused: when nothing is there.
    """
    declared_license(config.license)
    name, _, place = config.source.partition(":")
    return RecordSource(name, find_files(place, f"catalog.source {config.source!r}", accepts), read, config, **table)


def is_json(name: str) -> bool:
    """Whether a file of this name holds JSON."""
    return kind_of(name) in ("json", "jsonl")


def listed(said: Said, here: str, config: CatalogConfig, seen_at: datetime | None) -> Listed:
    """A row of the listing; `here` names a record that has no id of its own."""
    ref = text_of(said.id)
    if ref is None or len(ref) > MAX_REFERENCE:
        ref = here
    url = said.locator.removeprefix("url:") if said.locator.startswith("url:") else None
    return Listed(ref, ref, said.locator, image_url=url, **described(said, config, seen_at))


def described(said: Said, config: CatalogConfig, seen_at: datetime | None) -> dict[str, Any]:
    """What is known of a picture, as fields of `Listed`; where no licence is stated the declared one counts."""
    license_text, evidence = strictest(said.license)
    creator, title = text_of(said.creator), text_of(said.title)
    plain_creator, plain_title = _mended(creator), _mended(title)
    return {
        "license_text": license_text or config.license,
        "license_basis": "source record" if license_text else "declared" if config.license else None,
        "license_evidence": evidence or (f"catalog.license={config.license}" if config.license else None),
        "license_seen_at": (time_of(said.license_seen_at) or seen_at) if license_text else None,
        "creator": plain_creator,
        "creator_original": creator[:MAX_CHARACTERS] if creator is not None and creator != plain_creator else None,
        "creator_url": web(said.creator_url),
        "title": plain_title,
        "title_original": title[:MAX_CHARACTERS] if title is not None and title != plain_title else None,
        "alt_text": _mended(text_of(said.alt_text)),
        "source_url": web(said.source_url),
        "private": _private(said.private, config.keep),
        "captions": tuple(Shipped(column, text, language) for column, words, language in said.captions if (text := _mended(text_of(words)))),
    }


def _mended(text: str | None) -> str | None:
    return None if text is None else mend(text)


def _private(told: Mapping[str, Mapping[str, Any]], keep: Sequence[str]) -> str | None:
    kept = {kind: {name: value for name, value in told.get(kind, {}).items() if _tells(value)} for kind in keep}
    kept = {kind: values for kind, values in kept.items() if values}
    return json.dumps(kept, ensure_ascii=False, sort_keys=True, default=str)[:MAX_PRIVATE] if kept else None


def _tells(value: Any) -> bool:
    return value not in (None, "", [], {}) and not isinstance(value, bytes) and not (isinstance(value, float) and math.isnan(value))


def strictest(statements: Sequence[tuple[str, Any]]) -> tuple[str | None, str | None]:
    """Of several statements about one picture the one that permits least, and all of them as evidence: `field=words; field=words`."""
    told = [(name, _statement(text)) for name, words in statements for text in _stated(words)]
    if not told:
        return None, None
    evidence = "; ".join(name if "=" in name else f"{name}={text}" for name, text in told)
    return max((text for _, text in told), key=_strictness), evidence


def _stated(words: Any) -> Iterator[str]:
    """Every statement in a cell. An object is one, too, though not one that we read: were it passed over, a declared licence would take its place."""
    if isinstance(words, list):
        for one in words:
            yield from _stated(one)
    elif isinstance(words, dict) and words:
        yield json.dumps(words, ensure_ascii=False, default=str)
    elif (text := text_of(words)) is not None:
        yield text


def _statement(text: str) -> str:
    return text if len(text) <= MAX_LICENSE else f"a statement of {len(text)} characters"


@lru_cache(1 << 14)
def _strictness(text: str) -> int:
    """Larger for what permits less; statements that say nothing of a licence come last, the first of equals wins."""
    license = licenses.parse(text)
    if license.bucket == "none":  # a retired licence is one, too; a deed without its version says too little
        return 100 if FORBIDS.search(text) or (license.family is not None and license.version is not None) else -1
    flags = (license.derivatives is False, license.commercial is False, bool(license.share_alike), bool(license.attribution))
    return sum(weight for weight, flag in zip((8, 4, 2, 1), flags, strict=True) if flag)


def versioned(code: Any, version: Any, fields: tuple[str, str]) -> tuple[str, Any]:
    """A licence told in two fields, `by` and `2.0`, as one statement."""
    stated, number = text_of(code), text_of(version)
    if isinstance(code, list | dict) or stated is None or number is None or _strictness(stated) >= 0:
        return fields[0], code
    readings = (f"{stated} {number}", f"cc-{stated}-{number}")
    reading = next((reading for reading in readings if _strictness(reading) >= 0), readings[0])
    return f"{fields[0]}={stated}; {fields[1]}={number}", reading


def text_of(value: Any) -> str | None:
    """A cell as text; of a list its first entry; None for what is empty or holds no text."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None or isinstance(value, dict | list | bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, float) and value.is_integer():  # ids in columns with gaps
        value = int(value)
    return str(value).strip() or None


def at(record: Any, *path: str) -> Any:
    """What stands at a path of keys; digits count in lists. None where there is no such place."""
    for key in path:
        if isinstance(record, list) and key.isdigit() and int(key) < len(record):
            record = record[int(key)]
        elif isinstance(record, dict):
            record = record.get(key)
        else:
            return None
    return record


def some(*values: Any) -> Any:
    """The first value that holds text."""
    return next((value for value in values if text_of(value) is not None), None)


def web(value: Any) -> str | None:
    """An address of the web, its scheme added where it is left out; None for anything else."""
    text = text_of(value)
    if text is None or len(text) > MAX_URL or BREAK.search(text):
        return None
    if text.startswith("//"):
        text = "https:" + text
    elif HOST.match(text):
        text = "https://" + text
    return text if text.lower().startswith(("http://", "https://")) else None


def url_locator(value: Any) -> str:
    """The locator of a picture to download."""
    text = text_of(value)
    if text is None:
        return NO_URL
    if len(text) > MAX_URL:
        return nothing(Reject.DOWNLOAD_BAD_URL, f"a URL of {len(text)} characters")
    return f"url:{web(text) or text}"


def named_file(name: str) -> str:
    """The locator of a picture beside the table."""
    return file_locator(name) if len(name) <= MAX_URL else nothing(Reject.FILE_MISSING, f"a file name of {len(name)} characters")


def last_number(value: Any) -> str | None:
    """The photo's number in a Flickr address, of the page or of the file."""
    text = web(value)
    found = PHOTO.search(text) if text is not None and "flickr" in text else None
    return found[1] if found else None


def time_of(value: Any) -> datetime | None:
    """A time as UTC: a datetime, ISO 8601, or seconds since 1970; None for anything else."""
    try:
        if isinstance(value, str):
            value = datetime.fromtimestamp(int(value), UTC) if value.isdigit() else datetime.fromisoformat(value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = datetime.fromtimestamp(value, UTC)
        if not isinstance(value, datetime):
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None
