"""Where the settings of published recipes come from."""

from typing import Literal

# paper: stated in the text. released-config: in files the authors (or, for CommonCanvas, the SD2 recipe they say they copy, mosaicml/diffusion
# SD-2-base-256.yaml and SD-2-base-512.yaml) released. model-card: on the hub. inferred: follows from those, but nobody says it. ours: neither says it.
Origin = Literal["paper", "released-config", "model-card", "inferred", "ours"]

# What holds for every published recipe; the longest matching prefix wins.
SHARED: dict[str, Origin] = {
    "name": "ours",
    "catalog": "ours",
    "caption": "ours",
    "encode": "ours",
    "text": "ours",
    "objective": "ours",
    "train": "ours",
    "evaluate": "ours",
    "publish": "ours",
    "serve": "ours",
    "allow_unknown_components": "inferred",  # both used BLIP-2 OPT; neither says a word of its language model's licence
    "resources": "ours",
}


def origin_in(table: dict[str, Origin], key: str) -> Origin:
    """The origin of a dotted setting: of the longest prefix of it that the table has."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in table:
            return table[prefix]
    return "ours"
