"""Pictures to feature vectors, by the vision tower of any transformers folder or hub name.

    uint8 H W 3, any size  ->  centre square  ->  bicubic to the tower's size  ->  its own mean and std  ->  tower  ->  N D

What a folder holds beside its vision tower (a language model, a text tower) is not loaded.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from transformers.utils import cached_file, logging

from ccray import storage
from ccray.evaluation.metrics import FeatureSums
from ccray.interfaces import Failed

# model_type -> (class of its vision tower, where the tower's weights lie in the folder); others load as AutoModel.
TOWERS = {
    "blip-2": ("Blip2VisionModel", r"^vision_model\."),
    "clip": ("CLIPVisionModel", None),
    "siglip": ("SiglipVisionModel", None),
}
# Towers trained through their pooled output; of the others the mean over tokens is taken.
POOLED = ("clip_vision_model", "siglip_vision_model", "dinov2")
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class FeatureExtractor:
    """A frozen vision tower on one device, fp32."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        """Raises:
        Failed: when the folder has no vision tower that we know how to load, or not all of its weights.
        """
        self.device = device
        tower: torch.nn.Module = _tower(model)
        self._tower: Any = tower.to(device)
        config: Any = self._tower.config
        self._pooled = config.model_type in POOLED
        size = config.image_size
        self.size_px = int(size if isinstance(size, int) else size[0])
        self.width = int(config.hidden_size)
        processor = _processor_settings(model)
        self._mean = np.array(processor.get("image_mean") or OPENAI_MEAN, np.float32)
        self._std = np.array(processor.get("image_std") or OPENAI_STD, np.float32)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Features of pictures (uint8, H W 3 each): float32, N D."""
        pixels = np.stack([centre_square(picture, self.size_px) for picture in pictures]).astype(np.float32) / 255
        inputs = torch.from_numpy((pixels - self._mean) / self._std).permute(0, 3, 1, 2).contiguous()
        outputs = self._tower(pixel_values=inputs.to(self.device))
        features = outputs.pooler_output if self._pooled else outputs.last_hidden_state.mean(dim=1)
        return np.asarray(features.float().cpu().numpy())

    def sums(self, pictures: Sequence[NDArray[np.uint8]], batch_size: int) -> FeatureSums:
        """The sums of many pictures' features."""
        total = FeatureSums.empty(self.width)
        for start in range(0, len(pictures), batch_size):
            total = total.add(self(pictures[start : start + batch_size]))
        return total


def centre_square(picture: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """The largest centre square of H W 3, bicubic to `size_px`; Pillow antialiases, as distances between picture sets need."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(picture[top : top + side, left : left + side])
    if side == size_px:
        return square
    return np.asarray(Image.fromarray(square).resize((size_px, size_px), Image.Resampling.BICUBIC))


def _tower(model: str) -> transformers.PreTrainedModel:
    path = storage.model_path(model)
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        name, prefix = TOWERS.get(config.model_type, ("AutoModel", None))
        loader = getattr(transformers, name)
        options: dict[str, Any] = {"key_mapping": {prefix: ""}} if prefix else {}
        if name != "AutoModel" and hasattr(config, "vision_config"):
            options["config"] = config.vision_config
        with _quiet():
            tower, info = loader.from_pretrained(path, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options)
    except (OSError, ValueError) as error:
        raise Failed(f"evaluate.features={model} cannot be loaded: {error}") from None
    if tower.main_input_name != "pixel_values" or not hasattr(tower.config, "image_size"):
        raise Failed(
            f"evaluate.features={model} is a {type(tower).__name__}, which is no vision tower: name a BLIP-2, CLIP, SigLIP, DINOv2 or ViT folder"
        )
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise Failed(f"evaluate.features={model} lacks weights of its vision tower, such as {missing[0]}: name a complete folder")
    return tower.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the list of weights that are not loaded: a captioner's language model is meant to stay away; missing ones are checked."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _processor_settings(model: str) -> dict[str, Any]:
    """The folder's image processor as plain values; read from its files, because its class may need packages that we do not use."""
    path = storage.model_path(model)
    for name in ("processor_config.json", "preprocessor_config.json"):
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if file is None:
            continue
        with open(file, encoding="utf-8") as stream:
            settings: dict[str, Any] = json.load(stream)
        settings = settings.get("image_processor", settings)
        if "image_mean" in settings:
            return settings
    return {}
