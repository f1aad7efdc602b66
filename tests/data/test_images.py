"""Decoding what strangers send: every mode upright in RGB, every broken file a reason, nothing raised."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccray.data.images import Limits, Picture, Unusable, centre_square, decode, within
from ccray.data.pixels import bounded_square_view, whole_view

LIMITS = Limits(min_size_px=16, max_pixels=1_000_000, max_bytes=1_000_000)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(data: bytes, limits: Limits = LIMITS) -> Picture:
    decoded = decode(data, limits)
    assert isinstance(decoded, Picture), decoded
    return decoded


def reason(data: bytes, limits: Limits = LIMITS) -> str:
    decoded = decode(data, limits)
    assert isinstance(decoded, Unusable)
    return decoded.reason


def test_pixels_come_back_as_they_were() -> None:
    pixels = noise()
    decoded = picture(encoded(Image.fromarray(pixels)))
    assert (decoded.pixels == pixels).all()
    assert (decoded.width, decoded.height, decoded.format) == (50, 40, "PNG")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(noise())
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions that store the upright picture under each orientation
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[274] = orientation
    decoded = picture(encoded(stored, "PNG", exif=exif.tobytes()))
    assert (decoded.width, decoded.height) == (50, 40)
    assert (decoded.pixels == noise()).all()


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    half = Image.new("LA", (20, 20), (0, 128))
    palette = Image.new("P", (20, 20), 0)
    assert (picture(encoded(clear)).pixels == 255).all()
    assert (abs(picture(encoded(half)).pixels.astype(int) - 127) <= 1).all()
    assert (picture(encoded(palette, "PNG", transparency=0)).pixels == 255).all()


def test_deep_grey_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 400).reshape(20, 20)
    wanted = np.rint(ramp.astype(np.uint16) / 257)
    deep = picture(encoded(Image.fromarray(ramp.astype(np.uint16)))).pixels
    assert (deep[:, :, 0] == wanted).all()
    fractions = picture(encoded(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF")).pixels
    assert (abs(fractions[:, :, 0] - wanted) <= 1).all()


@pytest.mark.parametrize(
    ("mode", "kind"), [("1", "PNG"), ("L", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("YCbCr", "JPEG"), ("I", "TIFF"), ("F", "TIFF")]
)
def test_every_mode_becomes_rgb(mode: str, kind: str) -> None:
    assert picture(encoded(Image.fromarray(noise()).convert(mode), kind)).pixels.shape == (40, 50, 3)


def test_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert (picture(data).pixels[0, 0] == (255, 0, 0)).all()


def test_reasons() -> None:
    whole = encoded(Image.fromarray(noise()), "JPEG")
    assert reason(b"") == "undecodable"
    assert reason(b"<html>404</html>") == "undecodable"
    assert reason(whole[: len(whole) // 2]) == "truncated"
    assert reason(encoded(Image.new("L", (100, 15)))) == "too_small"
    assert reason(encoded(Image.new("L", (1500, 1500)))) == "too_many_pixels"
    assert reason(b" " * 1_000_001) == "too_many_bytes"


def test_nothing_is_run_by_a_picture() -> None:
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n") == "undecodable"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_no_cut_is_taken_for_a_picture(kind: str) -> None:
    """Only a cut behind the last pixel may pass, and then every pixel is right."""
    data = encoded(Image.fromarray(noise()).convert("L").convert("RGB"), kind)
    whole = picture(data).pixels
    for length in range(0, len(data), 29):
        cut = decode(data[:length], LIMITS)
        assert isinstance(cut, Unusable) or (cut.pixels == whole).all()


def test_random_damage_never_raises() -> None:
    generator = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "ICO"):
        data = bytearray(encoded(Image.fromarray(noise()), kind))
        for _ in range(20):
            for place in generator.integers(0, len(data), 5):
                data[place] = int(generator.integers(0, 256))
            decode(bytes(data), LIMITS)


def test_pillows_own_broken_pictures(shared_data: Path) -> None:
    """`outcomes.jsonl` says what Pillow 13 did with each: what it cannot open is refused, what it loads and is large enough is taken."""
    folder = shared_data / "broken_images"
    limits = Limits(16, 100_000_000, 100_000_000)
    for line in (folder / "outcomes.jsonl").read_text().splitlines():
        record = json.loads(line)
        pillow = record["pillow"]
        decoded = decode((folder / record["file"]).read_bytes(), limits)
        usable = pillow.get("load") == "ok" and pillow.get("rgb") == "ok" and min(pillow["size"]) >= 16
        assert isinstance(decoded, Picture) == usable, (record["file"], decoded)


def test_centre_square() -> None:
    pixels = noise(32, 48)
    square, crop = centre_square(pixels, 32)
    assert crop == (8, 0, 32, 32)
    assert (square == pixels[:, 8:40]).all()
    exact, crop = centre_square(pixels[:, :32], 32)
    assert crop == (0, 0, 32, 32)
    assert (exact == pixels[:, :32]).all()
    assert centre_square(pixels, 16)[0].shape == (16, 16, 3)
    assert centre_square(pixels, 64)[0].shape == (64, 64, 3)


def test_views_of_captioners() -> None:
    assert whole_view(noise())[1] == (0, 0, 50, 40)
    assert within(noise(40, 400), 100).shape == (10, 100, 3)
    assert bounded_square_view(noise(), 32)[0].shape == (32, 32, 3)
    assert bounded_square_view(noise(), 512)[0].shape == (40, 40, 3)
