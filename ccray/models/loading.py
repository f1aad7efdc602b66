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
        Refused: when files are missing, are no safetensors, are truncated, or do not fit their configuration, when a library that they need
            is not installed, or a hub name or store cannot be reached.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        raise Refused(f"{name} cannot be loaded here: {one_line(error)}") from None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        expected = "expected a folder, hub name or s3://bucket/prefix with safetensors weights"
        raise Refused(f"{name} cannot be loaded: {one_line(error)} ({expected})") from None


def one_line(error: Exception) -> str:
    """The beginning of an error's text, without line breaks."""
    return " ".join(str(error).split())[:300]
