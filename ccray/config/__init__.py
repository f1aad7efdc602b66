"""Typed, frozen configuration of one whole run: what a thing is, and (in `Resources` alone) where it runs.

Every stage has its section; a stage's fingerprint is made of its sections and its inputs' fingerprints, never of `Resources`.
`build` reads a recipe's overrides (a YAML file, then `key.sub=value` words) and refuses unknown keys and wrong types in one sentence.
"""

from ccray.config.base import Config, Fraction, Precision, Slug
from ccray.config.data import (
    IMPORTED,
    OPT_OUTS,
    CaptionConfig,
    CatalogConfig,
    ColumnMap,
    Download,
    EncodeConfig,
    Family,
    Hint,
    OptOut,
    ScoreFilter,
    ShapesSource,
)
from ccray.config.model import Commercial, ComponentsConfig, Denoiser, DiTConfig, ObjectiveConfig, Terms, TextConfig, UNetConfig
from ccray.config.recipe import (
    NAMED,
    STAGE_SECTIONS,
    STAGES,
    Recipe,
    build,
    final_size_px,
    fingerprint,
    flatten,
    phases_of,
    sizes_of,
    stage_config,
    total_steps,
    trained_captions,
)
from ccray.config.resources import ActorResources, Resources, ServeResources, TrainResources
from ccray.config.results import EvaluateConfig, PublishConfig, PublishPart, ServeConfig
from ccray.config.training import Phase, PhaseConfig, TrainConfig

__all__ = [
    "IMPORTED",
    "NAMED",
    "OPT_OUTS",
    "STAGES",
    "STAGE_SECTIONS",
    "ActorResources",
    "CaptionConfig",
    "CatalogConfig",
    "ColumnMap",
    "Commercial",
    "ComponentsConfig",
    "Config",
    "Denoiser",
    "DiTConfig",
    "Download",
    "EncodeConfig",
    "EvaluateConfig",
    "Family",
    "Fraction",
    "Hint",
    "ObjectiveConfig",
    "OptOut",
    "Phase",
    "PhaseConfig",
    "Precision",
    "PublishConfig",
    "PublishPart",
    "Recipe",
    "Resources",
    "ScoreFilter",
    "ServeConfig",
    "ServeResources",
    "ShapesSource",
    "Slug",
    "Terms",
    "TextConfig",
    "TrainConfig",
    "TrainResources",
    "UNetConfig",
    "build",
    "final_size_px",
    "fingerprint",
    "flatten",
    "phases_of",
    "sizes_of",
    "stage_config",
    "total_steps",
    "trained_captions",
]
