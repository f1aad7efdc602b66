"""The record of which images a run has read, and how often: for lineage, attribution, and everyone who asks."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccray import schema

SEEN = "seen.parquet"


class Seen:
    """Which images the run has read, and how often. A step that was skipped has read its images too."""

    def __init__(self, before: "Seen | None" = None) -> None:
        """before: a record that this one continues, and that is not added to any more."""
        self._before = before
        self._keys, self._times = np.empty(0, np.int64), np.empty(0, np.int64)
        self._fresh: list[np.ndarray] = []

    def add(self, keys: np.ndarray) -> None:
        """One batch: int64 [B]."""
        self._fresh.append(keys)

    def table(self) -> pa.Table:
        """`schema.SEEN`, ascending by key. Sorting takes seconds of a long run, so a thread may do it with a record that is finished."""
        if self._before is not None:
            before = self._before.table()
            self._keys, self._times, self._before = before["key"].to_numpy(), before["times"].to_numpy(), None
        if self._fresh:
            keys = np.concatenate([self._keys, *self._fresh])
            times = np.concatenate([self._times, np.ones(len(keys) - len(self._keys), np.int64)])
            self._keys, places = np.unique(keys, return_inverse=True)
            self._times = np.bincount(places, weights=times, minlength=len(self._keys)).astype(np.int64)
            self._fresh = []
        return pa.table({"key": self._keys, "times": self._times}, schema=schema.SEEN)

    @classmethod
    def read(cls, directory: Path) -> "Seen":
        """The record of a checkpoint."""
        table, seen = pq.read_table(directory / SEEN), cls()
        seen._keys, seen._times = table["key"].to_numpy(), table["times"].to_numpy()
        return seen
