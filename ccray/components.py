"""The parts of a published model: where each comes from, under which licence, what it learned from, and the sha256 of its weights.

What a part's own card or paper states is repeated with its source and not checked; what nobody states is "unknown".
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ccray import storage
from ccray.config import Recipe

UNKNOWN = "unknown"
SHAPES_DATA = "pictures of ccray's shapes world, drawn by its own code (CC0); no held-out combination among them"


@dataclass(frozen=True)
class Origin:
    """What is stated of a pretrained part, and by whom."""

    license: str = UNKNOWN
    training_data: str = UNKNOWN
    stated_by: str = UNKNOWN


# Parts of the published recipes, which lie on the hub: what their cards and papers state.
HUB: dict[str, Origin] = {
    "stabilityai/stable-diffusion-2-base/vae": Origin(
        "CreativeML Open RAIL++-M", "LAION-5B subsets, not listed image by image", "the card of stabilityai/stable-diffusion-2-base"
    ),
    "stabilityai/stable-diffusion-2-base/text_encoder": Origin(
        "CreativeML Open RAIL++-M", "LAION-2B (OpenCLIP ViT-H/14)", "the card of stabilityai/stable-diffusion-2-base"
    ),
    "madebyollin/sdxl-vae-fp16-fix": Origin("MIT", "fine-tuned from the SDXL VAE, whose training data are not published", "its card"),
    "cyberagent/calm2-7b": Origin("Apache-2.0", "1.3 trillion tokens of Japanese and English text, not listed", "its card"),
    "Salesforce/blip2-opt-2.7b": Origin(
        "MIT (its language model OPT-2.7B: OPT license, non-commercial)",
        "COCO, Visual Genome, CC3M, CC12M, SBU and 115 million images of LAION-400M; OPT's text corpus",
        "its card and arXiv 2301.12597",
    ),
}


@dataclass(frozen=True)
class Component:
    """One part. `folder` is where it lies in the published folder, None for a part that was used but is not in it."""

    role: str
    folder: str | None
    kind: str  # class
    source: str
    license: str
    training_data: str
    stated_by: str
    parameters: int | None = None
    sha256: dict[str, str] = field(default_factory=dict)  # weights file -> hex digest


def list_components(recipe: Recipe, folder: Path, learned_from: str, captioner_digest: str | None) -> list[Component]:
    """The parts of a diffusers folder that `recipe` made, and the captioner that described its images.

    Args:
        recipe: says which pretrained parts were taken.
        folder: the diffusers folder.
        learned_from: the denoiser's training data, in words.
        captioner_digest: sha256 of the captioner's weights, where they are known.
    """
    index: Mapping[str, Any] = json.loads((folder / "model_index.json").read_text())
    start = recipe.train.start_from
    text_source = f"{start}/text_encoder" if start else _reference(recipe.text.model, recipe.text.subfolder)
    part = "unet" if "unet" in index else "transformer"
    return [
        _denoiser(recipe, folder, part, index[part][1], learned_from),
        _pretrained("vae", folder, index["vae"][1], f"{start}/vae" if start else _reference(recipe.encode.model, recipe.encode.subfolder)),
        _pretrained("text_encoder", folder, index["text_encoder"][1], text_source),
        _captioner(recipe, captioner_digest),
    ]


def _denoiser(recipe: Recipe, folder: Path, part: str, kind: str, learned_from: str) -> Component:
    start = recipe.train.start_from
    before = origin_of(start) if start else None
    data = learned_from if before is None else f"{learned_from}; before that, in {public_name(start or '')}: {before.training_data}"
    source = (
        f"continued here from {public_name(start or '')} (licence: {before.license})"
        if before
        else f"trained here from random weights, seed {recipe.train.seed}"
    )
    weights = folder / part
    return Component("denoiser", part, kind, source, recipe.publish.model_license, data, "ccray", parameter_count(weights), digests(weights))


def _pretrained(role: str, folder: Path, kind: str, source: str) -> Component:
    origin = origin_of(source)
    weights = folder / role
    return Component(
        role, role, kind, public_name(source), origin.license, origin.training_data, origin.stated_by, parameter_count(weights), digests(weights)
    )


def _captioner(recipe: Recipe, digest: str | None) -> Component:
    source = recipe.caption.model
    origin = origin_of(source)
    found = {"weights": digest} if digest else {}
    place = Path(storage.model_path(source))
    return Component(
        "captioner",
        None,
        "Blip2ForConditionalGeneration",
        public_name(source),
        origin.license,
        origin.training_data,
        origin.stated_by,
        parameter_count(place) or None,
        digests(place) or found,
    )


def _reference(model: str, subfolder: str | None) -> str:
    return f"{model}/{subfolder}" if subfolder else model


def public_name(reference: str) -> str:
    """A reference as the world may read it: a path of the machine that made the model is cut down to its last name."""
    kind, colon, place = reference.partition(":")
    if colon and kind in ("folder", "table"):
        return f"{kind}:{Path(place).name}"
    return f"a local folder, {Path(reference).name}" if reference.startswith(("/", "~", "./", "../")) else reference


def origin_of(reference: str) -> Origin:
    """What is stated of a hub name, a `shapes:` teacher, or a local folder with a card (its own, or that of the pipeline it is part of)."""
    if reference in HUB:
        return HUB[reference]
    place = Path(storage.model_path(reference)).expanduser()
    for folder in (place, place.parent):
        card = front_matter(folder / "README.md")
        if card.get("license"):
            data = SHAPES_DATA if reference.startswith(storage.BUILT_IN) else _names(card.get("datasets"))
            return Origin(str(card.get("license_name") or card["license"]), data, "its card")
    return Origin()


def _names(datasets: Any) -> str:
    return ", ".join(map(str, datasets)) if isinstance(datasets, list) and datasets else UNKNOWN


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML block at the head of a model card; empty when there is none that can be read."""
    if not path.is_file():
        return {}
    parts = path.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        values = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def digests(folder: Path) -> dict[str, str]:
    """sha256 of each safetensors file of a folder; empty when it is not on this disk."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def parameter_count(folder: Path) -> int:
    """Numbers in a folder's safetensors files, read from their headers (8 bytes of length, then JSON) without loading a weight."""
    total = 0
    for path in folder.glob("*.safetensors") if folder.is_dir() else []:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for length in tensor["shape"]:
                    size *= length
                total += size
    return total


def to_json(components: list[Component], facts: Mapping[str, Any]) -> str:
    """components.json: the parts, and facts of the whole."""
    return json.dumps({**facts, "components": [asdict(one) for one in components]}, indent=2, ensure_ascii=False) + "\n"
