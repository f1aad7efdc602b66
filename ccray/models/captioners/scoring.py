"""How sure a model was of what it said: mean log-probability a token, up to and with the first end token."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, MinNewTokensLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor

from ccray.config import CaptionConfig


class Scored:
    """Greedy decoding whose log-probabilities are noted step by step: kept logits of a long caption would fill a device.

    Source: transformers' `generate` applies the processors it is given in their order, the first to the model's own logits.
    """

    def __init__(self, config: CaptionConfig, prompt_tokens: int, ends: Sequence[int], device: torch.device) -> None:
        """Args:
        prompt_tokens: before the first new one, padding included.
        ends: the tokens that end a caption.
        """
        self._own: Tensor | None = None
        self._logs: list[Tensor] = []
        self.processors = LogitsProcessorList([_Call(self._note)])
        if config.repetition_penalty != 1:
            self.processors.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        if config.min_new_tokens:
            self.processors.append(MinNewTokensLengthLogitsProcessor(prompt_tokens, config.min_new_tokens, list(ends), device=str(device)))
        self.processors.append(_Call(self._score))

    def _note(self, scores: Tensor) -> Tensor:
        self._own = scores
        return scores

    def _score(self, scores: Tensor) -> Tensor:
        assert self._own is not None
        self._logs.append(log_probability(self._own, scores.argmax(dim=-1)))
        return scores

    def logs(self) -> Tensor:
        """Of each row's new tokens, [B L]; after its end they mean nothing."""
        return torch.stack(self._logs, dim=1)


class _Call(LogitsProcessor):
    """A function of the scores alone as `generate` takes it."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._function(scores)


def log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of each row's token, [B]; natural logarithm."""
    return torch.log_softmax(logits.float(), dim=-1).gather(1, tokens[:, None])[:, 0]


def is_word(tokens: Tensor, ends: Sequence[int]) -> Tensor:
    """Which tokens [B L] are the caption: those up to and with the first end token."""
    is_end = torch.isin(tokens, torch.tensor(list(ends), device=tokens.device))
    return (is_end.cumsum(dim=1) - is_end.long()) == 0


def mean_of_words(logs: Tensor, tokens: Tensor, ends: Sequence[int]) -> Tensor:
    """Mean over the caption's tokens, [B]; in float64, where the sum is exact however many places follow the end."""
    words = is_word(tokens, ends)
    return (logs.double().where(words, 0.0)).sum(dim=1).div(words.sum(dim=1)).float()


def has_ended(tokens: Tensor, ends: Sequence[int]) -> Tensor:
    """Whether an end token came at all, [B] bool."""
    return torch.isin(tokens, torch.tensor(list(ends), device=tokens.device)).any(dim=1)
