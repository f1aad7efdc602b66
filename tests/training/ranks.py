"""Runs on two ranks of a gloo group, outside Ray: `jobs` one after another in the same two processes."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ccray.config import Recipe
from tests.training.tables import Place

WORLD = 2


@dataclass(frozen=True)
class Job:
    """One call of `Place.train`; rank 0 keeps the averaged weights in `<name>.pt`."""

    recipe: Recipe
    name: str
    until: int | None = None


def run(place: Place, jobs: list[Job]) -> None:
    """Do all jobs; an error on any rank ends all and is raised here."""
    mp.spawn(_rank, (place, jobs), nprocs=WORLD)


def weights(place: Place, name: str) -> dict[str, torch.Tensor]:
    """What rank 0 kept."""
    kept: dict[str, torch.Tensor] = torch.load(_kept(place.path, name), weights_only=True)
    return kept


def _kept(path: Path, name: str) -> Path:
    return path / f"{name}.pt"


def _rank(rank: int, place: Place, jobs: list[Job]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place.path}/meeting", rank=rank, world_size=WORLD)
    for job in jobs:
        trained = place.train(job.recipe, job.name, job.until)
        if trained is not None and trained.weights is not None:
            torch.save(trained.weights, _kept(place.path, job.name))
    dist.destroy_process_group()
