"""publish: checkpoints/<name>/ -> published/model/, catalog/ and captions/*/ -> published/dataset/; `push` gives them away.

Each folder is put together beside its place and appears there whole. No evaluation is needed; its figures are printed when there are any.
A finished stage is written anew when images were taken down since. Neither Ray nor torch: nothing is computed.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccray import components, storage
from ccray.config import Recipe
from ccray.evaluation.definitions import DEFINITIONS
from ccray.publishing import dataset, model
from ccray.publishing import push as pushing
from ccray.publishing.folders import Draft, workplace
from ccray.storage import Manifest, Root
from ccray.takedowns import Takedowns, load

log = logging.getLogger(__name__)

NAME = "publish"
PARTS = {"model": storage.INPUTS[NAME], "dataset": ("catalog", "caption")}  # whose outputs each reads


def run(recipe: Recipe, root: Root) -> Manifest:
    """Write the published folders.

    Raises:
        Refused: on missing inputs, before any write.
        Failed: when an image that the model saw cannot be named, or no image is left.
    """
    components.check(recipe, NAME)
    stage = storage.stage_of(recipe, NAME)
    gone = load(root)
    if storage.state(root, stage) == "finished":
        found = storage.read_manifest(root, stage.directory)
        assert found is not None
        if found.facts.get("takedowns") == _digest(gone):
            return found
        log.info("publish: images were taken down since %s was written; writing it anew", root.path(stage.directory))
    parts = recipe.publish.parts
    inputs = storage.inputs(root, recipe, NAME, only=max((PARTS[part] for part in parts), key=len))
    if "model" in parts:
        model.check(recipe, root)
    with storage.running(root, stage) as manifest, workplace(root, stage) as scratch:
        facts: dict[str, Any] = {"takedowns": _digest(gone), "parts": list(parts)}
        if "dataset" in parts:
            facts |= _dataset(recipe, root, inputs, manifest, scratch, gone)
        if "model" in parts:
            facts |= _model(recipe, root, inputs, manifest, scratch)
        manifest.facts = facts
    return manifest


def push(root: Root, targets: list[pushing.Target], public: bool) -> None:
    """Send the finished folders to where `targets` say, one after the other.

    Raises:
        Failed: when the other side does not take one; the same command may be run again.
    """
    for target in targets:
        pushing.push(root, target, public)
        log.info("publish: %s is at %s", root.path(target.folder), target.address)


def _dataset(recipe: Recipe, root: Root, inputs: Mapping[str, Manifest], manifest: Manifest, scratch: Path, gone: Takedowns) -> dict[str, Any]:
    draft = Draft(root, dataset.FOLDER, dataset.SIGN, scratch, f"{storage.stage_of(recipe, NAME).staging}/dataset")
    captions = {name: inputs[f"{storage.CAPTIONS}/{name}"] for name in recipe.caption}
    subject = dataset.write(recipe, root, inputs["catalog"], captions, draft, scratch, gone)
    draft.appear()
    manifest.rows = subject.tally.images
    manifest.counts = {one.license: one.images for one in subject.licenses}
    return {"dataset": {"images": subject.tally.images, "splits": dict(subject.tally.splits), "files": len(draft.files)}}


def _model(recipe: Recipe, root: Root, inputs: Mapping[str, Manifest], manifest: Manifest, scratch: Path) -> dict[str, Any]:
    draft = Draft(root, model.FOLDER, model.SIGN, scratch, f"{storage.stage_of(recipe, NAME).staging}/model")
    subject = model.write(recipe, root, inputs, (_metrics(recipe, root), DEFINITIONS), draft)
    draft.appear()
    manifest.rows = subject.mix.images
    manifest.counts = {one.license: one.images for one in subject.mix.licenses}
    return model.facts(subject) | {"files": len(draft.files)}


def _metrics(recipe: Recipe, root: Root) -> Mapping[str, Any] | None:
    """Figures of this very checkpoint, if it has been evaluated."""
    evaluated = storage.read_manifest(root, "evaluation")
    if evaluated is None or evaluated.status != "finished":
        return None
    return evaluated.facts if evaluated.inputs.get("train") == storage.stage_of(recipe, "train").fingerprint else None


def _digest(gone: Takedowns) -> str:
    """Which takedowns a folder knows of: images, and rows that may be named as copies."""
    named = (",".join(map(str, sorted(ids.to_pylist()))) for ids in (gone.keys, gone.row_ids))
    return hashlib.sha256(";".join(named).encode()).hexdigest()[:16]
