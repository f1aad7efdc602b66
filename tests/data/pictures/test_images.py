"""Decoding what strangers send: every mode upright in RGB, every broken file a reason, nothing raised."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccray.data.pictures.endings import ends_whole
from ccray.data.pictures.images import Decoded, Enough, Limits, Picture, Unusable, centre_square, decode, decode_image, within
from ccray.data.pictures.pixels import bounded_square_view, whole_view

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


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_several_pictures_are_refused(kind: str) -> None:
    frames = [Image.fromarray(noise()), Image.fromarray(noise()[::-1])]
    assert reason(encoded(frames[0], kind, save_all=True, append_images=frames[1:])) == "animated"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_one_frame_is_a_picture(kind: str) -> None:
    assert picture(encoded(Image.fromarray(noise()), kind, save_all=True)).format == kind


def multi_picture(second: int) -> bytes:
    """A JPEG with another behind it: a primary image, and one of the type `second` of the Multi-Picture Format."""
    image = Image.fromarray(noise())
    data = bytearray(encoded(image, "MPO", save_all=True, append_images=[image]))
    index = data.index(b"MPF\0")
    entry = data.rindex((0x30000).to_bytes(4, "little"), index, index + 4 + 50 + 16)
    data[entry + 16 : entry + 20] = second.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("second", [0, 0x10001, 0x10002])
def test_previews_and_maps_behind_a_photo_are_no_second_picture(second: int) -> None:
    assert picture(multi_picture(second)).format == "MPO"


@pytest.mark.parametrize("second", [0x20001, 0x20002, 0x20003])
def test_panoramas_and_stereo_pairs_are_several_pictures(second: int) -> None:
    assert reason(multi_picture(second)) == "animated"


def test_reduced_copies_in_a_tiff_are_no_second_picture(shared_data: Path) -> None:
    """Pillow counts five frames in it: a page and its overviews."""
    file = shared_data / "broken_images" / "tiff_strip_planar_raw_with_overviews.tif"
    assert picture(file.read_bytes()).pixels.shape == (374, 278, 3)


def test_an_icon_is_its_largest_picture() -> None:
    icon = encoded(Image.fromarray(noise(64, 64)), "ICO", sizes=[(16, 16), (32, 32), (64, 64)])
    assert picture(icon).pixels.shape == (64, 64, 3)


def test_shape_has_bounds() -> None:
    limits = Limits(16, 1_000_000, 1_000_000, max_aspect=2.5)
    assert picture(encoded(Image.new("L", (50, 20))), limits).width == 50
    assert reason(encoded(Image.new("L", (51, 20))), limits) == "bad_aspect"
    assert reason(encoded(Image.new("L", (20, 51))), limits) == "bad_aspect"


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "JPEG2000", "BMP"])
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
            assert isinstance(decode(bytes(data), LIMITS), Picture | Unusable)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "AVIF", "JPEG2000"])
def test_the_end_of_a_file_is_seen(kind: str) -> None:
    """Without its last two bytes a file is cut, with others behind it it is not; a preview's end is not the file's."""
    data = encoded(Image.fromarray(noise()), kind)
    assert ends_whole(data, kind)
    assert ends_whole(data + b"\r\n", kind)
    assert not ends_whole(data[:-1] if kind == "GIF" else data[:-2], kind)
    assert not ends_whole(b"", kind)


def with_preview(data: bytes) -> bytes:
    """A JPEG whose EXIF block holds a small JPEG."""
    preview = encoded(Image.fromarray(noise()).resize((16, 12)), "JPEG")
    block = b"Exif\0\0" + preview
    return data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_preview_does_not_hide_a_cut(progressive: bool) -> None:
    data = with_preview(encoded(Image.fromarray(noise(100, 100)), "JPEG", progressive=progressive))
    assert picture(data).width == 100
    for length in (len(data) - 2, len(data) * 3 // 4, len(data) // 2):
        assert reason(data[:length]) == "truncated"


def test_a_reduced_decode_still_sees_the_whole_stream() -> None:
    smooth = Image.fromarray(noise(20, 30)).resize((600, 400))
    enough = Enough(longer_px=60, shorter_px=40)
    for options in ({}, {"progressive": True}):
        data = encoded(smooth, "JPEG", **options)
        whole = decode_image(data, LIMITS, enough)
        assert isinstance(whole, Decoded)
        assert (whole.image.size, whole.width, whole.height) == ((75, 50), 600, 400)
        cut = decode_image(data[: len(data) * 2 // 3], LIMITS, enough)
        assert isinstance(cut, Unusable)
        assert cut.reason == "truncated"


# Pillow shows all of its pixels, but the file ends inside a chunk's header: it was cut.
CUT_BEHIND_THE_PIXELS = {"truncated_end_chunk.png"}
# Pillow counts their frames, but they hold one picture: overviews of a page, a depth map behind a photo.
ONE_PICTURE = {"tiff_strip_planar_raw_with_overviews.tif", "frame_size.mpo"}


def test_pillows_own_broken_pictures(shared_data: Path) -> None:
    """`outcomes.jsonl` says what Pillow 13 did with each: what it cannot load is refused; what it loads, is large enough and single is taken."""
    folder = shared_data / "broken_images"
    limits = Limits(16, 100_000_000, 100_000_000)
    for line in (folder / "outcomes.jsonl").read_text().splitlines():
        record = json.loads(line)
        name, pillow = record["file"], record["pillow"]
        decoded = decode((folder / name).read_bytes(), limits)
        usable = pillow.get("load") == "ok" and pillow.get("rgb") == "ok" and min(pillow["size"]) >= 16
        several = usable and pillow["frames"] > 1 and name not in ONE_PICTURE
        taken = usable and not several and name not in CUT_BEHIND_THE_PIXELS
        assert isinstance(decoded, Picture) == taken, (name, decoded)
        if several:
            assert decoded.reason == "animated", (name, decoded)
        elif usable and not taken:
            assert decoded.reason == "truncated", (name, decoded)


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
