"""Text features beside training: the encoder's answers, kept for captions that come again."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

WIDTH = 16  # captions encoded together, always: a row's bits change with the width of its batch, not with its company
BYTES_KEPT = 2**28


class TextEncoder(Protocol):
    """What `models.text.TextEncoder` offers."""

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features B T W and mask B T."""
        ...


class Features:
    """Features of captions, the most recently used of which stay on the encoder's device (256 MiB at most)."""

    def __init__(self, encoder: TextEncoder, bytes_kept: int = BYTES_KEPT) -> None:
        self._encoder = encoder
        self._bytes = bytes_kept
        self._slots: OrderedDict[str, int] = OrderedDict()  # caption -> row of the store, least recently used first
        self._store: tuple[Tensor, Tensor] | None = None
        self.encoded = 0  # captions that were not in the store

    def of(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features [b T W] and mask [b T] of b captions."""
        wanted = list(dict.fromkeys(captions))
        for caption in wanted:
            if caption in self._slots:
                self._slots.move_to_end(caption)
        missing = [caption for caption in wanted if caption not in self._slots]
        for start in range(0, len(missing), WIDTH):
            self._encode(missing[start : start + WIDTH], len(wanted))
        features, mask = self._store_or_fail()
        slots = torch.tensor([self._slots[caption] for caption in captions], device=features.device)
        return features[slots], mask[slots]

    def _encode(self, captions: list[str], at_least: int) -> None:
        features, mask = self._encoder.encode([*captions, *[""] * (WIDTH - len(captions))])
        self.encoded += len(captions)
        self._grow(features, mask, at_least)
        kept, kept_mask = self._store_or_fail()
        for row, caption in enumerate(captions):
            slot = len(self._slots) if len(self._slots) < len(kept) else self._slots.popitem(last=False)[1]
            self._slots[caption] = slot
            kept[slot], kept_mask[slot] = features[row], mask[row]

    def _grow(self, features: Tensor, mask: Tensor, at_least: int) -> None:
        """Room for all that fits in the bytes, and for every caption of one batch."""
        rows = max(self._bytes // features[0].nbytes, at_least)
        if self._store is None or len(self._store[0]) < rows:
            store = features.new_empty(rows, *features.shape[1:]), mask.new_empty(rows, *mask.shape[1:])
            if self._store is not None:
                for new, old in zip(store, self._store, strict=True):
                    new[: len(old)] = old
            self._store = store

    def _store_or_fail(self) -> tuple[Tensor, Tensor]:
        assert self._store is not None, "features of no caption were asked for"
        return self._store
