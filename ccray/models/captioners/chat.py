"""Chat models that look at a picture (Qwen-VL, SmolVLM, LLaVA, Gemma 3, ...): one question in the model's own template, one answer.

Pictures of different sizes have different numbers of tokens. A row is padded on the left to its own length class, and a vision tower that packs
the pictures of a batch into one sequence is given them one by one: then neither changes a row's bits with its company.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from ccray.config import CaptionConfig
from ccray.interfaces import Caption, Subject
from ccray.models.captioners.asking import Answering, padded, question, template_of, thinks_first, without_control_tokens
from ccray.models.captioners.batching import Batches, Inputs, of_any
from ccray.models.captioners.instructing import instruction_of
from ccray.models.captioners.processors import processor_of
from ccray.models.fetching import fetched
from ccray.models.loading import loading
from ccray.models.precision import DTYPES

PACKING = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v", "glm4v_moe", "glm46v", "ernie4_5_vl_moe"}
TILING = {"idefics3", "smolvlm", "llava", "llava_next", "llava_onevision", "internvl", "gemma3", "paligemma"}  # towers that see squares of one size
PROBES_PX = ((48, 64), (900, 350))  # height, width: pictures on which a processor's own count of tokens is checked


class ChatCaptioner:
    """Any AutoModelForImageTextToText folder, hub name or store with a chat template, on one device (interfaces.Captioner)."""

    def __init__(self, config: CaptionConfig, device: str = "cpu") -> None:
        """Load safetensors weights and the processor; no code of the model's own is run.

        Raises:
            Refused: when they cannot be loaded, or there is no chat template.
        """
        place = fetched(config.model)
        self.config = config
        with loading(f"the captioner {config.model}"):
            self.processor = processor_of(place)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                place, dtype=DTYPES[config.precision], use_safetensors=True, trust_remote_code=False
            )
        self._template = template_of(self.processor, f"the captioner {config.model}")
        self.model = model.requires_grad_(False).eval().to(device)
        thinks = thinks_first(self._rendered(Subject(np.zeros((32, 32, 3), np.uint8))))
        self._answers = Answering(self.model, self.processor.tokenizer, config, thinks)
        self._packs = _one_by_one(self.model.base_model)
        self._tiles = self.model.config.model_type in TILING
        self._prepares_on = device if getattr(self.processor.image_processor, "backend", "pil") == "torchvision" else None
        self._counts: dict[Any, tuple[int, int]] = {}
        with loading(f"the captioner {config.model}"):
            self._overhead = self._calibrated()
        self._batches = Batches(config.batch_size, device, self._prepare, self._answers.answer, self._length_class)

    def caption(self, subjects: Sequence[Subject]) -> list[Caption]:
        """Describe each subject's picture (any sizes, cut to `crop_px` before), in their order; its text is a hint that the model is told."""
        return self._batches.caption(subjects)

    def asked(self, hint: str | None) -> str:
        """The words that go with a picture."""
        return instruction_of(self.config, without_control_tokens(self.processor.tokenizer, hint or ""))

    def _conversation(self, subject: Subject) -> list[dict[str, Any]]:
        assert subject.image is not None
        parts = [{"type": "image", "image": Image.fromarray(subject.image)}, {"type": "text", "text": self.asked(subject.text)}]
        return [{"role": "user", "content": parts}]

    def _prepare(self, subjects: Sequence[Subject]) -> Inputs:
        """One row a subject, padded on the left to the length of their class."""
        length = padded(self._tokens(subjects[0])[0])
        inputs = self._processed(subjects, padding="max_length", max_length=length)
        if inputs["input_ids"].shape[1] != length or bool(inputs["attention_mask"].all(dim=1).any()):
            raise ValueError(f"the processor made rows of {inputs['input_ids'].shape[1]} tokens where {length - 1} at most were counted")
        return inputs

    def _processed(self, subjects: Sequence[Subject], **padding: Any) -> Inputs:
        settings: dict[str, Any] = {"return_tensors": "pt", "padding_side": "left", **padding}
        if self._prepares_on is not None:
            settings["device"] = self._prepares_on
        asked = [self._conversation(subject) for subject in subjects]
        return of_any(question(self.processor, asked, self._template, tokenize=True, return_dict=True, processor_kwargs=settings))

    def _rendered(self, subject: Subject) -> str:
        return str(question(self.processor, self._conversation(subject), self._template, tokenize=False))

    def _length_class(self, subject: Subject) -> int:
        """What the rows of one batch have in common: the padded length, and what the vision tower sees."""
        tokens, seen = self._tokens(subject)
        return padded(tokens) << 64 | seen

    def _tokens(self, subject: Subject) -> tuple[int, int]:
        """Tokens of the whole question, and what of its picture decides the shapes in the vision tower, as a number."""
        assert subject.image is not None
        key = (subject.image.shape[:2], subject.text)
        if key not in self._counts:
            if len(self._counts) > 10_000:  # hints make every question another one
                self._counts.clear()
            self._counts[key] = self._measured(subject) if self._overhead is None else self._counted(subject, self._overhead)
        return self._counts[key]

    def _measured(self, subject: Subject) -> tuple[int, int]:
        """By preparing the subject: exact, and as dear as preparing it."""
        inputs = self._processed([subject], padding=False)
        tokens = inputs["input_ids"].shape[1]
        pixels = sum(tensor.numel() for name, tensor in inputs.items() if name.startswith("pixel"))
        return tokens, 0 if self._packs else pixels << 20 | tokens

    def _counted(self, subject: Subject, overhead: int) -> tuple[int, int]:
        """By the processor's own arithmetic, without touching a pixel."""
        assert subject.image is not None
        counts = self.processor._get_num_multimodal_tokens(image_sizes=[subject.image.shape[:2]])
        (image_tokens,), (patches,) = counts.num_image_tokens, counts.num_image_patches
        written = len(self.processor.tokenizer(self._rendered(subject), add_special_tokens=False)["input_ids"])
        seen = 0 if self._packs else patches << 20 | (0 if self._tiles else image_tokens)
        return overhead + written + image_tokens, seen

    def _calibrated(self) -> int | None:
        """What the processor's arithmetic leaves out (its place holder, an opening token); None when it has none, or it is not right."""
        probes = [Subject(np.zeros((*size, 3), np.uint8), text) for size in PROBES_PX for text in (None, "A title.")]
        true = [self._measured(probe)[0] for probe in probes]
        try:
            found = {measured - self._counted(probe, 0)[0] for measured, probe in zip(true, probes, strict=True)}
        except (AttributeError, NotImplementedError, TypeError, ValueError, LookupError):
            return None
        return found.pop() if len(found) == 1 else None


def _one_by_one(model: Any) -> bool:
    """Have a vision tower that packs a batch's pictures into one sequence see them one at a time; whether it is such a tower."""
    if model.config.model_type not in PACKING:
        return False
    together = model.get_image_features

    @functools.wraps(together)
    def features(pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **kwargs: Any) -> Any:
        pictures = zip(pixel_values.split(image_grid_thw.prod(dim=-1).tolist()), image_grid_thw, strict=True)
        return _joined([together(pixels, grid[None], **kwargs) for pixels, grid in pictures])

    model.get_image_features = features
    return True


def _joined(alone: list[Any]) -> Any:
    """What the tower would have answered of all pictures; of each layer that answers, one entry a picture."""
    answer = alone[0]
    answer.pooler_output = tuple(entry for one in alone for entry in one.pooler_output)
    if getattr(answer, "deepstack_features", None) is not None:
        layers = zip(*(one.deepstack_features for one in alone), strict=True)
        answer.deepstack_features = [tuple(entry for pictures in layer for entry in pictures) for layer in layers]
    return answer
