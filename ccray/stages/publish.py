"""Publish: checkpoints/<name>/model -> published/model, a diffusers folder with its card, its parts and the names of all it learned from.

The folder is put together beside its place and appears there whole. It needs no evaluation; figures of one are printed when there are any.
Neither Ray nor torch: nothing is computed.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ccray import components, storage
from ccray.components import Component
from ccray.config import Recipe
from ccray.evaluation.definitions import DEFINITIONS
from ccray.interfaces import Refused
from ccray.publishing import attribution, cards
from ccray.publishing.attribution import Mix
from ccray.publishing.cards import Subject
from ccray.storage import Manifest, Root, Stage

log = logging.getLogger(__name__)

NAME = "publish"
FOLDER = "published/model"
SIGN = "model_index.json"  # without it a folder is no model: on an object store it is written last


def run(recipe: Recipe, root: Root) -> Manifest:
    """Write the published folder.

    Raises:
        Refused: on missing inputs, before any write.
        Failed: when an image that the model saw cannot be named.
    """
    components.check(recipe, NAME)
    stage = storage.stage_of(recipe, NAME)
    if storage.state(root, stage) == "finished":
        found = storage.read_manifest(root, stage.directory)
        assert found is not None
        return found
    inputs = storage.inputs(root, recipe, NAME)
    checkpoint = storage.stage_of(recipe, "train").directory
    for name in (f"model/{SIGN}", "seen.parquet"):
        if not root.exists(f"{checkpoint}/{name}"):
            raise Refused(f"{root.path(checkpoint)} has no {name}: run `ccray train` with the same recipe and root first")
    with storage.running(root, stage) as manifest, _workplace(root, stage) as scratch:
        folder = _copied(root, f"{checkpoint}/model", scratch)
        seen = root.read_table(f"{checkpoint}/seen.parquet")
        mix = attribution.write(root, storage.stage_of(recipe, "catalog").directory, seen, folder / "attribution.parquet")
        subject = _subject(recipe, root, inputs, folder, mix)
        (folder / "README.md").write_text(cards.card(subject), encoding="utf-8")
        facts = {
            "recipe": recipe.name,
            "checkpoint": recipe.train.name,
            "data": dict(subject.data),
            "licenses": [asdict(one) for one in mix.licenses],
        }
        (folder / "components.json").write_text(components.to_json(list(subject.components), facts), encoding="utf-8")
        _place(root, folder)
        manifest.rows = mix.images
        manifest.counts = {one.license: one.images for one in mix.licenses}
        manifest.facts = facts | {"files": len(root.files(FOLDER))}
    return manifest


@contextmanager
def _workplace(root: Root, stage: Stage) -> Iterator[Path]:
    """An empty local folder; on a local root on the same disk, so that what is made there can be moved into place in one step."""
    home = None
    if root.is_local:
        home = Path(root.path(stage.staging))
        home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="publish-", dir=home) as scratch:
        yield Path(scratch)


def _copied(root: Root, model: str, scratch: Path) -> Path:
    """A copy of the checkpoint's diffusers folder."""
    folder = scratch / "model"
    if root.is_local:
        shutil.copytree(root.path(model), folder)
    else:
        root.local(model, scratch / "fetched").rename(folder)
    return folder


def _subject(recipe: Recipe, root: Root, inputs: Mapping[str, Manifest], folder: Path, mix: Mix) -> Subject:
    index: dict[str, Any] = json.loads((folder / SIGN).read_text())
    facts: dict[str, Any] = json.loads((folder / "ccray.json").read_text())
    catalog = storage.stage_of(recipe, "catalog").directory
    language = recipe.caption.language
    return Subject(
        recipe=recipe,
        pipeline=index["_class_name"],
        size_px=facts["size_px"],
        max_tokens=facts["max_tokens"],
        languages=(language,),
        mix=mix,
        components=_components(recipe, inputs, folder, mix),
        metrics=_metrics(recipe, root),
        definitions=DEFINITIONS,
        data={
            "fingerprint of the catalog": inputs["catalog"].fingerprint,
            "sha256 of the catalog's manifest.json": hashlib.sha256(root.read(f"{catalog}/{storage.MANIFEST}")).hexdigest(),
            "sha256 of attribution.parquet": hashlib.sha256((folder / "attribution.parquet").read_bytes()).hexdigest(),
        },
    )


def _components(recipe: Recipe, inputs: Mapping[str, Manifest], folder: Path, mix: Mix) -> list[Component]:
    learned = f"the {mix.images:,} images of attribution.parquet, with captions by {components.public_name(recipe.caption.model)}"
    return components.list_components(recipe, folder, learned, inputs["caption"].facts.get("captioner_sha256"))


def _metrics(recipe: Recipe, root: Root) -> dict[str, Any] | None:
    """Figures of this very checkpoint, if it has been evaluated."""
    evaluated = storage.read_manifest(root, "evaluation")
    if evaluated is None or evaluated.status != "finished":
        return None
    return evaluated.facts if evaluated.inputs.get("train") == storage.stage_of(recipe, "train").fingerprint else None


def _place(root: Root, folder: Path) -> None:
    """Put the finished folder where readers look, so that they see all of it or none."""
    root.delete(FOLDER)
    if root.is_local:
        folder.rename(root.path(FOLDER))
        return
    sign = (folder / SIGN).read_bytes()
    (folder / SIGN).unlink()
    root.upload(folder, FOLDER)
    root.write(f"{FOLDER}/{SIGN}", sign)
