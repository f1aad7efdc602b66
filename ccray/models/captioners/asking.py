"""A question in a model's own chat template, and the answer to it: what chat models and translators share."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from ccray.config import CaptionConfig
from ccray.interfaces import Caption, Refused
from ccray.models.captioners.batching import Inputs
from ccray.models.captioners.decoding import Decoder, Said, speed_of

log = logging.getLogger(__name__)

CLASS_TOKENS = 32  # lengths are padded to multiples of this
THOUGHT_ENDS = re.compile(r".*</think>|.*\[/THINK\]", re.DOTALL)
THOUGHT_OPENS = ("<think>", "[THINK]")
UNSETTLED = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "max_length", "min_length", "forced_eos_token_id")


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
    """A model's answers to batches of padded questions."""

    def __init__(self, model: Any, tokenizer: Any, config: CaptionConfig, thinks: bool = False) -> None:
        """Args:
        model: of transformers, on its device; what its folder says of sampling is dropped.
        thinks: whether the questions leave off inside a thought.
        """
        self._model, self._tokenizer, self._thinks = model, tokenizer, thinks
        _settle(model.generation_config, tokenizer)
        self._decode = Decoder(model, config, speed_of(config, model.device.type))

    def answer(self, inputs: Inputs) -> list[Caption]:
        """One caption a row; an encoder-decoder's inputs hold the decoder's first tokens as `decoder_input_ids`."""
        device, dtype = self._model.device, self._model.dtype
        said = self._said({name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()})
        words = (said.real & ~torch.isin(said.tokens, torch.tensor(self._decode.ends, device=device))).tolist()
        rows = [[token for token, keep in zip(*row, strict=True) if keep] for row in zip(said.tokens.tolist(), words, strict=True)]
        texts = [spoken(text, self._thinks) for text in self._tokenizer.batch_decode(rows, skip_special_tokens=True)]
        return [Caption(*one) for one in zip(texts, said.mean_logprob.tolist(), said.ended.tolist(), strict=True)]

    def _said(self, inputs: Inputs) -> Said:
        try:
            return self._decode(inputs)
        except TorchDynamoException as error:
            log.warning("torch.compile does not work here (%s): decoding without it", " ".join(str(error).split())[:200])
            self._decode.plainly()
            return self._decode(inputs)


def _settle(settings: Any, tokenizer: Any) -> None:
    """A model's own generation settings, in place, as deterministic decoding needs them: `generate` reads there what it is not told."""
    for name in UNSETTLED:
        setattr(settings, name, None)
    settings.do_sample = False
    if settings.eos_token_id is None:
        settings.eos_token_id = tokenizer.eos_token_id
    if settings.pad_token_id is None:
        first = settings.eos_token_id[0] if isinstance(settings.eos_token_id, list) else settings.eos_token_id
        settings.pad_token_id = first if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def at_class_length(rows: Sequence[Sequence[int]], length: int, pad: int, left: bool) -> Inputs:
    """Token rows as one padded batch with its mask, [B length]."""
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row, dtype=torch.long), 1
    return {"input_ids": ids, "attention_mask": mask}
