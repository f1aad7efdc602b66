"""published/model/: the checkpoint's diffusers folder, with its card, its parts and the names of all it learned from, put together in a draft."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ccray import components, storage
from ccray.config import Recipe
from ccray.interfaces import Refused
from ccray.publishing import attribution, captioned, cards
from ccray.publishing.attribution import Mix
from ccray.publishing.cards import Subject
from ccray.publishing.folders import Draft
from ccray.storage import Manifest, Root

FOLDER = "published/model"
SIGN = "model_index.json"  # without it a folder is no model
SEEN = "seen.parquet"
ATTRIBUTION = "attribution.parquet"
Metrics = tuple[Mapping[str, Any] | None, Mapping[str, str]]  # figures, and what each is


def check(recipe: Recipe, root: Root) -> None:
    """Raises:
    Refused: when the checkpoint has no model folder or no record of what it saw.
    """
    checkpoint = storage.stage_of(recipe, "train").directory
    for name in (f"model/{SIGN}", SEEN):
        if not root.exists(f"{checkpoint}/{name}"):
            raise Refused(f"{root.path(checkpoint)} has no {name}: run `ccray train` with the same recipe and root first")


def write(recipe: Recipe, root: Root, inputs: Mapping[str, Manifest], metrics: Metrics, draft: Draft) -> Subject:
    """Fill the draft of the model folder.

    Args:
        inputs: the finished manifests of all that the model was made from.
        metrics: figures of this checkpoint, None when it was not evaluated, and what each figure is.

    Raises:
        Failed: when an image that the model saw cannot be named.
    """
    checkpoint = storage.stage_of(recipe, "train").directory
    _copy(root, f"{checkpoint}/model", draft.folder)
    seen = root.read_table(f"{checkpoint}/{SEEN}")
    mix = attribution.write(root, storage.stage_of(recipe, "catalog").directory, seen, draft.path(ATTRIBUTION))
    subject = _subject(recipe, root, inputs, metrics, draft.folder, mix)
    draft.write("README.md", cards.card(subject))
    draft.write("components.json", components.to_json(list(subject.components), facts(subject)))
    return subject


def facts(subject: Subject) -> dict[str, Any]:
    """What components.json and the stage's manifest say of the model."""
    return {
        "recipe": subject.recipe.name,
        "checkpoint": subject.recipe.train.name,
        "data": dict(subject.data),
        "licenses": [asdict(one) for one in subject.mix.licenses],
    }


def _copy(root: Root, model: str, folder: Path) -> None:
    if root.is_local:
        shutil.copytree(root.path(model), folder, dirs_exist_ok=True)
    else:
        fetched = root.local(model, folder.parent / "fetched")
        shutil.copytree(fetched, folder, dirs_exist_ok=True)
        shutil.rmtree(fetched)
    for path in folder.rglob("*.json"):
        _without_origin(path)


def _without_origin(path: Path) -> None:
    """diffusers and transformers note in a part's configuration where they loaded it from: often a path of this machine."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(values, dict) and values.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _subject(
    recipe: Recipe,
    root: Root,
    inputs: Mapping[str, Manifest],
    metrics: Metrics,
    folder: Path,
    mix: Mix,
) -> Subject:
    index: dict[str, Any] = json.loads((folder / SIGN).read_text())
    own: dict[str, Any] = json.loads((folder / "ccray.json").read_text())
    catalog = storage.stage_of(recipe, "catalog").directory
    drawn = captioned.drawn(recipe, inputs)
    learned = f"the {mix.images:,} images of attribution.parquet, with {captioned.sentence(drawn)}"
    captioners = {name: inputs[f"{storage.CAPTIONS}/{name}"].facts.get("captioner_sha256") for name in recipe.caption}
    parts = components.list_components(recipe, folder, learned, captioners)
    figures, definitions = metrics
    return Subject(
        recipe=recipe,
        pipeline=index["_class_name"],
        size_px=own["size_px"],
        max_tokens=own["max_tokens"],
        captions=drawn,
        mix=mix,
        components=parts,
        metrics=figures,
        definitions=definitions,
        data={
            "fingerprint of the catalog": inputs["catalog"].fingerprint,
            "sha256 of the catalog's manifest.json": hashlib.sha256(root.read(f"{catalog}/{storage.MANIFEST}")).hexdigest(),
            "sha256 of attribution.parquet": _digest(folder / ATTRIBUTION),
        },
        fingerprint=inputs["train"].fingerprint,
        copies=_copies(folder / ATTRIBUTION),
        allowance=components.allowance(recipe),
        with_dataset="dataset" in recipe.publish.parts,
    )


def _copies(attribution: Path) -> tuple[int, int]:
    """Images that have copies, and their copies."""
    images = copies = 0
    for batch in pq.ParquetFile(attribution).iter_batches(columns=["copies"]):
        lengths = pc.fill_null(pc.list_value_length(batch.column("copies")), 0)
        images += pc.sum(pc.greater(lengths, 0)).as_py() or 0
        copies += pc.sum(lengths).as_py() or 0
    return images, copies


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
