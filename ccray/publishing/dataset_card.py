"""The dataset card, README.md of published/dataset/: Hugging Face's YAML front matter, then what a reader must know, in this order:
what it is, how to open it, its columns, its licences, its sources, its captions, what was left out, opt-outs and takedowns, persons, limits."""

from collections import Counter
from typing import Any

import yaml

from ccray.components import public_name
from ccray.flags import meaning
from ccray.publishing.cards import table
from ccray.publishing.credits import PAGE, TABLE
from ccray.publishing.subject import Dataset
from ccray.publishing.table import CaptionTable, column_of
from ccray.publishing.tally import ordered

# Data licences as the Hugging Face hub spells them.
HUB_LICENSES = (
    *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
)
SIZES = ((1_000, "1K"), (10_000, "10K"), (100_000, "100K"), (1_000_000, "1M"), (10_000_000, "10M"), (100_000_000, "100M"), (1_000_000_000, "1B"))
SOURCES_SHOWN = 30
COMMONCANVAS = """@inproceedings{gokaslan2024commoncanvas,
  title = {CommonCanvas: Open Diffusion Models Trained on Creative-Commons Images},
  author = {Gokaslan, Aaron and Cooper, A. Feder and Collins, Jasmine and Seguin, Landan and Jacobson, Austin and Patel, Mihir and Frankle, Jonathan and Stephens, Cory and Kuleshov, Volodymyr},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2024},
  note = {arXiv:2310.16825}
}"""
COMMONART = """@misc{ozaki2024commonart,
  title = {CommonArt $\\beta$: Diffusion Transformer for Text-to-Image Generation by Japanese Large Language Model},
  author = {Ozaki, Yasunori and Mishima, Ryuji and Tomihira, Toshiki},
  howpublished = {Jxiv 936},
  doi = {10.51094/jxiv.936}
}"""


def card(subject: Dataset) -> str:
    """README.md."""
    sections = [
        _what(subject),
        f"## Open it\n\n{_use(subject)}",
        f"## Columns\n\n{_columns(subject)}",
        f"## Licences\n\n{_licenses(subject)}",
        f"## Sources\n\n{_sources(subject)}",
        f"## Captions\n\n{_captions(subject)}",
        f"## What was left out\n\n{_left_out(subject)}",
        f"## Opt-outs and takedowns\n\n{_opt_outs(subject)}",
        f"## Persons\n\n{_persons(subject)}",
        f"## Known limits\n\n{_limits(subject)}",
    ]
    if citation := cite_as(subject):
        sections.append(f"## Citation\n\nThe recipe follows published work:\n\n```bibtex\n{citation}\n```")
    return f"---\n{_front_matter(subject)}---\n\n" + "\n\n".join(sections) + "\n"


def cite_as(subject: Dataset) -> str:
    """BibTeX of the work that the recipe follows; empty when it follows none."""
    if subject.recipe.name.startswith("commoncanvas"):
        return COMMONCANVAS
    return f"{COMMONART}\n{COMMONCANVAS}" if subject.recipe.name.startswith("commonart") else ""


def _front_matter(subject: Dataset) -> str:
    values: dict[str, Any] = {
        "pretty_name": subject.name,
        **_license(subject),
        "language": subject.languages,
        "size_categories": [size_category(subject.tally.images)],
        "task_categories": ["text-to-image", "image-to-text"],
        "annotations_creators": ["machine-generated"],
        "source_datasets": ["original"],
        "tags": ["creative-commons", "image", "synthetic-captions", "attribution", "croissant", "ccray", subject.recipe.name],
        "configs": [{"config_name": "default", "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in subject.plan.splits]}],
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _license(subject: Dataset) -> dict[str, str]:
    """One licence where all images have it; else the mix, image by image."""
    if len(subject.licenses) != 1:
        return {"license": "other", "license_name": "per-image", "license_link": TABLE}
    one = subject.licenses[0]
    if one.license.lower() in HUB_LICENSES:
        return {"license": one.license.lower()}
    return {"license": "other", "license_name": one.license.lower(), **({"license_link": one.url} if one.url else {})}


def size_category(rows: int) -> str:
    """As the hub spells it."""
    before = None
    for bound, name in SIZES:
        if rows < bound:
            return f"n<{name}" if before is None else f"{before}<n<{name}"
        before = name
    return "n>1B"


def _what(subject: Dataset) -> str:
    recipe, tally = subject.recipe, subject.tally
    intro = f"{recipe.publish.dataset_description.strip()}\n\n" if recipe.publish.dataset_description.strip() else ""
    splits = ", ".join(f"{split} {tally.splits[split]:,}" for split in subject.plan.splits)
    kind = "with their bytes" if recipe.publish.images else "without their bytes: rows point to where each image is found"
    model = f"\n\n{subject.model}" if subject.model else ""
    return (
        f"# {subject.name}\n\n{intro}{tally.images:,} openly licensed images ({splits}), {kind}, each with its licence, where that was read, title, "
        f"source, author where the source gives one, and captions. Made with ccray, recipe `{recipe.name}`; the catalog was finished on {subject.date}, "
        f"its fingerprint is `{subject.catalog.fingerprint}`.{model}"
    )


def _use(subject: Dataset) -> str:
    files = ", ".join(f"{split}: {len(subject.plan.files[split]):,}" for split in subject.plan.splits)
    return (
        '```python\nfrom datasets import load_dataset\n\nimages = load_dataset("ORG/NAME", split="train", streaming=True)  # or "." in this folder\n'
        "print(next(iter(images)))\n```\n\n"
        f"Parquet files a split: {files}. `croissant.json` describes them for `mlcroissant` with their sha256. `{TABLE}` and `{PAGE}/index.html` "
        "(open it in a browser, no server is needed) name the title, author, source and licence of every image, and of the copies that were found of it."
    )


def _columns(subject: Dataset) -> str:
    rows = [(f"`{column.name}`", "image" if column.name == "image" else str(column.type), column.about) for column in subject.layout.columns]
    return table(("column", "type", "what it is"), rows)


def _licenses(subject: Dataset) -> str:
    yes = {True: "yes", False: "no", None: "not stated"}
    rows = [
        (
            f"[{one.license}]({one.url})" if one.url else one.license,
            f"{one.images:,}",
            yes[one.commercial],
            yes[one.derivatives],
            yes[one.share_alike],
        )
        for one in subject.licenses
    ]
    notes = [
        "Every image keeps its own licence: what you may do differs from row to row. "
        "Statements were read from the sources and are not a warranty; `license_evidence` says what was read and `license_seen_at` when.",
        f"Policy of this catalog: `{subject.recipe.catalog.policy}`.",
    ]
    closed = sum(one.images for one in subject.licenses if one.derivatives is False)
    if closed:
        notes.append(f"{closed:,} images whose licence allows no derivatives are in the `evaluation` split alone: do not train on them.")
    return "\n\n".join([table(("licence", "images", "commercial use", "derivatives", "share-alike"), rows), *notes])


def _sources(subject: Dataset) -> str:
    tally = subject.tally
    hosts = ordered(tally.hosts)
    more = f" The first {SOURCES_SHOWN} of {len(hosts):,}; `training-content-summary.json` lists more." if len(hosts) > SOURCES_SHOWN else ""
    parts = [
        f"Source of the catalog: `{subject.source}`.",
        table(("collection", "images"), [(name, f"{count:,}") for name, count in ordered(tally.sources)]),
        f"Images that were downloaded one by one from their addresses: {tally.downloaded:,}. Without an author, because the source names none: "
        f"{tally.without_creator:,}; without a title: {tally.without_title:,}.",
        table(("shorter side", "images"), [(name, f"{count:,}") for name, count in tally.size_rows()]),
    ]
    if hosts:
        parts.append(f"Hosts.{more}\n\n" + table(("host", "images"), [(f"`{name}`", f"{count:,}") for name, count in hosts[:SOURCES_SHOWN]]))
    return "\n\n".join(parts)


def _captions(subject: Dataset) -> str:
    statuses = subject.tally.statuses
    parts = [f"{_whose(one)} {_rows_by_status(statuses[one.column])}" for one in subject.layout.captions]
    if found := sorted(set().union(*statuses.values()) - {"ok"}):
        parts.append(
            "Texts with a flag are published beside their status, so that you may judge; training leaves them out unless told otherwise. "
            "Texts that give a person's name away (`person_name`) are withheld.\n\n"
            + table(("status", "what it means"), [(f"`{status}`", meaning(status)) for status in found])
        )
    rows = [
        (f"{one.role}, {one.name}" if one.name else one.role, one.source, one.license, one.training_data, one.stated_by) for one in subject.components
    ]
    if rows:
        parts.append(
            "What described or judged the images, with its own terms (what cards state was not checked; `components.json` has the same for programs):"
            "\n\n" + table(("role", "model", "licence", "training data", "stated by"), rows)
        )
    return "\n\n".join(parts)


def _whose(one: CaptionTable) -> str:
    """Who wrote a table's captions, from what, and how."""
    config = one.captioner
    if config is None:
        return f"`{one.column}` came with the source, where people or a model wrote it; nobody here checked it."
    did = f"translated from `{column_of(config.input)}` by" if config.input else "written by"
    prompt = f", prompt `{config.prompt}`" if config.prompt else ", no prompt"
    hints = f", told the source's {' and '.join(config.hints)}" if config.hints else ""
    return (
        f"`{one.column}` is **synthetic**: {did} the model `{public_name(config.model)}` ({config.num_beams} beam{'s' * (config.num_beams > 1)}, at most "
        f"{config.max_new_tokens} new tokens{prompt}{hints}), language {config.language}. No person wrote or checked it."
    )


def _rows_by_status(counts: Counter[str]) -> str:
    return f"Rows by status: {', '.join(f'{status} {count:,}' for status, count in ordered(counts)) or 'none'}."


def _left_out(subject: Dataset) -> str:
    catalog, tally, facts = subject.recipe.catalog, subject.tally, subject.catalog.facts
    bits = catalog.near_duplicate_bits
    near = f"near ones by a perceptual hash ({bits} of 64 bits may differ)" if bits is not None else "near ones were not looked for"
    copies = f"Copies named in `{TABLE}`: {tally.copies:,}, of {tally.with_copies:,} of the images." if tally.copies else "No copies were found."
    parts = [f"Images listed: {facts.get('listed', subject.catalog.rows):,}; accepted: {subject.catalog.rows:,}."]
    if subject.rejects:
        parts.append(table(("reason", "what it means", "images"), [(f"`{name}`", what, f"{count:,}") for name, what, count in subject.rejects]))
    parts.append(
        f"Duplicates were found by sha256, {near}; of each group the freest and largest copy was kept. {copies} Images that are near each other are in one split (`duplicate_group`)."
    )
    if catalog.filters:
        rules = "; ".join(f"{one.name}: `{public_name(one.model)}` above {one.threshold:g}" for one in catalog.filters)
        parts.append(f"Models that filtered: {rules}.")
    return "\n\n".join(parts)


def _opt_outs(subject: Dataset) -> str:
    signals = ", ".join(subject.recipe.catalog.download.opt_outs) or "none"
    opted = subject.catalog.counts.get("opted_out", 0)
    taken = f" Images of the catalog that were taken down since and are not in this folder: {subject.withheld:,}." if subject.withheld else ""
    return (
        f"Signals against training that were looked for at download and honoured: {signals}; images kept out by them: {opted:,}.\n\n"
        f"Is an image yours, or of you, and should not be here? Write to: {subject.contact}. Name the image's `key`, its address or yours; every image of an author can be named at once. "
        f"It leaves the next release of this dataset, and no later training reads it.{taken}"
    )


def _persons(subject: Dataset) -> str:
    kept = ", ".join(subject.recipe.catalog.keep)
    dropped = (
        f"the catalog kept {kept}, but this dataset does not carry them"
        if kept
        else "geolocation, EXIF and user ids were dropped when the images were listed"
    )
    return (
        "Images may show people. Author names and links to their pages are here because the licences ask for them: use them to give credit, and for nothing else. "
        f"Of what sources tell of persons, {dropped}. Titles and captions may still name people."
    )


def _limits(subject: Dataset) -> str:
    lines = [
        "Licences are as the sources stated them; some uploads are not their uploader's to license.",
        "Images and words have the biases of the sources: who photographs, what is shared, and in which languages.",
        "Synthetic captions can be wrong, repeat the biases of their model, and are less varied than people's own words.",
        "Addresses die: rows without bytes may lead nowhere after a while.",
    ]
    if subject.recipe.catalog.source == "shapes":
        lines = ["The images are coloured shapes, drawn by code: this dataset shows that the pipeline works, and is of no other use."]
    return "\n".join(f"- {line}" for line in lines)
