"""A perceptual hash: 64 bits that change little when a picture is re-encoded, resized or brightened.

The DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): bits equal those of `imagehash.phash`.
"""

import numpy as np
from PIL import Image

SIDE_PX = 32  # of the grey picture that is hashed
LOW = 8  # frequencies a side that are kept: 8 x 8 bits
FLAT = 1.0  # standard deviation, in grey levels, below which the bits would be those of noise; photos have 15 to 90

Box = tuple[float, float, float, float]  # left, upper, right, lower


def _cosines() -> np.ndarray:
    """The first `LOW` rows of the unnormalised DCT-II of `SIDE_PX` points."""
    points, frequencies = np.arange(SIDE_PX), np.arange(LOW)
    return 2 * np.cos(np.pi * frequencies[:, None] * (2 * points + 1) / (2 * SIDE_PX))


COSINES = _cosines()


def thumbnail(image: Image.Image, box: Box | None = None) -> Image.Image:
    """What of an RGB picture, or of a `box` of it, is hashed: `SIDE_PX` square, grey."""
    return image.convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS, box=box)


def phash(grey: Image.Image) -> int | None:
    """The hash of a `thumbnail` as a signed int64, first bit highest (`schema.hex_key` prints it as `imagehash` does); None if it is flat.

    Two flat pictures would have the hash of each other, or of their noise, whatever they show.
    """
    values = np.asarray(grey, np.float64)
    if values.std() < FLAT:
        return None
    low = np.round(COSINES @ values @ COSINES.T, 6)  # rounded: equal coefficients stay equal on any machine
    bits = (low > np.median(low)).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big", signed=True)


def distance(one: int, other: int) -> int:
    """Bits in which two hashes differ: 0 to 64."""
    return ((one ^ other) % 2**64).bit_count()
