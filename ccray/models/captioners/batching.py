"""Batches of one width: filled up with copies, prepared while the device works on the one before, halved where its memory does not hold them.

A row's bits change with the width of its batch and with the length to which it is padded, not with its company. So every batch has the full width,
and only subjects of one length class share a batch.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any

import torch

from ccray.interfaces import Caption, Subject

log = logging.getLogger(__name__)

Inputs = dict[str, torch.Tensor]
Places = list[int]


class Batches:
    """From subjects to captions, for a model that takes batches of one width."""

    def __init__(
        self,
        width: int,
        device: str,
        prepare: Callable[[Sequence[Subject]], Inputs],
        generate: Callable[[Inputs], list[Caption]],
        length: Callable[[Subject], int] = lambda _: 0,
    ) -> None:
        """Args:
        width: subjects in a batch.
        device: "cpu", "cuda:0": where `generate` expects its inputs.
        prepare: subjects, exactly `width` of them, to host tensors; on CUDA called on a thread of its own, one batch ahead.
        generate: tensors on the device to one caption a row.
        length: of a subject, its length class (what it is padded to); subjects of different classes do not share a batch.
        """
        self.width = width
        self._widest = width  # that the device is known to hold, or not known not to
        self._device = torch.device(device)
        self._prepare, self._generate, self._length = prepare, generate, length
        self._ahead = ThreadPoolExecutor(1) if self._device.type == "cuda" else None

    def caption(self, subjects: Sequence[Subject]) -> list[Caption]:
        """A caption of each subject, in their order."""
        found: dict[int, Caption] = {}
        waiting = list(self._cut(subjects, range(len(subjects))))
        while waiting and not self._all_of(subjects, waiting, found):
            self._halve()
            waiting = list(self._cut(subjects, [place for places in waiting for place in places]))
        self._widest = self.width
        return [found[place] for place in range(len(subjects))]

    def _all_of(self, subjects: Sequence[Subject], waiting: list[Places], found: dict[int, Caption]) -> bool:
        """Move batches from `waiting` to `found`; False when the device's memory did not hold one.

        The exception ends here: while it is handled, its traceback keeps the tensors of the failed batch alive.
        """
        try:
            for places, inputs in self._prepared(subjects, waiting):
                found |= zip(places, self._generate(inputs), strict=False)
                waiting.pop(0)
        except torch.OutOfMemoryError:
            return False
        return True

    def _cut(self, subjects: Sequence[Subject], places: Sequence[int]) -> Iterator[Places]:
        """Batches of places, the shortest subjects first."""
        lengths = {place: self._length(subjects[place]) for place in places}
        for _, group in groupby(sorted(places, key=lengths.__getitem__), key=lengths.__getitem__):
            members = list(group)
            yield from (members[start : start + self.width] for start in range(0, len(members), self.width))

    def _prepared(self, subjects: Sequence[Subject], batches: list[Places]) -> Iterator[tuple[Places, Inputs]]:
        """Each batch with its tensors on the device; with a device of its own the next one is prepared meanwhile."""
        batches = list(batches)
        if self._ahead is None:
            for places in batches:
                yield places, self._host(subjects, places)
            return
        following: Future[Inputs] | None = self._ahead.submit(self._host, subjects, batches[0])
        for number, places in enumerate(batches):
            assert following is not None
            host = following.result()
            following = self._ahead.submit(self._host, subjects, batches[number + 1]) if number + 1 < len(batches) else None
            yield places, {name: tensor.to(self._device, non_blocking=True) for name, tensor in host.items()}

    def _host(self, subjects: Sequence[Subject], places: Places) -> Inputs:
        """A full batch on the host; its rows after `places` are copies of the last one."""
        full = [subjects[place] for place in places] + [subjects[places[-1]]] * (self.width - len(places))
        inputs = self._prepare(full)
        return {name: tensor if tensor.is_cuda else tensor.pin_memory() for name, tensor in inputs.items()} if self._ahead else inputs

    def _halve(self) -> None:
        """Raises:
        torch.OutOfMemoryError: when one subject alone is too much.
        """
        if self.width == 1:
            self.width = self._widest  # one subject that never fits says nothing of the others
            raise torch.OutOfMemoryError("the device's memory does not hold a single subject")
        self.width //= 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("the device's memory does not hold %d subjects at once: from now on %d", 2 * self.width, self.width)


def of_any(inputs: Any) -> Inputs:
    """The tensors of what a processor of transformers answers."""
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
