"""What every source offers: pictures it names, with the words it has for each, and a locator by which the bytes are fetched later.

Locators, all relative to the source's own folder:

    file:PATH          a file; percent-encoded where its name is not plain text
    url:URL            to download
    row:FILE#N         the image column of row N of a Parquet file
    bytes:FILE#N+M     M bytes from byte N of a file, such as a member of a tar; FILE is percent-encoded
    scene:SEED/INDEX   drawn, not fetched
    none:REASON:TEXT   listed, but there is nothing to fetch
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ccray import licenses
from ccray.interfaces import Refused
from ccray.schema import Reject
from ccray.storage import Root

# Left as they are in a file locator; everything else that is not ASCII or could end a locator early is percent-encoded.
PLAIN = "/ !$&'()*+,:;=@[]~"


@dataclass(frozen=True)
class Shipped:
    """A caption that the source ships: its column there, its words, its language (BCP 47, None = not told)."""

    column: str
    text: str
    language: str | None = None


@dataclass(frozen=True)
class Listed:
    """One picture that a source names. `own_id` is unique inside the source and stays the same when the source is listed again."""

    own_id: str
    source_ref: str
    locator: str
    license_text: str | None = None
    license_basis: str | None = None
    license_evidence: str | None = None
    license_seen_at: datetime | None = None
    creator: str | None = None
    creator_original: str | None = None
    creator_url: str | None = None
    title: str | None = None
    title_original: str | None = None
    alt_text: str | None = None
    source_url: str | None = None
    image_url: str | None = None
    private: str | None = None
    captions: tuple[Shipped, ...] = ()

    def texts(self) -> dict[str, Any]:
        """All but `own_id`, as columns of `schema.LISTING`, cleaned."""
        texts = {name: clean(value) if isinstance(value, str) else value for name, value in vars(self).items()}
        del texts["own_id"]
        texts["captions"] = [{**vars(one), "text": clean(one.text)} for one in self.captions] or None
        return texts


class Source(Protocol):
    """A source whose door has been passed: `name` is the word of the `source` column, `base` the folder of its locators."""

    name: str
    base: Root | None
    image_column: str | None  # of the images embedded in a table

    def listing(self) -> Iterator[Listed]: ...


def clean(text: str) -> str:
    """Text that Parquet can hold: lone surrogates, as in file names that are not UTF-8, become escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def file_locator(path: str) -> str:
    try:
        data = os.fsencode(path)
    except UnicodeEncodeError:  # a name that no file can have
        data = os.fsencode(clean(path))
    return "file:" + quote_from_bytes(data, safe=PLAIN)


def located_file(locator: str) -> str:
    """The path that `file_locator` made a locator of."""
    return os.fsdecode(unquote_to_bytes(locator.removeprefix("file:")))


def nothing(reason: Reject, detail: str) -> str:
    """The locator of a row that is a reject from the start."""
    return f"none:{reason}:{detail}"


def bytes_locator(path: str, offset: int, length: int) -> str:
    return f"bytes:{quote_from_bytes(os.fsencode(path), safe='/')}#{offset}+{length}"


def located_bytes(locator: str) -> tuple[str, int, int]:
    """The path, offset and length that `bytes_locator` made a locator of."""
    path, _, span = locator.removeprefix("bytes:").rpartition("#")
    offset, _, length = span.partition("+")
    return os.fsdecode(unquote_to_bytes(path)), int(offset), int(length)


def declared_license(text: str | None) -> str | None:
    """`catalog.license`, checked.

    Raises:
        Refused: when it is not a licence that we know.
    """
    if text is not None and licenses.parse(text).bucket == "none":
        raise Refused(
            f"catalog.license {text!r} is not a licence that we know: {licenses.parse(text).reason}; expected an SPDX id such as CC-BY-4.0 or CC0-1.0, or a deed URL"
        )
    return text
