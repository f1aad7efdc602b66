"""Which rows of a shard may be trained on: where catalog, latents and captions meet, and who may pass."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccray import licenses, storage
from ccray.config import IMPORTED
from ccray.data.loading import shards
from ccray.data.loading.reading import lists_of
from ccray.data.loading.shards import Shard
from ccray.interfaces import Failed
from ccray.licenses import Policy
from ccray.storage import CAPTIONS, Root

COLUMNS = ["key", "status", "latent_shape"]  # of the latents
FACTS = ("vae", "vae_sha256", "scaling_factor", "shift_factor", "latent_channels", "latent_size")  # that a file of latents says of itself


@dataclass(frozen=True)
class Doors:
    """The tables that meet in a training batch, and who may pass."""

    latents: str  # directories under the root
    captions: tuple[tuple[str, float], ...]  # tables of captions, and how often each is drawn, relative to the others
    catalog: str
    policy: Policy
    statuses: tuple[str, ...] = ("ok",)  # captions that are trained on: the first words of their `status`


@dataclass(frozen=True)
class Admitted:
    """Rows of one shard's latents that may be trained on, were nothing taken down: a bit a row and table of captions, to be kept in memory."""

    rows: int  # of the file
    tables: int
    bits: np.ndarray  # uint8
    shape: tuple[int, ...]  # [C, h, w] of every latent of the file; () when there is none

    def described(self) -> np.ndarray:
        """Which tables have a caption that may be trained on, of each row that may be, bool [rows tables]."""
        return np.unpackbits(self.bits, count=self.rows * self.tables).astype(bool).reshape(self.rows, self.tables)


def facts_of(root: Root, doors: Doors) -> dict[str, str]:
    """What the manifest of the latents says of the VAE that made them, of `FACTS`; nothing where there is no manifest.

    Raises:
        Failed: when the manifest lists a shard that is not there.
    """
    manifest = storage.read_manifest(root, doors.latents)
    if manifest is None:
        return {}
    lost = sorted(manifest.shards.keys() - set(root.names(doors.latents)))
    if lost:
        more = f" (and {len(lost) - 1} more)" if lost[1:] else ""
        path = root.path(f"{doors.latents}/{lost[0]}")
        raise Failed(f"{path}{more} is missing, but {doors.latents}/{storage.MANIFEST} lists it: {shards.cure(root, doors.latents)}")
    return {name: str(manifest.facts[name]) for name in FACTS if name in manifest.facts}


def check_facts(one: Shard, facts: dict[str, str], told: str) -> None:
    """Raises:
    Failed: when a shard of latents says of itself that it is of another VAE or size than its table.
    """
    metadata = one.file.schema_arrow.metadata or {}
    for name, expected in facts.items():
        made = metadata.get(name.encode(), expected.encode()).decode()
        if made != expected:
            raise Failed(f"{one.path} holds latents of {name} {made}, but expected {expected}, as {told}")


def admitted(root: Root, doors: Doors, shard: int, facts: dict[str, str]) -> tuple[np.ndarray, Admitted]:
    """Keys of all rows of a shard's latents (int64, ascending), and which of them may be trained on. One caption is enough.

    Raises:
        Failed: when a file is missing, torn, or of latents that `facts` do not describe.
    """
    with shards.opened(root, doors.latents, shard) as one:
        check_facts(one, facts, f"{doors.latents}/{storage.MANIFEST} has it: {shards.cure(root, doors.latents)}")
        latents = one.file.read(COLUMNS, use_threads=False).select(COLUMNS)
    keys, fine = latents["key"].to_numpy(), pc.equal(latents["status"], "ok").to_numpy()
    shape = _shape(latents["latent_shape"], np.flatnonzero(fine), one.path)
    may = contains(permitted(root, doors, shard), keys) & fine
    there = [may & contains(described(root, directory, shard, doors.statuses), keys) for directory, _ in doors.captions]
    return keys, Admitted(len(keys), len(there), np.packbits(np.stack(there, axis=1)), shape)


def _shape(column: pa.ChunkedArray, rows: np.ndarray, path: str) -> tuple[int, ...]:
    """The shape that all rows with latents have."""
    found = lists_of(column, rows, 3, path)
    if (found != found[:1]).any():
        raise Failed(f"{path} mixes latents of shapes {np.unique(found, axis=0).tolist()}: encode at one size")
    return tuple(found[0].tolist()) if len(found) else ()


def mixed(root: Root, doors: Doors, shapes: dict[tuple[int, ...], int]) -> str:
    """What is wrong with a table in which two shards have latents of two shapes."""
    (one, first), (other, second) = shapes.items()
    path, name = shards.path(root, doors.latents, first), storage.shard_name(second)
    return f"{path} has latents of shape {list(one)}, but {name} of {list(other)}: {shards.cure(root, doors.latents)}"


def contains(some: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which keys are among `some`, which ascend: bool [n]."""
    if not len(some):
        return np.zeros(len(keys), bool)
    found: np.ndarray = some[np.minimum(np.searchsorted(some, keys), len(some) - 1)] == keys
    return found


def permitted(root: Root, doors: Doors, shard: int) -> np.ndarray:
    """Keys of the images of the train split whose licence the policy lets pass, ascending."""
    table = shards.columns(root, doors.catalog, shard, ["key", "license", "split"])
    permitted = [text for text in pc.unique(table["license"]).to_pylist() if licenses.refusal(licenses.parse(text or ""), doors.policy) is None]
    may = pc.and_(pc.equal(table["split"], "train"), pc.is_in(table["license"], pa.array(permitted, pa.string())))
    return np.sort(table["key"].filter(may).to_numpy())


def described(root: Root, directory: str, shard: int, statuses: tuple[str, ...]) -> np.ndarray:
    """Keys of one table that have a caption with a status of those that are asked for, ascending."""
    name = storage.shard_name(shard)
    if not root.exists(f"{directory}/{name}"):
        _check_absence(root, directory, name)
        return np.array([], np.int64)
    table = shards.columns(root, directory, shard, ["key", "caption", "status"])
    words = pc.replace_substring_regex(table["status"], "(?s):.*", "")  # "undecodable: why" is told apart by its first word
    says = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(table["caption"])), 0)
    return np.sort(table["key"].filter(pc.and_(pc.is_in(words, pa.array(statuses, pa.string())), says)).to_numpy())


def _check_absence(root: Root, directory: str, name: str) -> None:
    """Captions that a source ships may lack a whole shard, when no image of it has one; a captioner describes every image.

    Raises:
        Failed: when the file should be there.
    """
    manifest = storage.read_manifest(root, directory)
    imported = directory.startswith(f"{CAPTIONS}/{IMPORTED}")
    sparse = imported or (manifest is not None and set(manifest.inputs) != {"catalog"})  # or translated from such a table
    if sparse and manifest is not None and name not in manifest.shards:
        return
    why = f"{directory}/{storage.MANIFEST} lists it" if manifest is not None and name in manifest.shards else "a finished table has it"
    cure = "catalog" if imported else "caption"
    raise Failed(
        f"{root.path(directory)}/{name} is missing, but {why}: put it back, take {directory.rpartition('/')[2]} out of train.captions, "
        f"or remove that folder and make it anew with `ccray {cure}`"
    )
