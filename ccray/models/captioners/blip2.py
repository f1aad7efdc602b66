"""BLIP-2, the model that telephones: pictures in, sentences out; with OPT, or with FLAN-T5 behind the same eyes."""

from typing import Any

from transformers import Blip2ForConditionalGeneration, Blip2Processor

from ccray.config import CaptionConfig
from ccray.models.captioners.decoding import Decoder, Speed, speed_of
from ccray.models.captioners.describing import Describer, fit_from, prompt_of, require_type
from ccray.models.fetching import fetched
from ccray.models.loading import loading
from ccray.models.precision import DTYPES


class Blip2Captioner(Describer):
    """Any Blip2ForConditionalGeneration folder or hub name, on one device (interfaces.Captioner).

    Every batch is padded to `config.batch_size` pictures, so a picture's caption does not depend on its company.
    """

    def __init__(self, config: CaptionConfig, device: str = "cpu", speed: Speed | None = None) -> None:
        """Load safetensors weights and the processor; no code of the model's own is run. `speed` is the device's own when None.

        Raises:
            Refused: when they cannot be loaded, or are of another family.
        """
        place = fetched(config.model)
        require_type(place, config.family, "blip-2")
        with loading(f"the captioner {config.model}"):
            self.processor = Blip2Processor.from_pretrained(place, trust_remote_code=False)
            self.model: Any = Blip2ForConditionalGeneration.from_pretrained(
                place, dtype=DTYPES[config.precision], use_safetensors=True, trust_remote_code=False
            )
        self.model.requires_grad_(False).eval().to(device)
        if self.processor.num_query_tokens is None:  # folders older than the processor's own knowledge of the queries
            self.processor.num_query_tokens = self.model.config.num_query_tokens
        super().__init__(config, device, fit_from(place), prompt_of(self.processor, config.prompt))
        self.dtype = self.model.dtype
        speed = speed_of(config, device) if speed is None else speed
        self.decoder = Decoder(_speaker(self.model), config, speed, self.model.generate)
        self.compile_tower(self.model, "vision_model", speed)

    def text(self, tokens: list[int]) -> str:
        """Without special tokens and the spaces around."""
        return str(self.processor.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _speaker(model: Any) -> Any:
    """The language model, which decodes by a generation configuration of its own; the folder's stands in where that names no end token."""
    language = model.language_model
    if language.generation_config.eos_token_id is None:
        language.generation_config.eos_token_id = model.generation_config.eos_token_id
    return language
