"""Which rows of a shard may be trained on: where three tables meet, and who may pass."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccray import licenses, storage
from ccray.licenses import Policy
from ccray.storage import Root


@dataclass(frozen=True)
class Doors:
    """The tables that meet in a training batch, and who may pass."""

    latents: str  # directories under the root
    captions: str
    catalog: str
    policy: Policy


def eligible(root: Root, doors: Doors, shard: int, taken_down: np.ndarray) -> tuple[np.ndarray, pa.Table]:
    """Keys of a shard's rows that may be trained on (int64, ascending), and the captions' rows; `taken_down` are keys that may not."""
    name = storage.shard_name(shard)
    catalog = root.read_table(f"{doors.catalog}/{name}", columns=["key", "license", "split"])
    captions = root.read_table(f"{doors.captions}/{name}", columns=["key", "caption", "status"])
    latents = root.read_table(f"{doors.latents}/{name}", columns=["key", "status"])
    permitted = [text for text in pc.unique(catalog["license"]).to_pylist() if licenses.refusal(licenses.parse(text or ""), doors.policy) is None]
    catalog = catalog.filter(pc.and_(pc.equal(catalog["split"], "train"), pc.is_in(catalog["license"], pa.array(permitted, pa.string()))))
    captions = captions.filter(pc.equal(captions["status"], "ok"))
    latents = latents.filter(pc.equal(latents["status"], "ok"))
    keys = np.intersect1d(np.intersect1d(catalog["key"], captions["key"]), latents["key"])
    return np.setdiff1d(keys, taken_down), captions
