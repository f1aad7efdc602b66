"""The caption workers: pixels in, sentences out; sentences in, sentences of another language out."""

import logging
from collections.abc import Callable, Sequence

import torch
from transformers.utils.logging import disable_progress_bar

from ccray import schema
from ccray.config import CaptionConfig
from ccray.data.captioning.checking import status_of
from ccray.data.captioning.names import Hints, without_names
from ccray.data.pictures.pixels import OK, TAKEN_DOWN, as_objects, pixels_of
from ccray.flags import TRANSLATED
from ccray.interfaces import Batch, Caption, Captioner, Subject
from ccray.models.captioners.build import captioner_of
from ccray.models.device import usable

log = logging.getLogger(__name__)


class _Worker:
    """What both workers have: a captioner, and an answer for rows that end its process."""

    def __init__(self, config: CaptionConfig, device: str = "cpu", threads: int | None = None) -> None:
        """Load the captioner; `threads` is the number of torch threads, as torch finds them when None."""
        if threads is not None:
            torch.set_num_threads(threads)
        disable_progress_bar()  # of loading weights, in the middle of the run's own lines
        self._config = config
        self._captioner = captioner_of(config, usable(device))

    def given_up(self, batch: Batch, why: str) -> Batch:
        """Rows that end the process."""
        return answered(batch, self._config, dict.fromkeys(range(len(batch["key"])), why))

    def _described(self, batch: Batch, subject: Callable[[int], Subject]) -> Batch:
        """Captions of the rows with status "ok"; `subject` is what the captioner is given of one."""
        good = [row for row, status in enumerate(batch["status"]) if status == OK]
        outcomes = described(self._captioner, [subject(row) for row in good])
        return answered(batch, self._config, dict(zip(good, outcomes, strict=True)))


class CaptionImages(_Worker):
    """Rows of `pixels.PIXELS`, with the columns of the captioner's hints -> rows of `schema.CAPTIONS`."""

    def __call__(self, batch: Batch) -> Batch:
        return self._described(batch, lambda row: Subject(pixels_of(batch, row), told(hints_of(batch, row, self._config), self._config)))


class TranslateCaptions(_Worker):
    """Rows of `schema.CAPTIONS` -> rows of `schema.CAPTIONS` in another language."""

    def __init__(self, config: CaptionConfig, device: str = "cpu", threads: int | None = None, taken_down: frozenset[int] = frozenset()) -> None:
        """Load the translator; captions of images in `taken_down` are not translated."""
        super().__init__(config, device, threads)
        self._taken_down = taken_down

    def __call__(self, batch: Batch) -> Batch:
        statuses = [TAKEN_DOWN if int(key) in self._taken_down else status for key, status in zip(batch["key"], batch["status"], strict=True)]
        read = batch | {"status": as_objects([status if status in (OK, TAKEN_DOWN) else f"{TRANSLATED}{status}" for status in statuses])}
        return self._described(read, lambda row: Subject(text=batch["caption"][row]))


def columns_of(config: CaptionConfig) -> tuple[str, ...]:
    """Columns of the catalog that a captioner needs beside the pictures: its hints, and by whose name they are to be searched."""
    return (*config.hints, "creator") if config.hints else ()


def hints_of(batch: Batch, row: int, config: CaptionConfig) -> Hints | None:
    """What the source says of one picture, where the captioner is told any of it."""
    return {name: batch[name][row] for name in columns_of(config)} or None


def told(hints: Hints | None, config: CaptionConfig) -> str | None:
    """The words that a captioner is told, without what looks like names of persons unless the recipe keeps them."""
    if hints is None:
        return None
    said = [hints[name] or "" for name in config.hints]
    if not config.keep_names:
        said = [without_names(text, hints["creator"]) for text in said]
    return " ".join(filter(None, said)) or None


def answered(batch: Batch, config: CaptionConfig, outcomes: dict[int, Caption | str]) -> Batch:
    """Rows of `schema.CAPTIONS`: `outcomes` are captions, which are checked, or what went wrong; the other rows keep the status they came with."""
    rows = range(len(batch["key"]))
    captions = {row: outcome for row, outcome in outcomes.items() if isinstance(outcome, Caption)}
    statuses = {
        row: outcome if isinstance(outcome, str) else status_of(outcome, config, hints_of(batch, row, config)) for row, outcome in outcomes.items()
    }
    columns = {
        "key": batch["key"],
        "shard": batch["shard"],
        "caption": as_objects([captions[row].text or None if row in captions else None for row in rows]),
        "language": as_objects([config.language] * len(rows)),
        "prompt": as_objects([config.prompt] * len(rows)),
        "mean_logprob": as_objects([captions[row].mean_logprob if row in captions else None for row in rows]),
        "status": as_objects([statuses.get(row, batch["status"][row]) for row in rows]),
    }
    return {name: columns[name] for name in schema.CAPTIONS.names}


def described(captioner: Captioner, subjects: Sequence[Subject]) -> list[Caption | str]:
    """A caption of each subject, or what went wrong with it. One that breaks the batch costs only itself."""
    if not subjects:
        return []
    try:
        return list(captioner.caption(subjects))
    except Exception as error:
        if is_lost(error):
            raise
        log.warning("a batch of %d failed (%s); trying them one by one", len(subjects), error)
    return [_one(captioner, subject) for subject in subjects]


def _one(captioner: Captioner, subject: Subject) -> Caption | str:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        return captioner.caption([subject])[0]
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
