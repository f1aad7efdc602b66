"""The frozen text encoder: CLIP, T5 or a decoder-only language model, from words to features.

It prepares the words as the stock pipeline of its denoiser's family does, so that what is trained here is what stock diffusers draws later.
It never removes characters (the PixArt pipelines' `clean_caption=True` would delete every kanji).
"""

import threading
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel, MT5EncoderModel, T5EncoderModel, UMT5EncoderModel

from ccray.config import Precision, TextConfig
from ccray.interfaces import Refused
from ccray.models.loading import loading
from ccray.models.precision import DTYPES
from ccray.storage import model_path

Family = Literal["unet", "pixart"]

# Models of several parts, of which only the text encoder is wanted; every other decoder-only model is an AutoModel.
ENCODERS: dict[str, Any] = {
    "clip": CLIPTextModel,
    "clip_text_model": CLIPTextModel,
    "t5": T5EncoderModel,
    "mt5": MT5EncoderModel,
    "umt5": UMT5EncoderModel,
}


class TextEncoder:
    """Captions to features, frozen, on one device, at one fixed number of tokens."""

    def __init__(
        self,
        model: str,
        subfolder: str | None = None,
        tokenizer: str | None = None,
        tokenizer_subfolder: str | None = None,
        max_tokens: int = 77,
        layer: int = -1,
        precision: Precision = "fp32",
        device: str = "cpu",
        family: Family = "unet",
    ) -> None:
        """Load safetensors weights and the tokenizer; no code of the model's own is run.

        Args:
            model: a folder, a hub name, or `shapes:NAME`.
            subfolder: where the encoder lies inside it.
            tokenizer: folder or hub name; None = `model`.
            tokenizer_subfolder: where the tokenizer lies inside that; None = `subfolder` when `tokenizer` is None.
            max_tokens: every caption is padded or cut to this many; 0 = as many as the tokenizer says.
            layer: where the encoder ends: -1 = after its last layer, -2 = after the one before, 1 = after the first. What lies above is not
                loaded and its final norm follows, so that a folder it is saved to gives the same features to whoever loads it. (The
                `hidden_states[layer]` of transformers are those before the norm.)
            precision: of weights and features.
            device: "cpu", "cuda:0".
            family: of the denoiser. "pixart": words in lower case, padding masked inside the encoder. "unet": words as they are,
                CLIP sees its padding unless its configuration says otherwise.

        Raises:
            Refused: when either cannot be loaded, there is no such layer, or the tokenizer cannot pad.
        """
        place = model_path(model)
        if tokenizer is None and tokenizer_subfolder is None:
            tokenizer_subfolder = subfolder
        with loading(f"the text encoder {model}"):
            config = AutoConfig.from_pretrained(place, subfolder=subfolder or "", trust_remote_code=False)
            self.module = ENCODERS.get(config.model_type, AutoModel).from_pretrained(
                place,
                subfolder=subfolder or "",
                dtype=DTYPES[precision],
                use_safetensors=True,
                trust_remote_code=False,
                **_ending(config.get_text_config(), layer, model),
            )
        with loading(f"the tokenizer {tokenizer or model}"):
            words = model_path(tokenizer or model)
            self.tokenizer = AutoTokenizer.from_pretrained(words, subfolder=tokenizer_subfolder or "", trust_remote_code=False)
        self.module.requires_grad_(False).eval().to(device)
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.tokenizer.pad_token is None:
            raise Refused(f"the tokenizer of {tokenizer or model} has neither a padding nor an end token: expected one of them")
        self.model, self.family = model, family
        self.max_tokens = max_tokens or self.tokenizer.model_max_length
        if family == "unet":  # StableDiffusionPipeline pads to what its tokenizer says
            self.tokenizer.model_max_length = self.max_tokens
        self.masked = family == "pixart" or config.model_type not in ("clip", "clip_text_model") or getattr(config, "use_attention_mask", False)
        self._lock = threading.Lock()  # tokenizers of the Rust kind may not be used by two threads at once

    @classmethod
    def from_config(cls, config: TextConfig, device: str = "cpu", family: Family = "unet") -> "TextEncoder":
        """The encoder of a recipe.

        Raises:
            Refused: when the encoder's features are not `text.width` wide.
        """
        encoder = cls(
            config.model,
            config.subfolder,
            tokenizer=config.tokenizer,
            tokenizer_subfolder=config.tokenizer_subfolder,
            max_tokens=config.max_tokens,
            layer=config.layer,
            precision=config.precision,
            device=device,
            family=family,
        )
        if encoder.width != config.width:
            raise Refused(f"text.width is {config.width}, but the features of {config.model} are {encoder.width} wide")
        return encoder

    @property
    def width(self) -> int:
        """Numbers in a token's feature."""
        return self.module.config.hidden_size

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features (B T W, in `precision`) and mask (B T bool, True where a token is) on the encoder's device; T = `max_tokens`."""
        ids, mask = self._tokens(texts)
        answer = self.module(ids, attention_mask=mask if self.masked else None)
        return answer.last_hidden_state, mask.bool()

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        words = [text.lower().strip() for text in texts] if self.family == "pixart" else list(texts)
        with self._lock:
            tokens = self.tokenizer(
                words, padding="max_length", max_length=self.max_tokens, truncation=True, return_attention_mask=True, return_tensors="pt"
            )
        mask = tokens.attention_mask
        mask[:, 0] |= ~mask.any(dim=1)  # without any token ("" and no start token) attention would have nothing to look at
        return tokens.input_ids.to(self.module.device), mask.to(self.module.device)


def _ending(config: Any, layer: int, model: str) -> dict[str, Any]:
    """Settings with which transformers builds the encoder no further than `layer`; none for the whole."""
    if layer == -1:
        return {}
    count = config.num_hidden_layers
    if not (1 <= layer <= count or -count <= layer <= -1):
        raise Refused(f"text.layer is {layer}, but {model} has {count} layers: expected -1 (the last) to -{count}, or 1 (the first) to {count}")
    kept = layer if layer > 0 else count + 1 + layer
    kinds = getattr(config, "layer_types", None)  # where layers differ, one name each
    return {"num_hidden_layers": kept} | ({"layer_types": kinds[:kept]} if kinds else {})
