"""Training data that is encoded while training goes on (`train.latents: online`): which rows a shard offers, and batches of what comes back.

Between the two Ray Data reads, decodes and encodes (`sharded/streaming.py`), in whatever order machines are ready. So the order is not exact, and a run that
is continued begins its epoch anew with other rows first: exempt from what `loader.py` promises. What was seen is recorded truly all the same, for
every rank learns the keys of the whole global batch.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed as dist

from ccray import licenses, schema, storage, takedowns
from ccray.config import EncodeConfig
from ccray.data.encoding import EncodeImages
from ccray.data.loading.drawing import drawn
from ccray.data.loading.eligible import Doors, _accepted
from ccray.data.loading.rounds import READERS
from ccray.interfaces import Batch, Failed, LatentBatch
from ccray.storage import Root

CARRIED = ("caption", "table")  # beside the picture: its caption, and the directory that has it
OFFERED = pa.schema([("key", pa.int64()), ("shard", pa.int32()), *((name, pa.string()) for name in CARRIED)])
ENCODED = pa.schema([*(schema.LATENTS.field(name) for name in ("key", "latent_mean", "latent_std", "latent_shape", "status")), *list(OFFERED)[2:]])


def offered(root: Root, doors: Doors, shard: int, seed: int, epoch: int) -> pa.Table:
    """The rows of a shard that may be trained on now, in an order and with captions drawn from (seed, epoch): `OFFERED`.

    As `eligible`, without a look at latents, for there are none.
    """
    name = storage.shard_name(shard)
    catalog = root.read_table(f"{doors.catalog}/{name}", columns=["key", "license", "split"])
    permitted = [text for text in pc.unique(catalog["license"]).to_pylist() if licenses.refusal(licenses.parse(text or ""), doors.policy) is None]
    catalog = catalog.filter(pc.and_(pc.equal(catalog["split"], "train"), pc.is_in(catalog["license"], pa.array(permitted, pa.string()))))
    captions = tuple(_accepted(root, directory, name, doors.statuses) for directory, _ in doors.captions)
    described = np.concatenate([table["key"].to_numpy() for table in captions])
    gone = takedowns.load(root).keys.to_numpy()
    keys = np.setdiff1d(np.intersect1d(catalog["key"], described), gone)
    keys = np.random.default_rng((seed, epoch, shard)).permutation(keys)
    texts, tables = drawn(doors, seed, epoch, keys, captions)
    names = np.array([directory for directory, _ in doors.captions], object)
    columns = [keys, np.full(len(keys), shard), texts, names[tables]]
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


class EncodeOffered:
    """Rows of `PIXELS` with `CARRIED` -> rows of `ENCODED`; the latents are those that `EncodeImages` would store."""

    def __init__(self, config: EncodeConfig, device: str = "cpu", threads: int | None = None) -> None:
        self._encode = EncodeImages(config, device, threads)

    def __call__(self, batch: Batch) -> Batch:
        return self._carried(self._encode(batch), batch)

    def given_up(self, batch: Batch, why: str) -> Batch:
        """Rows whose pictures end the process."""
        return self._carried(self._encode.given_up(batch, why), batch)

    def _carried(self, answer: Batch, batch: Batch) -> Batch:
        columns = answer | {name: batch[name] for name in CARRIED}
        return {name: columns[name] for name in ENCODED.names}


@dataclass(frozen=True)
class OnlineLatents:
    """The training data of one rank (`interfaces.Latents`), from tables of `ENCODED` that have equally many rows on all ranks."""

    root: Root
    doors: Doors
    seed: int
    tables: Callable[[], Iterator[pa.Table]]  # without end, one for each batch
    group: "dist.ProcessGroup | None"  # of its own: another thread than the loop's may be the one that takes batches

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        """This rank's part of each global batch; `start_step` only decides how many there will be."""
        for table in self.tables():
            yield self._batch(table.combine_chunks())

    def captions(self, count: int) -> list[str]:
        """Up to `count` different captions of the first shards."""
        found: dict[str, None] = {}
        for shard in storage.sealed_shards(self.root, self.doors.catalog):
            found |= dict.fromkeys(sorted(offered(self.root, self.doors, shard, self.seed, 0)["caption"].to_pylist()))
            if len(found) >= count:
                break
        return list(found)[:count]

    def _batch(self, table: pa.Table) -> LatentBatch:
        shape = tuple(table["latent_shape"][0].as_py())
        mean = _array(table["latent_mean"], shape)
        std = np.zeros_like(mean) if table["latent_std"].null_count == len(table) else _array(table["latent_std"], shape)
        names = [directory for directory, _ in self.doors.captions]
        numbers = np.array([names.index(directory) for directory in table["table"].to_pylist()])
        keys = table["key"].to_numpy()
        everyone = self._gathered(np.stack([keys, numbers]))
        counts = Counter(everyone[:, 1].ravel().tolist())
        drawn = {name: counts[number] for number, name in enumerate(names)}
        return LatentBatch(keys, mean, std, table["caption"].to_pylist(), everyone[:, 0].ravel(), drawn)

    def _gathered(self, mine: np.ndarray) -> np.ndarray:
        """All ranks' arrays of int64, one after the other."""
        if self.group is None:
            return mine[None]
        parts = [torch.empty(mine.shape, dtype=torch.int64) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(parts, torch.from_numpy(mine), group=self.group)
        return np.stack([part.numpy() for part in parts])


def own_group() -> "dist.ProcessGroup | None":
    """A group of all ranks for this data alone, on the CPU; a collective. None for one rank."""
    return dist.new_group(backend="gloo") if dist.is_initialized() and dist.get_world_size() > 1 else None


def _array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    """A list column without nulls as one array [n, *shape]."""
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
