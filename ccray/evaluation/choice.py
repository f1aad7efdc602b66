"""Which of a catalog's images stand for it: a fixed, random choice, the validation split first."""

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ccray import storage, takedowns
from ccray.storage import Root

OK = "ok"  # status of a caption with which nothing is wrong
# The two halves of the real images: what every set is compared with, and the set whose distance is the floor.
REFERENCE, REAL = "reference", "real"
CHOSEN = np.dtype([("training", "?"), ("key", "<i8"), ("shard", "<i4")])


def images(root: Root, catalog: str, limit: int) -> NDArray[np.void]:
    """At most `limit` images as `CHOSEN` records: those of the validation split, then training images, of each the smallest keys.

    Keys are hashes, so the smallest are a random choice that never changes. Taken-down images and those kept for evaluation alone are left out. Looks at one shard at a time.
    """
    best = np.zeros(0, CHOSEN)
    excluded = takedowns.load(root).keys
    for shard in storage.sealed_shards(root, catalog):
        table = root.read_table(f"{catalog}/{storage.shard_name(shard)}", columns=["key", "split"])
        table = table.filter(pc.and_(pc.invert(pc.is_in(table.column("key"), excluded)), pc.not_equal(table.column("split"), "evaluation")))
        found = np.zeros(table.num_rows, CHOSEN)
        found["training"] = pc.not_equal(table.column("split"), "validation").to_numpy()
        found["key"] = table.column("key").to_numpy()
        found["shard"] = shard
        best = np.sort(np.concatenate([best, found]), order=["training", "key"])[:limit]
    return best
