"""One sentence in place of a stack of library errors when a model cannot be loaded."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from ccray.interfaces import Refused


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Around the loading of one model or part.

    Raises:
        Refused: when files are missing, are no safetensors, are truncated, or do not fit their configuration.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise Refused(f"{name} cannot be loaded: {one_line(error)} (expected a folder or hub name with safetensors weights)") from None


def one_line(error: Exception) -> str:
    """The beginning of an error's text, without line breaks."""
    return " ".join(str(error).split())[:300]
