"""From a model's `generate` to tokens with their log-probabilities; on CUDA with a cache of fixed size and a compiled step.

Decoding is deterministic: greedy, or by beams. transformers does both; here its greedy loop gets two ears, one before and one after the processors
that change the logits (repetition penalty, least words), so that no step's logits need to be kept.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import CompileConfig, EncoderDecoderCache, LogitsProcessor, LogitsProcessorList, StaticCache
from transformers.cache_utils import Cache

from ccray.config import CaptionConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speed:
    """What is done for speed alone: it changes a caption's last bits at most."""

    static: bool = False  # keys and values in tensors of one size and one place, as a compiled step needs them
    backend: str | None = None  # of torch.compile, for the vision tower and, with `static`, the decoding step; None = nothing is compiled


def speed_of(config: CaptionConfig, device: str) -> Speed:
    """Everything on CUDA, nothing on CPUs, where compiling takes longer than it saves and the fixed size costs its padding."""
    return Speed(True, "inductor") if config.compile and device.startswith("cuda") else Speed()


@dataclass(frozen=True)
class Said:
    """What a model answered to one batch of B prompts."""

    tokens: Tensor  # [B L], new ones only; what follows a row's first end token is padding
    mean_logprob: Tensor  # [B], float32: of its tokens up to and with the first end token
    ended: Tensor  # [B], bool: whether there is an end token
    real: Tensor  # [B L], bool: tokens up to and with the first end token


class Decoder:
    """`generate` by the settings of a captioner."""

    def __init__(self, model: Any, generate: Callable[..., Any], config: CaptionConfig, speed: Speed = Speed()) -> None:
        """Args:
        model: the part that speaks: its class, configuration and generation configuration count.
        generate: called with a batch's inputs and the settings: the method of the whole model, whose answer is that of `model.generate`.
        config: lengths, beams, penalties.
        speed: see there; a class of model that cannot be compiled, and beams, decode as they do without.
        """
        self._model, self._generate = model, generate
        end = model.generation_config.eos_token_id
        self.ends: list[int] = end if isinstance(end, list) else [end]
        self._beams = config.num_beams
        self._settings: dict[str, Any] = {
            "do_sample": False,
            "num_beams": config.num_beams,
            "max_new_tokens": config.max_new_tokens,
            "min_new_tokens": config.min_new_tokens,
            "repetition_penalty": config.repetition_penalty,
            "length_penalty": config.length_penalty,
        }
        self._speed = speed if config.num_beams == 1 and _has_static_step(model) else Speed()
        if self._speed != speed:
            log.info("%s with %d beams: decoding without a static cache or a compiled step", type(model).__name__, config.num_beams)
        if self._speed.static and self._speed.backend is not None:
            self._settings["compile_config"] = _step(self._speed.backend)
        self._cache: tuple[tuple[int, ...], Cache] | None = None

    def plainly(self) -> None:
        """From now on without a static cache and a compiled step."""
        self._speed, self._cache = Speed(), None
        self._settings.pop("compile_config", None)

    @torch.no_grad()
    def __call__(self, inputs: dict[str, Tensor]) -> Said:
        """Decode a batch: `inputs` as `generate` takes them, the prompt's `input_ids` [B P] among them."""
        tokens, logs = self._by_beams(inputs) if self._beams > 1 else self._greedily(inputs)
        is_end = torch.isin(tokens, torch.tensor(self.ends, device=tokens.device))
        real = (is_end.cumsum(dim=1) - is_end.long()) == 0
        # In float64, where the sum is exact however many places follow the end.
        mean = (logs.double() * real).sum(dim=1).div(real.sum(dim=1)).float()
        return Said(tokens, mean, is_end.any(dim=1), real)

    def _greedily(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """New tokens and the log-probability of each before any processor changed it, both [B L]."""
        loop = _Greedy()
        cache = {"past_key_values": self._kept(*inputs["input_ids"].shape)} if self._speed.static else {}
        sequences = self._generate(**inputs, **cache, **self._settings, custom_generate=loop)
        logs = torch.stack(loop.chosen, dim=1)
        return sequences[:, -logs.shape[1] :], logs

    def _by_beams(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """New tokens of the best beam and their log-probabilities, both [B L]."""
        answer = self._generate(**inputs, **self._settings, return_dict_in_generate=True, output_scores=True)
        logs = self._model.compute_transition_scores(answer.sequences, answer.scores, answer.beam_indices).float()
        return answer.sequences[:, -logs.shape[1] :], logs

    def _kept(self, rows: int, prompt: int) -> Cache:
        """The emptied cache of the batch before. A new one would lie elsewhere, and the recorded CUDA graphs would have to be recorded again."""
        shape = (rows, prompt)
        if self._cache is None or self._cache[0] != shape:
            self._cache = None  # first, so that both need not fit
            self._cache = (shape, _static(self._model.config, prompt, self._settings["max_new_tokens"]))
        self._cache[1].reset()
        return self._cache[1]


def _has_static_step(model: Any) -> bool:
    return bool(getattr(model, "_can_compile_fullgraph", False))


def _step(backend: str) -> CompileConfig:
    """Every batch has one shape, so nothing is dynamic. CUDA graphs belong to inductor; the other backends trace on any device."""
    if backend == "inductor":
        return CompileConfig(dynamic=False)
    traced = CompileConfig(dynamic=False, backend=backend, mode="default")
    traced._compile_all_devices = True
    return traced


def _static(config: Any, prompt: int, new: int) -> Cache:
    text = config.get_text_config(decoder=True)
    if not config.is_encoder_decoder:
        return StaticCache(config=text, max_cache_len=prompt + new)
    return EncoderDecoderCache(StaticCache(config=text, max_cache_len=1 + new), StaticCache(config=text, max_cache_len=prompt))


@dataclass
class _Greedy:
    """transformers' own greedy loop, listened to."""

    chosen: list[Tensor] = field(default_factory=list)  # a step's log-probabilities, [B]

    def __call__(self, model: Any, input_ids: Tensor, logits_processor: LogitsProcessorList, **settings: Any) -> Tensor:
        raw = _Raw()
        heard = LogitsProcessorList([raw, *logits_processor, _Chosen(raw, self.chosen)])
        sequences: Tensor = type(model)._sample(model, input_ids, logits_processor=heard, **settings)
        return sequences


class _Raw(LogitsProcessor):
    """Hears what the model itself thinks of every token."""

    def __init__(self) -> None:
        self.logs: Tensor | None = None  # [B V]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.logs = torch.log_softmax(scores.float(), dim=-1)
        return scores


class _Chosen(LogitsProcessor):
    """Hears what the loop will take, once all processors have spoken."""

    def __init__(self, raw: _Raw, chosen: list[Tensor]) -> None:
        self._raw, self._chosen = raw, chosen

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        assert self._raw.logs is not None
        self._chosen.append(self._raw.logs.gather(1, scores.argmax(dim=-1, keepdim=True))[:, 0])
        self._raw.logs = None
        return scores
