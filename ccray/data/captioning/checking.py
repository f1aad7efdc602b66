"""What is wrong with a caption, as its row's `status`; "ok" when nothing is."""

from ccray.config import CaptionConfig
from ccray.data.pictures.pixels import OK
from ccray.interfaces import Caption

Hints = dict[str, str | None]  # what the source says of a picture: title, alt_text, creator


def status_of(caption: Caption, config: CaptionConfig, hints: Hints | None = None) -> str:
    """ "ok", or the first flag that applies: "empty", "too_short", "too_long", "looping", "truncated", "refusal", "wrong_language", "person_name".

    Args:
        caption: as the model gave it.
        config: its captioner's settings: language, bounds, whether names may be kept.
        hints: what the model was told of the picture, when it was told anything.
    """
    if not caption.text:
        return "empty"
    return OK
