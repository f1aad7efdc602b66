"""Whether a file ends where its format says that it ends.

Some decoders show what they have of a picture that was cut off; a download that broke off near its end then passes. The file's own structure
tells: it is walked from segment to segment, because end marks also stand inside embedded previews. Bytes behind the end are allowed.
"""

import re
from collections.abc import Callable

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
BARE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers that stand without a length: TEM, RST0..7, SOI
# In a JPEG's scans FF 00 is a byte FF, and FF D0 to FF D7 are restarts: anything else behind FF is the next marker.
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
EXTENSION, PICTURE, TRAILER = 0x21, 0x2C, 0x3B  # of GIF
PNG_SIGNATURE = 8
PIXEL_BOXES = {b"mdat", b"jp2c"}  # of AVIF, of JPEG 2000
MAGIC = [
    (b"\xff\xd8", 0, "JPEG"),
    (b"\x89PNG\r\n\x1a\n", 0, "PNG"),
    (b"GIF87a", 0, "GIF"),
    (b"GIF89a", 0, "GIF"),
    (b"WEBP", 8, "WEBP"),
    (b"ftyp", 4, "AVIF"),
    (b"jP  ", 4, "JPEG2000"),
]


def whole(data: bytes) -> bool:
    """Whether a file of unknown kind reaches its end; True of what is no picture, or of a kind that has no end mark."""
    format = next((name for magic, place, name in MAGIC if data[place : place + len(magic)] == magic), "")
    return ends_whole(data, format)


def ends_whole(data: bytes, format: str) -> bool:
    """Whether `data` reaches the end that its format (Pillow's name) asks for; True for formats whose decoders see a cut themselves."""
    check = CHECKS.get(format)
    return True if check is None else check(data)


def _jpeg(data: bytes) -> bool:
    """EOI behind the last scan. At the very end of a file it is that: where a scan is cut, FF D9 cannot stand, and the walk takes 5 ms a megabyte."""
    if data.endswith(b"\xff\xd9") and b"\xff\xda" in data:
        return True
    place = 2
    while (found := MARKER.search(data, place)) is not None:
        marker = found.group(1)[0]
        place = found.end()
        if marker == EOI:
            return True
        if marker not in BARE:
            place += int.from_bytes(data[place : place + 2], "big")
    return False


def _png(data: bytes) -> bool:
    """A whole chunk IEND."""
    place = PNG_SIGNATURE
    while place + 12 <= len(data):
        if data[place + 4 : place + 8] == b"IEND":
            return True
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return False


def _gif(data: bytes) -> bool:
    """The trailer. Where something other than a block stands, decoders look for the next one, and so does this."""
    place = 13 + _gif_palette(data, 10)
    while place < len(data):
        kind = data[place]
        if kind == TRAILER:
            return True
        place += 1
        if kind == EXTENSION:
            place = _gif_past_blocks(data, place + 1)
        elif kind == PICTURE:
            place = _gif_past_blocks(data, place + 10 + _gif_palette(data, place + 8))
    return False


def _gif_palette(data: bytes, place: int) -> int:
    """Bytes of the palette that a byte of flags announces."""
    flags = data[place] if place < len(data) else 0
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


def _gif_past_blocks(data: bytes, place: int) -> int:
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return place + 1


def _webp(data: bytes) -> bool:
    """As many bytes as the RIFF header says."""
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


def _boxes(data: bytes) -> bool:
    """ISO boxes (AVIF, JP2): one of pixels, and the last one that begins ends inside; one of length 0 reaches to the end of the file."""
    place, pixels = 0, b"idat" in data  # pixels inside the box of metadata
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        pixels = pixels or data[place + 4 : place + 8] in PIXEL_BOXES
        if length == 1:
            length = int.from_bytes(data[place + 8 : place + 16], "big")
        if length == 0:
            return pixels
        if length < 8:  # bytes behind the end
            break
        place += length
    return pixels and place <= len(data)


def _jpeg2000(data: bytes) -> bool:
    """Boxes, or a bare codestream that ends in EOC (padding may follow)."""
    return data.rstrip(b"\x00").endswith(b"\xff\xd9") if data.startswith(b"\xff\x4f") else _boxes(data)


CHECKS: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
    "AVIF": _boxes,
    "JPEG2000": _jpeg2000,
}
