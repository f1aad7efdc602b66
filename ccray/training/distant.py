"""A text encoder that runs in other processes, asked some batches ahead, so that training does not wait for it.

Nothing here knows what carries the questions: `ask` begins one and gives back a call that waits for its answer. Answers are arrays, for no common
carrier takes bfloat16; its bits travel as uint16, so features arrive as they were made.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccray.config import Recipe
from ccray.interfaces import LatentBatch, Latents
from ccray.models import pipeline
from ccray.models.device import usable
from ccray.training.features import WIDTH

AHEAD = 4  # batches between the question and its use

Answer = tuple[np.ndarray, np.ndarray]  # features B T W (bfloat16 as uint16) and mask B T
Ask = Callable[[list[str]], Callable[[], Answer]]


@dataclass(frozen=True)
class TextFacts:
    """What a model must know of its text encoder without having it."""

    width: int
    max_tokens: int


class TextHost:
    """The other side: the recipe's text encoder, answering in arrays."""

    def __init__(self, recipe: Recipe, device: str, threads: int | None = None) -> None:
        """Load it; `threads` is the number of torch threads, as torch finds them when None.

        Raises:
            Refused: when it cannot be loaded or does not fit the recipe.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self._text = pipeline.text_of(recipe, usable(device))

    def facts(self) -> TextFacts:
        return TextFacts(self._text.width, self._text.max_tokens)

    def encode(self, texts: list[str]) -> Answer:
        """Features and mask of B texts."""
        features, mask = self._text.encode(texts)
        features = features.cpu()
        return (features.view(torch.uint16) if features.dtype == torch.bfloat16 else features).numpy(), mask.cpu().numpy()


class DistantText:
    """Stands where a model has its `models.text.TextEncoder`; it holds no weights, so a model with it cannot be saved."""

    module = None
    tokenizer = None

    def __init__(self, ask: Ask, facts: TextFacts, device: str) -> None:
        """Args:
        ask: begins a question.
        facts: of the encoder that answers.
        device: where features are wanted.
        """
        self.width, self.max_tokens = facts.width, facts.max_tokens
        self._ask, self._device = ask, device
        self._asked: dict[str, tuple[Callable[[], Answer], int]] = {}  # caption -> question and row
        self._batches: deque[set[str]] = deque()

    def prepare(self, texts: Sequence[str]) -> None:
        """Ask for a batch's captions; what was asked for no batch of the last `AHEAD` is let go."""
        wanted = ["", *texts]  # what a dropped caption becomes
        fresh = [text for text in dict.fromkeys(wanted) if text not in self._asked]
        for start in range(0, len(fresh), WIDTH):
            part = fresh[start : start + WIDTH]
            question = self._ask([*part, *[""] * (WIDTH - len(part))])
            self._asked |= {text: (question, row) for row, text in enumerate(part)}
        self._batches.append(set(wanted))
        if len(self._batches) > AHEAD + 2:  # the one in use, and one that the loop may have taken already
            for text in self._batches.popleft().difference(*self._batches):
                del self._asked[text]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features B T W and mask B T: as asked for ahead, else asked for now, together, as an encoder here would take them."""
        found = [self._asked.get(text) for text in texts]
        if len(texts) == WIDTH and None not in found:
            rows = [(question(), row) for question, row in filter(None, found)]
            features, mask = (np.stack([answer[part][row] for answer, row in rows]) for part in (0, 1))
        else:
            features, mask = map(np.array, self._ask(list(texts))())  # copied: what came may not be written to
        tensor = torch.from_numpy(features)
        return (tensor.view(torch.bfloat16) if features.dtype == np.uint16 else tensor).to(self._device), torch.from_numpy(mask).to(self._device)


class AskedAhead:
    """Data whose captions are asked for before they are used (`interfaces.Latents`)."""

    def __init__(self, data: Latents, text: DistantText) -> None:
        self._data, self._text = data, text

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        """The data's batches, `AHEAD` of which are held."""
        held: deque[LatentBatch] = deque()
        with closing(self._data.batches(start_step)) as batches:  # type: ignore[type-var]
            for batch in batches:
                self._text.prepare(batch.captions)
                held.append(batch)
                if len(held) > AHEAD:
                    yield held.popleft()
        yield from held

    def captions(self, count: int) -> list[str]:
        return self._data.captions(count)
