"""BLIP-2, the model that telephones: pictures in, sentences out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from ccray.config import CaptionConfig
from ccray.interfaces import Caption, Subject
from ccray.models.loading import loading
from ccray.models.precision import DTYPES
from ccray.storage import model_path


class Blip2Captioner:
    """Any Blip2ForConditionalGeneration folder or hub name, on one device (interfaces.Captioner).

    Every batch is padded to `config.batch_size` pictures, so a picture's caption does not depend on its company.
    """

    def __init__(self, config: CaptionConfig, device: str = "cpu") -> None:
        """Load safetensors weights and the processor; no code of the model's own is run.

        Raises:
            Refused: when they cannot be loaded.
        """
        place = model_path(config.model)
        self.config = config
        with loading(f"the captioner {config.model}"):
            self.processor = Blip2Processor.from_pretrained(place, trust_remote_code=False)
            self.model: Any = Blip2ForConditionalGeneration.from_pretrained(
                place, dtype=DTYPES[config.precision], use_safetensors=True, trust_remote_code=False
            )
        self.model.requires_grad_(False).eval().to(device)
        if self.processor.num_query_tokens is None:  # folders older than the processor's own knowledge of the queries
            self.processor.num_query_tokens = self.model.config.num_query_tokens

    def caption(self, subjects: Sequence[Subject]) -> list[Caption]:
        """Describe each subject's picture (any sizes), in their order."""
        width = self.config.batch_size
        images = [subject.image for subject in subjects if subject.image is not None]
        batches = [images[start : start + width] for start in range(0, len(images), width)]
        return [caption for batch in batches for caption in self._batch(batch)]

    def _batch(self, images: Sequence[np.ndarray]) -> list[Caption]:
        pictures = [self._picture(image) for image in images]
        pictures += pictures[-1:] * (self.config.batch_size - len(pictures))
        inputs = self.processor(images=pictures, text=[self.config.prompt] * len(pictures), return_tensors="pt")
        tokens, scores = self._generate(inputs.to(self.model.device))
        texts = self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [Caption(text.strip(), score) for text, score in zip(texts[: len(images)], scores.tolist(), strict=False)]

    def _picture(self, image: np.ndarray) -> Image.Image:
        """The picture as the processor takes it; with `crop_px` its centre square, at most that large."""
        picture = Image.fromarray(image)
        if self.config.crop_px is None:
            return picture
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        return square.resize((self.config.crop_px,) * 2, Image.Resampling.BICUBIC) if side > self.config.crop_px else square

    @torch.inference_mode()
    def _generate(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """New tokens [B L] and their mean log-probability a token [B], the end token included."""
        config = self.config
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        answer = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=config.num_beams,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.min_new_tokens,
            repetition_penalty=config.repetition_penalty,
            length_penalty=config.length_penalty,
            return_dict_in_generate=True,
            output_scores=config.num_beams > 1,
            output_logits=config.num_beams == 1,
        )
        if config.num_beams == 1:
            tokens = answer.sequences[:, -len(answer.logits) :]
            logs = torch.stack([_log_probability(logits, tokens[:, place]) for place, logits in enumerate(answer.logits)], dim=1)
        else:
            logs = self.model.language_model.compute_transition_scores(answer.sequences, answer.scores, answer.beam_indices).float()
            tokens = answer.sequences[:, -logs.shape[1] :]
        return tokens, _mean_of_words(logs, tokens, self._ends())

    def _ends(self) -> list[int]:
        end = self.model.generation_config.eos_token_id
        end = self.model.language_model.generation_config.eos_token_id if end is None else end
        return end if isinstance(end, list) else [end]


def _log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of each row's token, [B]."""
    return torch.log_softmax(logits.float(), dim=-1).gather(1, tokens[:, None])[:, 0]


def _mean_of_words(logs: Tensor, tokens: Tensor, ends: list[int]) -> Tensor:
    """Mean over the tokens up to and with the first end token, [B]; in float64, where the sum is exact however many places follow the end."""
    is_end = torch.isin(tokens, torch.tensor(ends, device=tokens.device))
    real = (is_end.cumsum(dim=1) - is_end.long()) == 0
    return (logs.double() * real).sum(dim=1).div(real.sum(dim=1)).float()
