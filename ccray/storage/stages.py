"""The stages of a recipe under a root: where each writes, what identifies it, and what it reads."""

from dataclasses import dataclass
from typing import Any

from ccray.config import IMPORTED, Recipe, fingerprint, sizes_of, stage_config, trained_captions

# Which stages a stage reads. Of the caption tables, training reads those it draws from, the stages after it all; a translator reads another one.
INPUTS: dict[str, tuple[str, ...]] = {
    "catalog": (),
    "caption": ("catalog",),
    "encode": ("catalog",),
    "train": ("catalog", "caption", "encode"),
    "evaluate": ("catalog", "caption", "train"),
    "publish": ("catalog", "caption", "encode", "train"),
}
CAPTIONS = "captions"


@dataclass(frozen=True)
class Stage:
    """One stage of one recipe under one root: where it writes and what identifies it."""

    name: str
    recipe: str
    directory: str
    config: dict[str, Any]
    inputs: dict[str, str]  # stage -> fingerprint

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.config, self.inputs)

    @property
    def staging(self) -> str:
        """Where unfinished rows lie; readers never look there."""
        return f"{self.directory}/.staging/{self.fingerprint}"


def stages_of(recipe: Recipe, name: str) -> list[Stage]:
    """The stage as the recipe describes it; of `caption` one for each captioner, of `encode` one for each size, in their order."""
    if name == "caption":
        return [caption_stage(recipe, captioner) for captioner in recipe.caption]
    if name == "encode":  # nothing where training encodes for itself
        return [encode_stage(recipe, size_px) for size_px in sizes_of(recipe)] if recipe.train.latents == "stored" else []
    return [stage_of(recipe, name)]


def stage_of(recipe: Recipe, name: str) -> Stage:
    """The stage as the recipe describes it, with the fingerprints of all it reads; of `caption` the only captioner's, of `encode` the first phase's."""
    if name == "caption":
        (captioner,) = recipe.caption
        return caption_stage(recipe, captioner)
    if name == "encode":
        return encode_stage(recipe, recipe.encode.size_px)
    directories = {
        "catalog": "catalog",
        "train": f"checkpoints/{recipe.train.name}",
        "evaluate": "evaluation",
        "publish": "published",
    }
    inputs = {label: stage.fingerprint for label, stage in inputs_of(recipe, name).items()}
    return Stage(name, recipe.name, directories[name], stage_config(recipe, name), inputs)


def caption_stage(recipe: Recipe, captioner: str) -> Stage:
    """The table of one captioner of the recipe, or of a column of captions that the catalog's source ships."""
    inputs = {"catalog": stage_of(recipe, "catalog").fingerprint}
    if captioner.startswith(IMPORTED):
        return imported_stage(recipe.name, captioner, inputs)
    one = recipe.caption[captioner]
    if one.input is not None:
        inputs[one.input] = caption_stage(recipe, one.input).fingerprint
    return Stage("caption", recipe.name, f"{CAPTIONS}/{captioner}", {"caption": {captioner: one.model_dump(mode="json")}}, inputs)


def encode_stage(recipe: Recipe, size_px: int) -> Stage:
    """The latents of one size."""
    config = {"encode": recipe.encode.model_copy(update={"size_px": size_px}).model_dump(mode="json")}
    inputs = {"catalog": stage_of(recipe, "catalog").fingerprint}
    return Stage("encode", recipe.name, f"latents/{recipe.encode.vae}-{size_px}px", config, inputs)


def imported_stage(recipe: str, table: str, inputs: dict[str, str]) -> Stage:
    """A table of captions that the catalog's source ships: the catalog stage writes it, and nothing but the catalog decides it."""
    return Stage("caption", recipe, f"{CAPTIONS}/{table}", {"imported": table}, inputs)


def inputs_of(recipe: Recipe, name: str) -> dict[str, Stage]:
    """All that a stage reads: `catalog`, `train`, and tables of captions and latents by their directories."""
    found: dict[str, Stage] = {}
    for source in INPUTS[name]:
        if source == "caption":
            drawn = list(trained_captions(recipe))
            tables = drawn if name == "train" else list(dict.fromkeys([*recipe.caption, *drawn]))
            found |= {stage.directory: stage for stage in (caption_stage(recipe, table) for table in tables)}
        elif source == "encode":
            found |= {stage.directory: stage for stage in stages_of(recipe, source)}
        else:
            found[source] = stage_of(recipe, source)
    return found
