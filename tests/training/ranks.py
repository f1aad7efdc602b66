"""Runs on some ranks of a gloo group, outside Ray: `jobs` one after another in the same processes."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ccray.config import Recipe
from ccray.interfaces import Failed
from tests.training.datasets import Around, Killed, Poisoned
from tests.training.tables import Place


@dataclass(frozen=True)
class Job:
    """One call of `Place.train`; rank 0 keeps the weights in `<name>.pt`, and every rank the reason of a `Failed` in `<name>-<rank>.txt`."""

    recipe: Recipe
    name: str
    until: int | None = None
    poisoned: frozenset[int] = frozenset()  # steps
    killed: int | None = None  # the step at which the last rank kills itself


def run(place: Place, world_size: int, jobs: list[Job]) -> None:
    """Do all jobs; an error on any rank ends all and is raised here."""
    (place.path / "meeting").unlink(missing_ok=True)
    mp.spawn(_rank, (world_size, place, jobs), nprocs=world_size)


def weights(place: Place, name: str) -> dict[str, torch.Tensor]:
    """What rank 0 kept."""
    kept: dict[str, torch.Tensor] = torch.load(_kept(place.path, name), weights_only=True)
    return kept


def keep(place: Place, name: str, kept: dict[str, torch.Tensor]) -> None:
    torch.save(kept, _kept(place.path, name))


def _kept(path: Path, name: str) -> Path:
    return path / f"{name}.pt"


def _rank(rank: int, world_size: int, place: Place, jobs: list[Job]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place.path}/meeting", rank=rank, world_size=world_size)
    for job in jobs:
        try:
            trained = place.train(job.recipe, job.name, job.until, around=around(job, last=rank == world_size - 1))
        except Failed as failure:
            (place.path / f"{job.name}-{rank}.txt").write_text(str(failure))
            continue
        if trained is not None and trained.weights is not None:
            keep(place, job.name, trained.weights)
    dist.destroy_process_group()


def around(job: Job, last: bool = False) -> Around | None:
    """What a job asks to have put around the data."""
    if job.killed is not None and last:
        return partial(Killed, at=job.killed)
    return partial(Poisoned, steps=job.poisoned) if job.poisoned else None
