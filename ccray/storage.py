"""One way to a run's files, on a local disk or an object store; sealed shards, manifests, leases.

Everything lives under a *root*. A stage owns one directory there; its `manifest.json` says which configuration and inputs made it and
whether it is finished. All writes are atomic: a reader sees a whole file or none. Nothing here imports Ray or torch.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import ValidationError

from ccray.config import IMPORTED, Recipe, fingerprint, flatten, stage_config, trained_captions
from ccray.interfaces import Failed, Refused
from ccray.leases import LEASE, LEASE_SECONDS, is_held, lease  # noqa: F401  of this store
from ccray.overrides import sentence

MANIFEST = "manifest.json"
BUILT_IN = "shapes:"  # model references into the package itself
BUILT_IN_FOLDER = Path(__file__).parent / "shapes" / "weights"

# Which stages a stage reads. Of the caption tables, training reads those it draws from, the stages after it all; a translator reads another one.
INPUTS: dict[str, tuple[str, ...]] = {
    "catalog": (),
    "caption": ("catalog",),
    "encode": ("catalog",),
    "train": ("catalog", "caption", "encode"),
    "evaluate": ("catalog", "caption", "train"),
    "publish": ("catalog", "caption", "encode", "train"),
}
CAPTIONS = "captions"
PAGES = (".html", ".json")  # made of all tables of captions, and no table


class Root:
    """The URI a run lives under: a local path or `s3://bucket/prefix`. Paths given to its methods are relative to it.

    S3 takes its credentials and `AWS_ENDPOINT_URL` from the environment, as boto3 does.
    """

    def __init__(self, uri: str) -> None:
        """Raises:
        Refused: when the scheme is not one we read.
        """
        self.is_local = "://" not in uri
        if self.is_local:
            self.uri = str(Path(uri).expanduser().absolute())
            self._base = self.uri
        elif uri.startswith("s3://") and len(uri) > len("s3://"):
            self.uri = uri.rstrip("/")
            self._base = self.uri.removeprefix("s3://")
        else:
            raise Refused(f"--root {uri!r} cannot be used: expected a path or s3://bucket/prefix")

    @cached_property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system to which `path` belongs."""
        if self.is_local:
            return pafs.LocalFileSystem()
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:  # stores older than 2025 do not know the checksum trailers that AWS's libraries now send unasked
            os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return pafs.S3FileSystem(endpoint_override=endpoint, region=region or ("us-east-1" if endpoint else None))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "filesystem"}

    def path(self, relative: str = "") -> str:
        """The path of a file for `filesystem`: absolute on a local disk, bucket/key on S3."""
        return f"{self._base}/{relative}" if relative else self._base

    def check_writable(self) -> None:
        """Raises:
        Refused: when the root cannot be read or written.
        """
        try:
            if self.is_local:
                folder = next(p for p in (Path(self.uri), *Path(self.uri).parents) if p.exists())
                if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                    raise Refused(f"--root {self.uri} cannot be written: {folder} is not a folder that this user may read and write")
            else:
                self.filesystem.get_file_info(self.path())
        except OSError as error:
            raise Refused(f"--root {self.uri} cannot be read: {error}") from None

    def exists(self, relative: str) -> bool:
        return self.filesystem.get_file_info(self.path(relative)).type != pafs.FileType.NotFound

    def names(self, relative: str) -> list[str]:
        """Names directly inside a directory, sorted; empty when there is none."""
        selector = pafs.FileSelector(self.path(relative), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def files(self, relative: str) -> list[str]:
        """Files anywhere below a directory, relative to the root, sorted."""
        selector = pafs.FileSelector(self.path(relative), recursive=True, allow_not_found=True)
        found = (info.path for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.File)
        return sorted(path.removeprefix(self._base + "/") for path in found)

    def read(self, relative: str) -> bytes:
        with self.filesystem.open_input_stream(self.path(relative), compression=None) as stream:
            return stream.read()

    def write(self, relative: str, data: bytes) -> None:
        """Write a whole file in one atomic step."""
        if not self.is_local:
            with self.filesystem.open_output_stream(self.path(relative), compression=None) as stream:
                stream.write(data)
            return
        target = Path(self.path(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)

    def create(self, relative: str, data: bytes) -> bool:
        """Write a file only if there is none; False when another was first."""
        if not self.is_local:
            return self._create_s3(relative, data)
        target = Path(self.path(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        draft.write_bytes(data)
        try:
            os.link(draft, target)  # fails when the target exists; the name appears with its content
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _create_s3(self, relative: str, data: bytes) -> bool:
        import boto3
        from botocore.exceptions import ClientError

        bucket, _, key = self.path(relative).partition("/")
        try:
            boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                return False
            raise
        return True

    def delete(self, relative: str) -> None:
        """Remove a file or a directory with all below it, if there."""
        kind = self.filesystem.get_file_info(self.path(relative)).type
        if kind == pafs.FileType.File:
            self.filesystem.delete_file(self.path(relative))
        elif kind == pafs.FileType.Directory:
            self.filesystem.delete_dir(self.path(relative))

    def read_json(self, relative: str) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(self.read(relative)))

    def write_json(self, relative: str, value: Any) -> None:
        self.write(relative, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def read_table(self, relative: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        """One Parquet file; `filters` (pyarrow's) skip whole row groups where statistics allow."""
        return pq.read_table(self.path(relative), columns=columns, filters=filters, filesystem=self.filesystem, partitioning=None)

    def write_table(self, relative: str, table: pa.Table, row_group_rows: int = 4096) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=row_group_rows)
        self.write(relative, sink.getvalue())

    def local(self, relative: str, cache: Path) -> Path:
        """A directory as local files: the place itself on a local disk, a copy below `cache` otherwise."""
        if self.is_local:
            return Path(self.path(relative))
        target = cache / relative
        for name in self.files(relative):
            place = cache / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self.read(name))
        return target

    def upload(self, folder: Path, relative: str) -> None:
        """Put all files of a local folder below `relative`."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.write(f"{relative}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def model_path(reference: str) -> str:
    """A model reference as transformers and diffusers take it; `shapes:NAME` is a teacher shipped with the package."""
    if reference.startswith(BUILT_IN):
        return str(BUILT_IN_FOLDER / reference.removeprefix(BUILT_IN))
    return reference


def require_model(setting: str, reference: str) -> None:
    """Raises:
    Refused: when a model that is meant to be on this disk is not; a hub name is not looked up.
    """
    place = Path(model_path(reference)).expanduser()
    on_disk = reference.startswith((BUILT_IN, "/", ".", "~"))
    if on_disk and not place.is_dir():
        raise Refused(f"{setting} is {reference!r}, but there is no folder {place}: expected a model folder, a hub name or {BUILT_IN}NAME")


def weights_digest(folder: str) -> str | None:
    """sha256 of a model folder's safetensors files, 16 hex digits; None for a hub name that is not on this disk."""
    files = sorted(Path(folder).glob("*.safetensors")) if Path(folder).is_dir() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.parquet"


def sealed_shards(root: Root, directory: str) -> list[int]:
    """Numbers of the shards whose sealed file exists, ascending."""
    names = root.names(directory)
    return [int(name[6:-8]) for name in names if name.startswith("shard-") and name.endswith(".parquet")]


def seal(
    root: Root, directory: str, shard: int, table: pa.Table, schema: pa.Schema, id_column: str, row_group_rows: int = 4096, order: Sequence[str] = ()
) -> int:
    """Drop doubles by id, sort by id (or by `order`, nulls last), cast to the door's schema and write a shard in one atomic step; the number of rows."""
    table = table.select(schema.names).cast(schema).sort_by(id_column)
    ids = table.column(id_column).to_numpy()
    if len(ids) > 1:
        keep = [True, *(ids[1:] != ids[:-1])]
        table = table.filter(pa.array(keep))
    if order:
        table = table.sort_by([(name, "ascending") for name in order])
    root.write_table(f"{directory}/{shard_name(shard)}", table.combine_chunks(), row_group_rows)
    return table.num_rows


@dataclass(frozen=True)
class Stage:
    """One stage of one recipe under one root: where it writes and what identifies it."""

    name: str
    recipe: str
    directory: str
    config: dict[str, Any]
    inputs: dict[str, str]  # stage -> fingerprint

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.config, self.inputs)

    @property
    def staging(self) -> str:
        """Where unfinished rows lie; readers never look there."""
        return f"{self.directory}/.staging/{self.fingerprint}"


def stages_of(recipe: Recipe, name: str) -> list[Stage]:
    """The stage as the recipe describes it; of `caption` one for each captioner, in the order in which they run."""
    if name == "caption":
        return [caption_stage(recipe, captioner) for captioner in recipe.caption]
    return [stage_of(recipe, name)]


def stage_of(recipe: Recipe, name: str) -> Stage:
    """The stage as the recipe describes it, with the fingerprints of all it reads; of `caption` that of the only captioner."""
    if name == "caption":
        (captioner,) = recipe.caption
        return caption_stage(recipe, captioner)
    directories = {
        "catalog": "catalog",
        "encode": f"latents/{recipe.encode.vae}-{recipe.encode.size_px}px",
        "train": f"checkpoints/{recipe.train.name}",
        "evaluate": "evaluation",
        "publish": "published",
    }
    inputs = {label: stage.fingerprint for label, stage in inputs_of(recipe, name).items()}
    return Stage(name, recipe.name, directories[name], stage_config(recipe, name), inputs)


def caption_stage(recipe: Recipe, captioner: str) -> Stage:
    """The table of one captioner of the recipe, or of a column of captions that the catalog's source ships."""
    inputs = {"catalog": stage_of(recipe, "catalog").fingerprint}
    if captioner.startswith(IMPORTED):
        return imported_stage(recipe.name, captioner, inputs)
    one = recipe.caption[captioner]
    if one.input is not None:
        inputs[one.input] = caption_stage(recipe, one.input).fingerprint
    return Stage("caption", recipe.name, f"{CAPTIONS}/{captioner}", {"caption": {captioner: one.model_dump(mode="json")}}, inputs)


def imported_stage(recipe: str, table: str, inputs: dict[str, str]) -> Stage:
    """A table of captions that the catalog's source ships: the catalog stage writes it, and nothing but the catalog decides it."""
    return Stage("caption", recipe, f"{CAPTIONS}/{table}", {"imported": table}, inputs)


def inputs_of(recipe: Recipe, name: str) -> dict[str, Stage]:
    """All that a stage reads: `catalog`, `encode`, `train`, and caption tables by their directories."""
    found: dict[str, Stage] = {}
    for source in INPUTS[name]:
        if source == "caption":
            drawn = list(trained_captions(recipe))
            tables = drawn if name == "train" else list(dict.fromkeys([*recipe.caption, *drawn]))
            found |= {stage.directory: stage for stage in (caption_stage(recipe, table) for table in tables)}
        else:
            found[source] = stage_of(recipe, source)
    return found


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


def remove_local(folder: Path) -> None:
    """Remove a local scratch folder, if there."""
    shutil.rmtree(folder, ignore_errors=True)


def check_rows(what: str, rows_in: int, rows_out: int, cure: str) -> None:
    """Raises:
    Failed: when a stage did not seal as many rows as it read.
    """
    if rows_in != rows_out:
        raise Failed(f"{what}: {rows_in} rows in, but {rows_out} rows sealed: {cure}")
