"""Which rows of a shard may be trained on: where catalog, latents and captions meet, and who may pass."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccray import licenses, storage
from ccray.config import IMPORTED
from ccray.interfaces import Failed
from ccray.licenses import Policy
from ccray.storage import CAPTIONS, Root

COLUMNS = ["key", "caption", "status"]


@dataclass(frozen=True)
class Doors:
    """The tables that meet in a training batch, and who may pass."""

    latents: str  # directories under the root
    captions: tuple[tuple[str, float], ...]  # tables of captions, and how often each is drawn, relative to the others
    catalog: str
    policy: Policy
    statuses: tuple[str, ...] = ("ok",)  # captions that are trained on: the first words of their `status`


def eligible(root: Root, doors: Doors, shard: int, taken_down: np.ndarray) -> tuple[np.ndarray, tuple[pa.Table, ...]]:
    """Keys of a shard's rows that may be trained on (int64, ascending), and of each table the captions that may, of these rows and others.

    One caption is enough. `taken_down` are keys that may not.

    Raises:
        Failed: when a table of captions has lost the shard.
    """
    name = storage.shard_name(shard)
    catalog = root.read_table(f"{doors.catalog}/{name}", columns=["key", "license", "split"])
    latents = root.read_table(f"{doors.latents}/{name}", columns=["key", "status"])
    captions = tuple(_accepted(root, directory, name, doors.statuses) for directory, _ in doors.captions)
    permitted = [text for text in pc.unique(catalog["license"]).to_pylist() if licenses.refusal(licenses.parse(text or ""), doors.policy) is None]
    catalog = catalog.filter(pc.and_(pc.equal(catalog["split"], "train"), pc.is_in(catalog["license"], pa.array(permitted, pa.string()))))
    latents = latents.filter(pc.equal(latents["status"], "ok"))
    described = np.concatenate([table["key"].to_numpy() for table in captions])
    keys = np.intersect1d(np.intersect1d(catalog["key"], described), latents["key"])
    return np.setdiff1d(keys, taken_down), captions


def _accepted(root: Root, directory: str, name: str, statuses: tuple[str, ...]) -> pa.Table:
    """The rows of one table's shard that have a caption, with a status of those that are asked for."""
    try:
        table = root.read_table(f"{directory}/{name}", columns=COLUMNS)
    except FileNotFoundError:
        _check_absence(root, directory, name)
        return pa.table({"key": pa.array([], pa.int64()), "caption": pa.array([], pa.string()), "status": pa.array([], pa.string())})
    words = pc.replace_substring_regex(table["status"], "(?s):.*", "")  # "undecodable: why" is told apart by its first word
    says = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(table["caption"])), 0)
    return table.filter(pc.and_(pc.is_in(words, pa.array(statuses, pa.string())), says))


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
