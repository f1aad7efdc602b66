"""A whole model: loaded from and saved to diffusers folders, or put together from a recipe.

A folder of ours is an ordinary one of StableDiffusionPipeline or PixArtSigmaPipeline. Beside it lies `ccray.json`, which says what the
stock format has no place for (objective, tokens, defaults); folders without it are read as their stock pipeline would use them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from pydantic import ValidationError
from torch import Tensor, nn
from transformers.utils import cached_file

from ccray.config import Config, ObjectiveConfig, Precision, Recipe, final_size_px
from ccray.interfaces import Refused
from ccray.models import denoiser as denoisers
from ccray.models.autoencoder import Autoencoder
from ccray.models.loading import loading, one_line
from ccray.models.precision import DTYPES
from ccray.models.text import Family, TextEncoder
from ccray.storage import model_path

FACTS_FILE = "ccray.json"

SCHEDULERS = {
    scheduler.__name__: scheduler
    for scheduler in (
        DDIMScheduler,
        DDPMScheduler,
        DEISMultistepScheduler,
        DPMSolverMultistepScheduler,
        DPMSolverSinglestepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    )
}


@dataclass(frozen=True)
class Kind:
    """One stock pipeline class that is understood: its denoiser, and how its `__call__` behaves by default."""

    pipeline: Any
    family: Family
    part: str  # the denoiser's folder
    denoiser: Any
    max_tokens: int | None  # None = as long as the tokenizer says
    steps: int
    guidance: float


KINDS = {
    kind.pipeline.__name__: kind
    for kind in (
        Kind(StableDiffusionPipeline, "unet", "unet", UNet2DConditionModel, None, 50, 7.5),
        Kind(PixArtSigmaPipeline, "pixart", "transformer", PixArtTransformer2DModel, 300, 20, 4.5),
        Kind(PixArtAlphaPipeline, "pixart", "transformer", PixArtTransformer2DModel, 120, 20, 4.5),
    )
}
OWN_KIND = {"unet": "StableDiffusionPipeline", "pixart": "PixArtSigmaPipeline"}
OBJECTIVES = {"epsilon": "epsilon", "v_prediction": "v", "flow_prediction": "flow"}


@dataclass
class Components:
    """The parts of one text-to-image model on one device."""

    denoiser: nn.Module
    text: TextEncoder
    autoencoder: Autoencoder
    scheduler: Any  # of diffusers
    objective: ObjectiveConfig
    family: Family
    size_px: int  # side of the square picture it was made for
    default_steps: int
    default_guidance: float
    max_tokens: int
    pipeline: str  # the stock class that runs it

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.denoiser.parameters()).dtype

    def predict(self, latents: Tensor, timesteps: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        """`denoiser.predict` of this model's denoiser."""
        return denoisers.predict(self.denoiser, latents, timesteps, features, mask)


class Facts(Config, extra="ignore"):
    """`ccray.json`: what a diffusers folder does not say."""

    objective: ObjectiveConfig
    max_tokens: int
    size_px: int
    default_steps: int
    default_guidance: float


def load_folder(path_or_hub: str | Path, device: str = "cpu", precision: Precision = "fp32", text: Any = None) -> Components:
    """Any model folder or hub name of a supported pipeline class, ours or not; safetensors only, no code of its own is run.

    `text` stands for the folder's text encoder where that runs elsewhere.

    Raises:
        Refused: when it is not a diffusers folder, of another class, or has parts that are not understood; says which and what is.
    """
    place = model_path(str(path_or_hub))
    index = read_index(place)
    kind = KINDS[index["_class_name"]]
    facts = _facts(place)
    with loading(f"{path_or_hub}, a {index['_class_name']},"):
        network = kind.denoiser.from_pretrained(
            place, subfolder=kind.part, torch_dtype=DTYPES[precision], use_safetensors=True, low_cpu_mem_usage=False
        )
        scheduler = SCHEDULERS[index["scheduler"][1]].from_pretrained(place, subfolder="scheduler")
    autoencoder = Autoencoder(place, "vae", precision, device)
    text = text or _folder_text(place, kind, facts, device, precision)
    _check_network(network, text.width, autoencoder.latent_channels, str(path_or_hub))
    components = Components(
        denoiser=network.eval().to(device),
        text=text,
        autoencoder=autoencoder,
        scheduler=scheduler,
        objective=facts.objective if facts else objective_of(scheduler, network),
        family=kind.family,
        size_px=0,
        default_steps=facts.default_steps if facts else kind.steps,
        default_guidance=facts.default_guidance if facts else kind.guidance,
        max_tokens=text.max_tokens,
        pipeline=index["_class_name"],
    )
    _stock(components)  # corrects the size that outdated UNets state
    components.size_px = facts.size_px if facts else network.config.sample_size * autoencoder.factor
    return components


def _folder_text(place: str, kind: Kind, facts: "Facts | None", device: str, precision: Precision) -> TextEncoder:
    return TextEncoder(
        place,
        "text_encoder",
        tokenizer_subfolder="tokenizer",
        max_tokens=facts.max_tokens if facts else kind.max_tokens or 0,
        precision=precision,
        device=device,
        family=kind.family,
    )


def save_folder(components: Components, path: str | Path) -> None:
    """Write a diffusers folder (safetensors) that stock `DiffusionPipeline.from_pretrained` loads, and `ccray.json`.

    Raises:
        Refused: on a UNet with learned sigma, for which stock diffusers has no pipeline.
    """
    if components.family == "unet" and components.objective.learned_sigma:
        raise Refused("a UNet with objective.learned_sigma=true cannot be saved: StableDiffusionPipeline does not split its output; expected false")
    _stock(components).save_pretrained(path, safe_serialization=True)
    facts = Facts(
        objective=components.objective,
        max_tokens=components.max_tokens,
        size_px=components.size_px,
        default_steps=components.default_steps,
        default_guidance=components.default_guidance,
    )
    (Path(path) / FACTS_FILE).write_text(json.dumps(facts.model_dump(mode="json"), indent=2) + "\n")


def from_recipe(recipe: Recipe, denoiser: nn.Module | None = None, device: str = "cpu", text: Any = None) -> Components:
    """The model of a recipe: pretrained text encoder and VAE around `denoiser`.

    Without `denoiser` it is a fresh one of seed `train.seed`; with `train.start_from` that folder's, with its text encoder and objective.
    `text` stands for the text encoder where that runs elsewhere; `text_of` is the one to save with the model.

    Raises:
        Refused: when parts do not fit: sizes of pictures and latents, channels, widths of text features.
    """
    if recipe.train.start_from is not None:
        components = load_folder(recipe.train.start_from, device, text=text)
        components.size_px = final_size_px(recipe)
        components.denoiser = components.denoiser if denoiser is None else denoiser.to(device)
        return components
    family = recipe.denoiser.kind
    autoencoder = Autoencoder(recipe.encode.model, recipe.encode.subfolder, recipe.encode.precision, device)
    _check_latents(recipe, autoencoder)
    return Components(
        denoiser=(fresh_denoiser(recipe) if denoiser is None else denoiser).to(device),
        text=text or TextEncoder.from_config(recipe.text, device, family),
        autoencoder=autoencoder,
        scheduler=scheduler_for(recipe.objective),
        objective=recipe.objective,
        family=family,
        size_px=final_size_px(recipe),
        default_steps=recipe.publish.default_steps,
        default_guidance=recipe.publish.default_guidance,
        max_tokens=recipe.text.max_tokens,
        pipeline=OWN_KIND[family],
    )


def text_of(recipe: Recipe, device: str = "cpu") -> TextEncoder:
    """The text encoder of a recipe's model alone.

    Raises:
        Refused: when it cannot be loaded, or its features are not as wide as the recipe says.
    """
    start = recipe.train.start_from
    if start is None:
        return TextEncoder.from_config(recipe.text, device, recipe.denoiser.kind)
    place = model_path(start)
    return _folder_text(place, KINDS[read_index(place)["_class_name"]], _facts(place), device, "fp32")


def fresh_denoiser(recipe: Recipe) -> nn.Module:
    """The recipe's denoiser with random weights of seed `train.seed`; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        return denoisers.build(recipe.denoiser)


def scheduler_for(objective: ObjectiveConfig) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (arXiv 2211.01095) for what the denoiser predicts, as stock pipelines take it."""
    if objective.kind == "flow":
        return DPMSolverMultistepScheduler(
            num_train_timesteps=objective.num_train_timesteps,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=objective.flow_shift,
            steps_offset=1,
        )
    return DPMSolverMultistepScheduler(
        num_train_timesteps=objective.num_train_timesteps,
        beta_schedule=objective.beta_schedule,
        beta_start=objective.beta_start,
        beta_end=objective.beta_end,
        prediction_type="epsilon" if objective.kind == "epsilon" else "v_prediction",
        rescale_betas_zero_snr=objective.zero_terminal_snr,
        timestep_spacing="trailing" if objective.zero_terminal_snr else "linspace",  # begins at the last step (arXiv 2305.08891, table 2)
        steps_offset=1,
    )


def objective_of(scheduler: Any, denoiser: Any) -> ObjectiveConfig:
    """What a foreign folder's denoiser predicts, as its scheduler's configuration says.

    Raises:
        Refused: on a prediction type or noise schedule that training here does not know.
    """
    settings = scheduler.config
    prediction = settings.get("prediction_type", "epsilon")
    if prediction not in OBJECTIVES:
        raise Refused(f"the scheduler's prediction_type is {prediction!r}: expected one of {', '.join(OBJECTIVES)}")
    flow = OBJECTIVES[prediction] == "flow"
    beta_schedule = settings.get("beta_schedule", "scaled_linear")
    if not flow and (beta_schedule not in ("linear", "scaled_linear") or settings.get("trained_betas")):
        raise Refused(
            f"the scheduler's noise schedule ({beta_schedule!r}, perhaps with betas of its own) is not known: expected linear or scaled_linear"
        )
    values: dict[str, Any] = {
        "kind": OBJECTIVES[prediction],
        "learned_sigma": denoiser.config.out_channels == 2 * denoiser.config.in_channels,
        "num_train_timesteps": settings["num_train_timesteps"],
    }
    if flow:
        values |= {"flow_shift": settings.get("flow_shift", 1.0)}
    else:
        values |= {"beta_schedule": beta_schedule, "beta_start": settings["beta_start"], "beta_end": settings["beta_end"]}
        values |= {"zero_terminal_snr": bool(settings.get("rescale_betas_zero_snr"))}
    try:
        return ObjectiveConfig(**values)
    except ValidationError as error:
        raise Refused(f"the scheduler's configuration cannot be trained with: {one_line(error)}") from None


def read_index(place: str) -> dict[str, Any]:
    """A folder's or hub name's `model_index.json`, with every part checked by class name before anything is loaded.

    Raises:
        Refused: when there is none, or it names what is not supported.
    """
    if Path(place).is_dir() and not (Path(place) / "model_index.json").is_file():
        raise Refused(f"{place} has no model_index.json: expected a diffusers folder of {', '.join(KINDS)}")
    try:
        index: dict[str, Any] = DiffusionPipeline.load_config(place)
    except (OSError, ValueError) as error:
        raise Refused(f"{place} is neither a diffusers folder nor a hub name that can be reached: {one_line(error)}") from None
    name = index.get("_class_name")
    if name not in KINDS:
        raise Refused(f"{place} is a {name}: supported are {', '.join(KINDS)}")
    kind = KINDS[name]
    known = {kind.part: [kind.denoiser.__name__], "vae": ["AutoencoderKL"], "scheduler": sorted(SCHEDULERS)}
    for part, names in known.items():
        found = (index.get(part) or [None, None])[1]
        if found not in names:
            raise Refused(f"{place}: its {part} is a {found}, supported are {', '.join(names)}")
    return index


def _facts(place: str) -> Facts | None:
    found = cached_file(place, FACTS_FILE, _raise_exceptions_for_missing_entries=False)
    if found is None:
        return None
    try:
        return Facts.model_validate_json(Path(found).read_text())
    except ValidationError as error:
        raise Refused(f"{place}/{FACTS_FILE} is not what ccray writes: {one_line(error)}") from None


def _check_network(network: Any, text_width: int, latent_channels: int, name: str) -> None:
    settings = network.config
    if isinstance(network, UNet2DConditionModel):
        for key in ("time_cond_proj_dim", "addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
            if settings.get(key) is not None:
                raise Refused(f"{name}: its UNet has {key}={settings[key]!r}, which is not supported: expected a plain Stable Diffusion UNet")
    elif network.use_additional_conditions:
        raise Refused(
            f"{name}: its transformer is conditioned on resolution and aspect ratio, which is not supported: expected use_additional_conditions=false"
        )
    width = settings.cross_attention_dim if isinstance(network, UNet2DConditionModel) else settings.caption_channels
    if width != text_width:
        raise Refused(f"{name}: its denoiser takes text features {width} wide, but its text features are {text_width} wide: expected the same")
    if settings.in_channels != latent_channels:
        raise Refused(f"{name}: its denoiser takes {settings.in_channels} channels, but its latents have {latent_channels}: expected the same")


def _check_latents(recipe: Recipe, autoencoder: Autoencoder) -> None:
    if autoencoder.latent_channels != recipe.denoiser.in_channels:
        raise Refused(
            f"denoiser.in_channels is {recipe.denoiser.in_channels}, but the latents of {recipe.encode.model} have {autoencoder.latent_channels}"
        )
    size_px = final_size_px(recipe)
    side = size_px / autoencoder.factor
    if side != recipe.denoiser.sample_size:
        raise Refused(
            f"denoiser.sample_size is {recipe.denoiser.sample_size}, but pictures of {size_px} px make latents of side {side:g} "
            f"({autoencoder.factor} px each)"
        )


def _stock(components: Components) -> Any:
    """The stock pipeline around these parts. Its constructor corrects outdated scheduler and UNet configurations in place."""
    parts = {
        "vae": components.autoencoder.module,
        "text_encoder": components.text.module,
        "tokenizer": components.text.tokenizer,
        "scheduler": components.scheduler,
        KINDS[components.pipeline].part: components.denoiser,
    }
    if components.family == "unet":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return KINDS[components.pipeline].pipeline(**parts)
