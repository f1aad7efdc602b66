"""Colours of every mode against conversions computed here from the definitions: primaries and curves, CIE Lab, printing inks, sample depths."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ccray.data.pictures.images import Limits, Picture, decode

PATCHES = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 120, 90), (60, 100, 150), (90, 140, 80), (220, 200, 60), (120, 60, 130)]
D50 = np.array([0.96422, 1.0, 0.82521])
D65 = np.array([0.95047, 1.0, 1.08883])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))


def decoded(data: bytes) -> np.ndarray:
    picture = decode(data, Limits())
    assert isinstance(picture, Picture), picture
    return picture.pixels


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def patches(colours: list[tuple[int, ...]], mode: str) -> Image.Image:
    """Each colour as a square of 16 pixels, side by side."""
    row = np.repeat(np.array(colours, np.uint8), 16, axis=0)
    pixels = np.repeat(row[None], 16, axis=0)
    return Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())


def middles(pixels: np.ndarray) -> np.ndarray:
    return pixels[8, 8::16].astype(int)


def matrix(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Linear RGB to XYZ, white D65."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    return columns * np.linalg.solve(columns, D65)


def adapted(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ target) / (BRADFORD @ source)) @ BRADFORD


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_of_xyz(xyz_d65: np.ndarray) -> np.ndarray:
    return np.rint(255 * srgb_curve(xyz_d65 @ np.linalg.inv(matrix(SRGB)).T))


def srgb_of_lab(lab: np.ndarray) -> np.ndarray:
    """CIE Lab, white D50."""
    middle = (lab[:, 0] + 16) / 116
    parts = np.stack([middle + lab[:, 1] / 500, middle, middle - lab[:, 2] / 200], axis=1)
    xyz = np.where(parts > 6 / 29, parts**3, 3 * (6 / 29) ** 2 * (parts - 4 / 29)) * D50
    return srgb_of_xyz(xyz @ adapted(D50, D65).T)


def profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2."""
    tags = {b"desc": text(b"a test"), b"cprt": b"text\0\0\0\0CC0\0", b"wtpt": xyz_tag(D50)} | tags
    table, body, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s12s4s", 0, b"lcms", 0x02400000, kind, space, connection, b"\x07\xe0\0\x01\0\x01\0\0\0\0\0\0", b"acsp")
    header = header.ljust(68, b"\0") + b"".join(struct.pack(">i", round(value * 65536)) for value in D50)
    whole = header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def text(words: bytes) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words + b"\0" + b"\0" * 78


def xyz_tag(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def curve_tag(values: np.ndarray) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *np.rint(values * 65535).astype(int))


def display(primaries: tuple[tuple[float, float], ...], linear: np.ndarray) -> bytes:
    """A profile by primaries and by `linear`, the linear light of 1024 even steps."""
    columns = adapted(D65, D50) @ matrix(primaries)
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags = {name: xyz_tag(columns[:, place]) for place, name in enumerate(names)}
    return profile(b"RGB ", tags | {name: curve_tag(linear) for name in (b"rTRC", b"gTRC", b"bTRC")})


STEPS = np.linspace(0, 1, 1024)
WIDE = {"Adobe RGB": (ADOBE, lambda values: values ** (563 / 256)), "Display P3": (P3, srgb_linear)}


@pytest.mark.parametrize("space", WIDE)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_wide_colours_become_srgb(space: str, kind: str) -> None:
    primaries, linear = WIDE[space]
    values = np.array(PATCHES) / 255
    wanted = srgb_of_xyz(linear(values) @ matrix(primaries).T)
    assert abs(wanted - PATCHES).max() > 10
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(patches(PATCHES, "RGB"), kind, icc_profile=display(primaries, linear(STEPS)), **options)
    assert abs(middles(decoded(data)) - wanted).max() <= (3 if kind == "JPEG" else 2)


def test_transparency_keeps_its_place_under_a_profile() -> None:
    data = encoded(patches([(200, 120, 90, 255), (200, 120, 90, 0)], "RGBA"), "PNG", icc_profile=display(ADOBE, STEPS ** (563 / 256)))
    opaque, clear = middles(decoded(data))
    assert abs(opaque - srgb_of_xyz((np.array([[200, 120, 90]]) / 255) ** (563 / 256) @ matrix(ADOBE).T)[0]).max() <= 2
    assert (clear == 255).all()


def test_srgb_stays_bit_for_bit() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    data = encoded(noise, "PNG", icc_profile=display(SRGB, srgb_linear(STEPS)))
    assert (decoded(data) == np.asarray(noise)).all()


def test_grey_follows_its_curve() -> None:
    levels = [(value,) for value in (0, 30, 90, 128, 200, 255)]
    wanted = 255 * srgb_curve((np.array(levels) / 255) ** 1.8)
    data = encoded(patches(levels, "L"), "PNG", icc_profile=profile(b"GRAY", {b"kTRC": curve_tag(STEPS**1.8)}))
    assert abs(middles(decoded(data)) - wanted).max() <= 1


@pytest.mark.parametrize(
    "broken", [b"", b"no profile", display(ADOBE, STEPS)[:200], profile(b"CMYK", {}), profile(b"GRAY", {b"kTRC": curve_tag(STEPS)})]
)
def test_a_profile_that_does_not_fit_is_ignored(broken: bytes) -> None:
    data = encoded(patches(PATCHES, "RGB"), "TIFF", icc_profile=broken)
    assert (middles(decoded(data)) == PATCHES).all()


INKS = [(0, 0, 0, 0), (0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 255), (100, 20, 60, 40), (0, 80, 200, 10)]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_without_a_profile(kind: str) -> None:
    """The plain formula; a JPEG of inks is stored inverted, as Adobe does."""
    inks = np.array(INKS) / 255
    wanted = 255 * (1 - inks[:, :3]) * (1 - inks[:, 3:])
    data = encoded(patches(INKS, "CMYK"), kind, **({"quality": 100} if kind == "JPEG" else {}))
    assert b"Adobe" in data or kind == "TIFF"
    assert abs(middles(decoded(data)) - wanted).max() <= 3


def ink_table() -> tuple[np.ndarray, bytes]:
    """Lab of the 16 full combinations of four inks, and a profile of it."""
    corners = np.array([[(number >> shift) & 1 for shift in (3, 2, 1, 0)] for number in range(16)])
    light = np.array([100.0, 0, 0]) - corners[:, :3] @ np.array([[30.0, 0, 0], [35, 0, 0], [10, 0, 0]])
    light += corners[:, :3] @ np.array([[0, -30.0, -40], [0, 60, -5], [0, -5, 70]])
    lab = np.rint(np.where(corners[:, 3:] == 1, [[0.0, 0, 0]], light) * [[255 / 100, 1, 1]] + [[0, 128, 128]]).astype(np.uint8)
    identity = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(65536 * np.eye(3, dtype=int).flatten()))
    table += identity * 4 + lab.tobytes() + identity * 3
    meant = (lab.astype(float) - [0, 128, 128]) * [100 / 255, 1, 1]
    return np.concatenate([corners * 255, meant], axis=1), profile(b"CMYK", {b"A2B0": table, b"A2B1": table}, b"prtr", b"Lab ")


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_follow_their_profile(kind: str) -> None:
    rows, inks = ink_table()
    wanted = srgb_of_lab(rows[:, 4:])
    image = patches([tuple(row) for row in rows[:, :4].astype(int)], "CMYK")
    options = {"quality": 100} if kind == "JPEG" else {}
    assert abs(middles(decoded(encoded(image, kind, icc_profile=inks, **options))) - wanted).max() <= 4
    plain = middles(decoded(encoded(image, kind, **options)))
    assert abs(plain - wanted).max() > 40


def test_lab_becomes_srgb() -> None:
    colours = [(255, 0, 0), (0, 0, 0), (128, 0, 0), (140, 30, 20), (150, 226, 40), (100, 10, 206)]
    lab = np.array([[light * 100 / 255, a - 256 * (a > 127), b - 256 * (b > 127)] for light, a, b in colours])
    data = encoded(patches(colours, "LAB"), "TIFF")
    assert abs(middles(decoded(data)) - srgb_of_lab(lab)).max() <= 2


def test_luma_and_chroma_become_rgb() -> None:
    colours = [(128, 128, 128), (76, 85, 255), (150, 44, 21), (29, 255, 107), (180, 120, 140)]
    luma, blue, red = (np.array(colours, float) - [0, 128, 128]).T
    wanted = np.clip(np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=1), 0, 255)
    assert abs(middles(decoded(encoded(patches(colours, "YCbCr"), "TIFF"))) - wanted).max() <= 2


def deep_png(samples: np.ndarray, clear: int | None = None) -> bytes:
    """A 16-bit PNG of H W samples (grey) or H W 3 (RGB); `clear` is the grey sample that is transparent."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, 2 if samples.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    transparent = b"" if clear is None else chunk(b"tRNS", struct.pack(">H", clear))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + transparent + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_deep_samples_are_divided_by_257() -> None:
    grey = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    assert (decoded(deep_png(grey))[:, :, 0] == np.rint(grey / 257)).all()
    assert (decoded(encoded(Image.fromarray(grey), "TIFF"))[:, :, 0] == np.rint(grey / 257)).all()
    colour = np.random.default_rng(0).integers(0, 65536, (20, 20, 3)).astype(np.uint16)
    assert abs(decoded(deep_png(colour)) - colour / 257).max() <= 1  # Pillow itself takes the upper byte


def test_dark_deep_grey_stays_dark() -> None:
    dark = np.full((20, 20), 200, np.uint16)
    assert (decoded(deep_png(dark)) == 1).all()
    assert (decoded(b"P5 20 20 65535\n" + dark.astype(">u2").tobytes()) == 1).all()


def test_a_transparent_deep_sample_is_white() -> None:
    grey = np.array([[0, 30000] * 10] * 20, np.uint16)
    assert (decoded(deep_png(grey, clear=0))[0, :2, 0] == [255, 117]).all()


def test_odd_floats_are_stretched() -> None:
    values = np.linspace(-3, 900, 400).reshape(20, 20).astype(np.float32)
    values[0, 5] = np.nan
    pixels = decoded(encoded(Image.fromarray(values), "TIFF"))
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)
    assert (decoded(encoded(Image.fromarray(np.zeros((20, 20), np.float32)), "TIFF")) == 0).all()
