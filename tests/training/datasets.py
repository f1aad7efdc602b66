"""Datasets around a dataset: one that ends a run in the middle, as a kill would, and one that says other words."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from ccray.data.loading.loader import LatentDataset
from ccray.interfaces import LatentBatch


class Interruption(Exception):
    """The machine is gone."""


class OtherWords:
    """A dataset whose captions all say something else."""

    def __init__(self, data: LatentDataset) -> None:
        self._data = data

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        for batch in self._data.batches(start_step):
            yield replace(batch, captions=["something else"] * len(batch.captions))

    def captions(self, count: int) -> list[str]:
        return self._data.captions(count)


class Logged:
    """A dataset that notes the keys of every batch it hands out, and does something once before a certain step."""

    def __init__(self, data: LatentDataset, log: list[tuple[int, list[int]]], at: int = -1, act: Callable[[], None] | None = None) -> None:
        self._data, self._log, self._at, self._act = data, log, at, act

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        for step, batch in enumerate(self._data.batches(start_step), start_step):
            self._log.append((step, batch.global_keys.tolist()))
            if step == self._at and self._act is not None:
                self._act()
            yield batch

    def captions(self, count: int) -> list[str]:
        return self._data.captions(count)


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
