"""What each speed switch of a recipe is worth: CommonCanvas-S's training with all of them off, then one after the other on.

Every row runs `training.loop.train` itself on the same pictures, captions, noise and timesteps, and its loss at the end must be the first row's
within 1 %. Random weights in the structure of SD2's UNet and VAE and of OpenCLIP-H: on a CPU narrow ones with the full-size shares of the work,
with --full the real sizes on a CUDA device. Started by torchrun it measures ranks, with one row more, for sharding.

python -m benchmarks.training_ladder [--full] [--compile] [--threads N] [--rows 0,9] [--steps N] [--batch ROWS] [--micro ROWS] [--precision bf16]
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks import random_sd2
from benchmarks.random_sd2 import FULL, Sizes
from ccray.config import Recipe
from ccray.interfaces import LatentBatch
from ccray.models import pipeline
from ccray.models.autoencoder import Autoencoder
from ccray.models.text import TextEncoder
from ccray.training import cost, loop
from ccray.training.local import LocalRuntime

SMALL = Sizes(size_px=64, unet_width=36, head_width=12, vae_width=8, text_width=64, text_layers=3, groups=4)
IMAGES = 26_232_417  # of CommonCatalog-C (Table 4 of the paper): how often a stored latent is used again
PICTURES = 256  # different ones; captions are all different, or the trainer would remember them
WARM_UP = 2  # lines of metrics that are not counted
SWITCHES = ("fused_attention", "low_precision_norms", "channels_last", "compile", "fused_optimizer")


@dataclass(frozen=True)
class Row:
    """A rung: what is on from here on."""

    name: str
    words: tuple[str, ...]
    stored: bool = False
    apart: bool = False  # text features come from elsewhere


def ladder(recipe: Recipe, batch: int, micro: int, ranks: int, compiled: bool) -> list[Row]:
    """All off, then one switch after the other, each on top of those before; the micro-batch comes last, so that all others share one."""
    train = recipe.train
    rungs = [Row("all off", (*(f"train.{name}=false" for name in SWITCHES), f"train.ema_steps={train.steps}", f"train.micro_batch_size={micro}"))]
    rungs.append(replace(rungs[-1], name="stored latents", stored=True))
    rungs.append(replace(rungs[-1], name="text off the trainer", apart=True))
    switches = [(name.replace("_", " "), f"train.{name}=true") for name in SWITCHES if compiled or name != "compile"] + [
        ("EMA window", f"train.ema_steps={train.ema_steps}")
    ]
    if ranks > 1:
        switches.append(("sharding, full to grad-op", "resources.train.sharding=grad-op"))
    for name, word in [*switches, (f"micro-batch {micro} to {batch}", f"train.micro_batch_size={batch}")]:
        rungs.append(replace(rungs[-1], name=name, words=(*rungs[-1].words, word)))
    return rungs


class Pictures:
    """Random pictures with captions, as this rank's slices of global batches; the VAE has run before, or runs now."""

    def __init__(self, vae: Autoencoder, size_px: int, steps: int, batch: int, width: int, rank: int, ranks: int) -> None:
        self.vae, self.steps, self.batch, self.width, self.rank, self.ranks = vae, steps, batch, width, rank, ranks
        self.pixels = np.random.default_rng(0).integers(0, 256, (PICTURES, size_px, size_px, 3), np.uint8)
        self.online = False
        vae.encode(self.pixels[:width])
        began = time.perf_counter()
        self.stored = self._encoded(np.arange(PICTURES))
        self.seconds = (time.perf_counter() - began) / PICTURES  # of the VAE for one picture

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        """So many as are measured; then the run ends on every rank."""
        for step in range(start_step, self.steps):
            every = np.arange(step * self.batch, (step + 1) * self.batch, dtype=np.int64)
            keys = every[self.rank * self.batch // self.ranks : (self.rank + 1) * self.batch // self.ranks]
            rows = keys % PICTURES
            mean, std = self._encoded(rows) if self.online else (self.stored[0][rows], self.stored[1][rows])
            yield LatentBatch(keys, mean, std, [caption(int(key)) for key in keys], every)
        raise Enough

    def captions(self, count: int) -> list[str]:
        return [caption(key) for key in range(count)]

    def _encoded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pieces = [self.vae.encode(self.pixels[rows[start : start + self.width]]) for start in range(0, len(rows), self.width)]
        mean, std = (np.concatenate(side).astype(np.float16) for side in zip(*pieces, strict=True))
        return mean, std


def caption(key: int) -> str:
    """A different one for every key."""
    return f"w{key % 1000} w{key // 1000 % 1000} w{key // 1_000_000}"


class Told:
    """A text encoder's answers, given beforehand: text off the trainer, where it takes no time of it."""

    def __init__(self, encoder: TextEncoder, captions: list[str]) -> None:
        self.width, self.max_tokens, self.layer = encoder.width, encoder.max_tokens, encoder.layer
        encoder.encode(captions[:16])
        began = time.perf_counter()
        pieces = [encoder.encode(captions[start : start + 16]) for start in range(0, len(captions), 16)]
        self.features, self.mask = (torch.cat(side) for side in zip(*pieces, strict=True))
        self.seconds = (float(self.features[-1, 0, 0]) * 0 + time.perf_counter() - began) / len(captions)  # reading a number waits for the device
        self.place = {text: row for row, text in enumerate(captions)}

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor([self.place[text] for text in texts], device=self.features.device)
        return self.features[rows], self.mask[rows]


class Enough(Exception):
    """The steps of a row are done."""


class Clock:
    """A tracker that looks at the clock at every line of metrics."""

    def __init__(self) -> None:
        self.times, self.losses = [time.perf_counter()], list[float]()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.times.append(time.perf_counter())
        self.losses.append(values["loss"])

    def images(self, step: int, name: str, grid: np.ndarray) -> None: ...


@dataclass(frozen=True)
class Measured:
    """One row's seconds a step, and its loss over the last quarter."""

    seconds: float
    loss: float


def measure(row: Row, folder: Path, sizes: Sizes, data: Pictures, told: Told, arguments: argparse.Namespace, device: str) -> Measured:
    recipe = random_sd2.recipe(folder, sizes, arguments.precision, (*base_words(arguments), *row.words))
    components = pipeline.from_recipe(recipe, device=device)
    data.online = not row.stored
    data.width = recipe.train.micro_batch_size or arguments.batch
    if row.apart:
        components.text = told  # type: ignore[assignment]
    clock = Clock()
    with tempfile.TemporaryDirectory() as place, suppress(Enough):
        loop.train(recipe, LocalRuntime(Path(place) / "run", device), data, components, clock, arguments.threads)
    if _rank():
        return Measured(float("nan"), float("nan"))  # only the first rank is told of metrics
    lengths = np.diff(clock.times)[WARM_UP:]
    return Measured(statistics.median(lengths) / recipe.train.log_every, statistics.mean(clock.losses[-(len(clock.losses) // 4) :]))


def base_words(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The same in every row: the rate rises soon enough for the loss to move."""
    lines = max(arguments.steps // 10, 1)
    return ("train.deterministic=false", f"train.global_batch_size={arguments.batch}", "train.warmup_steps=10", f"train.log_every={lines}")


def main() -> None:
    arguments = _arguments()
    logging.getLogger("ccray").setLevel(logging.ERROR)
    ranks, device = _ranks(arguments.full)
    torch.set_num_threads(arguments.threads)
    sizes = FULL if arguments.full else random_sd2.scaled(SMALL)
    flops, full_shares, shares = sizes.training_flops(), FULL.shares(), sizes.shares()
    _say(f"VAE : text : denoiser at full size {full_shares[0]:.3f} : {full_shares[1]:.3f} : 1, here {shares[0]:.3f} : {shares[1]:.3f} : 1")
    _say(f"{flops / 1e9:.3g} GFLOP a training sample; from FLOPs alone, latents and text off the step are {1 + sum(shares):.2f}x")
    assert all(abs(here / there - 1) <= 0.25 for here, there in zip(shares, full_shares, strict=True)), "shares of the work differ by over 25 %"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_sd2.write(folder, sizes)
        recipe = random_sd2.recipe(folder, sizes, arguments.precision)
        components = pipeline.from_recipe(recipe, device=device)
        data = Pictures(components.autoencoder, sizes.size_px, arguments.steps, arguments.batch, arguments.micro, _rank(), ranks)
        told = Told(components.text, ["", *(caption(key) for key in range((arguments.steps + 2) * arguments.batch))])
        rows = ladder(recipe, arguments.batch, arguments.micro, ranks, arguments.full or arguments.compile)
        wanted = [rows[number] for number in arguments.rows or range(len(rows))]
        found = [(row, measure(row, folder, sizes, data, told, arguments, device)) for row in wanted]
    if _rank() == 0:
        _table(found, flops, arguments, device, ranks)
    if _rank() == 0 and not arguments.rows:
        print(json.dumps(_answer(found, recipe, data.seconds, told.seconds, arguments, device, ranks)))


def _table(found: list[tuple[Row, Measured]], flops: float, arguments: argparse.Namespace, device: str, ranks: int) -> None:
    peak = cost.peak_flops_per_second(device, arguments.precision)
    first = found[0][1]
    _say("| switch, on top of those above | ms a step | samples/s | x | of peak | loss ÷ first row's |\n|---|---|---|---|---|---|")
    for row, measured in found:
        rate = arguments.batch / measured.seconds
        share = f"{rate * flops / (peak * ranks):.1%}" if peak else "-"
        times = first.seconds / measured.seconds
        _say(f"| {row.name} | {1000 * measured.seconds:.1f} | {rate:.1f} | {times:.2f} | {share} | {measured.loss / first.loss:.4f} |")
    if peak:
        _say(f"floor from FLOPs alone: {peak * ranks / flops:.0f} samples/s at the device's peak")
    worst = max(abs(measured.loss / first.loss - 1) for _, measured in found)
    assert worst <= 0.01, f"losses after {arguments.steps} steps differ by {worst:.2%}: the rows did not do the same work"


def _answer(
    found: list[tuple[Row, Measured]], recipe: Recipe, vae: float, text: float, arguments: argparse.Namespace, device: str, ranks: int
) -> dict[str, str]:
    """Two totals, both at one micro-batch. Net: a step, the average's cost in its share of the steps, the VAE's once for all epochs, and the text
    encoder's in full, for it reads every caption anew wherever it runs."""
    off, on, last = found[0][1].seconds, found[-2][1].seconds, found[-1][1].seconds
    before_window = next(number for number, (row, _) in enumerate(found) if row.name == "EMA window") - 1
    average = max(found[before_window][1].seconds - found[before_window + 1][1].seconds, 0.0)
    train = recipe.train
    epochs = train.steps * train.global_batch_size / IMAGES
    window = (train.ema_steps or train.steps) / train.steps
    net = on + window * average + arguments.batch / ranks * (vae / epochs + text)
    kind = f"{device}, full SD2" if arguments.full else f"CPU, scaled SD2 in {arguments.precision}"
    return {
        "what": f"training step, all switches off ÷ on, one micro-batch ({kind})",
        "ours": f"{1000 * on:.0f} ms; net of pre-computation {1000 * net:.0f}; micro-batch {arguments.batch}: {1000 * last:.0f}",
        "other": f"{1000 * off:.0f} ms a step of {arguments.batch}, all off",
        "figure": f"{off / on:.2f} step only, {off / net:.2f} net, {off / last:.2f} with the larger micro-batch",
        "goal": "≥ 4 on an H200 at full size; none on a CPU",
        "how": f"{len(found)} rows of {arguments.steps} steps, median of lines of metrics, {ranks} rank(s), {arguments.threads} thread(s); losses within 1 %",
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--full", action="store_true", help="the real sizes, on CUDA")
    words.add_argument("--compile", action="store_true", help="also on a CPU, where it takes minutes before the first step")
    words.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch")
    words.add_argument("--rows", type=lambda text: [int(number) for number in text.split(",")], help="only these, from 0")
    words.add_argument("--steps", type=int, help="of a row")
    words.add_argument("--batch", type=int, help="global batch, and the larger micro-batch")
    words.add_argument("--micro", type=int, help="micro-batch of all rows but the last")
    words.add_argument("--precision", choices=["bf16", "fp32"])
    return words


def _arguments() -> argparse.Namespace:
    arguments = parser().parse_args()
    defaults = {"steps": 200, "batch": 256, "micro": 64} if arguments.full else {"steps": 20, "batch": 8, "micro": 4}
    native = arguments.full or torch.cpu._is_avx512_bf16_supported()  # elsewhere a CPU only imitates bf16, slower than fp32
    for name, value in {**defaults, "precision": "bf16" if native else "fp32"}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def _ranks(full: bool) -> tuple[int, str]:
    """How many there are, and this one's device."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        dist.init_process_group("nccl" if full else "gloo")
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if full else "cpu"
    if full:
        torch.cuda.set_device(device)
    return ranks, device


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _say(line: str) -> None:
    if _rank() == 0:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
