"""Which of its captions a row is trained with: drawn anew in each epoch, by weight, from (seed, epoch, key) alone.

So any number of ranks, and a run continued at any step, draws the same captions. Weights are relative to each other, and only those of the tables
that have a caption of the row count: with weights 3 and 1, a row that only the second table describes is always trained with that caption, and over all
rows the tables come in the proportion of their weights only as far as they describe the same rows.
"""

import numpy as np
import pyarrow as pa

from ccray.data.loading import shards
from ccray.data.loading.eligible import Doors
from ccray.interfaces import Failed
from ccray.storage import Root

GAMMA = 0x9E3779B97F4A7C15


def drawn(doors: Doors, seed: int, epoch: int, keys: np.ndarray, described: np.ndarray) -> np.ndarray:
    """From which table each row is described in an epoch.

    Args:
        doors: the tables and their weights.
        seed: of the run.
        epoch: of the run, from 0.
        keys: int64 [n].
        described: which tables have a caption that may be trained on, bool [n T]; at least one of each row.

    Returns:
        Numbers of tables, int16 [n].
    """
    weights = np.array([weight for _, weight in doors.captions])
    return choose(seed, epoch, keys, np.where(described, weights, 0.0))


def texts(root: Root, doors: Doors, shard: int, keys: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The captions of some rows of a shard: object [n].

    Args:
        root: where the tables lie.
        doors: the tables.
        shard: its number.
        keys: int64 [n].
        chosen: the number of each row's table, int16 [n].

    Raises:
        Failed: when a table cannot be read, or has lost a row.
    """
    found = np.empty(len(keys), object)
    for number in np.unique(chosen).tolist():
        rows, directory = np.flatnonzero(chosen == number), doors.captions[number][0]
        table = shards.columns(root, directory, shard, ["key", "caption"])
        there = table["key"].to_numpy()
        places = np.minimum(np.searchsorted(there, keys[rows]), len(there) - 1)
        if (there[places] != keys[rows]).any():
            raise Failed(f"{shards.path(root, directory, shard)} has lost captions since this run looked into it: run the same command again")
        found[rows] = table["caption"].take(pa.array(places)).to_numpy(zero_copy_only=False)
    return found


def choose(seed: int, epoch: int, keys: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A column for each row, in proportion to the row's weights.

    Args:
        seed: of the run.
        epoch: of the run, from 0.
        keys: int64 [n].
        weights: float64 [n T], at least one of each row greater than 0; a column of weight 0 is never drawn.

    Returns:
        Numbers of columns, int16 [n].
    """
    ends = np.cumsum(weights, axis=1)
    marks = uniforms(seed, epoch, keys) * ends[:, -1]
    return np.count_nonzero(marks[:, None] >= ends, axis=1).astype(np.int16)


def uniforms(seed: int, epoch: int, keys: np.ndarray) -> np.ndarray:
    """A number of each key, uniform on [0, 1): float64 [n]. SplitMix64 (Steele et al., OOPSLA 2014), a stage for each of key, seed and epoch."""
    state = _mixed(np.asarray(keys, np.int64).view(np.uint64))
    for word in (seed, epoch):
        state = _mixed(state ^ np.uint64(word % 2**64))
    return (state >> np.uint64(11)) * 2.0**-53


def _mixed(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(GAMMA)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
