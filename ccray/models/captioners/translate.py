"""Translators: a caption in, the same caption in another language out.

Encoder-decoders (Marian, T5, NLLB, M2M100, mBART) read the caption itself; models that chat (Qwen, Phi) are asked for a translation.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from ccray.config import CaptionConfig
from ccray.interfaces import Caption, Refused, Subject
from ccray.models.captioners.asking import Answering, at_class_length, padded, question, template_of, thinks_first, without_control_tokens
from ccray.models.captioners.batching import Batches, Inputs
from ccray.models.fetching import fetched
from ccray.models.loading import loading
from ccray.models.precision import DTYPES

PLACE = "{caption}"
NAMES = {"ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi", "it": "Italian", "ja": "Japanese"}
NAMES |= {"ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ru": "Russian", "tr": "Turkish", "vi": "Vietnamese", "zh": "Chinese"}
INSTRUCTION = "Translate the following picture caption into {language}. Answer with the translation alone.\n\n" + PLACE
SCRIPTS = {"ar": "arb_Arab", "de": "deu_Latn", "en": "eng_Latn", "es": "spa_Latn", "fr": "fra_Latn", "hi": "hin_Deva", "it": "ita_Latn"}
SCRIPTS |= {"ja": "jpn_Jpan", "ko": "kor_Hang", "nl": "nld_Latn", "pl": "pol_Latn", "pt": "por_Latn", "ru": "rus_Cyrl", "tr": "tur_Latn"}
SCRIPTS |= {"vi": "vie_Latn", "zh": "zho_Hans"}
CODED = {"m2m_100", "mbart", "nllb-moe"}  # types of models, NLLB among the first, whose tokenizers have a token for each language


class TranslateCaptioner:
    """Any text-to-text model of transformers, or chat model without pictures, on one device (interfaces.Captioner)."""

    def __init__(self, config: CaptionConfig, device: str = "cpu") -> None:
        """Load safetensors weights and the tokenizer; no code of the model's own is run.

        Raises:
            Refused: when they cannot be loaded, or the model does not know how to write the language.
        """
        place = fetched(config.model)
        self.config = config
        with loading(f"the translator {config.model}"):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
            self._reads = bool(AutoConfig.from_pretrained(place, trust_remote_code=False).is_encoder_decoder)
            kind = AutoModelForSeq2SeqLM if self._reads else AutoModelForCausalLM
            self.model: Any = kind.from_pretrained(place, dtype=DTYPES[config.precision], use_safetensors=True, trust_remote_code=False)
        self.model.requires_grad_(False).eval().to(device)
        self._template = "" if self._reads else template_of(self.tokenizer, f"the translator {config.model}")
        thinks = not self._reads and thinks_first(self._rendered("-"))
        self._answers = Answering(self.model, self.tokenizer, config, thinks)
        self._first = self._first_tokens() if self._reads else []
        self._batches = Batches(config.batch_size, device, self._prepare, self._answers.answer, lambda subject: padded(len(self._tokens(subject))))

    def caption(self, subjects: Sequence[Subject]) -> list[Caption]:
        """Translate each subject's text, in their order."""
        return self._batches.caption(subjects)

    def asked(self, text: str) -> str:
        """What the model reads: the caption within the recipe's words, which an encoder-decoder needs only where it was trained with some (T5)."""
        words = self.config.prompt or (PLACE if self._reads else INSTRUCTION.format(language=self._language(), caption=PLACE))
        text = without_control_tokens(self.tokenizer, text)
        return words.replace(PLACE, text) if PLACE in words else f"{words} {text}"

    def _language(self) -> str:
        return NAMES.get(self.config.language.partition("-")[0], self.config.language)

    def _rendered(self, text: str) -> str:
        return str(question(self.tokenizer, [{"role": "user", "content": self.asked(text)}], self._template, tokenize=False))

    def _tokens(self, subject: Subject) -> list[int]:
        assert subject.text is not None
        if self._reads:
            return list(self.tokenizer(self.asked(subject.text))["input_ids"])
        return list(self.tokenizer(self._rendered(subject.text), add_special_tokens=False)["input_ids"])

    def _prepare(self, subjects: Sequence[Subject]) -> Inputs:
        """One row a subject, padded to the length of their class: an encoder on the right, a decoder on the left."""
        rows = [self._tokens(subject) for subject in subjects]
        inputs = at_class_length(rows, padded(len(rows[0])), self._pad(), left=not self._reads)
        if self._reads:
            inputs["decoder_input_ids"] = torch.tensor([self._first] * len(rows))
        return inputs

    def _pad(self) -> int:
        return int(self.model.generation_config.pad_token_id)

    def _first_tokens(self) -> list[int]:
        """What a decoder starts with: its own start token and, where the tokenizer has one, the language's."""
        settings = self.model.generation_config
        start = self.model.config.decoder_start_token_id if settings.decoder_start_token_id is None else settings.decoder_start_token_id
        if start is None:
            start = settings.bos_token_id
        settings.forced_bos_token_id, language = None, self._language_token(settings.forced_bos_token_id)
        return [start] if language is None else [start, language]

    def _language_token(self, forced: int | None) -> int | None:
        """Raises:
        Refused: when the model has languages, but not this one.
        """
        if self.model.config.model_type not in CODED:
            return forced
        language = self.config.language.partition("-")[0]
        of_mbart = sorted(one for one in self.tokenizer.get_vocab() if re.fullmatch(f"{language}_[A-Z][A-Z]", one))
        tried = [code for code in (self.config.language, SCRIPTS.get(language), f"__{language}__", *of_mbart) if code]
        known = [number for number in self.tokenizer.convert_tokens_to_ids(tried) if number not in (None, self.tokenizer.unk_token_id)]
        if not known:
            raise Refused(f"the translator {self.config.model} has no token for language {self.config.language!r}: tried {', '.join(tried)}")
        return int(known[0])
