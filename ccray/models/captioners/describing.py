"""What BLIP-2 and Florence-2 share: pictures of one size, one prompt for all, a batch of one width."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from transformers import AutoImageProcessor, PreTrainedConfig

from ccray.config import CaptionConfig
from ccray.interfaces import Caption, Refused, Subject
from ccray.models.captioners.batching import Batches, Inputs, of_any
from ccray.models.captioners.decoding import Decoder, Said, Speed
from ccray.models.captioners.pictures import Fit, fit_of, fitted
from ccray.models.loading import loading

log = logging.getLogger(__name__)


class Describer(ABC):
    """Pictures in, sentences out (interfaces.Captioner). A family loads its model, then tells this class how it speaks."""

    def __init__(self, config: CaptionConfig, device: str, fit: Fit, prompt: Inputs) -> None:
        """Args:
        config: the captioner's settings.
        device: "cpu", "cuda:0"; the family puts its model there.
        fit: what a picture must be.
        prompt: tensors [1 P] of the prompt, the same for every picture.
        """
        self.config, self.fit = config, fit
        self.prompt = {name: tensor.to(device) for name, tensor in prompt.items()}
        self._dividend = torch.tensor(1 / fit.scale, dtype=torch.float32, device=device)
        self._mean, self._std = (torch.tensor(values, dtype=torch.float32, device=device)[:, None, None] for values in (fit.mean, fit.std))
        self.batches = Batches(config.batch_size, device, self._host, self._captions)
        self.decoder: Decoder
        self.dtype: torch.dtype
        self._tower: tuple[Any, str] | None = None

    def caption(self, subjects: Sequence[Subject]) -> list[Caption]:
        """Describe each subject's picture, in their order.

        A picture of exactly the model's size counts as prepared: it is only stacked. Any other size is first prepared as on the CPU tasks.

        Raises:
            torch.OutOfMemoryError: when the device does not hold a single picture.
        """
        return self.batches.caption(subjects)

    @abstractmethod
    def text(self, tokens: list[int]) -> str:
        """A caption of its tokens, the end token perhaps among them."""

    def compile_tower(self, owner: Any, name: str, speed: Speed) -> None:
        """Compile the vision tower, which is a submodule of `owner`."""
        if speed.backend is not None:
            self._tower = (owner, name)
            setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False, backend=speed.backend))

    def pixel_values(self, pixels: Tensor) -> Tensor:
        """uint8 [B H W 3] on the device to what the model's processor gives, float32 [B 3 H W], bit for bit."""
        # Tensors divide exactly; by a Python number CUDA would multiply with its reciprocal.
        values = pixels.permute(0, 3, 1, 2).contiguous().float().div_(self._dividend)
        return values.sub_(self._mean).div_(self._std)

    def _host(self, subjects: Sequence[Subject]) -> Inputs:
        return {"pixels": torch.from_numpy(np.stack([self._picture(subject) for subject in subjects]))}

    def _picture(self, subject: Subject) -> np.ndarray:
        if subject.image is None:
            raise ValueError("a subject without a picture: this captioner describes pictures")
        ready = subject.image.shape[:2] == (self.fit.height_px, self.fit.width_px)
        return subject.image if ready else fitted(subject.image, self.fit, self.config.crop_px)

    def _captions(self, inputs: Inputs) -> list[Caption]:
        try:
            said = self._said(inputs["pixels"])
        except TorchDynamoException as error:
            if self._tower is None:
                raise
            self._uncompile(error)
            said = self._said(inputs["pixels"])
        words = zip(said.tokens.tolist(), said.real.tolist(), strict=True)
        texts = [self.text([token for token, is_real in zip(*row, strict=True) if is_real]) for row in words]
        return [Caption(*one) for one in zip(texts, said.mean_logprob.tolist(), said.ended.tolist(), strict=True)]

    @torch.no_grad()
    def _said(self, pixels: Tensor) -> Said:
        rows = len(pixels)
        prompts = {name: tensor.expand(rows, -1) for name, tensor in self.prompt.items()}
        return self.decoder({"pixel_values": self.pixel_values(pixels).to(self.dtype)} | prompts)

    def _uncompile(self, error: Exception) -> None:
        """What torch.compile cannot do here (no C compiler, an operator it does not know) is done without it, and slower."""
        assert self._tower is not None
        log.warning("torch.compile does not work here (%s): captioning without it", " ".join(str(error).split())[:200])
        owner, name = self._tower
        setattr(owner, name, getattr(owner, name)._orig_mod)
        self._tower = None
        self.decoder.plainly()


def prompt_of(processor: Any, text: str) -> Inputs:
    """What the model reads beside the picture, [1 P]: places of the picture and the prompt's tokens. The processor tells only with a picture."""
    inputs = of_any(processor(images=np.zeros((8, 8, 3), np.uint8), text=[text], return_tensors="pt"))
    return {name: tensor for name, tensor in inputs.items() if name != "pixel_values"}


def fit_from(place: str) -> Fit:
    """The picture settings of a model folder or hub name, by transformers' own loaders.

    Raises:
        Refused: when there are none, or they ask for more than a resize.
    """
    with loading(f"the picture settings of {place}"):
        processor = AutoImageProcessor.from_pretrained(place, backend="pil", trust_remote_code=False)
    return fit_of(processor)


def require_type(place: str, family: str, expected: str) -> None:
    """Raises:
    Refused: when the model in a folder is of another kind than its family: its weights would be skipped and random ones used.
    """
    with loading(f"the captioner {place}"):
        settings = PreTrainedConfig.get_config_dict(place)[0]
        if not settings:
            raise OSError(f"there is no config.json in {place}")
        found = settings.get("model_type")
    if found != expected:
        raise Refused(f"{place} holds a model of type {found!r}, but family {family!r} loads {expected!r}: choose another family or another model")
