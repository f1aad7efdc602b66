"""What the average of the weights costs a training step on two ranks: steps with and without it in alternation, and the time inside it."""

import json
import logging
import os
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks import random_sd2
from benchmarks.training_ladder import SMALL, Clock, Enough, Pictures, base_words, parser
from ccray.models import pipeline
from ccray.training import loop
from ccray.training.ema import Ema
from ccray.training.local import LocalRuntime

RANKS, ROUNDS = 2, 3
STEPS, BATCH = 6, 32
SIZES = replace(SMALL, size_px=128)  # a step of either rank computes less for each weight than one of CommonCanvas-S's 128 ranks does (10,000 FLOP)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        random_sd2.write(Path(name), SIZES)
        mp.spawn(_rank, (Path(name),), nprocs=RANKS)
        print((Path(name) / "answer.json").read_text())


def _rank(rank: int, folder: Path) -> None:
    logging.getLogger("ccray").setLevel(logging.ERROR)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    vae = pipeline.from_recipe(random_sd2.recipe(folder, SIZES, "fp32")).autoencoder
    data = Pictures(vae, SIZES.size_px, STEPS, BATCH, BATCH // RANKS, rank, RANKS)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    inside = Inside()
    for _ in range(ROUNDS):
        for averaged in seconds:
            seconds[averaged] += _steps(folder, data, averaged)
    if rank == 0:
        (folder / "answer.json").write_text(json.dumps(_answer(seconds, inside)))
    dist.destroy_process_group()


class Inside:
    """Seconds in each `Ema.update` that averages, from now on."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        update = Ema.update

        def timed(ema: Ema, made: torch.Tensor) -> None:
            began = time.perf_counter()
            update(ema, made)
            if ema.average:
                self.seconds.append(time.perf_counter() - began)

        Ema.update = timed  # type: ignore[method-assign]


def _steps(folder: Path, data: Pictures, averaged: bool) -> list[float]:
    """Seconds of each step but the first two."""
    arguments = parser().parse_args(["--steps", str(STEPS), "--batch", str(BATCH)])
    words = (*base_words(arguments), "train.log_every=1", "train.micro_batch_size=null", f"train.ema_steps={'null' if averaged else 0}")
    recipe = random_sd2.recipe(folder, SIZES, "fp32", words)
    clock = Clock()
    with tempfile.TemporaryDirectory() as place, suppress(Enough):
        loop.train(recipe, LocalRuntime(Path(place) / "run"), data, pipeline.from_recipe(recipe), clock, 1)
    return [after - before for before, after in zip(clock.times[2:], clock.times[3:], strict=False)]


def _answer(seconds: dict[bool, list[float]], inside: Inside) -> dict[str, str]:
    on, off = (statistics.median(seconds[side]) for side in (True, False))
    share = statistics.median(inside.seconds) / on
    return {
        "what": f"the average's cost in a training step, {RANKS} ranks",
        "ours": f"{1000 * on:.1f} ms a step, averaged",
        "other": f"{1000 * off:.1f} ms a step, not averaged",
        "figure": f"{share:.2%} of the step is spent in it; on ÷ off {on / off:.3f}",
        "goal": "≤ 1 %",
        "how": f"median of {len(seconds[True])} steps of {BATCH} each way, in {ROUNDS} alternations; gloo, full shard, scaled SD2 UNet, 1 thread a rank",
    }


if __name__ == "__main__":
    main()
