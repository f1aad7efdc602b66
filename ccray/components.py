"""The pretrained parts of a run: where each comes from, under which licence, what it learned from, whether it may be used commercially, and the
sha256 of its weights.

What a part's own card or paper states is repeated with its source and not checked; what nobody states is "unknown". A person may declare more
(`components.vae.license=...`, `components.captioner.NAME.license=...`), and is then named as the one who says so.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from ccray import licenses, storage
from ccray.config import IMPORTED, Commercial, Family, Recipe, Terms, trained_captions
from ccray.interfaces import Refused

UNKNOWN = "unknown"
SHAPES_DATA = "pictures of ccray's shapes world, drawn by its own code (CC0); no held-out combination among them"
Role = Literal["captioner", "vae", "text_encoder", "start_from", "filters"]
# Whose terms a stage asks about before it writes anything. What training starts from brings its own text encoder.
ROLES: dict[str, tuple[Role, ...]] = {
    "catalog": ("filters",),
    "caption": ("captioner",),
    "encode": ("vae",),
    "train": ("filters", "captioner", "vae", "text_encoder", "start_from"),
    "evaluate": (),
    "publish": ("filters", "captioner", "vae", "text_encoder", "start_from"),
}
SETTINGS: dict[Role, str] = {  # of a captioner it is caption.NAME.model
    "vae": "encode.model",
    "text_encoder": "text.model",
    "start_from": "train.start_from",
    "filters": "catalog.filters",
}
CLASSES: dict[Family, str] = {  # of transformers; what a captioner's model is loaded as
    "blip2": "Blip2ForConditionalGeneration",
    "florence2": "Florence2ForConditionalGeneration",
    "chat": "AutoModelForImageTextToText",
    "translate": "AutoModelForSeq2SeqLM or AutoModelForCausalLM",
    "vllm": "vLLM",
}
COMMERCIAL_POLICIES: tuple[licenses.Policy, ...] = ("commercial", "permissive")

# Licences as model cards name them (the hub's ids) that allow commercial use; Creative Commons' own are read by `licenses`.
OPEN = {"apache-2.0", "mit", "isc", "unlicense", "wtfpl", "zlib", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear"}
OPEN |= {"mpl-2.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0", "artistic-2.0", "ecl-2.0", "ms-pl", "epl-2.0", "odc-by"}
CLOSED = ("non-commercial", "noncommercial", "non commercial", "research-only", "research only", "researchrail", "-nc")
RAIL = re.compile(r"(\b|open)rail\b")  # OpenRAIL-M, CreativeML Open RAIL++-M, bigscience-bloom-rail-1.0
RAIL_NOTE = "commercial use is allowed under the use restrictions that the licence lists, which go with every copy and derivative"


@dataclass(frozen=True)
class Origin:
    """What is stated of a pretrained part, and by whom."""

    license: str = UNKNOWN
    training_data: str = UNKNOWN
    stated_by: str = UNKNOWN
    commercial: Commercial = "unknown"
    note: str = ""


_BLIP2_IMAGES = "COCO, Visual Genome, CC3M, CC12M, SBU and 115 million images of LAION-400M"
_QWEN3_VL = ("2B", "4B", "8B", "32B", "30B-A3B", "235B-A22B")

# Parts of the published recipes and well-known captioners, which lie on the hub: what their cards and papers state.
HUB: dict[str, Origin] = {
    "stabilityai/stable-diffusion-2-base/vae": Origin(
        "CreativeML Open RAIL++-M",
        "LAION-5B subsets, not listed image by image",
        "the card of stabilityai/stable-diffusion-2-base",
        "yes",
        RAIL_NOTE,
    ),
    "stabilityai/stable-diffusion-2-base/text_encoder": Origin(
        "CreativeML Open RAIL++-M", "LAION-2B (OpenCLIP ViT-H/14)", "the card of stabilityai/stable-diffusion-2-base", "yes", RAIL_NOTE
    ),
    "stabilityai/stable-diffusion-2-base": Origin(
        "CreativeML Open RAIL++-M", "LAION-5B subsets, not listed image by image", "its card", "yes", RAIL_NOTE
    ),
    "madebyollin/sdxl-vae-fp16-fix": Origin("MIT", "fine-tuned from the SDXL VAE, whose training data are not published", "its card", "yes"),
    "cyberagent/calm2-7b": Origin("Apache-2.0", "1.3 trillion tokens of Japanese and English text, not listed", "its card", "yes"),
    "Salesforce/blip2-opt-2.7b": Origin(
        "MIT (its language model OPT-2.7B: OPT license, non-commercial)",
        f"{_BLIP2_IMAGES}; OPT's text corpus",
        "its card and arXiv 2301.12597",
        "unknown",
        "its card says MIT, but it holds the weights of OPT-2.7B, whose licence allows research only; nobody says which of the two decides",
    ),
    "Salesforce/blip2-flan-t5-xl": Origin("MIT", f"{_BLIP2_IMAGES}; Flan-T5's text", "its card and arXiv 2301.12597", "yes"),
    **{
        f"florence-community/Florence-2-{size}": Origin("MIT", "FLD-5B (126 million images, not published)", "its card and arXiv 2311.06242", "yes")
        for size in ("base", "large")
    },
    **{f"Qwen/Qwen3-VL-{size}-Instruct": Origin("Apache-2.0", UNKNOWN, "its card", "yes") for size in _QWEN3_VL},
    "Qwen/Qwen2.5-VL-7B-Instruct": Origin("Apache-2.0", UNKNOWN, "its card", "yes"),
    "Qwen/Qwen2.5-VL-3B-Instruct": Origin("Qwen Research License (non-commercial)", UNKNOWN, "its card", "no"),
    "facebook/nllb-200-distilled-600M": Origin("CC-BY-NC-4.0", "parallel and monolingual text, arXiv 2207.04672", "its card", "no"),
    "Helsinki-NLP/opus-mt-en-jap": Origin("Apache-2.0", "OPUS (parallel text)", "its card", "yes"),
    "microsoft/Phi-3-medium-4k-instruct": Origin("MIT", "filtered public web text and synthetic text, not listed", "its card", "yes"),
}


@dataclass(frozen=True)
class Part:
    """A pretrained part as a recipe takes it."""

    role: Role
    reference: str  # into the hub, this disk, an S3 store or the package
    name: str | None = None  # of a captioner

    @property
    def setting(self) -> str:
        """The key of the recipe that names its model."""
        return SETTINGS[self.role] if self.name is None else f"caption.{self.name}.model"

    @property
    def terms(self) -> str:
        """The section of the recipe in which a person may declare its terms."""
        return f"components.{self.role}" if self.name is None else f"components.{self.role}.{self.name}"

    @property
    def label(self) -> str:
        """As people read it in a sentence."""
        return self.role.replace("_", " ") if self.name is None else f"{self.role.replace('_', ' ')} {self.name}"


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
    revision: str | None = None  # commit on the hub, where this machine's cache knows it
    commercial: Commercial = "unknown"
    note: str = ""
    name: str | None = None  # of a captioner, or of the table of captions that the source ships
    language: str | None = None  # of a captioner's captions, BCP 47


def check(recipe: Recipe, stage: str) -> None:
    """Whether the policy lets a stage use the pretrained parts that it needs.

    Raises:
        Refused: when terms are declared of a captioner that the recipe does not have; under a commercial policy, when a part may not be used
            commercially, or nobody says that it may and `allow_unknown_components` is not set; the part, its licence, who states it, and what to do
            are named.
    """
    strangers = [name for name in recipe.components.captioner if name not in recipe.caption]
    if strangers:
        raise Refused(f"components.captioner.{strangers[0]} declares terms of no captioner: expected one of {', '.join(recipe.caption) or 'none'}")
    policy = recipe.train.policy or recipe.catalog.policy
    if policy not in COMMERCIAL_POLICIES:
        return
    for part in used(recipe, ROLES[stage]):
        origin = origin_in(recipe, part)
        if origin.commercial == "no" or (origin.commercial == "unknown" and not recipe.allow_unknown_components):
            storage.require_model(part.setting, part.reference)  # of what is not there nobody can say anything
            raise Refused(_refusal(part, origin, policy))


def _refusal(part: Part, origin: Origin, policy: str) -> str:
    verdict = "may not be used commercially" if origin.commercial == "no" else "is not known to allow commercial use"
    note = f"; {origin.note}" if origin.note else ""
    cure = f"use another, or policy noncommercial; where you know better, declare {part.terms}.license=... or {part.terms}.commercial=yes"
    unknown = ", or accept it with allow_unknown_components=true, which the model card then says" if origin.commercial == "unknown" else ""
    return (
        f"the {part.label}, {part.reference}, {verdict}, which policy {policy} asks for: licence {origin.license}, "
        f"stated by {origin.stated_by}{note}: {cure}{unknown}"
    )


def allowance(recipe: Recipe) -> str | None:
    """For the model card: which parts of unknown terms a commercial policy let through, and on whose word; None when there are none."""
    policy = recipe.train.policy or recipe.catalog.policy
    found = [(part, origin_in(recipe, part)) for part in used(recipe, ROLES["publish"])]
    unknown = [f"{part.label} `{public_name(part.reference)}` ({one.note or one.license})" for part, one in found if one.commercial == "unknown"]
    if policy not in COMMERCIAL_POLICIES or not unknown:
        return None
    return (
        f"The images were chosen under policy {policy}, but nobody states that these parts may be used commercially; "
        f"the recipe allowed them (`allow_unknown_components`): {'; '.join(unknown)}."
    )


def used(recipe: Recipe, roles: Sequence[Role]) -> Iterator[Part]:
    """The pretrained parts that a recipe takes for some roles; of several captioners each, translators too."""
    start = recipe.train.start_from
    found: dict[Role, list[Part]] = {
        "filters": [Part("filters", one.model) for one in recipe.catalog.filters],
        "captioner": [Part("captioner", one.model, name) for name, one in recipe.caption.items()],
        "vae": [Part("vae", _reference(recipe.encode.model, recipe.encode.subfolder))],
        "text_encoder": [] if start else [Part("text_encoder", _reference(recipe.text.model, recipe.text.subfolder))],
        "start_from": [Part("start_from", start)] if start else [],
    }
    for role in roles:
        yield from found[role]


def origin_in(recipe: Recipe, part: Part) -> Origin:
    """What is stated of a part, with what the recipe declares laid over it."""
    declared = recipe.components.captioner.get(part.name or "", Terms()) if part.role == "captioner" else getattr(recipe.components, part.role)
    return _declared(origin_of(part.reference), declared, f"{part.terms} of the recipe")


def _declared(origin: Origin, terms: Terms, who: str) -> Origin:
    if terms == Terms():
        return origin
    if terms.license is not None:
        origin = replace(origin, license=terms.license, commercial=commercial_by(terms.license), note=note_of(terms.license))
    origin = replace(origin, training_data=terms.training_data or origin.training_data)
    if terms.commercial is not None:
        origin = replace(origin, commercial=terms.commercial)
    before = "" if origin.stated_by == UNKNOWN else f", over {origin.stated_by}"
    return replace(origin, stated_by=f"{who}{before}")


def commercial_by(license: str) -> Commercial:
    """Whether a licence allows commercial use, by its name on a model card; "unknown" where the name does not tell."""
    name = " ".join(license.lower().split())
    if any(word in name for word in CLOSED):
        return "no"
    if name in OPEN or RAIL.search(name):
        return "yes"
    known = licenses.parse(license)
    if known.commercial is None:
        return "unknown"
    return "yes" if known.commercial else "no"


def note_of(license: str) -> str:
    return RAIL_NOTE if RAIL.search(license.lower()) and commercial_by(license) == "yes" else ""


def list_components(recipe: Recipe, folder: Path, learned_from: str, captioner_digests: Mapping[str, str | None]) -> list[Component]:
    """The parts of a diffusers folder that `recipe` made, and the captioners that described its images.

    Args:
        recipe: says which pretrained parts were taken.
        folder: the diffusers folder.
        learned_from: the denoiser's training data, in words.
        captioner_digests: captioner -> sha256 of its weights, where they are known.
    """
    index: Mapping[str, Any] = json.loads((folder / "model_index.json").read_text())
    start = recipe.train.start_from
    text_source = f"{start}/text_encoder" if start else _reference(recipe.text.model, recipe.text.subfolder)
    part = "unet" if "unet" in index else "transformer"
    vae_source = f"{start}/vae" if start else _reference(recipe.encode.model, recipe.encode.subfolder)
    return [
        _denoiser(recipe, folder, part, index[part][1], learned_from),
        _packed(recipe, "vae", folder, index["vae"][1], vae_source),
        _packed(recipe, "text_encoder", folder, index["text_encoder"][1], text_source),
        *describers(recipe, captioner_digests),
    ]


def describers(recipe: Recipe, captioner_digests: Mapping[str, str | None]) -> list[Component]:
    """What described or judged the images: the captioners, tables of the source's captions that training draws from, the filters; none of them
    is in a published folder."""
    captioners = [_captioner(recipe, part, captioner_digests.get(part.name or "")) for part in used(recipe, ["captioner"])]
    return [*captioners, *(_shipped(name) for name in trained_captions(recipe) if name.startswith(IMPORTED)), *_filters(recipe)]


def _denoiser(recipe: Recipe, folder: Path, part: str, kind: str, learned_from: str) -> Component:
    start = recipe.train.start_from
    before = origin_in(recipe, Part("start_from", start)) if start else None
    data = learned_from if before is None else f"{learned_from}; before that, in {public_name(start or '')}: {before.training_data}"
    source = (
        f"continued here from {public_name(start or '')} (licence: {before.license})"
        if before
        else f"trained here from random weights, seed {recipe.train.seed}"
    )
    weights = folder / part
    return Component(
        role="denoiser",
        folder=part,
        kind=kind,
        source=source,
        license=recipe.publish.model_license,
        training_data=data,
        stated_by="ccray",
        parameters=parameter_count(weights),
        sha256=digests(weights),
        revision=revision_of(start) if start else None,
        commercial=commercial_by(recipe.publish.model_license),
        note=(before.note if before else "") or note_of(recipe.publish.model_license),
    )


def _packed(recipe: Recipe, role: Literal["vae", "text_encoder"], folder: Path, kind: str, source: str) -> Component:
    """A part that lies in the published folder."""
    start = recipe.train.start_from
    origin = origin_in(recipe, Part(role, source))
    if start and origin.license == UNKNOWN:
        origin = origin_in(recipe, Part("start_from", start))
    return _component(role, role, kind, source, origin, folder / role)


def _captioner(recipe: Recipe, part: Part, digest: str | None) -> Component:
    config = recipe.caption[part.name or ""]
    one = _component("captioner", None, CLASSES[config.family], part.reference, origin_in(recipe, part), _on_disk(part.reference))
    one = replace(one, name=part.name, language=config.language)
    return one if one.sha256 or not digest else replace(one, sha256={"weights": digest})


def _shipped(table: str) -> Component:
    source = f"captions that the images' source ships, column {table.removeprefix(IMPORTED)}"
    return Component("captioner", None, "none", source, "that of the source", "none", "the source", name=table)


def _filters(recipe: Recipe) -> list[Component]:
    return [
        _component(f"filter_{one.name}", None, "image classifier", one.model, origin_in(recipe, Part("filters", one.model)), _on_disk(one.model))
        for one in recipe.catalog.filters
    ]


def _component(role: str, folder: str | None, kind: str, source: str, origin: Origin, weights: Path) -> Component:
    return Component(
        role=role,
        folder=folder,
        kind=kind,
        source=public_name(source),
        license=origin.license,
        training_data=origin.training_data,
        stated_by=origin.stated_by,
        parameters=parameter_count(weights) or None,
        sha256=digests(weights),
        revision=revision_of(source),
        commercial=origin.commercial,
        note=origin.note,
    )


def _reference(model: str, subfolder: str | None) -> str:
    return f"{model}/{subfolder}" if subfolder else model


def public_name(reference: str) -> str:
    """A model or source as the world may read it: a path of the machine that made the model, or of a store, is cut down to its last name."""
    if reference.startswith("s3://"):
        return f"a folder in an S3 store, {reference.rstrip('/').rpartition('/')[2]}"
    kind, _, place = reference.partition(":")
    if re.fullmatch("[a-z0-9]+", kind) and "/" in place and not place.startswith(("//", " ")):  # folder:, yfcc100m:, ..., not https://
        return f"{kind}:{Path(place).name}"
    return f"a local folder, {Path(reference).name}" if reference.startswith(("/", "~", "./", "../")) else reference


def origin_of(reference: str) -> Origin:
    """What is stated of a hub name, a `shapes:` teacher, or a local folder with a card (its own, or that of the pipeline it is part of)."""
    if reference in HUB:
        return HUB[reference]
    for folder in _folders(reference):
        card = front_matter(folder / "README.md")
        if card.get("license"):
            data = SHAPES_DATA if reference.startswith(storage.BUILT_IN) else _names(card.get("datasets"))
            license = " ".join(map(str, card["license"])) if isinstance(card["license"], list) else str(card["license"])
            name = str(card.get("license_name") or license)
            return Origin(name, data, "its card", commercial_by(name), note_of(name))
    return Origin()


def _folders(reference: str) -> list[Path]:
    """Where a card of a part may lie on this disk: its own folder, that above it, or the hub's cache."""
    place = Path(storage.model_path(reference)).expanduser()
    cached = _cached(reference)
    return [place, place.parent] if place.is_dir() else [cached] if cached else []


def _on_disk(reference: str) -> Path:
    """A part's folder: as named, or in the hub's cache."""
    place, cached = Path(storage.model_path(reference)).expanduser(), _cached(reference)
    return cached / Path(*reference.split("/")[2:]) if cached and not place.is_dir() else place


def weights_digest(reference: str) -> str | None:
    """`storage.weights_digest` of a part that is on this disk, in a folder or in the hub's cache."""
    return storage.weights_digest(str(_on_disk(reference)))


def revision_of(reference: str) -> str | None:
    """The commit of a hub name that this machine's cache holds; None for a folder, or when it is not there."""
    cached = _cached(reference)
    return cached.name if cached else None


def _cached(reference: str) -> Path | None:
    """The newest snapshot of a hub name (with or without a subfolder) in the local cache; nothing is asked over the network."""
    parts = reference.split("/")
    if len(parts) < 2 or ":" in reference or reference.startswith(("/", ".", "~")) or Path(reference).is_dir():
        return None
    from huggingface_hub.constants import HF_HUB_CACHE  # takes a moment to import, and only hub names need it

    home = Path(HF_HUB_CACHE) / f"models--{parts[0]}--{parts[1]}"
    pointer = home / "refs" / "main"
    snapshot = home / "snapshots" / pointer.read_text().strip() if pointer.is_file() else None
    return snapshot if snapshot and snapshot.is_dir() else None


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
