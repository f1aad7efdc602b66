"""What a captioner's picture must be before it reaches the device: as many pixels as the model takes, 8 bits each.

Cutting and resizing are the processor's own (Pillow, its filter), rescaling and normalising are left to the device. So a CPU task hands on a
quarter of the bytes, and this file needs Pillow and numpy alone: the tasks start without torch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccray.interfaces import Refused

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True)
class Fit:
    """The settings of a model's image processor."""

    height_px: int
    width_px: int
    resample: int  # Pillow's number of the filter
    scale: float  # of 8-bit values, before the mean is taken off
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def fit_of(processor: Any) -> Fit:
    """From an image processor of transformers.

    Raises:
        Refused: when it does more than resize to a fixed size, rescale and normalise.
    """
    size: Any = processor.size or {}
    sides: tuple[Any, Any] = (size.get("height"), size.get("width"))
    cut = getattr(processor, "crop_size", None) or {}
    cuts = bool(getattr(processor, "do_center_crop", False)) and (cut.get("height"), cut.get("width")) != sides
    if None in sides or cuts or not processor.do_resize:
        raise Refused(
            f"{type(processor).__name__} prepares pictures with size={dict(size)}, do_resize={processor.do_resize}, crop={dict(cut) if cuts else None}: "
            f"expected one that resizes to a height and a width, as those of BLIP-2 and Florence-2 do"
        )
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    scale = float(processor.rescale_factor) if processor.do_rescale else 1.0
    return Fit(int(sides[0]), int(sides[1]), int(processor.resample), scale, _three(mean), _three(std))


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def fitted(pixels: Pixels, fit: Fit, crop_px: int | None) -> Pixels:
    """The model's picture, `height_px` `width_px` 3, of one of any size, H W 3: with `crop_px` of its centre square, first reduced to that side."""
    if crop_px is not None:
        pixels = centred(pixels, crop_px)
    if pixels.shape[:2] == (fit.height_px, fit.width_px):
        return np.ascontiguousarray(pixels)
    return resized(pixels, fit.width_px, fit.height_px, fit.resample)


def centred(pixels: Pixels, most_px: int) -> Pixels:
    """The largest centred square, reduced to `most_px` where it is larger."""
    left, top, side, _ = centre_box(pixels.shape[1], pixels.shape[0])
    square = pixels[top : top + side, left : left + side]
    return resized(square, most_px, most_px, Image.Resampling.BICUBIC) if side > most_px else square


def resized(pixels: Pixels, width_px: int, height_px: int, resample: int) -> Pixels:
    return np.array(Image.fromarray(np.ascontiguousarray(pixels)).resize((width_px, height_px), Image.Resampling(resample)))


def centre_box(width_px: int, height_px: int) -> Box:
    """The largest centred square of a picture."""
    side = min(width_px, height_px)
    return (width_px - side) // 2, (height_px - side) // 2, side, side


def whole_box(width_px: int, height_px: int) -> Box:
    return 0, 0, width_px, height_px


def within_area(pixels: Pixels, most_pixels: int) -> Pixels:
    """Pixels reduced, in proportion, until there are at most `most_pixels` of them; both sides keep at least one."""
    height, width = pixels.shape[:2]
    if height * width <= most_pixels:
        return pixels
    scale = (most_pixels / (height * width)) ** 0.5
    return resized(pixels, max(1, int(width * scale)), max(1, int(height * scale)), Image.Resampling.LANCZOS)
