"""Weights once a node: of all processes of one machine, one transfers a model's files and the others wait for it.

A hub name lies in the hub's own cache afterwards, a store's folder in a cache of ours. Only safetensors and text are ever transferred, never a pickle.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import pyarrow.fs as pafs
from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE

from ccray.interfaces import Refused
from ccray.models.loading import loading
from ccray.storage import BUILT_IN, Root, model_path

log = logging.getLogger(__name__)

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.spm", "*.jinja", "*README.md")  # README.md: the card, which states the licence
SETTINGS = ("*.json", "*.txt", "*.jinja")  # enough to know what a model wants to be given
TWICE = ("*consolidated*.safetensors", "original/*", "*.fp16.safetensors", "*.fp16-*.safetensors")  # the same weights in other clothes
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:/(.+))?")
STREAMS = 4  # files of a store at once
CHUNK_BYTES = 16 * 2**20
KEPT_VERSIONS = 2  # the newest, and the one before, which another process may be reading

Listing = dict[str, tuple[int, int]]  # name -> bytes, nanoseconds of its last change


def fetched(reference: str, subfolder: str | None = None, files: Sequence[str] = WANTED) -> str:
    """The local folder of a model, or of one part of it.

    Args:
        reference: a folder, `shapes:NAME`, a hub name (`ORG/NAME`, with or without `/PART`), or `s3://bucket/prefix`.
        subfolder: one part; only its files are transferred.
        files: patterns of names; `SETTINGS` where no weights are needed.

    Raises:
        Refused: when it is not there, or cannot be reached. With HF_HUB_OFFLINE a hub name is looked for in the cache alone.
    """
    if reference.startswith("s3://"):
        return str(_of_store(reference, subfolder, files))
    place = Path(model_path(reference)).expanduser()
    on_disk = reference.startswith((BUILT_IN, "/", ".", "~")) or place.is_dir()
    name = None if on_disk else HUB_NAME.fullmatch(reference)
    if name is not None:
        parts = [part for part in (name[2], subfolder) if part]
        return str(Path(_of_hub(name[1], "/".join(parts), files), *parts))
    folder = place / (subfolder or "")
    if not folder.is_dir():
        raise Refused(
            f"the model {reference!r} is not here: there is no folder {folder}; expected a folder, a hub name, s3://bucket/prefix or {BUILT_IN}NAME"
        )
    return str(folder)


def _of_hub(name: str, part: str, files: Sequence[str]) -> str:
    wanted = [f"{part}/{pattern}" for pattern in files] + ["*README.md"] if part else list(files)
    with locked(Path(HF_HUB_CACHE) / f".ccray-{_digest(name)}.lock", name), loading(f"the model {name}"):
        return str(snapshot_download(name, allow_patterns=wanted, ignore_patterns=list(TWICE)))


def _of_store(uri: str, subfolder: str | None, files: Sequence[str]) -> Path:
    """The copy of what the store lists now."""
    home = cache() / f"{uri.rstrip('/').rsplit('/', 1)[-1]}-{_digest(' '.join([uri.rstrip('/'), *(files if files != WANTED else ())]))}"
    root = Root(uri)
    with locked(home.with_suffix(".lock"), uri), loading(f"the model {uri}"):
        listing = _listing(root, files)
        if not listing:
            raise Refused(f"the model {uri!r} is not there: nothing below it ends in {', '.join(files)}")
        version = home / _digest(json.dumps(sorted(listing.items())))
        if not version.is_dir():
            _copy(root, listing, version)
            _forget_old(home)
    folder = version / (subfolder or "")
    if not folder.is_dir():
        raise Refused(
            f"the model {uri!r} has no part {subfolder!r}: expected one of {', '.join(sorted(p.name for p in version.iterdir() if p.is_dir()))}"
        )
    return folder


def cache() -> Path:
    """Where copies of stores' models lie: CCRAY_CACHE, or ~/.cache/ccray/models."""
    return Path(os.environ.get("CCRAY_CACHE") or "~/.cache/ccray/models").expanduser()


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Of all processes of this machine one at a time; the lock ends with its process, however that ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError:  # a cache that is read-only: nothing is transferred there, so nothing needs a lock
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s is being fetched by another process of this machine: waiting for it", what)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _listing(root: Root, wanted: Sequence[str]) -> Listing:
    """The files that are wanted, by their names below the root."""
    selector = pafs.FileSelector(root.path(), recursive=True, allow_not_found=True)
    found = (info for info in root.filesystem.get_file_info(selector) if info.type == pafs.FileType.File)
    found_files = {info.path.removeprefix(root.path() + "/"): (info.size, info.mtime_ns) for info in found}
    return {name: facts for name, facts in found_files.items() if _is_below(name) and _matches(name, wanted) and not _matches(name, TWICE)}


def _is_below(name: str) -> bool:
    """Whether a name leads to nowhere but below the folder that it is copied to."""
    return not name.startswith("/") and ".." not in name.split("/")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _copy(root: Root, listing: Listing, version: Path) -> None:
    """All files, or none: into a folder beside, which is then renamed. What a killed process left there is removed."""
    version.parent.mkdir(parents=True, exist_ok=True)
    for left in version.parent.glob(".draft-*"):
        shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=version.parent))
    try:
        with ThreadPoolExecutor(STREAMS) as pool:
            list(pool.map(lambda name: _copy_file(root, name, draft / name, listing[name][0]), listing))
        draft.replace(version)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy_file(root: Root, name: str, target: Path, size_bytes: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with root.filesystem.open_input_stream(root.path(name), compression=None) as stream, target.open("wb") as file:
        shutil.copyfileobj(stream, file, CHUNK_BYTES)
    if target.stat().st_size != size_bytes:
        raise OSError(f"{name} ended after {target.stat().st_size} of {size_bytes} bytes")


def _forget_old(home: Path) -> None:
    versions = sorted((path for path in home.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime_ns)
    for path in versions[:-KEPT_VERSIONS]:
        shutil.rmtree(path, ignore_errors=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
