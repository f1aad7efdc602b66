"""Datasets around a dataset: they end a run in the middle, as a kill would, say other words, break numbers, and note what they are asked."""

import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ccray.interfaces import LatentBatch, Latents

Around = Callable[[Latents], Latents]


class Interruption(Exception):
    """The machine is gone."""


class OtherWords:
    """A dataset whose captions all say something else."""

    def __init__(self, data: Latents) -> None:
        self._data = data

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        for batch in self._data.batches(start_step):
            yield replace(batch, captions=["something else"] * len(batch.captions))

    def captions(self, count: int) -> list[str]:
        return self._data.captions(count)


class Logged:
    """A dataset that notes the keys of every batch it hands out, and does something once before a certain step."""

    def __init__(self, data: Latents, log: list[tuple[int, list[int]]], at: int = -1, act: Callable[[], None] | None = None) -> None:
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

    def __init__(self, data: Latents, last: int) -> None:
        self._data, self._last = data, last

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        for step, batch in enumerate(self._data.batches(start_step), start_step):
            if step == self._last:
                raise Interruption
            yield batch

    def captions(self, count: int) -> list[str]:
        return self._data.captions(count)


class Poisoned:
    """A dataset in which one image's latent is no number, at some steps: the first of the global batch, so one rank alone sees it."""

    def __init__(self, data: Latents, steps: frozenset[int], value: float = math.nan) -> None:
        self._data, self._steps, self._value = data, steps, value

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        for step, batch in enumerate(self._data.batches(start_step), start_step):
            mean = batch.latent_mean
            if step in self._steps:
                mean = np.where((batch.keys == batch.global_keys[0])[:, None, None, None], np.float16(self._value), mean)
            yield replace(batch, latent_mean=mean)

    def captions(self, count: int) -> list[str]:
        return self._data.captions(count)


class Killed:
    """A dataset that kills its process when a step is asked for."""

    def __init__(self, data: Latents, at: int) -> None:
        self._data, self._at = data, at

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        for step, batch in enumerate(self._data.batches(start_step), start_step):
            if step == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    def captions(self, count: int) -> list[str]:
        return self._data.captions(count)
