"""Processors of chat models, also where there is no torchvision: what prepares videos is left out, captioners look at pictures."""

from typing import Any

from transformers import AutoConfig, AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

WITH_VIDEOS = ["image_processor", "tokenizer", "video_processor"]


def processor_of(folder: str) -> Any:
    """The processor of a model's folder; no code of the folder's own is run.

    Raises:
        ImportError: when it needs a library that is not installed, and names it.
        OSError, ValueError: when the folder has none.
    """
    if not is_torchvision_available():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind: Any = PROCESSOR_MAPPING.get(type(config), None)
        if kind is not None and kind.get_attributes() == WITH_VIDEOS:
            return _of_pictures(kind).from_pretrained(folder, trust_remote_code=False)
    return AutoProcessor.from_pretrained(folder, trust_remote_code=False)


def _of_pictures(kind: Any) -> Any:
    """A processor class of transformers without its video processor, whose classes of transformers 5.23 all want torchvision."""

    class OfPictures(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: list[Any], processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            rest = {name: value for name, value in processor_dict.items() if name != "video_processor"}
            return super().from_args_and_dict([*args, None], rest, **kwargs)

    OfPictures.__name__ = kind.__name__
    return OfPictures
