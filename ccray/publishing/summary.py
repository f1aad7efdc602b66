"""The public summary of training content that Article 53(1)(d) of the EU's AI Act asks for, after the Commission's template of 24 July 2025
(C(2025) 8311): general information, list of data sources, data processing. What only the provider can know is marked as theirs to fill in."""

import json
from collections import Counter
from typing import Any

from ccray.components import public_name
from ccray.publishing.captioned import by_captioner
from ccray.publishing.cards import table
from ccray.publishing.subject import UNSAID, Dataset
from ccray.publishing.tally import ordered

TOP_SHARE = 10  # the template's top 10 % of domains; small providers may list fewer
TOP_AT_LEAST = 1000  # so many are listed in any case, if there are as many
SHOWN = 100  # domains in the Markdown; the JSON has all that are listed
RANGES = ((1_000_000, "less than 1 million images"), (1_000_000_000, "1 million to 1 billion images"))
DRAWN = ("shapes",)  # sources that are pictures drawn by code
OWN = ("folder",)  # collections that lay on the provider's disk

Section = dict[str, Any]


def sections(subject: Dataset) -> Section:
    """The template's three sections as plain values."""
    return {
        "template": "Template for the public summary of training content for general-purpose AI models, European Commission, 24 July 2025 (C(2025) 8311)",
        "scope": "Images and captions of this dataset. Data of pretrained parts are listed by their own cards: components.json.",
        "1 General information": _general(subject),
        "2 List of data sources": _sources(subject),
        "3 Data processing aspects": _processing(subject),
    }


def as_json(values: Section) -> str:
    """training-content-summary.json."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def as_markdown(values: Section) -> str:
    """training-content-summary.md."""
    return "# Summary of training content\n\n" + "\n".join(_lines(values, 2)).strip() + "\n"


def _general(subject: Dataset) -> Section:
    tally, recipe = subject.tally, subject.recipe
    return {
        "1.1 Provider": {"name": subject.provider, "contact": subject.contact, "authorised representative": UNSAID},
        "1.2 Model": {
            "versioned model name": f"{recipe.name}, {recipe.train.name}",
            "model dependencies": public_name(recipe.train.start_from)
            if recipe.train.start_from
            else "none: the denoiser starts from random weights",
            "date of placement on the Union market": UNSAID,
        },
        "1.3 Modalities and size": {
            "modalities": "image, text (captions of the images)",
            "image: training data size": _range(tally.splits["train"]),
            "image: exact count of the train split": tally.splits["train"],
            "image: type of content": "pictures of coloured shapes, drawn by code"
            if recipe.catalog.source == "shapes"
            else "photographs and visual artworks under open licences",
            "text: training data size": "less than 1 billion tokens" if tally.images < 10_000_000 else UNSAID,
            "text: type of content": "captions, written by models unless their columns say that the source ships them",
            "latest date of data acquisition": f"{subject.date[5:7]}/{subject.date[:4]}",
            "trained on new data after that date": "no",
            "languages of the captions": ", ".join(subject.languages) or "unknown",
        },
    }


def _sources(subject: Dataset) -> Section:
    tally = subject.tally
    public = Counter({name: count for name, count in tally.sources.items() if name not in DRAWN + OWN})
    own = sum(tally.sources[name] for name in OWN)
    return {
        "2.1 Publicly available datasets": {
            "used": _yes(public),
            "modality": "image",
            "datasets (all are listed, large or not)": {name: f"{count:,} images" for name, count in ordered(public)} or "none",
            "taken from": subject.source,
        },
        "2.2 Private datasets obtained from third parties": {
            "commercially licensed by rightsholders": "no: all images are under public licences, named one by one in attribution.parquet",
            "obtained from other third parties": f"{own:,} images of a folder that the provider declared; where they come from: {UNSAID}"
            if own
            else "no",
        },
        "2.3 Data crawled and scraped from online sources": _crawled(subject),
        "2.4 User data": {"used": "no"},
        "2.5 Synthetic data": _synthetic(subject),
        "2.6 Other sources": {"used": "no"},
    }


def _crawled(subject: Dataset) -> Section:
    tally, download = subject.tally, subject.recipe.catalog.download
    if not tally.downloaded:
        return {"used": "no: no image was downloaded by its address"}
    listed = top_domains(tally.hosts)
    share = sum(count for _, count in listed) / max(1, tally.hosts.total())
    return {
        "used": "yes: images that the datasets above list by address were downloaded one by one; nothing was crawled from page to page",
        "modality": "image",
        "images downloaded": tally.downloaded,
        "name of the downloader": download.user_agent,
        "behaviour": f"at most {download.connections_per_host} connections to a host, waits as told by Retry-After, private addresses are refused; "
        f"opt-out signals honoured: {', '.join(download.opt_outs) or 'none'}",
        "period of collection": f"{subject.catalog.started_at[:10]} to {subject.catalog.finished_at[:10]}",
        "rule of the list of domains": f"the top {TOP_SHARE} % of all {len(tally.hosts):,} host names by number of images, and at least the first {TOP_AT_LEAST:,}; "
        f"those listed hold {share:.1%} of the images",
        "domains": dict(listed),
    }


def top_domains(hosts: Counter[str]) -> list[tuple[str, int]]:
    """The top 10 % of host names by number of images, and no fewer than 1,000 where there are as many."""
    every = ordered(hosts)
    return every[: max(TOP_AT_LEAST, -(-len(every) * TOP_SHARE // 100))]


def _synthetic(subject: Dataset) -> Section:
    written = {
        one.column: f"{subject.tally.statuses[one.column]['ok']:,} captions {by_captioner(one.captioner)}, language {one.captioner.language}"
        for one in subject.layout.captions
        if one.captioner
    }
    models = {one.source: f"licence: {one.license}; trained on: {one.training_data}" for one in subject.components if one.kind != "none"}
    drawn = sum(subject.tally.sources[name] for name in DRAWN)
    return {
        "used": "yes" if written or drawn else "no",
        "captions": written or "none",
        "models that wrote them": models or "none",
        "images": f"{drawn:,} pictures drawn by code, not by a model" if drawn else "none",
    }


def _processing(subject: Dataset) -> Section:
    catalog, counts = subject.recipe.catalog, subject.catalog.counts
    filters = {
        one.name: f"{public_name(one.model)}, above {one.threshold:g}: {counts.get('filter_' + one.name, 0):,} images" for one in catalog.filters
    }
    return {
        "3.1 Respect of reservations of rights from text and data mining": {
            "signatory of the Code of Practice": UNSAID,
            "licence policy": f"{catalog.policy}: only images under open licences that allow derivatives are trained on",
            "signals looked for at download": ", ".join(catalog.download.opt_outs) or "none",
            "images left out for such a signal": counts.get("opted_out", 0),
            "takedown on request": f"{subject.contact}; {subject.withheld:,} images taken down after the catalog was made",
            "images left out for their licence": {name: count for name, count in sorted(counts.items()) if name.startswith("license_")} or "none",
        },
        "3.2 Removal of illegal content": {
            "blocklist of hashes": f"yes: {counts.get('blocklisted', 0):,} images" if catalog.blocklist else "none was given",
            "models that filtered": filters or "none",
        },
        "3.3 Other information": {
            "duplicates left out": counts.get("duplicate_exact", 0) + counts.get("duplicate_near", 0),
            "attribution": "every image is named with title, source, licence and, where the source gives one, author: attribution.parquet, attribution/index.html",
        },
    }


def _range(images: int) -> str:
    return next((words for bound, words in RANGES if images < bound), "more than 1 billion images")


def _yes(counts: Counter[str]) -> str:
    return "yes" if counts else "no"


def _lines(values: Section, depth: int) -> list[str]:
    """Sections become headings; a section of plain values becomes a table, its inner lists tables of their own."""
    lines: list[str] = []
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    if plain:
        lines += [table(("item", "answer"), [(key, _text(value)) for key, value in plain.items()]), ""]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{'#' * min(depth, 4)} {key}", ""]
            shown = dict(list(value.items())[:SHOWN])
            lines += _lines(shown, depth + 1)
            if len(value) > SHOWN:
                lines += [f"{len(value) - SHOWN:,} more: training-content-summary.json.", ""]
    return lines


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
