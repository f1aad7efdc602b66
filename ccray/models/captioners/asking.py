"""A question in a model's own chat template, and the answer to it: what chat models and translators share."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ccray.config import CaptionConfig
from ccray.interfaces import Caption, Refused
from ccray.models.captioners.batching import Inputs
from ccray.models.captioners.scoring import Scored, has_ended, is_word, mean_of_words

CLASS_TOKENS = 32  # lengths are padded to multiples of this
THOUGHT_ENDS = re.compile(r".*</think>|.*\[/THINK\]", re.DOTALL)
THOUGHT_OPENS = ("<think>", "[THINK]")
UNSETTLED = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "max_length", "forced_eos_token_id")


def padded(tokens: int) -> int:
    """The length class of a row. At least one place is padding: a mask that hides nothing would be left out, and with it another kernel chosen."""
    return (tokens // CLASS_TOKENS + 1) * CLASS_TOKENS


def template_of(speaker: Any, model: str) -> str:
    """The chat template of a processor or tokenizer.

    Raises:
        Refused: when the model comes without one.
    """
    template = getattr(speaker, "chat_template", None) or getattr(getattr(speaker, "tokenizer", None), "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise Refused(f"{model} has no chat template: expected a model that follows instructions, whose folder has chat_template.jinja")
    return str(template)


def question(speaker: Any, conversation: Any, template: str, **settings: Any) -> Any:
    """One conversation, or one a row, up to where the model is to speak; models that may think first are told not to, where they can be told."""
    silent = {"enable_thinking": False} if "enable_thinking" in template else {}
    return speaker.apply_chat_template(conversation, chat_template=template, add_generation_prompt=True, **silent, **settings)


def without_control_tokens(tokenizer: Any, text: str) -> str:
    """Words of others, which must not end a turn or stand for a picture."""
    tokens = sorted((token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()), key=len, reverse=True)
    pattern = "|".join(map(re.escape, tokens))
    while pattern and (cut := re.sub(pattern, " ", text)) != text:  # what is cut may leave another one behind
        text = cut
    return " ".join(text.split())


def spoken(text: str, thinks: bool = False) -> str:
    """An answer without what the model thought before it; one that `thinks` from its first token and never ends has said nothing."""
    said = THOUGHT_ENDS.sub("", text)
    unended = said == text and (thinks or text.lstrip().startswith(THOUGHT_OPENS))
    return "" if unended else said.strip()


def thinks_first(prompt: str) -> bool:
    """Whether a rendered question leaves off inside a thought."""
    return prompt.rstrip().endswith(THOUGHT_OPENS)


class Answering:
    """A model's own `generate` on batches of padded questions: greedy, or by beams."""

    def __init__(self, model: Any, tokenizer: Any, config: CaptionConfig, thinks: bool = False) -> None:
        """Args:
        model: of transformers, on its device.
        thinks: whether the questions leave off inside a thought.
        """
        self._model, self._tokenizer, self._config, self._thinks = model, tokenizer, config, thinks
        self._settings = model.generation_config = _settings(model, tokenizer, config)  # `generate` fills what is None from the model's own
        ends = self._settings.eos_token_id
        self._ends: list[int] = list(ends) if isinstance(ends, list) else [ends]

    @torch.inference_mode()
    def answer(self, inputs: Inputs) -> list[Caption]:
        """One caption a row; an encoder-decoder's inputs hold the decoder's first tokens as `decoder_input_ids`."""
        device, dtype = self._model.device, self._model.dtype
        inputs = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}
        tokens, logs = self._by_beams(inputs) if self._config.num_beams > 1 else self._greedily(inputs)
        scores = mean_of_words(logs, tokens, self._ends).tolist()
        ended = has_ended(tokens, self._ends).tolist()
        words = (is_word(tokens, self._ends) & ~torch.isin(tokens, torch.tensor(self._ends, device=device))).tolist()
        rows = [[token for token, keep in zip(*row, strict=True) if keep] for row in zip(tokens.tolist(), words, strict=True)]
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [Caption(spoken(text, self._thinks), *facts) for text, *facts in zip(texts, scores, ended, strict=True)]

    def _greedily(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        start = inputs["decoder_input_ids" if self._model.config.is_encoder_decoder else "input_ids"].shape[1]
        scored = Scored(self._config, start, self._ends, self._model.device)
        sequences = self._model.generate(**inputs, generation_config=self._settings, logits_processor=scored.processors)
        logs = scored.logs()
        return sequences[:, -logs.shape[1] :], logs

    def _by_beams(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        found = self._model.generate(**inputs, generation_config=self._settings, return_dict_in_generate=True, output_scores=True)
        logs = self._model.compute_transition_scores(found.sequences, found.scores, found.beam_indices).float()
        return found.sequences[:, -logs.shape[1] :], logs


def _settings(model: Any, tokenizer: Any, config: CaptionConfig) -> Any:
    """The model's own generation settings (what ends an answer, tokens never said), decoding as the recipe has it."""
    settings = copy.deepcopy(model.generation_config)
    for name in UNSETTLED:
        setattr(settings, name, None)
    beams = config.num_beams > 1
    settings.update(do_sample=False, num_beams=config.num_beams, max_new_tokens=config.max_new_tokens, length_penalty=config.length_penalty)
    settings.min_length = 0
    settings.min_new_tokens = config.min_new_tokens if beams else None  # greedily `Scored` sees to these two
    settings.repetition_penalty = config.repetition_penalty if beams else 1.0
    if settings.eos_token_id is None:
        settings.eos_token_id = tokenizer.eos_token_id
    if settings.pad_token_id is None:
        first = settings.eos_token_id[0] if isinstance(settings.eos_token_id, list) else settings.eos_token_id
        settings.pad_token_id = first if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if config.compile and not beams and model.device.type == "cuda" and getattr(model, "_can_compile_fullgraph", False):
        settings.cache_implementation = "static"  # with which `generate` compiles its decoding step by itself
    return settings


def at_class_length(rows: Sequence[Sequence[int]], length: int, pad: int, left: bool) -> Inputs:
    """Token rows as one padded batch with its mask, [B length]."""
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row, dtype=torch.long), 1
    return {"input_ids": ids, "attention_mask": mask}
