"""Giving the published folders to the world: a hub repository for each, through huggingface_hub, or a place on an object store.

    hf://ORG/NAME            the model to ORG/NAME, the dataset to datasets/ORG/NAME
    hf://datasets/ORG/NAME   the dataset alone
    s3://bucket/prefix       prefix/model and prefix/dataset

The hub's token and address are those of huggingface_hub: HF_TOKEN, HF_ENDPOINT. Files that are there already are not sent again.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.fs as pafs

from ccray.interfaces import Failed, Refused
from ccray.publishing import dataset, model
from ccray.storage import Root

SIGNS = {model.FOLDER: model.SIGN, dataset.FOLDER: dataset.SIGN}
HUB = re.compile(r"^hf://(?P<datasets>datasets/)?(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?$")
EXPECTED = "expected hf://ORG/NAME, hf://datasets/ORG/NAME or s3://bucket/prefix"


@dataclass(frozen=True)
class Target:
    """One folder and where it goes."""

    folder: str  # below the root
    kind: Literal["model", "dataset", "s3"]
    name: str  # ORG/NAME, or an s3:// URI

    @property
    def address(self) -> str:
        """As people write it."""
        return self.name if self.kind == "s3" else f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


def targets(to: str, parts: tuple[str, ...]) -> list[Target]:
    """What `--to` asks for, of the parts that this recipe publishes; the dataset first, so that a model on the hub never lacks it.

    Raises:
        Refused: when it is no address that we know, or asks for a part that is not published.
    """
    found = HUB.match(to)
    if found is None and not re.match(r"^s3://[^/]+", to):
        raise Refused(f"--to {to!r} is not a place to publish to: {EXPECTED}")
    if found and found["datasets"]:
        if "dataset" not in parts:
            raise Refused(f"--to {to!r} asks for the dataset, but publish.parts is {list(parts)}: add `dataset` to it")
        return [Target(dataset.FOLDER, "dataset", found["name"])]
    both = [Target(dataset.FOLDER, "dataset", found["name"]), Target(model.FOLDER, "model", found["name"])] if found else _on_s3(to.rstrip("/"))
    return [one for one in both if Path(one.folder).name in parts]


def _on_s3(to: str) -> list[Target]:
    return [Target(folder, "s3", f"{to}/{Path(folder).name}") for folder in (dataset.FOLDER, model.FOLDER)]


def push(root: Root, target: Target, public: bool) -> None:
    """Send one finished folder; sent again, only what differs.

    Raises:
        Refused: when the folder is not there.
        Failed: when the other side refuses or cannot be reached; the same command may be run again.
    """
    if not root.exists(f"{target.folder}/{SIGNS[target.folder]}"):
        raise Refused(f"there is no {root.path(target.folder)}: run `ccray publish` with the same recipe and root first")
    try:
        if target.kind == "s3":
            _to_store(root, target)
        else:
            _to_hub(root, target, public)
    except Exception as error:  # whatever the client or the store raises; nothing of ours is half done
        raise Failed(f"{root.path(target.folder)} was not pushed to {target.address}: {_reason(error)}; {_cure(target)}") from error


def _to_hub(root: Root, target: Target, public: bool) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory(prefix="ccray-push-") as cache:
        folder = root.local(target.folder, Path(cache))
        api.create_repo(target.name, repo_type=target.kind, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=target.name, repo_type=target.kind, folder_path=folder, commit_message="Published with ccray", delete_patterns="*"
        )  # what an earlier release had and this one has not is deleted: a taken-down image must not stay


def _to_store(root: Root, target: Target) -> None:
    place, sign = Root(target.name), SIGNS[target.folder]
    place.delete(sign)
    gone = set(place.files("")) - {name.removeprefix(f"{target.folder}/") for name in root.files(target.folder)}
    for name in sorted(gone):
        place.delete(name)
    for relative in [*(one for one in root.files(target.folder) if not one.endswith(f"/{sign}")), f"{target.folder}/{sign}"]:
        name = relative.removeprefix(f"{target.folder}/")
        pafs.copy_files(root.path(relative), place.path(name), source_filesystem=root.filesystem, destination_filesystem=place.filesystem)


def _reason(error: Exception) -> str:
    """The error and what caused it, in one line."""
    told = [" ".join(str(one).split()) or type(one).__name__ for one in (error, error.__cause__) if one is not None]
    return ": ".join(told)


def _cure(target: Target) -> str:
    if target.kind == "s3":
        return "look at the bucket and the credentials, then run the same command again"
    return f"see that HF_TOKEN is a token that may write to {target.name}, then run the same command again: what has arrived is not sent twice"
