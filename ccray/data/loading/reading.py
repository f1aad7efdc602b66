"""Latents of a few rows of a shard, in bounded memory: one row group at a time, and of it only what is kept."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ccray.data.loading.pages import equal_lists
from ccray.data.loading.shards import Shard
from ccray.interfaces import Failed


@dataclass(frozen=True)
class Latents:
    """Room for latents: float16 [n C h w] each."""

    mean: np.ndarray
    std: np.ndarray

    @staticmethod
    def empty(rows: int, shape: tuple[int, ...]) -> "Latents":
        return Latents(*(np.empty((rows, *shape), np.float16) for _ in range(2)))


def fill(latents: Latents, to: np.ndarray, shard: Shard, rows: np.ndarray) -> None:
    """Read some rows of a shard.

    Args:
        latents: where they go.
        to: the place there of each of `rows`, int64 [n].
        shard: opened.
        rows: their numbers in the file, int64 [n], ascending.

    Raises:
        Failed: when one has another number of values than `latents`.
    """
    ends = np.cumsum([shard.file.metadata.row_group(group).num_rows for group in range(shard.file.num_row_groups)])
    groups = np.searchsorted(ends, rows, side="right")
    for group in np.unique(groups).tolist():
        some = slice(*np.searchsorted(groups, [group, group + 1]).tolist())
        within = rows[some] - (ends[group - 1] if group else 0)
        for name, target in (("latent_mean", latents.mean), ("latent_std", latents.std)):
            _copy(shard, group, name, within, target, to[some])


def _copy(shard: Shard, group: int, name: str, rows: np.ndarray, target: np.ndarray, to: np.ndarray) -> None:
    """Some rows of a column in a row group, copied to their places."""
    width = int(np.prod(target.shape[1:]))
    found = equal_lists(shard.source, shard.file, group, name, width)
    if found is not None:
        target[to] = (found if len(found) == len(rows) else found[rows]).reshape(-1, *target.shape[1:])
        return
    column = shard.file.read_row_group(group, [name], use_threads=False)[name]
    if name == "latent_std" and column.null_count == len(column):  # only the mean was kept
        target[to] = 0
    else:
        target[to] = lists_of(column, rows, width, shard.path).reshape(-1, *target.shape[1:])


def lists_of(column: pa.ChunkedArray, rows: np.ndarray, width: int, path: str) -> np.ndarray:
    """Some rows of a column of lists: [n width].

    Args:
        column: of lists, all of which are `width` long; rows without one are passed over.
        rows: which of its rows, int64 [n]; each has a list.
        width: numbers in each list.
        path: of the file, for messages.

    Raises:
        Failed: when it is otherwise.
    """
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy()
    lengths = np.diff(offsets)
    if (lengths[rows] != width).any() or not np.isin(lengths, (0, width)).all() or lists.values.null_count:
        wrong = sorted(set(lengths[rows].tolist()) - {width}) or sorted(set(lengths.tolist()) - {0, width}) or ["missing"]
        raise Failed(f"{path} has rows of {wrong[0]} values in a column of lists, expected {width} in each: remove its folder and run `ccray encode`")
    values: np.ndarray = lists.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]].reshape(-1, width)
    places = (offsets[rows] - offsets[0]) // width
    return values[places]
