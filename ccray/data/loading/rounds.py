"""Which rows each epoch of a training run is made of, decided once for all ranks and restarts.

Takedowns apply from the next epoch on, so an epoch's rows cannot be counted before it begins; and ranks come to its beginning at different
moments. So whoever is there first looks into `takedowns/`, counts, and writes the decision down by a conditional create; all others, and
every restart, read it: `checkpoints/<name>/rounds/00003.json`. A *round* is an epoch; short epochs are taken together, so that small data do not
mean a file for every few steps.

A run that is continued after something was taken down does not go on with its epoch: `continued` begins the next round at the checkpoint's step.
That also holds when rows were purged, without which the begun epoch could not be put together again. Otherwise a continued run makes the very
same batches: membership of step k follows from the settings, the tables and these files.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ccray import storage, takedowns
from ccray.data.loading.eligible import Doors, admitted, contains, facts_of, mixed
from ccray.interfaces import Failed
from ccray.storage import Root

READERS = 16  # shards counted at the same time; each is one wait on the store
ROUND_STEPS = 32  # a round is as many epochs as make so many steps


@dataclass(frozen=True)
class Index:
    """How many rows of each shard are trained on, without what some files of takedowns name."""

    rows: dict[int, int]  # shard -> rows
    takedowns: tuple[str, ...]  # names of the files that applied

    @property
    def total(self) -> int:
        return sum(self.rows.values())


@dataclass(frozen=True)
class Round:
    """Some epochs of one selection of rows."""

    number: int
    first_step: int
    first_epoch: int
    index: Index
    cut: bool = False  # begun where a run was continued, not where the round before it ends

    def steps_per_epoch(self, batch_size: int) -> int:
        return -(-self.index.total // batch_size)

    def epochs(self, batch_size: int) -> int:
        return -(-ROUND_STEPS // self.steps_per_epoch(batch_size))

    def end(self, batch_size: int) -> int:
        """The first step that is not in it any more."""
        return self.first_step + self.epochs(batch_size) * self.steps_per_epoch(batch_size)

    def after(self, batch_size: int) -> "Round":
        """The round that follows, of the same rows."""
        return Round(self.number + 1, self.end(batch_size), self.first_epoch + self.epochs(batch_size), self.index)


def index(root: Root, doors: Doors, names: tuple[str, ...] | None = None) -> Index:
    """Count the rows that may be trained on: with a latent and a caption, of the train split, permitted, not taken down.

    Args:
        root: where the tables lie.
        doors: the tables, and who may pass.
        names: files of takedowns that apply; all that there are by default.

    Raises:
        Failed: when there is none, with what was asked of them.
    """
    names = takedowns.files(root) if names is None else names
    found = _count(root, doors, names)
    if not found.total:
        shards, tables = len(storage.sealed_shards(root, doors.latents)), ", ".join(directory for directory, _ in doors.captions)
        raise Failed(
            f"no image is left to train on: {root.path(doors.latents)} has {shards} shards, but no row of them has a latent, a caption in "
            f"{tables} with status {' or '.join(doors.statuses)} (train.caption_statuses), a licence that policy {doors.policy} permits, and is in "
            "the train split and not taken down"
        )
    return found


def _count(root: Root, doors: Doors, names: tuple[str, ...]) -> Index:
    gone, facts = gone_keys(root, names), facts_of(root, doors)
    shards = storage.sealed_shards(root, doors.latents)

    def count(shard: int) -> tuple[int, tuple[int, ...]]:
        keys, found = admitted(root, doors, shard, facts)
        return int(np.count_nonzero(found.described().any(axis=1) & ~contains(gone, keys))), found.shape

    with ThreadPoolExecutor(READERS) as pool:
        counted = {shard: found for shard, found in zip(shards, pool.map(count, shards), strict=True) if found[0]}
    shapes: dict[tuple[int, ...], int] = {}
    for shard, (_, shape) in counted.items():
        if shape not in shapes and len(shapes) == 1:
            raise Failed(mixed(root, doors, {shape: shard} | shapes))
        shapes.setdefault(shape, shard)
    return Index({shard: rows for shard, (rows, _) in counted.items()}, names)


def gone_keys(root: Root, names: tuple[str, ...]) -> np.ndarray:
    """Keys that some files of takedowns name: int64, ascending."""
    return np.sort(takedowns.load(root, names).keys.to_numpy())


class Rounds:
    """The rounds of one run, in order."""

    def __init__(self, root: Root, doors: Doors, counted: Index, batch_size: int, directory: str | None = None) -> None:
        """Args:
        root: where tables and record lie.
        doors: the tables, and who may pass.
        counted: the rows of the first round, when none is recorded.
        batch_size: images of a global batch.
        directory: of the record; without one every round is like the first, and nothing is looked up or written.
        """
        self._root, self._doors, self._counted, self._batch_size, self._directory = root, doors, counted, batch_size, directory

    def at(self, step: int) -> Round:
        """The round that a step is in, deciding those that are not decided yet."""
        found = Round(0, 0, 0, self._counted)
        for one in read(self._root, self._directory, self._batch_size) if self._directory else []:
            if one.first_step > step:
                break
            found = one
        while found.end(self._batch_size) <= step:
            found = self.after(found)
        return found

    def after(self, before: Round) -> Round:
        """The round that follows one.

        Raises:
            Failed: when another run of the same name decides otherwise, or no row is left.
        """
        following = before.after(self._batch_size)
        if self._directory is None:
            return following
        path = _path(self._directory, following.number)
        if not self._root.exists(path):
            self._root.create(path, _bytes(self._recounted(following)))
        found = _round(self._root.read_json(path))
        if (found.first_step, found.first_epoch) != (following.first_step, following.first_epoch):
            raise Failed(f"{self._root.path(path)} begins at step {found.first_step}, expected {following.first_step}: run the same command again")
        return found

    def _recounted(self, one: Round) -> Round:
        names = takedowns.files(self._root)
        return one if names == one.index.takedowns else replace(one, index=index(self._root, self._doors, names))


def continued(root: Root, doors: Doors, directory: str, batch_size: int, step: int) -> Index:
    """Make a run's record fit what is there now, before its ranks start; the rows of the round that `step` is in. Call it under the run's lease.

    A run without a record begins one. A run that is continued keeps its record while the takedowns are those of its last round and no row of
    the round that `step` is in has gone; else a new round begins at `step`.

    Raises:
        Failed: when no row is left to train on.
    """
    now, rounds = index(root, doors), read(root, directory, batch_size)
    begun = [one for one in rounds if one.first_step <= step]
    if begun and rounds[-1].index.takedowns == now.takedowns and begun[-1].index in (now, _count(root, doors, begun[-1].index.takedowns)):
        return begun[-1].index
    kept = [one for one in begun if one.first_step < step]
    for path in root.files(directory):
        if path not in [_path(directory, one.number) for one in kept]:
            root.delete(path)
    last = kept[-1] if kept else None
    fresh = Round(0, 0, 0, now) if last is None else Round(last.number + 1, step, last.first_epoch + last.epochs(batch_size), now, cut=True)
    root.write(_path(directory, fresh.number), _bytes(fresh))
    return now


def read(root: Root, directory: str, batch_size: int) -> list[Round]:
    """The rounds that are decided, in order, up to the first that does not follow from the one before it."""
    found: list[Round] = []
    for path in [path for path in root.files(directory) if path.endswith(".json") and "/." not in path]:
        one = _round(root.read_json(path))
        if one.number != len(found) or (found and not one.cut and found[-1].end(batch_size) != one.first_step):
            break
        found.append(one)
    return found


def _path(directory: str, number: int) -> str:
    return f"{directory}/{number:05d}.json"


def _bytes(one: Round) -> bytes:
    return (json.dumps(asdict(one)) + "\n").encode()


def _round(values: dict[str, Any]) -> Round:
    counted = values["index"]
    rows = {int(shard): rows for shard, rows in counted["rows"].items()}
    return Round(values["number"], values["first_step"], values["first_epoch"], Index(rows, tuple(counted["takedowns"])), values["cut"])
