"""The perceptual hash against the package it follows, and what it makes of copies and of different photos."""

import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ccray.data.pictures.hashing import distance, phash, thumbnail
from ccray.data.pictures.images import Decoded, Enough, Limits, decode_image
from ccray.data.pictures.sandbox import HASH_ENOUGH_PX
from ccray.schema import hex_key


def hashed(image: Image.Image) -> int:
    value = phash(thumbnail(image))
    assert value is not None
    return value


def recoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, fraction: float) -> Image.Image:
    left, top = round(image.width * fraction / 2), round(image.height * fraction / 2)
    return image.crop((left, top, image.width - left, image.height - top))


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[Image.Image]:
    files = sorted((shared_data / "coco_cc_photos" / "images").glob("*/*.jpg"))
    assert len(files) == 159
    return [Image.open(file).convert("RGB") for file in files]


def test_bits_are_those_of_imagehash(photos: list[Image.Image]) -> None:
    for photo in photos:
        assert hex_key(hashed(photo)) == str(imagehash.phash(photo))


@pytest.mark.parametrize("longer_px", [640, 1601])
def test_a_reduced_decode_moves_two_bits_at_most(photos: list[Image.Image], longer_px: int) -> None:
    moved = []
    for photo in [photo for photo in photos if max(photo.size) < 2 * min(photo.size)][:: longer_px // 400]:
        buffer = io.BytesIO()
        scaled(photo, longer_px / max(photo.size)).save(buffer, "JPEG", quality=90)
        reduced = decode_image(buffer.getvalue(), Limits(), Enough(0, HASH_ENOUGH_PX))
        assert isinstance(reduced, Decoded)
        small = phash(thumbnail(reduced.image, reduced.box))
        assert small is not None
        moved.append(distance(small, hashed(Image.open(buffer).convert("RGB"))))
        assert longer_px == 640 or max(reduced.image.size) < longer_px / 2
    assert max(moved) <= 2
    assert np.mean(moved) < 0.5


# How many of the copies lie within the catalog's default of 4 bits.
COPIES: dict[str, tuple[Callable[[Image.Image], Image.Image], float]] = {
    "JPEG 50": (lambda image: recoded(image, 50), 1.0),
    "JPEG 75": (lambda image: recoded(image, 75), 1.0),
    "JPEG 95": (lambda image: recoded(image, 95), 1.0),
    "25 %": (lambda image: scaled(image, 0.25), 1.0),
    "50 %": (lambda image: scaled(image, 0.5), 1.0),
    "200 %": (lambda image: scaled(image, 2), 1.0),
    "brighter by 20 %": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), 0.85),
    "cropped by 1 %": (lambda image: cropped(image, 0.01), 0.98),
    "cropped by 2 %": (lambda image: cropped(image, 0.02), 0.85),
    "grey": (lambda image: image.convert("L").convert("RGB"), 1.0),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_near(photos: list[Image.Image], copy: str) -> None:
    change, share = COPIES[copy]
    distances = [distance(hashed(photo), hashed(change(photo))) for photo in photos[::3]]
    assert np.mean([bits <= 4 for bits in distances]) >= share, sorted(distances)


def test_different_photos_are_far(photos: list[Image.Image]) -> None:
    hashes = [hashed(photo) for photo in photos]
    assert min(distance(one, other) for one, other in combinations(hashes, 2)) >= 12


def test_flat_pictures_have_no_hash() -> None:
    assert phash(thumbnail(Image.new("RGB", (64, 64), (200, 30, 30)))) is None
    noise = np.random.default_rng(0).integers(254, 256, (400, 400, 3), dtype=np.uint8)
    assert phash(thumbnail(Image.fromarray(noise))) is None
    noise[100:300, 100:200] = 0
    assert phash(thumbnail(Image.fromarray(noise))) is not None


def test_distance_counts_bits_of_signed_numbers() -> None:
    assert distance(-1, 0) == 64
    assert distance(-(2**63), 1) == 2
    assert distance(5, 5) == 0
