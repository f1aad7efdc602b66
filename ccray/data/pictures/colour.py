"""Any Pillow mode to 8-bit sRGB.

An embedded ICC profile is followed where it fits the pixels, by relative colorimetric intent with black-point compensation, as editors do;
a broken one, or one for other pixels, is ignored. Lab goes through littleCMS without a profile, CMYK without a profile through Pillow's formula. Deep samples
are scaled over their whole range, and what is transparent lies over white.
"""

import io
from collections.abc import Iterator
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

ROWS_PIXELS = 1 << 22  # deep samples are scaled this many at a time, so that a large picture needs little beside itself
PROFILE_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # the ICC's names of colour spaces -> Pillow's modes
DEVICE_CLASSES = {"mntr", "scnr", "prtr", "spac"}  # profiles that describe pixels; the others link devices or name colours
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.HIGHRESPRECALC
GREY_MODES = {"1", "L", "LA", "La"}
BITS_PER_SAMPLE = 258  # a tag of TIFF


def to_srgb(image: Image.Image) -> Image.Image:
    """A loaded picture of any mode as mode RGB, sRGB, nothing transparent; size and orientation stay.

    Raises:
        Exception: whatever Pillow raises for a mode that it cannot convert.
    """
    grey = _deep_grey(image) if image.mode.startswith(("I", "F")) else None
    if grey is not None:
        return _over_white(_profiled(grey, image), _deep_alpha(image))
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        colours = layered.convert("L" if image.mode in GREY_MODES else "RGB")
        return _over_white(_profiled(colours, image), layered.getchannel("A"))
    return _profiled(_plain(image), image)


def _plain(image: Image.Image) -> Image.Image:
    """The picture in a mode that a profile may describe: L, RGB or CMYK."""
    if image.mode in GREY_MODES:
        return image.convert("L")
    if image.mode == "LAB":
        return _lab_to_srgb().apply(image)
    return image if image.mode in PROFILE_SPACES.values() else image.convert("RGB")


def _over_white(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    if alpha is None:
        return image
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=alpha)
    return white


def _profiled(colours: Image.Image, image: Image.Image) -> Image.Image:
    """L, RGB or CMYK pixels to sRGB, by the profile that came with the picture."""
    profile = image.info.get("icc_profile")
    transform = _transform(profile, colours.mode) if isinstance(profile, bytes) and image.mode != "LAB" else None
    if transform is None:
        return colours if colours.mode == "RGB" else colours.convert("RGB")
    return transform.apply(colours)


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    """Colour by colour, not through a table: Pillow's own conversion errs by 6 levels among dark blues."""
    lab, srgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile(space)) for space in ("LAB", "sRGB"))
    return ImageCms.ImageCmsTransform(lab, srgb, "LAB", "RGB", intent=INTENT, flags=ImageCms.Flags.NOOPTIMIZE)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile's colours to sRGB, or None: it is broken, describes other pixels, or moves no colour by more than one step."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        described = PROFILE_SPACES.get(opened.profile.xcolor_space.strip())
        if described != mode or opened.profile.device_class not in DEVICE_CLASSES:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(opened, srgb, mode, "RGB", intent=INTENT, flags=FLAGS)
        return transform if mode == "CMYK" or _moves(transform, mode) else None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _moves(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether some colour changes by more than rounding; most profiles are sRGB, and then the pixels stay as they are."""
    if mode == "L":
        samples = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        samples = Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3))
    before, after = np.asarray(samples.convert("RGB"), int), np.asarray(transform.apply(samples), int)
    return bool((abs(after - before) > 1).any())


def _deep_grey(image: Image.Image) -> Image.Image:
    """One channel of 16-bit, 32-bit or float samples to mode L; Pillow's own conversion clips them to white."""
    values = np.asarray(image)
    low, scale = _range(image, values)
    grey = np.empty(values.shape, np.uint8)
    for rows in _strips(values):
        grey[rows] = np.rint((_finite(values[rows]) - low) * (255.0 / scale))
    return Image.fromarray(grey)


def _range(image: Image.Image, values: NDArray[np.generic]) -> tuple[float, float]:
    """The sample that is black, and how far above it white lies."""
    low = min(float(_finite(values[rows]).min()) for rows in _strips(values))
    high = max(float(_finite(values[rows]).max()) for rows in _strips(values))
    if image.mode == "F":
        white = 1.0 if low >= 0 and high <= 1 else 255.0
    elif image.mode == "I" and high <= 255 and image.format != "PPM":  # Pillow scales PPM to 16 bits itself
        white = 255.0
    else:
        white = float(2 ** _stored_bits(image) - 1)
    if low >= 0 and high <= white:
        return 0.0, white
    return low, max(high - low, 1e-9)  # no known range: stretch


def _strips(values: NDArray[np.generic]) -> Iterator[slice]:
    step = max(1, ROWS_PIXELS // values.shape[1])
    return (slice(top, top + step) for top in range(0, values.shape[0], step))


def _finite(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)


def _stored_bits(image: Image.Image) -> int:
    """16, unless a TIFF says that its samples have fewer bits."""
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0] if tags is not None else 16
    return bits if 8 < bits <= 16 else 16


def _deep_alpha(image: Image.Image) -> Image.Image | None:
    """A 16-bit grey PNG may name one sample that is transparent."""
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return None
    return Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8))
