"""Training data that is encoded while training goes on (`train.latents: online`): latents with their captions, and batches of them.

Between `offering.py` and here Ray Data reads, decodes and encodes (`sharded/streaming.py`), in whatever order machines are ready. So the order is not
exact, and a run that is continued begins its epoch anew with other rows first: exempt from what `loader.py` promises. What was seen is recorded
truly all the same, for every rank learns the keys of the whole global batch.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from ccray import storage
from ccray.config import EncodeConfig
from ccray.data.encoding import EncodeImages
from ccray.data.loading.eligible import Doors
from ccray.data.loading.offering import CARRIED, ENCODED, offered
from ccray.interfaces import Batch, LatentBatch
from ccray.storage import Root


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
