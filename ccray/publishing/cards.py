"""The model card, README.md of a published folder: Hugging Face's YAML front matter, then what a reader must know, in this order:
what it is, how to use it, what images and captions it learned from, its parts, its figures, how it was trained, what it is for and what it cannot do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ccray.components import Component, public_name
from ccray.config import Recipe, flatten, trained_captions
from ccray.flags import meaning
from ccray.publishing import captioned
from ccray.publishing.attribution import Mix
from ccray.publishing.captioned import Drawn
from ccray.shapes import world

# Licences as the Hugging Face hub spells them; anything else is "other" with its name.
HUB_LICENSES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail++")


@dataclass(frozen=True)
class Subject:
    """All that a card tells."""

    recipe: Recipe
    pipeline: str  # stock class
    size_px: int
    max_tokens: int
    captions: tuple[Drawn, ...]
    mix: Mix
    components: Sequence[Component]
    metrics: Mapping[str, Any] | None  # metrics.json of this model
    definitions: Mapping[str, str]  # of the figures
    data: Mapping[str, str]  # name -> digest or fingerprint
    fingerprint: str  # of the checkpoint
    copies: tuple[int, int]  # images that have copies in their source, and how many copies
    allowance: str | None  # what `allow_unknown_components` let pass
    with_dataset: bool  # the dataset folder stands beside


def card(subject: Subject) -> str:
    """README.md."""
    sections = [
        _what(subject),
        f"## Use\n\n{_use(subject)}",
        f"## Training images\n\n{_images(subject)}",
        f"## Captions\n\n{_captions(subject)}",
        f"## Components\n\n{_components(subject.components, subject.allowance)}",
        f"## Figures\n\n{_figures(subject.metrics, subject.definitions)}",
        f"## Training\n\n{_training(subject)}",
        f"## Intended use and limits\n\n{_limits(subject)}",
    ]
    return f"---\n{_front_matter(subject)}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(subject: Subject) -> str:
    license = subject.recipe.publish.model_license
    known = license.lower() in HUB_LICENSES
    start = subject.recipe.train.start_from
    languages = captioned.languages(subject.captions)
    values: dict[str, Any] = {
        "license": license.lower() if known else "other",
        **({} if known else {"license_name": license}),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        **({"language": list(languages)} if languages else {}),
        "tags": ["text-to-image", "creative-commons", "ccray", subject.recipe.name],
        **({"base_model": start} if start and public_name(start) == start else {}),
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _what(subject: Subject) -> str:
    recipe, mix = subject.recipe, subject.mix
    denoiser = subject.components[0]
    intro = f"{recipe.publish.description.strip()}\n\n" if recipe.publish.description.strip() else ""
    return (
        f"# {recipe.name}, {recipe.train.name}\n\n{intro}"
        f"A text-to-image latent diffusion model ({denoiser.kind}, {denoiser.parameters or 0:,} parameters; objective: {recipe.objective.kind}; "
        f"{subject.size_px} px) made with ccray from {mix.images:,} openly licensed images and {captioned.kind(subject.captions)}. Every image its denoiser saw is named, "
        "with title, source and licence, and creator where the source gives one, in `attribution.parquet`."
    )


def _use(subject: Subject) -> str:
    """A snippet for stock diffusers; run in this folder it draws a picture."""
    publish = subject.recipe.publish
    prompts = [*subject.recipe.train.sample_prompts]
    prompt = (
        prompts[0] if prompts else world.caption(world.held_out_scene(0, 0)) if subject.recipe.catalog.source == "shapes" else "a photo of a lake"
    )
    arguments = [f"num_inference_steps={publish.default_steps}", f"guidance_scale={publish.default_guidance}"]
    notes = ""
    if subject.pipeline.startswith("PixArt"):
        arguments += ["clean_caption=False", "use_resolution_binning=False", f"max_sequence_length={subject.max_tokens}"]
        notes = "\n\n`clean_caption=False` matters: the stock cleaning deletes all kanji."
    call = "".join(f"    {argument},\n" for argument in (repr(prompt), *arguments, 'generator=torch.Generator("cpu").manual_seed(0)'))
    return (
        "```python\nimport torch\nfrom diffusers import DiffusionPipeline\n\n"
        'pipeline = DiffusionPipeline.from_pretrained(".")  # this folder\n'
        f"picture = pipeline(\n{call}).images[0]\n"
        f'picture.save("picture.png")\n```{notes}'
    )


def _images(subject: Subject) -> str:
    mix = subject.mix
    rows = [
        (
            f"[{one.license}]({one.url})" if one.url else one.license,
            f"{one.images:,}",
            f"{one.times_seen:,}",
            _yes(one.commercial),
            _yes(one.share_alike),
        )
        for one in mix.licenses
    ]
    notes = (
        [f"Images whose source names no creator: {mix.without_creator:,}; title, where there is one, and source page stand in `attribution.parquet`."]
        if mix.without_creator
        else []
    )
    alike = sum(one.images for one in mix.licenses if one.share_alike)
    closed = sum(one.images for one in mix.licenses if one.commercial is False)
    if alike:
        notes.append(
            f"Images under share-alike licences: {alike:,}. Whether a model is an adaptation of its training images is not settled; "
            f"this model is offered under {subject.recipe.publish.model_license}, and the images are named so that you can judge for yourself."
        )
    if closed:
        notes.append(f"Images that may not be used commercially: {closed:,}.")
    if subject.copies[1]:
        notes.append(
            f"Of {subject.copies[0]:,} of the images the sources held {subject.copies[1]:,} copies more, found by bytes or likeness; "
            "the model saw one of each group, and `attribution.parquet` names the others in `copies`."
        )
    if subject.with_dataset:
        notes.append(
            "The dataset (licences, sources, captions, how to ask for a takedown) is in `../dataset`; where both are on a hub, it is the dataset of the same name."
        )
    if mix.taken_down:
        notes.append(
            f"Images taken down since checkpoint `{subject.recipe.train.name}` (fingerprint `{subject.fingerprint}`) was trained: {mix.taken_down:,}. "
            "It saw them, no later training does. `attribution.parquet` marks them `taken_down`."
        )
    digests = "\n".join(f"- {name}: `{value}`" for name, value in subject.data.items())
    heads = ("licence", "images", "times seen", "commercial use", "share-alike")
    return "\n\n".join(
        [
            f"What this checkpoint really saw: {mix.images:,} images, {mix.times_seen:,} times in all. No image under a no-derivatives licence is among them.",
            table(heads, rows),
            *notes,
            f"Data manifest:\n\n{digests}",
        ]
    )


def _captions(subject: Subject) -> str:
    rows = [
        (f"`{one.table}`", f"{'synthetic, ' if one.synthetic else ''}{one.by}", ", ".join(one.languages) or "unknown", f"{one.weight:g}")
        for one in subject.captions
    ]
    kept = "; ".join(f"`{status}` ({meaning(status)})" for status in subject.recipe.train.caption_statuses)
    return (
        table(("captions", "whose", "language", "weight"), rows)
        + "\n\nEach time an image was seen, one of its captions was drawn, by weight among the tables that have one for it. "
        + f"Trained on were captions of these statuses: {kept}."
    )


def _components(components: Sequence[Component], allowance: str | None) -> str:
    heads = ("part", "class", "source", "licence", "training data", "stated by", "parameters", "sha256 of the weights")
    rows = [
        (
            f"{one.role}, {one.name}" if one.name else one.role,
            one.kind,
            one.source,
            one.license,
            one.training_data,
            one.stated_by,
            f"{one.parameters:,}" if one.parameters else "unknown",
            "<br>".join(f"`{digest}`" for digest in one.sha256.values()) or "unknown",
        )
        for one in components
    ]
    return (
        table(heads, rows) + "\n\nCaptioners are not in this folder; the captions that the denoiser learned from are named above. "
        "What a part's card states was not checked. The same table for programs: `components.json`." + (f"\n\n{allowance}" if allowance else "")
    )


def _figures(metrics: Mapping[str, Any] | None, definitions: Mapping[str, str]) -> str:
    if metrics is None:
        return "This checkpoint has not been evaluated."
    rows = [(f"`{name}`", _figure(metrics[name]), text) for name, text in definitions.items() if metrics.get(name) not in (None, {})]
    floor = metrics["distances"].get("real")
    after = ""
    if floor:
        after = (
            f"\n\nDistances are to {metrics['reference_images']:,} real images of the catalog, on features of `{metrics['features']}`. Other real images of it are at "
            f"{_shown(floor['frechet_distance'])} (Fréchet) and {_shown(floor['kernel_distance'])} (kernel)."
        )
    return (
        f"{metrics['prompts']:,} prompts ({metrics['prompts_from']}), {metrics['steps']} steps, guidance {metrics['guidance']:g}, seed {metrics['seed']}.\n\n"
        + table(("figure", "value", "what it is"), rows)
        + after
    )


def _figure(value: Any) -> str:
    return ", ".join(f"{name} {_shown(one)}" for name, one in value.items()) if isinstance(value, Mapping) else _shown(value)


def _shown(value: float | int | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _training(subject: Subject) -> str:
    recipe = subject.recipe
    settings = flatten(
        {
            "catalog.source": recipe.catalog.source,
            "catalog.policy": recipe.catalog.policy,
            "caption": {name: one.model_dump(mode="json") for name, one in recipe.caption.items()},
            "encode": recipe.encode.model_dump(mode="json"),
            "text": recipe.text.model_dump(mode="json"),
            "denoiser": recipe.denoiser.model_dump(mode="json"),
            "objective": recipe.objective.model_dump(mode="json"),
            "train": recipe.train.model_dump(mode="json") | {"captions": trained_captions(recipe)},
        }
    )
    return f"All settings that decided the weights (recipe `{recipe.name}`); the weights here are the moving average.\n\n" + table(
        ("setting", "value"),
        [
            (f"`{name}`", f"`{public_name(value) if isinstance(value, str) else value}`")
            for name, value in settings.items()
            if value not in (None, "", {})
        ],
    )


def _limits(subject: Subject) -> str:
    lines = [
        "For research on, and use of, image generation whose training data can be named image by image.",
        "Pictures may be wrong, may repeat the biases of the images and of their captions, and must not be passed off as photographs of events or people. "
        "Mark what you publish as generated.",
        f"It was made for {subject.size_px} x {subject.size_px} px and for prompts like its captions: one or two sentences, language: {', '.join(captioned.languages(subject.captions)) or 'unknown'}.",
        "The licences of its parts (see Components) apply beside its own; parts whose training data are listed as unknown are unknown to us too.",
    ]
    if subject.recipe.catalog.source == "shapes":
        lines.append("It knows nothing but coloured shapes: it shows that the pipeline works, and is of no other use.")
    return "\n".join(f"- {line}" for line in lines)


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not stated"}[value]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; what would break it in a cell is escaped, for titles and sources come from others."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in line)} |" for line in lines)
