"""Latents of a few rows of a shard, in bounded memory: one row group at a time, and of it only what is kept."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccray.interfaces import Failed

COLUMNS = ["latent_mean", "latent_std", "latent_shape"]


@dataclass(frozen=True)
class Latents:
    """Room for latents: float16 [n C h w] each. A part of it is the same memory."""

    mean: np.ndarray
    std: np.ndarray

    @staticmethod
    def empty(rows: int, shape: tuple[int, ...]) -> "Latents":
        return Latents(*(np.empty((rows, *shape), np.float16) for _ in range(2)))

    def part(self, rows: slice) -> "Latents":
        return Latents(self.mean[rows], self.std[rows])


def shape_of(file: pq.ParquetFile, row: int, path: str) -> tuple[int, ...]:
    """[C, h, w] of the latents in a row of a shard that has them."""
    shape = np.empty((1, 3), np.int32)
    _take(file.read(["latent_shape"], use_threads=False)["latent_shape"], np.array([row]), shape, path)
    return tuple(shape[0].tolist())


def fill(latents: Latents, file: pq.ParquetFile, rows: np.ndarray, path: str) -> None:
    """Read some rows of a shard.

    Args:
        latents: where they go, in the order of `rows`.
        file: the shard.
        rows: their numbers in the file, int64 [n], ascending.
        path: of the file, for messages.

    Raises:
        Failed: when their shape is not that of `latents`.
    """
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    groups = np.searchsorted(ends, rows, side="right")
    for group in np.unique(groups).tolist():
        first, last = np.searchsorted(groups, [group, group + 1]).tolist()
        table = file.read_row_group(group, columns=COLUMNS, use_threads=False)
        _fill(latents.part(slice(first, last)), table, rows[first:last] - (ends[group - 1] if group else 0), path)


def _fill(latents: Latents, table: pa.Table, rows: np.ndarray, path: str) -> None:
    expected, found = latents.mean.shape[1:], np.empty((len(rows), 3), np.int32)
    _take(table["latent_shape"], rows, found, path)
    others = np.unique(found[(found != expected).any(axis=1)], axis=0).tolist()
    if others:
        raise Failed(
            f"{path} has latents of shape {others[0]}, but expected {list(expected)} as in the first shard of the table: encode all at one size"
        )
    _take(table["latent_mean"], rows, latents.mean.reshape(len(rows), -1), path)
    if table["latent_std"].null_count == len(table):  # only the mean was kept
        latents.std[:] = 0
    else:
        _take(table["latent_std"], rows, latents.std.reshape(len(rows), -1), path)


def _take(column: pa.ChunkedArray, rows: np.ndarray, to: np.ndarray, path: str) -> None:
    """Some rows of a column of lists, all as long as `to` is wide. Rows without a list are passed over; none of `rows` may be one."""
    lists, width = column.combine_chunks(), to.shape[1]
    offsets = lists.offsets.to_numpy()
    lengths = np.diff(offsets)
    if (lengths[rows] != width).any() or not np.isin(lengths, (0, width)).all() or lists.values.null_count:
        wrong = sorted(set(lengths[rows].tolist()) - {width}) or sorted(set(lengths.tolist()) - {0, width}) or ["missing"]
        raise Failed(f"{path} has rows of {wrong[0]} values in a column of lists, expected {width} in each: remove its folder and run `ccray encode`")
    values = lists.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]].reshape(-1, width)
    np.take(values, (offsets[rows] - offsets[0]) // width, axis=0, out=to, mode="clip")  # the other modes copy `to` first
