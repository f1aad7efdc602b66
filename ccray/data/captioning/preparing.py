"""What the CPU tasks of a captioner do to a picture before its model sees it: settled here by the model's own settings, done there without torch."""

from functools import partial
from typing import Any

from transformers import AutoImageProcessor

from ccray.config import CaptionConfig
from ccray.data.pictures.pixels import SmallView, View, whole_view
from ccray.models.captioners.describing import fit_from
from ccray.models.captioners.pictures import centre_box, centred, fitted, whole_box, within_area
from ccray.models.fetching import SETTINGS, fetched
from ccray.models.loading import loading

AREA = 1 << 15  # a `longest_edge` from here on counts pixels of the whole picture, as the Qwen-VL family means it: no side is that long
SPARE = 2  # how many times larger a picture must be than what is made of it, to be decoded reduced


def view_of(config: CaptionConfig) -> View:
    """The view of one captioner's pictures; it pickles, and what it runs needs neither torch nor transformers.

    BLIP-2 and Florence-2 get exactly what their models take. Other families prepare pictures themselves and get the centre square at most `crop_px`,
    else the whole picture with at most the pixels that their processor would keep.

    Raises:
        Refused: when the model's picture settings cannot be read, or are of a kind that is not done here.
        ValueError: for a translator, which sees no pictures.
    """
    if config.family == "translate":
        raise ValueError("a translator sees no pictures")
    box = whole_box if config.crop_px is None else centre_box
    if config.family in ("blip2", "florence2"):
        fit = fit_from(fetched(config.model, files=SETTINGS))
        wanted_px = config.crop_px or max(fit.width_px, fit.height_px)
        return SmallView(partial(fitted, fit=fit, crop_px=config.crop_px), box, SPARE * wanted_px)
    if config.crop_px is not None:
        return SmallView(partial(centred, most_px=config.crop_px), box, SPARE * config.crop_px)
    most = _most_pixels(config.model)
    return whole_view if most is None else SmallView(partial(within_area, most_pixels=most), box, SPARE * (int(most**0.5) + 1))


def _most_pixels(model: str) -> int | None:
    """Of a whole picture, by the model's own image processor; None where it states no area."""
    with loading(f"the picture settings of {model}"):
        processor: Any = AutoImageProcessor.from_pretrained(fetched(model, files=SETTINGS), backend="pil", trust_remote_code=False)
    size = processor.size or {}
    stated = [getattr(processor, "max_pixels", None), size.get("max_pixels"), size.get("longest_edge")]
    areas = [int(one) for one in stated if one is not None and int(one) >= AREA]
    return min(areas) if areas else None
