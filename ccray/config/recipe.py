"""One complete recipe, what identifies its stages, and how settings are laid over it."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError, model_validator

from ccray.config.base import Config, Slug
from ccray.config.data import IMPORTED, CaptionConfig, CatalogConfig, EncodeConfig
from ccray.config.model import ComponentsConfig, Denoiser, ObjectiveConfig, Terms, TextConfig
from ccray.config.resources import ActorResources, Resources
from ccray.config.results import EvaluateConfig, PublishConfig, ServeConfig
from ccray.config.training import Phase, PhaseConfig, TrainConfig
from ccray.interfaces import Refused
from ccray.overrides import overridden, sentence


class Recipe(Config):
    """One complete configuration of the corridor."""

    name: Slug
    catalog: CatalogConfig
    caption: dict[Slug, CaptionConfig]  # by name, in the order in which they run; each writes captions/<name>/
    encode: EncodeConfig
    text: TextConfig
    denoiser: Denoiser
    objective: ObjectiveConfig
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    publish: PublishConfig = PublishConfig()
    serve: ServeConfig = ServeConfig()
    components: ComponentsConfig = ComponentsConfig()
    allow_unknown_components: bool = False  # policy `commercial` and components of which nobody says whether commercial use is allowed
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _captions_are_there(self) -> "Recipe":
        before: list[str] = []
        for name, one in self.caption.items():
            if name.startswith(IMPORTED):
                raise ValueError(f"caption.{name}: names that begin with {IMPORTED!r} belong to captions that a source ships")
            if one.input and not one.input.startswith(IMPORTED) and one.input not in before:
                raise ValueError(
                    f"caption.{name}.input is {one.input!r}: expected a captioner named before it ({', '.join(before) or 'none'}) or {IMPORTED}COLUMN"
                )
            before.append(name)
        strangers = [name for name in self.resources.captioners if name not in before]
        if strangers:
            raise ValueError(f"resources.captioners.{strangers[0]} is of no captioner: expected one of {', '.join(before) or 'none'}")
        unknown = [name for name in self.train.captions if name not in before and not name.startswith(IMPORTED)]
        if unknown or not (before or self.train.captions):
            raise ValueError(f"train.captions names {unknown}: expected some of {', '.join(before) or 'no captioner'}, or {IMPORTED}COLUMN")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        if self.train.start_from is not None:  # the folder brings denoiser, text encoder and objective
            return self
        width = self.denoiser.cross_attention_dim if self.denoiser.kind == "unet" else self.denoiser.caption_channels
        if width != self.text.width:
            raise ValueError(f"the denoiser takes text features {width} wide, but text.width is {self.text.width}")
        outputs = self.denoiser.in_channels * (2 if self.objective.learned_sigma else 1)
        if self.denoiser.out_channels != outputs:
            raise ValueError(f"denoiser.out_channels is {self.denoiser.out_channels}, but the objective needs {outputs}")
        return self


# The sections of the recipe that make up each stage's identity.
STAGE_SECTIONS: dict[str, tuple[str, ...]] = {
    "catalog": ("catalog",),
    "caption": ("caption",),
    "encode": ("encode",),
    "train": ("text", "denoiser", "objective", "train"),
    "evaluate": ("evaluate",),
    "publish": ("publish",),
}
STAGES = (*STAGE_SECTIONS, "serve")


def trained_captions(recipe: Recipe) -> dict[str, float]:
    """Caption tables that training draws from -> how often, relative to each other."""
    return dict(recipe.train.captions) or dict.fromkeys(recipe.caption, 1.0)


def phases_of(recipe: Recipe) -> tuple[Phase, ...]:
    """The phases of training, in order."""
    train = recipe.train
    phases = [_phase("", recipe.encode.size_px, 0, train.steps, train.ema_steps, train)]
    for name, one in train.phases.items():
        phases.append(_phase(name, one.size_px, phases[-1].end, one.steps, one.ema_steps, one, phases[-1]))
    return tuple(phases)


def _phase(
    name: str, size_px: int, first: int, steps: int, ema_steps: int | None, asked: TrainConfig | PhaseConfig, before: Phase | None = None
) -> Phase:
    def given(key: str) -> Any:
        value = getattr(asked, key)
        return getattr(before, key) if value is None and before is not None else value

    kept = {key: given(key) for key in ("global_batch_size", "micro_batch_size", "learning_rate")}
    return Phase(name, size_px, first, steps, ema_steps=steps if ema_steps is None else min(ema_steps, steps), **kept)


def total_steps(recipe: Recipe) -> int:
    """Updates of all phases together."""
    return phases_of(recipe)[-1].end


def sizes_of(recipe: Recipe) -> tuple[int, ...]:
    """Sides of the square pictures that are encoded, in pixels: one for each different size of the phases, in their order."""
    return tuple(dict.fromkeys(phase.size_px for phase in phases_of(recipe)))


def final_size_px(recipe: Recipe) -> int:
    """The size that the model is made for: the last phase's."""
    return phases_of(recipe)[-1].size_px


def stage_config(recipe: Recipe, stage: str) -> dict[str, Any]:
    """The part of a recipe that decides what a stage writes, as plain JSON values; of the captioners see `storage.caption_stage`."""
    sections = {section: getattr(recipe, section).model_dump(mode="json") for section in STAGE_SECTIONS[stage]}
    if "train" in sections:
        sections["train"]["captions"] = trained_captions(recipe)  # as they are now, whatever captioners come later
        if recipe.train.latents == "online":
            sections["encode"] = recipe.encode.model_dump(mode="json")
    return sections


def fingerprint(config: dict[str, Any], inputs: dict[str, str]) -> str:
    """16 hex digits that name a stage's configuration together with its inputs' fingerprints."""
    canonical = json.dumps({"config": config, "inputs": inputs}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key: value`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# Sections that hold one of these for each captioner, or each phase.
NAMED: dict[str, type[Config]] = {
    "caption": CaptionConfig,
    "components.captioner": Terms,
    "resources.captioners": ActorResources,
    "train.phases": PhaseConfig,
}


def build(recipe: Recipe, overrides: Sequence[str] = (), file_text: str | None = None) -> Recipe:
    """`recipe` with a YAML file's settings, then `key.sub=value` words, laid over it.

    Raises:
        Refused: on an unknown key or a value that does not fit, naming key, value and what was expected.
    """
    values = overridden(recipe.model_dump(), overrides, file_text, NAMED)
    for name in recipe.caption.keys() - values["caption"].keys():  # what was taken away needs no machines
        values["resources"]["captioners"].pop(name, None)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise Refused(sentence(error)) from None
