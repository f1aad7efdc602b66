"""A way to end a run in the middle, as a kill would, without leaving the process."""

from collections.abc import Iterator

from ccray.data.loader import LatentDataset
from ccray.interfaces import LatentBatch


class Interruption(Exception):
    """The machine is gone."""


class UntilStep:
    """A dataset that ends with an `Interruption` when step `last` is asked for."""

    def __init__(self, data: LatentDataset, last: int) -> None:
        self._data, self._last = data, last

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        for step, batch in enumerate(self._data.batches(start_step), start_step):
            if step == self._last:
                raise Interruption
            yield batch

    def captions(self, count: int) -> list[str]:
        return self._data.captions(count)
