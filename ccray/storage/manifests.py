"""What a stage's directory says of itself, and whether it is finished."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from pydantic import ValidationError

from ccray.config import IMPORTED, Recipe, flatten
from ccray.interfaces import Refused
from ccray.leases import lease
from ccray.overrides import sentence
from ccray.storage.root import Root
from ccray.storage.stages import CAPTIONS, Stage, inputs_of, stage_of

MANIFEST = "manifest.json"
PAGES = (".html", ".json")  # made of all tables of captions, and no table


@dataclass
class Manifest:
    """What a stage's directory holds and what made it."""

    stage: str
    recipe: str
    status: Literal["running", "finished"]
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]
    rows: int = 0
    shards: dict[str, int] = field(default_factory=dict)  # file -> rows
    counts: dict[str, int] = field(default_factory=dict)  # reject reasons and the like
    facts: dict[str, Any] = field(default_factory=dict)  # what this stage alone knows: VAE scale, steps, metrics
    versions: dict[str, str] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""


def read_manifest(root: Root, directory: str) -> Manifest | None:
    """The manifest of a directory, or None.

    Raises:
        Refused: when it is not one of ours.
    """
    path = f"{directory}/{MANIFEST}"
    if not root.exists(path):
        return None
    try:
        return Manifest(**root.read_json(path))
    except (TypeError, ValueError) as error:
        raise Refused(f"{root.path(path)} is not a manifest of ccray: {error}") from None


def state(root: Root, stage: Stage) -> Literal["new", "resume", "finished"]:
    """Whether this stage must start, continue, or is done.

    Raises:
        Refused: when the directory was made with another configuration or other inputs, with the first difference named.
    """
    manifest = read_manifest(root, stage.directory)
    if manifest is None:
        return "new"
    if manifest.fingerprint != stage.fingerprint:
        raise Refused(f"{difference(manifest, stage)} (in {root.path(stage.directory)}): use another --root, or remove that folder to make it anew")
    return "finished" if manifest.status == "finished" else "resume"


def difference(manifest: Manifest, stage: Stage) -> str:
    """The first setting in which a directory and a stage differ, with both values."""
    made, asked = flatten(manifest.config), flatten(stage.config)
    for key in sorted(made.keys() | asked.keys()):
        if made.get(key) != asked.get(key):
            return f"{key} is {asked.get(key)!r}, but {stage.directory} was made with {made.get(key)!r}"
    for name in sorted(stage.inputs):
        if manifest.inputs.get(name) != stage.inputs[name]:
            return f"{stage.directory} was made from another {name} ({manifest.inputs.get(name)}, now {stage.inputs[name]})"
    return f"{stage.directory} was made by another stage, {manifest.stage}"


def inputs(root: Root, recipe: Recipe, name: str, only: Sequence[str] | None = None) -> dict[str, Manifest]:
    """The finished manifests of all that a stage reads (labelled as by `inputs_of`), or of the stages in `only`.

    Raises:
        Refused: when one is missing, unfinished, or of another configuration.
    """
    found: dict[str, Manifest] = {}
    for label, stage in inputs_of(recipe, name).items():
        if only is None or stage.name in only:
            found[label] = finished(root, stage, name)
    return found


def finished(root: Root, stage: Stage, reader: str) -> Manifest:
    """The manifest of a stage that `reader` needs.

    Raises:
        Refused: when it is missing, unfinished, or of another configuration.
    """
    if state(root, stage) != "finished":
        maker = "catalog" if "imported" in stage.config else stage.name
        if maker != stage.name and (made := read_manifest(root, maker)) is not None and made.status == "finished":
            shipped = [table for table in caption_tables(root) if table.startswith(IMPORTED)]
            raise Refused(
                f"{reader} reads {root.path(stage.directory)}, but the catalog's source ships {'only ' + ', '.join(shipped) if shipped else 'no captions'}"
            )
        raise Refused(f"{reader} reads {root.path(stage.directory)}, which is not finished: run `ccray {maker}` with the same recipe and root first")
    manifest = read_manifest(root, stage.directory)
    assert manifest is not None
    return manifest


@contextmanager
def running(root: Root, stage: Stage) -> Iterator[Manifest]:
    """Hold the stage's lease and its `running` manifest; the body fills the manifest in, and a clean exit marks it finished."""
    with lease(root, stage.directory):
        manifest = read_manifest(root, stage.directory)
        if manifest is None:
            manifest = Manifest(stage.name, stage.recipe, "running", stage.fingerprint, stage.config, stage.inputs, started_at=now())
            root.write_json(f"{stage.directory}/{MANIFEST}", manifest.__dict__)
        yield manifest
        manifest.status = "finished"
        manifest.finished_at = now()
        manifest.versions = {name: version(name) for name in ("ccray", "ray", "torch", "diffusers", "transformers", "pyarrow", "pillow")}
        root.write_json(f"{stage.directory}/{MANIFEST}", manifest.__dict__)
        root.delete(f"{stage.directory}/.staging")


def now() -> str:
    """This moment, UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def caption_tables(root: Root) -> list[str]:
    """Names of the tables under captions/, without the pages that lie beside them."""
    return [name for name in root.names(CAPTIONS) if not name.endswith(PAGES)]


def stage_directories(root: Root) -> list[str]:
    """Directories under the root that have a manifest, in the corridor's order."""
    candidates = ["catalog"]
    candidates += [f"{CAPTIONS}/{table}" for table in caption_tables(root)]
    candidates += [f"{parent}/{name}" for parent in ("latents", "checkpoints") for name in root.names(parent)]
    candidates += ["evaluation", "published"]
    return [directory for directory in candidates if root.exists(f"{directory}/{MANIFEST}")]


def adopt(root: Root, recipe: Recipe) -> Recipe:
    """The recipe with the settings that this root was already made with, where the same recipe made it.

    So `ccray caption` need not repeat the `--source` given to `ccray catalog`; settings given anew are compared, not adopted.

    Raises:
        Refused: when they do not fit the recipe, as a translator does whose captioner is gone.
    """
    sections: dict[str, Any] = {}
    captioners: dict[str, Any] = {}
    for directory in stage_directories(root):
        manifest = read_manifest(root, directory)
        if manifest is None or manifest.recipe != recipe.name or "imported" in manifest.config:
            continue
        if manifest.stage == "caption":
            captioners |= {
                name: one for name, one in manifest.config["caption"].items() if isinstance(one, dict)
            }  # others: before captioners had names
        elif directory == stage_of(recipe, manifest.stage).directory:
            sections |= manifest.config

    def depth(name: str) -> int:
        """How many tables a captioner's own is translated from, one after the other."""
        source = captioners[name].get("input")
        return 1 + depth(source) if source in captioners else 0

    order = sorted(captioners, key=depth)
    mine = recipe.model_dump()["caption"]
    sections["caption"] = mine | {name: captioners[name] for name in order}
    try:
        return Recipe.model_validate(recipe.model_dump() | sections)
    except ValidationError as error:
        raise Refused(f"what {root.uri} was made with does not fit recipe {recipe.name}: {sentence(error)}; use another --root") from None
