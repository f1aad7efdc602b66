"""From a captioner's settings to the model itself."""

from collections.abc import Callable

from ccray.config import CaptionConfig
from ccray.interfaces import Captioner, Refused
from ccray.models.captioners.blip2 import Blip2Captioner
from ccray.models.captioners.chat import ChatCaptioner
from ccray.models.captioners.florence2 import Florence2Captioner
from ccray.models.captioners.translate import TranslateCaptioner

FAMILIES: dict[str, Callable[[CaptionConfig, str], Captioner]] = {
    "blip2": Blip2Captioner,
    "florence2": Florence2Captioner,
    "chat": ChatCaptioner,
    "translate": TranslateCaptioner,
}


def captioner_of(config: CaptionConfig, device: str = "cpu") -> Captioner:
    """Load a captioner on a device.

    Raises:
        Refused: when its model cannot be loaded, or is not of its family.
    """
    if config.family not in FAMILIES:
        raise Refused(f"family {config.family!r} is not run here: expected one of {', '.join(FAMILIES)}")
    return FAMILIES[config.family](config, device)
