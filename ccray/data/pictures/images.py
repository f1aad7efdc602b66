"""From bytes as received to pixels, or to the reason why not.

Pictures here come from strangers: nothing that a file holds may raise, run a program or fill the memory. Sizes are read from the header
and judged before a pixel is decoded; a file that holds several pictures, or that was cut off, is refused by that reason; EXIF orientation is
applied; every mode becomes 8-bit sRGB, transparency over white (`colour.py`).

One picture in several sizes is one picture: icons (ICO, ICNS: the largest counts), TIFF with reduced copies of its page, a camera's JPEG with
previews, a depth or a gain map behind it. Several are: animations, TIFF of several pages, stereo pairs and panoramas (MPO).

Needs Pillow and numpy alone, so that `sandbox.py` starts quickly.
"""

import io
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ccray.data.pictures.colour import to_srgb
from ccray.data.pictures.endings import ends_whole
from ccray.data.pictures.hashing import Box
from ccray.rejects import Reject

if TYPE_CHECKING:
    from ccray.config import CatalogConfig

Pixels = NDArray[np.uint8]

# Opened by running a program on the file (EPS by Ghostscript, WMF by Windows), or known by name only.
NOT_DECODED = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
# Layers of a document or sizes of an icon: Pillow counts them as frames, but shows the one picture that they make.
ONE_PICTURE = {"PSD", "ICO", "ICNS", "CUR"}
TIFF_PAGES_SEEN = 64  # a chain of directories is not followed further
NEW_SUBFILE_TYPE, SUBFILE_TYPE = 254, 255  # tags of TIFF
REDUCED_OR_MASK = 1 | 4  # bits of the newer tag
REDUCED = 2  # value of the older one
MPO_ENTRIES = 0xB002  # tag of the CIPA Multi-Picture Format
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {TURNS[orientation] for orientation in (5, 6, 7, 8)}


@dataclass(frozen=True)
class Limits:
    """What a picture may measure; sides and pixels as stored in the file, before orientation."""

    min_size_px: int = 1
    max_pixels: int = 100_000_000
    max_bytes: int = 100_000_000
    max_aspect: float | None = None  # longer side over shorter


@dataclass(frozen=True)
class Picture:
    """A decoded picture: `pixels` H W 3 uint8 sRGB, upright; `format` is Pillow's name of the file format.

    `received` is (width, height) upright, as in the file; of pixels that were reduced while decoding it is larger than theirs.
    """

    pixels: Pixels
    format: str
    received: tuple[int, int]

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


@dataclass(frozen=True)
class Unusable:
    """Why bytes are not a picture that we take; `reason` is a word of the `rejects/` table."""

    reason: Reject
    detail: str


@dataclass(frozen=True)
class Enough:
    """Sides that suffice: a JPEG may be decoded at a half, a quarter or an eighth, as long as both are reached."""

    longer_px: int
    shorter_px: int


@dataclass(frozen=True)
class Decoded:
    """A picture not yet turned upright: RGB, sRGB, perhaps smaller than in the file."""

    image: Image.Image
    box: Box  # of `image` that holds the picture: a reduced JPEG is rounded up to whole pixels
    turn: Image.Transpose | None  # what brings it upright
    format: str
    width: int  # as received, upright
    height: int

    @property
    def lies(self) -> bool:
        """Whether turning it upright swaps its sides."""
        return self.turn in SIDEWAYS

    def upright(self, image: Image.Image) -> Image.Image:
        """`image`, made from this picture's own without turning it, upright."""
        return image if self.turn is None else image.transpose(self.turn)


def limits_of(config: "CatalogConfig") -> Limits:
    return Limits(config.min_size_px, config.max_pixels, config.max_bytes, config.max_aspect)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(name for name in Image.OPEN if name not in NOT_DECODED))


def decode(data: bytes, limits: Limits, at_least_px: int | None = None) -> Picture | Unusable:
    """Decode a whole picture. Never raises for what the bytes hold.

    With `at_least_px` a JPEG may come at a half, a quarter or an eighth, as long as its shorter side keeps that many: two to four times as fast where
    a small picture is made of it. That one is 0.2 to 0.4 of 255 levels away from one made of all pixels, on average; 1 to 2 where the sides are no
    multiples of the fraction, because the last column or row then counts whole or not at all.
    """
    decoded = decode_image(data, limits, None if at_least_px is None else Enough(at_least_px, at_least_px))
    if isinstance(decoded, Unusable):
        return decoded
    return Picture(np.array(decoded.upright(_whole_pixels(decoded))), decoded.format, (decoded.width, decoded.height))


def _whole_pixels(decoded: Decoded) -> Image.Image:
    """Without the last column or row of a reduced JPEG where the picture fills less than half of it."""
    box = (0, 0, round(decoded.box[2]), round(decoded.box[3]))
    return decoded.image if box[2:] == decoded.image.size else decoded.image.crop(box)


def decode_image(data: bytes, limits: Limits, enough: Enough | None = None) -> Decoded | Unusable:
    """The same as a Pillow image that is not turned yet, and reduced while decoding where that is `enough`. Never raises for what the bytes hold."""
    if len(data) > limits.max_bytes:
        return Unusable(Reject.TOO_MANY_BYTES, f"{len(data)} bytes, at most {limits.max_bytes} are taken")
    Image.MAX_IMAGE_PIXELS = limits.max_pixels  # Pillow's own guard also sees the pictures inside ICO, ICNS and GIF files
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(data, limits, enough)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Unusable(Reject.TOO_MANY_PIXELS, _one_line(error))
    except UnidentifiedImageError:
        return Unusable(Reject.UNDECODABLE, f"Pillow recognises no picture in {len(data)} bytes that begin {data[:8]!r}")
    except MemoryError:
        return Unusable(Reject.UNDECODABLE, "needs more memory than a decoder is given")
    except Exception as error:  # decoders raise whatever their input leads them to
        reason = Reject.TRUNCATED if "truncated" in str(error).lower() else Reject.UNDECODABLE
        return Unusable(reason, f"{type(error).__name__}: {_one_line(error)}")


def _decode(data: bytes, limits: Limits, enough: Enough | None) -> Decoded | Unusable:
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        name = image.format or "unknown"
        wrong = _wrong_size(image.width, image.height, limits) or _wrong_file(data, image)
        if wrong is not None:
            return wrong
        whole_size = image.size
        box = _reduce_while_decoding(image, enough)
        _load(image)
        if box is None:  # ICNS and JPEG 2000 know their size only now, TIFF is turned while it is loaded
            whole_size, box = image.size, (0.0, 0.0, *image.size)
        wrong = _wrong_size(*whole_size, limits)
        if wrong is not None:
            return wrong
        turn = TURNS.get(_orientation(image))
        width, height = whole_size[::-1] if turn in SIDEWAYS else whole_size
        return Decoded(to_srgb(image), box, turn, name, width, height)


def _reduce_while_decoding(image: Image.Image, enough: Enough | None) -> Box | None:
    """Ask for a fraction of a JPEG; the whole stream is still read. The box of the picture in what will be decoded, None when it is all of it."""
    if enough is None or image.format not in ("JPEG", "MPO"):
        return None
    fit = min(max(image.size) // max(1, enough.longer_px), min(image.size) // max(1, enough.shorter_px))
    scale = next((scale for scale in (8, 4, 2) if scale <= fit), 1)
    if scale == 1:
        return None
    answer = image.draft(None, (image.width // scale, image.height // scale))
    return None if answer is None else answer[1]


def _load(image: Image.Image) -> None:
    """Decode every pixel. Damage behind a PNG's pixels is no damage to the picture: a second look finds them whole."""
    try:
        image.load()
    except (OSError, SyntaxError):
        if image.format != "PNG":
            raise
        image.load()


def _wrong_size(width: int, height: int, limits: Limits) -> Unusable | None:
    if width * height > limits.max_pixels:
        return Unusable(Reject.TOO_MANY_PIXELS, f"{width}x{height} is {width * height} pixels, at most {limits.max_pixels} are decoded")
    if min(width, height) < limits.min_size_px:
        return Unusable(Reject.TOO_SMALL, f"{width}x{height}, the shorter side must have at least {limits.min_size_px} px")
    if limits.max_aspect is not None and max(width, height) > limits.max_aspect * min(width, height):
        return Unusable(Reject.BAD_ASPECT, f"{width}x{height}, the longer side may be at most {limits.max_aspect:g} times the shorter")
    return None


def _wrong_file(data: bytes, image: Image.Image) -> Unusable | None:
    """What is seen of the file around the pixels before they are decoded."""
    name = image.format or "unknown"
    if not ends_whole(data, name):
        return Unusable(Reject.TRUNCATED, f"{len(data)} bytes of {name} without the end that the format asks for")
    several = _several_pictures(data, image)
    return None if several is None else Unusable(Reject.ANIMATED, several)


def _several_pictures(data: bytes, image: Image.Image) -> str | None:
    """What makes a file hold more than one picture, None when it holds one."""
    if image.format in ONE_PICTURE:
        return None
    if image.format == "TIFF":
        pages = _tiff_pages(data)
        return f"a TIFF of {pages} pages" if pages > 1 else None
    if image.format == "MPO":
        kinds = [entry["Attribute"]["MPType"] for entry in getattr(image, "mpinfo", {}).get(MPO_ENTRIES, [])]
        several = [kind for kind in kinds if kind.startswith("Multi-Frame")]
        return f"an MPO with a {several[0]!r}" if several else None
    return f"{image.format} with more than one frame" if getattr(image, "is_animated", False) else None


def _tiff_pages(data: bytes) -> int:
    """Pages of full size: neither reduced copies nor masks. A damaged directory ends the count."""
    pages = 0
    with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
        for number in range(TIFF_PAGES_SEEN):
            try:
                image.seek(number)
            except Exception:  # the end, or what decoders raise of damage behind the first page
                return pages
            tags = getattr(image, "tag_v2", {})
            pages += not (tags.get(NEW_SUBFILE_TYPE, 0) & REDUCED_OR_MASK or tags.get(SUBFILE_TYPE) == REDUCED)
    return max(pages, TIFF_PAGES_SEEN)


def _orientation(image: Image.Image) -> int:
    """As EXIF has it, 1 to 8; a broken EXIF block does not make the pixels wrong."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def centre_square(pixels: Pixels, size_px: int, resample: Image.Resampling = Image.Resampling.LANCZOS) -> tuple[Pixels, tuple[int, int, int, int]]:
    """The largest centred square of H W 3 pixels at `size_px`, and its crop (left, top, width, height).

    A picture of exactly that size comes back untouched; any other is resized.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    if side != size_px:
        square = np.array(Image.fromarray(square).resize((size_px, size_px), resample))
    return square, (left, top, side, side)


def within(pixels: Pixels, side_px: int) -> Pixels:
    """H W 3 pixels reduced, in proportion, until the longer side is at most `side_px`."""
    height, width = pixels.shape[:2]
    if max(height, width) <= side_px:
        return pixels
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
