"""Florence-2: captions of three lengths, each asked for by its task token."""

from typing import Any

from transformers import Florence2ForConditionalGeneration, Florence2Processor

from ccray.config import CaptionConfig
from ccray.interfaces import Refused
from ccray.models.captioners.decoding import Decoder, Speed, speed_of
from ccray.models.captioners.describing import Describer, fit_from, prompt_of, require_type
from ccray.models.fetching import fetched
from ccray.models.loading import loading
from ccray.models.precision import DTYPES

TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
TASK = "<DETAILED_CAPTION>"  # where the recipe names none


class Florence2Captioner(Describer):
    """Any Florence2ForConditionalGeneration folder or hub name of transformers' own kind, on one device (interfaces.Captioner)."""

    def __init__(self, config: CaptionConfig, device: str = "cpu", speed: Speed | None = None) -> None:
        """Load safetensors weights and the processor; no code of the model's own is run. `speed` is the device's own when None.

        Raises:
            Refused: when they cannot be loaded, are of another family, or the prompt is no task that describes.
        """
        self.task = task_of(config)
        place = fetched(config.model)
        require_type(place, config.family, "florence2")
        with loading(f"the captioner {config.model}"):
            self.processor = Florence2Processor.from_pretrained(place, trust_remote_code=False)
            self.model: Any = Florence2ForConditionalGeneration.from_pretrained(
                place, dtype=DTYPES[config.precision], use_safetensors=True, trust_remote_code=False
            )
            self.processor.post_process_generation(text="", task=self.task)  # a folder without its rules is found now
        self.model.requires_grad_(False).eval().to(device)
        _free_the_end(self.model, config)
        fit = fit_from(place)
        super().__init__(config, device, fit, prompt_of(self.processor, self.task))
        self.dtype = self.model.dtype
        speed = speed_of(config, device) if speed is None else speed
        self.decoder = Decoder(self.model, config, speed)
        self.compile_tower(self.model.model, "vision_tower", speed)

    def text(self, tokens: list[int]) -> str:
        """As the processor reads the answer to its task."""
        answer = self.processor.tokenizer.decode(tokens, skip_special_tokens=False)
        return str(self.processor.post_process_generation(text=answer, task=self.task)[self.task]).strip()


def task_of(config: CaptionConfig) -> str:
    """Raises:
    Refused: on a prompt that is none of the three.
    """
    if config.prompt not in ("", *TASKS):
        raise Refused(f"prompt is {config.prompt!r}: Florence-2 describes by one of its task tokens, {', '.join(TASKS)} (default {TASK})")
    return config.prompt or TASK


def _free_the_end(model: Any, config: CaptionConfig) -> None:
    """Its own configuration forces an end token upon the last place: then no caption would count as cut off, and each would lose a word."""
    model.generation_config.forced_eos_token_id = None
    if config.num_beams == 1:
        model.generation_config.early_stopping = None  # means nothing without beams, and transformers says so at every batch
