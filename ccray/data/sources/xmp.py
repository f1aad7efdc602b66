"""The licence that an image file states of itself, in its XMP packet (JPEG, PNG, WebP).

Creative Commons' own recommendation (wiki.creativecommons.org/XMP): `xmpRights:WebStatement`, `cc:license` and `dc:rights`. Only those parts
of a file are read that may hold the packet.
"""

import os
import stat
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from ccray import licenses
from ccray.interfaces import Failed
from ccray.storage import Root

MAX_PACKET = 1 << 20  # bytes of an XMP packet
MAX_PARTS = 200  # segments or chunks that are looked at
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\x00"
PNG_XMP = b"XML:com.adobe.xmp"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
PROPERTIES = {
    "{http://creativecommons.org/ns#}license": "cc:license",
    "{http://web.resource.org/cc/}license": "cc:license",
    "{http://ns.adobe.com/xap/1.0/rights/}WebStatement": "xmpRights:WebStatement",
    "{http://ns.adobe.com/xap/1.0/rights/}UsageTerms": "xmpRights:UsageTerms",
    "{http://purl.org/dc/elements/1.1/}rights": "dc:rights",
}


def license_statements(root: Root, path: str) -> list[tuple[str, str]]:
    """What a file's XMP says of its licence, as (property, words); empty unless a Creative Commons licence is among them.

    Raises:
        Failed: when an object store cannot be read: another run might find what this one would miss.
    """
    try:
        packet = _packet(root, path)
        told = [] if packet is None else list(_told(packet))
    except (ValueError, ElementTree.ParseError, zlib.error):  # a broken file is the fetching's to judge
        return []
    except OSError as error:
        if root.is_local:  # so is one that this user may not read
            return []
        raise Failed(f"{root.path(path)} cannot be read: {' '.join(str(error).split())[:300]}") from None
    return told if any(licenses.parse(words).id is not None for _, words in told) else []


def file_time(root: Root, path: str) -> datetime | None:
    """When a file was last written."""
    if root.is_local:
        return datetime.fromtimestamp(os.stat(root.path(path)).st_mtime, UTC)
    return root.filesystem.get_file_info(root.path(path)).mtime


def _packet(root: Root, path: str) -> bytes | None:
    if root.is_local:
        target = Path(root.path(path)).resolve()
        if not target.is_relative_to(Path(root.path()).resolve()) or not stat.S_ISREG(target.stat().st_mode):
            return None  # a link that leads out, a pipe: fetching refuses it
        with target.open("rb") as file:
            return _find(file)
    with root.filesystem.open_input_file(root.path(path)) as stream:
        return _find(stream)


def _find(file: IO[bytes]) -> bytes | None:
    head = file.read(12)
    readers: dict[bytes, Callable[[IO[bytes]], bytes | None]] = {b"\xff\xd8\xff": _jpeg, b"\x89PNG\r\n\x1a\n": _png}
    reader = next((reader for magic, reader in readers.items() if head.startswith(magic)), None)
    if head.startswith(b"RIFF") and head.endswith(b"WEBP"):
        reader = _webp
    return None if reader is None else reader(file)


def _jpeg(file: IO[bytes]) -> bytes | None:
    file.seek(2)
    for _ in range(MAX_PARTS):
        marker, length = file.read(2), int.from_bytes(file.read(2), "big")
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] in (0xDA, 0xD9) or length < 2:
            return None
        if marker[1] != 0xE1:
            file.seek(length - 2, os.SEEK_CUR)
            continue
        data = file.read(length - 2)
        if data.startswith(JPEG_XMP):
            return data.removeprefix(JPEG_XMP)
    return None


def _png(file: IO[bytes]) -> bytes | None:
    file.seek(8)
    for _ in range(MAX_PARTS):
        length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        if len(kind) < 4 or kind == b"IEND":
            return None
        if kind != b"iTXt" or length > MAX_PACKET:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        keyword, _, rest = file.read(length).partition(b"\x00")
        file.seek(4, os.SEEK_CUR)
        if keyword == PNG_XMP:
            return _itxt(rest)
    return None


def _itxt(rest: bytes) -> bytes:
    """The text of an iTXt chunk: flag, method, language, translated keyword, text."""
    text = rest[2:].split(b"\x00", 2)[-1]
    return zlib.decompressobj().decompress(text, MAX_PACKET) if rest[:1] == b"\x01" else text


def _webp(file: IO[bytes]) -> bytes | None:
    for _ in range(MAX_PARTS):
        kind, length = file.read(4), int.from_bytes(file.read(4), "little")
        if len(kind) < 4:
            return None
        if kind == b"XMP ":
            return file.read(min(length, MAX_PACKET))
        file.seek(length + length % 2, os.SEEK_CUR)
    return None


def _told(packet: bytes) -> Iterator[tuple[str, str]]:
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:  # nothing that XMP needs, and a way to blow it up
        return
    for element in ElementTree.fromstring(packet.strip(b"\x00 \r\n\t")).iter():
        if element.tag in PROPERTIES:
            yield from _words(PROPERTIES[element.tag], [element.get(RDF + "resource"), *element.itertext()])
        for name, words in element.attrib.items():
            if name in PROPERTIES:
                yield from _words(PROPERTIES[name], [words])


def _words(name: str, texts: list[str | None]) -> Iterator[tuple[str, str]]:
    for text in texts:
        if text is not None and text.strip():
            yield name, text.strip()
