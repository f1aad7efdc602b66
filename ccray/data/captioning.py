"""The caption worker: pixels in, sentences out."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from ccray import schema
from ccray.config import CaptionConfig
from ccray.data.pictures.pixels import OK, as_objects, pixels_of
from ccray.interfaces import Batch, Caption, Captioner
from ccray.models.captioner import Blip2Captioner
from ccray.models.device import usable

log = logging.getLogger(__name__)


class CaptionImages:
    """Rows of `pixels.PIXELS` -> rows of `schema.CAPTIONS`."""

    def __init__(self, config: CaptionConfig, device: str = "cpu", threads: int | None = None) -> None:
        """Load the captioner; `threads` is the number of torch threads, as torch finds them when None."""
        if threads is not None:
            torch.set_num_threads(threads)
        disable_progress_bar()  # of loading weights, in the middle of the run's own lines
        self._config = config
        self._captioner: Captioner = Blip2Captioner(config, usable(device))

    def __call__(self, batch: Batch) -> Batch:
        statuses = batch["status"].copy()
        good = [row for row, status in enumerate(statuses) if status == OK]
        captions: dict[int, Caption] = {}
        outcomes = described(self._captioner, [pixels_of(batch, row) for row in good])
        for row, outcome in zip(good, outcomes, strict=True):
            if isinstance(outcome, Caption):
                captions[row] = outcome
            else:
                statuses[row] = outcome
        rows = range(len(statuses))
        columns = {
            "key": batch["key"],
            "shard": batch["shard"],
            "caption": as_objects([captions[row].text if row in captions else None for row in rows]),
            "language": as_objects([self._config.language] * len(rows)),
            "prompt": as_objects([self._config.prompt] * len(rows)),
            "mean_logprob": as_objects([captions[row].mean_logprob if row in captions else None for row in rows]),
            "status": statuses,
        }
        return {name: columns[name] for name in schema.CAPTIONS.names}


def described(captioner: Captioner, images: Sequence[np.ndarray]) -> list[Caption | str]:
    """A caption of each image, or what went wrong with it. One image that breaks the batch costs only itself."""
    if not images:
        return []
    try:
        return list(captioner.caption(images))
    except Exception as error:
        if is_lost(error):
            raise
        log.warning("a batch of %d pictures failed (%s); trying them one by one", len(images), error)
    return [_one(captioner, image) for image in images]


def _one(captioner: Captioner, image: np.ndarray) -> Caption | str:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        return captioner.caption([image])[0]
    except Exception as error:
        if is_lost(error):
            raise
        return failure(error)


def is_lost(error: Exception) -> bool:
    """Whether the device itself is gone, so that every later row would fail too: then the worker must die, and another do its work."""
    return "CUDA error" in str(error) and not isinstance(error, torch.OutOfMemoryError)


def failure(error: Exception) -> str:
    """An exception as a row's status."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
