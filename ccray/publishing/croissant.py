"""croissant.json: the dataset in MLCommons' Croissant 1.1, with PROV-O provenance and the RAI vocabulary's notes.

Format: docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html. Every Parquet file is named with its sha256; `mlcroissant` streams the rows.
"""

import json
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from ccray.components import Component, public_name
from ccray.publishing.credits import PAGE, TABLE
from ccray.publishing.dataset_card import cite_as
from ccray.publishing.subject import Dataset
from ccray.publishing.table import CaptionTable, Column, column_of
from ccray.publishing.tally import ordered

PARQUET = "application/x-parquet"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
URLS = ("license_url", "creator_url", "source_url", "image_url")


def croissant(subject: Dataset) -> str:
    """croissant.json."""
    values = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": subject.name,
        "description": _description(subject),
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "citeAs": f"{_own_citation(subject)}\n{cite_as(subject)}".strip(),
        "license": sorted({one.url or one.license for one in subject.licenses}),
        "url": subject.recipe.publish.homepage or "README.md",
        "creator": {"@type": "sc:Organization", "name": subject.provider},
        "datePublished": subject.date,
        "version": "1.0.0",
        "inLanguage": subject.languages,
        "keywords": ["creative-commons", "image", "synthetic captions", "attribution", "text-to-image"],
        "isLiveDataset": False,
        "sc:usageInfo": [
            f"Each image keeps its own licence: column license_url; {TABLE} and {PAGE}/index.html name title, author, source and licence of every image.",
            "Images whose column derivatives is false are for evaluation alone: do not train on them.",
        ],
        **_provenance(subject),
        **_responsible(subject),
        "distribution": _distribution(subject),
        "recordSet": [_records(subject)],
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _description(subject: Dataset) -> str:
    what = subject.recipe.publish.dataset_description.strip() or f"Openly licensed images with synthetic captions, recipe {subject.recipe.name}."
    return (
        f"{what} {subject.tally.images:,} images, each with its licence, where that was read, title, source, and author where the source gives one."
    )


def _own_citation(subject: Dataset) -> str:
    provider = subject.recipe.publish.provider or "Unknown"
    return f"@misc{{{subject.name}, title = {{{subject.name}}}, author = {{{{{provider}}}}}, year = {{{subject.date[:4]}}}, note = {{catalog {subject.catalog.fingerprint}}}}}"


def _distribution(subject: Dataset) -> list[dict[str, Any]]:
    """Each file, and per split the set of its files, from which rows are read."""
    files = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{subject.files[name].size_bytes} B",
            "encodingFormat": PARQUET,
            "sha256": subject.files[name].sha256,
        }
        for name in (*(name for split in subject.plan.splits for name in subject.plan.names(split)), TABLE)
    ]
    rows = {
        "@type": "cr:FileSet",
        "@id": "data",
        "name": "data",
        "description": f"All rows; splits: {', '.join(subject.plan.splits)}.",
        "encodingFormat": PARQUET,
        "includes": [f"data/{split}-*.parquet" for split in subject.plan.splits],
    }
    return [*files, rows]


def _records(subject: Dataset) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "One record an image.",
        "key": {"@id": "images/key"},
        "field": [_field(column, subject) for column in subject.layout.columns],
    }


def _field(column: Column, subject: Dataset) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": "data"}, "extract": {"column": column.name}}
    if pa.types.is_struct(column.type):
        source["transform"] = {"jsonPath": "bytes"}
    written_by = {table.column: table.name for table in subject.layout.captions if table.captioner}
    return {
        "@type": "cr:Field",
        "@id": f"images/{column.name}",
        "name": column.name,
        "description": column.about,
        "dataType": _data_type(column),
        "source": source,
        **({"prov:wasGeneratedBy": {"@id": f"captioning-{written_by[column.name]}"}} if column.name in written_by else {}),
    }


def _data_type(column: Column) -> str:
    if pa.types.is_struct(column.type):
        return "sc:ImageObject"
    if column.name in URLS:
        return "sc:URL"
    return {"int32": "sc:Integer", "bool": "sc:Boolean", "string": "sc:Text"}.get(str(column.type), "sc:Date")


def _provenance(subject: Dataset) -> dict[str, Any]:
    """PROV-O: the collections it came from, and the activities that made it: cataloguing, and the work of each captioner."""
    agent = {"@type": "prov:SoftwareAgent", "prov:label": "ccray", "sc:softwareVersion": version("ccray")}
    sources = [{"@type": "prov:Entity", "prov:label": name, "sc:description": f"{count:,} images"} for name, count in ordered(subject.tally.sources)]
    catalog = {
        "@type": "prov:Activity",
        "@id": "cataloguing",
        "prov:label": "Listing, fetching, licence policy, duplicates, splits",
        **_used([one for one in subject.components if one.name is None]),
        "prov:startedAtTime": subject.catalog.started_at,
        "prov:endedAtTime": subject.catalog.finished_at,
        "prov:wasAssociatedWith": agent,
    }
    captioning = [
        {
            "@type": "prov:Activity",
            "@id": f"captioning-{one.name}",
            "prov:label": f"{one.column}: captions {one.by}",
            **_used([part for part in subject.components if part.name == one.name]),
            "prov:wasAssociatedWith": agent,
        }
        for one in subject.layout.captions
        if one.captioner
    ]
    return {"prov:wasDerivedFrom": sources, "prov:wasGeneratedBy": [catalog, *captioning]}


def _used(parts: list[Component]) -> dict[str, Any]:
    """The models of an activity, with their terms; nothing when it had none."""
    found = [
        {"@type": "prov:Entity", "prov:label": f"{one.role}: {one.source}", "sc:license": one.license, "sc:description": one.training_data}
        for one in parts
    ]
    return {"prov:used": found} if found else {}


def _annotator(one: CaptionTable) -> str:
    """Who wrote a column of captions, for `rai:machineAnnotationTools`."""
    assert one.captioner is not None
    config = one.captioner
    what = f"translations of {column_of(config.input)}" if config.input else "synthetic captions"
    prompt = f", prompt {config.prompt!r}" if config.prompt else ""
    return f"{one.column}: {what} by {public_name(config.model)}, {config.language}{prompt}, checked by nobody"


def _responsible(subject: Dataset) -> dict[str, Any]:
    """The RAI vocabulary's notes."""
    tally, catalog = subject.tally, subject.recipe.catalog
    rejects = ", ".join(f"{reason} {count:,}" for reason, _, count in subject.rejects) or "none"
    signals = ", ".join(catalog.download.opt_outs) or "none"
    return {
        "rai:dataCollection": f"Images and their licence statements from {subject.source}; {tally.downloaded:,} downloaded one by one by address. "
        f"Opt-out signals honoured at download: {signals}.",
        "rai:dataCollectionType": ["Existing datasets", *(["Web Scraping"] if tally.downloaded else [])],
        "rai:dataCollectionTimeFrame": [subject.catalog.started_at, subject.catalog.finished_at],
        "rai:dataPreprocessingProtocol": [
            f"Policy {catalog.policy}; exact and near duplicates removed, their copies named. Rejected by reason: {rejects}."
        ],
        "rai:machineAnnotationTools": [_annotator(one) for one in subject.layout.captions if one.captioner],
        "rai:dataBiases": "Images and words have the biases of their sources (who photographs, what is shared) and of their captioners.",
        "rai:dataLimitations": "Licences are as stated by the sources. Captions can be wrong. Addresses may die.",
        "rai:personalSensitiveInformation": "Images may show people; author names and pages are given because the licences ask for credit. "
        "Geolocation, EXIF and user ids are not in the published table.",
        "rai:dataUseCases": "Training and evaluating text-to-image models whose training images can be named one by one.",
        "rai:dataReleaseMaintenancePlan": f"Images are taken down on request and leave the next release; contact: {subject.contact}. "
        f"Taken down so far: {subject.withheld:,}.",
    }
