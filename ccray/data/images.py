"""From bytes as received to pixels, or to the reason why not.

Pictures here come from strangers: nothing that a file holds may raise, run a program or fill the memory. Sizes are read from the header
and judged before a pixel is decoded; EXIF orientation is applied; every mode becomes 8-bit sRGB, transparency over white; of an
animation the first frame counts.
"""

import io
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ccray.config import CatalogConfig
from ccray.schema import Reject

Pixels = NDArray[np.uint8]

# Opened by running Ghostscript on the file, that is by executing data.
NEEDS_INTERPRETER = {"EPS"}


@dataclass(frozen=True)
class Limits:
    """What a picture may measure; sides and pixels as stored in the file, before orientation."""

    min_size_px: int = 1
    max_pixels: int = 100_000_000
    max_bytes: int = 100_000_000


@dataclass(frozen=True)
class Picture:
    """A decoded picture: `pixels` H W 3 uint8 sRGB, upright; `format` is Pillow's name of the file format."""

    pixels: Pixels
    format: str

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


def limits_of(config: CatalogConfig) -> Limits:
    return Limits(config.min_size_px, config.max_pixels, config.max_bytes)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(name for name in Image.OPEN if name not in NEEDS_INTERPRETER))


def decode(data: bytes, limits: Limits) -> Picture | Unusable:
    """Decode a whole picture. Never raises for what the bytes hold."""
    if len(data) > limits.max_bytes:
        return Unusable(Reject.TOO_MANY_BYTES, f"{len(data)} bytes, at most {limits.max_bytes} are taken")
    Image.MAX_IMAGE_PIXELS = limits.max_pixels  # Pillow's own guard also sees the pictures inside ICO, ICNS and GIF files
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(data, limits)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Unusable(Reject.TOO_MANY_PIXELS, _one_line(error))
    except UnidentifiedImageError:
        return Unusable(Reject.UNDECODABLE, f"Pillow recognises no picture in {len(data)} bytes that begin {data[:8]!r}")
    except Exception as error:  # decoders raise whatever their input leads them to
        reason = Reject.TRUNCATED if "truncated" in str(error) or "broken data stream" in str(error) else Reject.UNDECODABLE
        return Unusable(reason, f"{type(error).__name__}: {_one_line(error)}")


def _decode(data: bytes, limits: Limits) -> Picture | Unusable:
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        wrong = _wrong_size(image.width, image.height, limits)
        if wrong is not None:
            return wrong
        name = image.format or "unknown"
        _load(image)
        wrong = _wrong_size(image.width, image.height, limits)  # ICNS and JPEG 2000 know their size only now
        return wrong or Picture(to_rgb(_upright(image)), name)


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
    return None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block does not make the pixels wrong
        return image


def to_rgb(image: Image.Image) -> Pixels:
    """Any Pillow mode to H W 3 uint8: alpha over white, 16-bit and float grey scaled to 8 bits."""
    if image.mode.startswith(("I", "F")):
        grey = _grey(image)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layered)
    return np.array(image.convert("RGB"))


def _grey(image: Image.Image) -> Pixels:
    """One channel of 16-bit, 32-bit or float values to 8 bits; Pillow's own conversion clips them to white."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        scale = 1.0 if low >= 0 and high <= 1 else 255.0
    elif image.mode == "I" and high <= 255:
        scale = 255.0
    else:
        scale = float(2 ** _stored_bits(image) - 1)
    if low < 0 or high > max(scale, 1.0):  # no known range: stretch
        values, scale = values - low, max(high - low, 1e-9)
    return np.rint(values * (255.0 / scale)).astype(np.uint8)


def _stored_bits(image: Image.Image) -> int:
    """16, unless a TIFF says that its samples have fewer bits."""
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(258, (16,))[0] if tags is not None else 16
    return bits if 8 < bits <= 16 else 16


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
