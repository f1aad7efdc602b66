"""Stable Diffusion 2's UNet, VAE and OpenCLIP-H text encoder with random weights, which cost what trained ones cost: at full size, or narrower with
the same shares of the work. Nothing is fetched."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from ccray import config, recipes
from ccray.config import Recipe, UNetConfig
from ccray.models import denoiser
from ccray.training import cost

TOKENS = 77
WORDS = 1000  # w0 w1 ... that the tokenizer knows


@dataclass(frozen=True)
class Sizes:
    """Widths of the first of four levels, which the others follow as SD2's do."""

    size_px: int
    unet_width: int
    head_width: int
    vae_width: int
    text_width: int
    text_layers: int
    groups: int

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return 4, self.size_px // 8, self.size_px // 8

    @property
    def unet(self) -> UNetConfig:
        widths = tuple(self.unet_width * times for times in (1, 2, 4, 4))
        settings = recipes.commoncanvas_s_c().denoiser.model_dump() | {
            "sample_size": self.size_px // 8,
            "block_out_channels": widths,
            "cross_attention_dim": self.text_width,
            "attention_head_dim": tuple(width // self.head_width for width in widths),
            "norm_num_groups": self.groups,
        }
        return UNetConfig.model_validate(settings)

    def vae(self) -> Any:
        return AutoencoderKL(
            block_out_channels=tuple(self.vae_width * times for times in (1, 2, 4, 4)),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=self.groups,
        )

    def text(self) -> Any:
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=self.text_width,
                intermediate_size=4 * self.text_width,
                num_hidden_layers=self.text_layers,
                num_attention_heads=self.text_width // (64 if self.text_width >= 512 else 16),
                hidden_act="gelu",
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )

    def vae_flops(self) -> float:
        """Of encoding one picture."""
        with torch.device("meta"):
            vae = self.vae()
        return cost.encode_flops(vae, self.size_px)

    def text_flops(self) -> float:
        """Of one caption."""
        with torch.device("meta"):
            text = self.text()
        return cost.text_flops(text, TOKENS)

    def training_flops(self) -> float:
        """Of the denoiser's forward and backward pass for one sample."""
        return cost.training_flops(denoiser.meta(self.unet), self.latent_shape, TOKENS, self.text_width)

    def shares(self) -> tuple[float, float]:
        """VAE and text encoder over the denoiser."""
        training = self.training_flops()
        return self.vae_flops() / training, self.text_flops() / training


FULL = Sizes(size_px=256, unet_width=320, head_width=64, vae_width=128, text_width=1024, text_layers=23, groups=32)


def scaled(start: Sizes) -> Sizes:
    """`start` with the width of the VAE and the depth of the text encoder at which both have their full-size shares of the work, as near as it goes."""
    vae, text = (share * start.training_flops() for share in FULL.shares())
    widths = [replace(start, vae_width=width) for width in range(start.groups, 9 * start.groups, start.groups)]
    near = min(widths, key=lambda sizes: abs(sizes.vae_flops() - vae))
    return min((replace(near, text_layers=layers) for layers in range(1, 9)), key=lambda sizes: abs(sizes.text_flops() - text))


def write(folder: Path, sizes: Sizes) -> None:
    """VAE, text encoder and tokenizer, as stock libraries write them."""
    torch.manual_seed(0)
    sizes.vae().save_pretrained(folder / "vae")
    sizes.text().save_pretrained(folder / "text_encoder")
    vocabulary = {word: number for number, word in enumerate(("<start>", "<end>", *(f"w{number}" for number in range(WORDS))))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<end>", eos_token="<end>", unk_token="<end>").save_pretrained(folder / "tokenizer")


def recipe(folder: Path, sizes: Sizes, precision: str, words: tuple[str, ...] = ()) -> Recipe:
    """CommonCanvas-S-C's own recipe on these models."""
    base = recipes.commoncanvas_s_c().model_copy(update={"denoiser": sizes.unet})
    ours = [f"encode.model={folder}", f"encode.size_px={sizes.size_px}", f"encode.precision={precision}", f"text.model={folder}"]
    ours += [f"text.width={sizes.text_width}", f"text.precision={precision}", f"train.precision={precision}"]
    base = base.model_copy(update={"text": base.text.model_copy(update={"width": sizes.text_width})})
    return config.build(base, [*ours, *words])
