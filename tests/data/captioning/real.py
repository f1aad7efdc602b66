"""Real captions beside the checkout."""

import csv
import json
from pathlib import Path


def coco(data: Path) -> list[str]:
    """24,614 human captions of COCO; nine say that there was no picture to see."""
    return [one["caption"].strip() for one in json.loads((data / "coco_captions_val2017/captions_val2017_less_held.json").read_text())["annotations"]]


def photos(data: Path) -> list[str]:
    """795 human captions of the photos."""
    lines = (data / "coco_cc_photos/manifest.jsonl").read_text().splitlines()
    return [caption for line in lines for caption in json.loads(line)["captions_en"]]


def japanese(data: Path) -> list[str]:
    """25 human captions of STAIR."""
    return [json.loads(line)["text"] for line in (data / "prompts/stair_captions_ja.jsonl").read_text().splitlines()]


def parti(data: Path) -> list[str]:
    """1,632 prompts, from one word to a paragraph."""
    with (data / "prompts/PartiPrompts.tsv").open() as file:
        return [row["Prompt"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def titles(data: Path) -> list[str]:
    """1,800 titles of photos, in many languages."""
    with (data / "catalog_openimages_xm3600/image_attributions.csv").open() as file:
        return [row["Title"] for row in csv.DictReader(file)]
