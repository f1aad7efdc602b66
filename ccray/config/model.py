"""The model: text encoder, denoiser, objective, and the terms that a person declares of pretrained parts."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ccray.config.base import Config, Precision, Slug


class TextConfig(Config):
    """The frozen text encoder, run beside training.

    SD2's text encoder is OpenCLIP-H without its last layer. From the whole OpenCLIP-H the same features come with
    `model=laion/CLIP-ViT-H-14-laion2B-s32B-b79K layer=-2 tokenizer=stabilityai/stable-diffusion-2-base tokenizer_subfolder=tokenizer`:
    its own tokenizer pads with another token, which the UNet sees.
    """

    encoder: Slug = "shapes-clip"
    model: str = "shapes:text"
    subfolder: str | None = None
    tokenizer: str | None = None  # folder or hub name; None = `model`
    tokenizer_subfolder: str | None = None
    max_tokens: int = Field(24, ge=1)
    width: int = Field(96, ge=1)  # of a token's feature
    layer: int = -1  # where the encoder ends, its final norm after it: -1 = after its last layer, -2 = after the one before, 1 = after the first
    precision: Precision = "fp32"


class UNetConfig(Config):
    """A diffusers UNet2DConditionModel."""

    kind: Literal["unet"] = "unet"
    sample_size: int
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...]
    layers_per_block: int = 2
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    cross_attention_dim: int
    attention_head_dim: int | tuple[int, ...]  # diffusers' name for the number of heads
    transformer_layers_per_block: int | tuple[int, ...] = 1
    use_linear_projection: bool = False
    norm_num_groups: int = 32


class DiTConfig(Config):
    """A diffusers PixArtTransformer2DModel."""

    kind: Literal["pixart"] = "pixart"
    sample_size: int
    in_channels: int = 4
    out_channels: int = 4
    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    cross_attention_dim: int
    caption_channels: int
    patch_size: int = 2
    interpolation_scale: float = 1.0
    use_additional_conditions: bool = False


Denoiser = Annotated[UNetConfig | DiTConfig, Field(discriminator="kind")]


class ObjectiveConfig(Config):
    """What the denoiser learns to predict, and at which noise levels."""

    kind: Literal["epsilon", "v", "flow"] = "flow"
    learned_sigma: bool = False  # out_channels = 2 x in_channels, with the variational bound of Improved DDPM
    beta_schedule: Literal["linear", "scaled_linear"] = "scaled_linear"  # epsilon and v
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    timestep_density: Literal["uniform", "logit_normal"] = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    flow_shift: float = Field(1.0, gt=0)
    min_snr_gamma: float | None = Field(None, gt=0)  # epsilon and v: squared errors of the final latents weigh min(SNR, gamma) (arXiv 2303.09556)
    zero_terminal_snr: bool = False  # v: the last step is pure noise (arXiv 2305.08891)

    @model_validator(mode="after")
    def _weights_fit(self) -> "ObjectiveConfig":
        if self.zero_terminal_snr and self.kind != "v":
            raise ValueError(f"zero_terminal_snr is true with kind {self.kind!r}: expected kind 'v', for noise alone does not tell what to predict")
        if self.min_snr_gamma is not None and self.kind == "flow":
            raise ValueError(f"min_snr_gamma is {self.min_snr_gamma} with kind 'flow': expected epsilon or v")
        if self.min_snr_gamma is not None and self.zero_terminal_snr:
            raise ValueError(
                f"min_snr_gamma is {self.min_snr_gamma} with zero_terminal_snr: expected one of them, "
                "for a step without signal would weigh nothing and never be learned, while every picture begins there"
            )
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> "ObjectiveConfig":
        if self.learned_sigma and self.kind == "flow":
            raise ValueError("learned_sigma is true with kind 'flow': expected epsilon or v, for a flow has no variance to learn")
        if self.flow_shift != 1 and self.kind != "flow":
            raise ValueError(f"flow_shift is {self.flow_shift} with kind {self.kind!r}: expected kind 'flow'")
        return self


def _spoken(value: Any) -> Any:
    """YAML reads the words yes and no as true and false."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


Commercial = Annotated[Literal["yes", "no", "unknown"], BeforeValidator(_spoken)]


class Terms(Config):
    """What a person declares of a pretrained component, over what its card or our own table says."""

    license: str | None = None
    training_data: str | None = None
    commercial: Commercial | None = None


class ComponentsConfig(Config):
    """Declared terms of the pretrained components."""

    captioner: dict[Slug, Terms] = {}  # by the captioner's name
    vae: Terms = Terms()
    text_encoder: Terms = Terms()
    start_from: Terms = Terms()
    filters: Terms = Terms()
