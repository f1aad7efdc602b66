"""The training run and its phases."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ccray.config.base import Config, Fraction, Precision, Slug
from ccray.licenses import Policy


class PhaseConfig(Config):
    """A further phase: it continues from the one before with pictures of another size. None = as in the phase before."""

    size_px: int = Field(64, ge=8)
    steps: int = Field(1000, ge=1)
    global_batch_size: int | None = Field(None, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    ema_steps: int | None = Field(None, ge=0)  # as in `TrainConfig`: None = all steps of this phase


class TrainConfig(Config):
    """The run: order, length, optimizer, average, cadence. Length, batch and average are those of the first phase, at `encode.size_px`."""

    name: Slug = "main"
    policy: Policy | None = None  # may be stricter than the catalog's
    # Caption tables and how often each is drawn; a row that some tables lack goes by the weights of the others. {} = the recipe's captioners, equally.
    captions: dict[Slug, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    caption_statuses: tuple[str, ...] = Field(("ok",), min_length=1)  # captions that are trained on; flagged ones are not, unless named here
    start_from: str | None = None  # a diffusers folder or hub name of a supported family
    # stored: those of `ccray encode`. online: pictures are decoded and encoded beside training (`resources.encode`); no exact order, no exact resume.
    latents: Literal["stored", "online"] = "stored"
    seed: int = 0
    steps: int = Field(1000, ge=1)
    global_batch_size: int = Field(64, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)  # rows at once on a rank; None = the rank's whole slice
    phases: dict[Slug, PhaseConfig] = {}  # after the first, in this order
    learning_rate: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    weight_decay: float = 0.01
    warmup_steps: int = Field(100, ge=0)  # once, at the beginning of the first phase
    schedule: Literal["constant", "cosine"] = "constant"  # over all phases
    clip_norm: float | None = Field(1.0, gt=0)
    max_skipped: int = Field(10, ge=0)  # steps in a row that are left out because their loss or gradient is no number; more end the run
    caption_dropout: Fraction = 0.1
    ema_decay: Fraction = 0.99
    ema_steps: int | None = Field(None, ge=0)  # last steps over which weights are averaged; None = all, 0 = none: the model is the weights themselves
    precision: Precision = "fp32"  # of the forward pass; stored weights stay fp32 (fp64 under fp64)
    fused_attention: bool = True  # torch's scaled_dot_product_attention; off: scores as a matrix
    low_precision_norms: bool = False  # GroupNorm and LayerNorm in `precision` too; off: in fp32, as autocast has it
    channels_last: bool = False  # memory format of a UNet's convolutions
    fused_optimizer: bool = True  # one kernel for all weights
    gradient_checkpointing: bool = False
    compile: bool = False  # block by block
    deterministic: bool = True  # only kernels that give the same bits every time: a resumed run is the uninterrupted one, bit for bit
    window_shards: int = Field(8, ge=1)  # shards shuffled together
    checkpoint_every: int = Field(200, ge=1)  # steps
    keep_checkpoints: int = Field(2, ge=1)
    sample_every: int = Field(200, ge=1)
    log_every: int = Field(10, ge=1)
    sample_prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phase:
    """One phase as it is run, every setting filled in. Steps are counted over the whole run."""

    name: str  # "" of the first
    size_px: int
    first_step: int
    steps: int
    global_batch_size: int
    micro_batch_size: int | None
    learning_rate: float
    ema_steps: int

    @property
    def end(self) -> int:
        """The first step that is not in it any more."""
        return self.first_step + self.steps

    def averages(self, step: int) -> bool:
        """Whether update number `step` (from 0) is among those that are averaged."""
        return self.end - self.ema_steps <= step < self.end
