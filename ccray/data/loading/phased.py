"""The phases of a run, one after the other, as one run's data."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice

from ccray.config import Phase
from ccray.interfaces import LatentBatch, Latents


class Phased:
    """Data of each phase, which counts its own steps from 0 (`interfaces.Latents`)."""

    def __init__(self, parts: Sequence[tuple[Phase, Latents]]) -> None:
        """parts: the phases in order, each with its data."""
        self._parts = parts

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        """This rank's slice of each global batch from `start_step` to the end of the last phase."""
        for phase, data in self._parts:
            step = max(start_step, phase.first_step)
            if step < phase.end:
                with closing(data.batches(step - phase.first_step)) as batches:  # type: ignore[type-var]
                    yield from islice(batches, phase.end - step)

    def captions(self, count: int) -> list[str]:
        """A few different captions of the first phase's data."""
        return self._parts[0][1].captions(count)
