"""Which rows a shard offers to training that encodes for itself (`train.latents: online`). Without torch: the tasks that ask this should start fast and
stay small.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from ccray import schema, storage, takedowns
from ccray.data.loading.drawing import drawn, texts
from ccray.data.loading.eligible import Doors, _described, _permitted, contains
from ccray.data.loading.rounds import READERS
from ccray.interfaces import Failed
from ccray.storage import Root

CARRIED = ("caption", "table")  # beside the picture: its caption, and the directory that has it
OFFERED = pa.schema([("key", pa.int64()), ("shard", pa.int32()), *((name, pa.string()) for name in CARRIED)])
ENCODED = pa.schema([*(schema.LATENTS.field(name) for name in ("key", "latent_mean", "latent_std", "latent_shape", "status")), *list(OFFERED)[2:]])


def offered(root: Root, doors: Doors, shard: int, seed: int, epoch: int) -> pa.Table:
    """The rows of a shard that may be trained on now, in an order and with captions drawn from (seed, epoch): `OFFERED`.

    As `admitted`, without a look at latents, for there are none.
    """
    keys = _permitted(root, doors, shard)
    described = np.stack([contains(_described(root, directory, shard, doors.statuses), keys) for directory, _ in doors.captions], axis=1)
    may = described.any(axis=1) & ~contains(np.sort(takedowns.load(root).keys.to_numpy()), keys)
    keys, described = keys[may], described[may]
    tables = drawn(doors, seed, epoch, keys, described)
    captions = texts(root, doors, shard, keys, tables)
    order = np.random.default_rng((seed, epoch, shard)).permutation(len(keys))
    names = np.array([directory for directory, _ in doors.captions], object)
    columns = [keys[order], np.full(len(keys), shard), captions[order], names[tables[order]]]
    return pa.Table.from_arrays([pa.array(column, field.type) for column, field in zip(columns, OFFERED, strict=True)], schema=OFFERED)


def count(root: Root, doors: Doors) -> dict[int, int]:
    """Shard -> rows that may be trained on, of shards that have any.

    Raises:
        Failed: when none has.
    """
    shards = storage.sealed_shards(root, doors.catalog)
    with ThreadPoolExecutor(READERS) as pool:
        counted = list(pool.map(lambda shard: offered(root, doors, shard, 0, 0).num_rows, shards))
    found = {shard: rows for shard, rows in zip(shards, counted, strict=True) if rows}
    if not found:
        tables = ", ".join(directory for directory, _ in doors.captions)
        raise Failed(
            f"no image is left to train on: {root.path(doors.catalog)} has {len(shards)} shards, but no row of them has a caption in {tables} with status "
            f"{' or '.join(doors.statuses)} (train.caption_statuses), a licence that policy {doors.policy} permits, and is in the train split and not "
            "taken down"
        )
    return found
