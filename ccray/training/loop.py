"""The training loop: one of it, for one process or many, with or without a cluster.

A step: this rank's slice of the global batch -> captions dropped, text encoded, latents drawn from their posterior and noised (randomness from
seed, step and key: `draws.py`) -> each micro-batch's share of the global mean loss, backwards -> clip, AdamW, average. So the numbers do not
depend on how many ranks share the work, beyond rounding; and a run continued on as many ranks as before is the same bit for bit.
"""

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ccray.config import Phase, Recipe, phases_of, total_steps
from ccray.diffusion.generate import generate_latents
from ccray.diffusion.objective import loss_per_row, noise_latents
from ccray.diffusion.schedule import draw_timesteps
from ccray.interfaces import Failed, LatentBatch, Latents, Runtime, Tracker
from ccray.models.autoencoder import raw_to_final, sample_raw
from ccray.models.denoiser import parameter_count
from ccray.models.pipeline import Components
from ccray.training import checkpoint, optimizer, shard
from ccray.training.checkpoint import Progress, Seen
from ccray.training.draws import draw
from ccray.training.ema import Ema
from ccray.training.features import Features
from ccray.training.tracking import progress_line

log = logging.getLogger(__name__)
DEADLINE_STEPS = 10  # how often to ask whether the machine goes away: a collective of all ranks
DEADLINE_SECONDS = 30  # the last checkpoint before a deadline is begun this long before it
SAMPLES = 8  # pictures of a grid when the recipe names no prompts


@dataclass(frozen=True)
class Trained:
    """What a finished run leaves."""

    progress: Progress
    images_seen: int  # different ones
    weights: dict[str, Tensor] | None  # averaged, whole, on the CPU; None on all ranks but the first


def train(recipe: Recipe, runtime: Runtime, data: Latents, components: Components, tracker: Tracker, threads: int | None = None) -> Trained:
    """Train `components.denoiser` in place through all phases, from the newest checkpoint where there is one.

    Args:
        recipe: its train section, and the name of the run.
        runtime: where this rank runs.
        data: this rank's slices of the global batches.
        components: the model, of which only the denoiser learns.
        tracker: curves and grids; only the first rank's is used.
        threads: of torch; None = one. Fixed, because a sum's bits change with the number of threads.

    Raises:
        Failed: when the loss is not a number any more.
    """
    with _deterministic(threads or 1):
        run = _Run(recipe, runtime, data, components, tracker)
        run.restore()
        with closing(data.batches(run.progress.step)) as batches:  # type: ignore[type-var]
            while run.progress.step < run.progress.steps:
                run.update(next(batches))
                run.tell()
        return run.result()


class _Run:
    """The state of one run on one rank."""

    def __init__(self, recipe: Recipe, runtime: Runtime, data: Latents, components: Components, tracker: Tracker) -> None:
        self.config, self.runtime, self.components, self.tracker, self.data = recipe.train, runtime, components, tracker, data
        parameters = parameter_count(components.denoiser)
        self.model = shard.prepare(components.denoiser, self.config, runtime.world_size, runtime.device)
        self.optimizer = optimizer.build(self.model.parameters(), self.config)
        self.ema = Ema(self.model, self.config.ema_decay)
        self.features = Features(components.text)
        self.phases = phases_of(recipe)
        self.progress = Progress(steps=total_steps(recipe), parameters=parameters)
        self.seen = Seen()
        self.dtype = torch.float64 if self.config.precision == "fp64" else torch.float32
        self.loss = torch.zeros((), dtype=torch.float64, device=runtime.device)  # of this rank, since the last `_share_loss`
        self.norm = torch.zeros(())
        self.warned = False
        self.clock, self.clock_samples = time.monotonic(), 0

    def restore(self) -> None:
        """Continue from the newest checkpoint."""
        with self.runtime.latest() as directory:
            if directory is not None:
                self.progress = checkpoint.load(directory, self.model, self.optimizer, self.ema)
                if self.runtime.rank == 0:
                    self.seen = Seen.read(directory)
        self.clock_samples = self.progress.samples
        self._say("train: %s parameters, from step %d to %d", f"{self.progress.parameters:,}", self.progress.step, self.progress.steps)

    @property
    def phase(self) -> Phase:
        """The one that the next update belongs to."""
        return next(phase for phase in self.phases if self.progress.step < phase.end)

    def update(self, batch: LatentBatch) -> None:
        """One step of the optimizer on one global batch."""
        rows = self._rows(batch)
        size = len(batch.global_keys)
        for piece, weight in self._pieces(len(batch.keys), size):
            loss = self._losses(rows.part(piece)).sum() * (weight / size)
            loss.backward()
            self.loss += loss.detach()
        parameters = list(self.model.parameters())
        self.norm = optimizer.clip(parameters, self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = optimizer.learning_rate(self.progress.step, self.config, self.phase.learning_rate, self.progress.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.phase.averages(self.progress.step))
        self.progress.step += 1
        self.progress.samples += size
        self.progress.loss_steps += 1
        for table, count in batch.drawn.items():
            self.progress.drawn[table] = self.progress.drawn.get(table, 0) + count
        if self.runtime.rank == 0:
            self.seen.add(batch.global_keys)

    def tell(self) -> None:
        """Metrics, pictures and checkpoints, each when its step has come."""
        step, last = self.progress.step, self.progress.step == self.progress.steps
        if step % self.config.log_every == 0 or last:
            self._metrics()
        if step % self.config.sample_every == 0 or last:
            self._pictures()
        if step % self.config.checkpoint_every == 0 or last or (step % DEADLINE_STEPS == 0 and self._leaving()):
            self._checkpoint()

    def result(self) -> Trained:
        """The averaged weights, gathered from all ranks."""
        whole = {name: _whole(tensor) for name, tensor in self.ema.average.items()}
        return Trained(self.progress, self.seen.table().num_rows, whole if self.runtime.rank == 0 else None)

    def _rows(self, batch: LatentBatch) -> "_Rows":
        """What the denoiser is asked and should answer, for this rank's rows; an empty slice gets one row, which will weigh nothing."""
        if not len(batch.keys):
            batch = _blank(batch)
        draws = draw(self.config.seed, self.progress.step, batch.keys, batch.latent_mean.shape[1:])
        dropped = draws.dropout < self.config.caption_dropout
        features, mask = self.features.of(["" if drop else caption for drop, caption in zip(dropped, batch.captions, strict=True)])
        mean, std, posterior, noise = (self._tensor(array) for array in (batch.latent_mean, batch.latent_std, draws.posterior, draws.noise))
        final = raw_to_final(sample_raw(mean, std, posterior), self.components.autoencoder.scale)
        timesteps = draw_timesteps(torch.from_numpy(draws.time), self.components.objective).to(self.runtime.device)
        return _Rows(final, noise, timesteps, features.to(self.runtime.device, self.dtype), mask.to(self.runtime.device))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.runtime.device).to(self.dtype)

    def _pieces(self, rows: int, size: int) -> Iterator[tuple[slice, float]]:
        """Micro-batches of a slice of `rows`, as many on every rank because their passes are collectives; an empty one weighs nothing."""
        widest = -(-size // self.runtime.world_size)
        count = -(-widest // (self.phase.micro_batch_size or widest))
        for number in range(count):
            piece = slice(rows * number // count, rows * (number + 1) // count)
            yield (piece, 1.0) if piece.stop > piece.start else (slice(0, 1), 0.0)

    def _losses(self, rows: "_Rows") -> Tensor:
        objective = self.components.objective
        noisy = noise_latents(rows.final, rows.noise, rows.timesteps, objective)
        with self._autocast():
            prediction = self.components.predict(noisy, rows.timesteps, rows.features, rows.mask)
        return loss_per_row(prediction.to(self.dtype), rows.final, rows.noise, rows.timesteps, objective)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.runtime.device).type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _metrics(self) -> None:
        self._share_loss()
        progress, now = self.progress, time.monotonic()
        progress.last_loss = progress.loss_sum / progress.loss_steps
        progress.loss_sum, progress.loss_steps = 0.0, 0
        if not math.isfinite(progress.last_loss):
            raise Failed(f"the loss is {progress.last_loss} at step {progress.step}: lower train.learning_rate, or set train.clip_norm")
        rate = (progress.samples - self.clock_samples) / max(now - self.clock, 1e-9)
        self.clock, self.clock_samples = now, progress.samples
        values = {
            "loss": progress.last_loss,
            "grad_norm": float(self.norm),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "samples": progress.samples,
            "samples_per_second": rate,
            **progress.drawn,
        }
        progress.drawn = {}
        if self.runtime.rank == 0:
            self.tracker.scalars(progress.step, values)
        self._say("%s", progress_line(progress.step, progress.steps, values))

    def _pictures(self) -> None:
        """A grid drawn with the averaged weights; all ranks draw, because the weights are gathered from all."""
        prompts = list(self.config.sample_prompts) or self.data.captions(SAMPLES)
        self.model.eval()
        shard.reshard(self.model)
        with self.ema.applied(), self._autocast():
            latents = generate_latents(self.components, prompts, [self.config.seed + number for number in range(len(prompts))])
            shard.reshard(self.model)
        self.model.train()
        if self.runtime.rank == 0:
            self.tracker.images(self.progress.step, "samples", _grid(self.components.autoencoder.decode(latents)))

    def _checkpoint(self) -> None:
        self._share_loss()
        directory = Path(tempfile.mkdtemp(prefix="ccray-checkpoint-"))
        checkpoint.save(directory, self.model, self.optimizer, self.ema)
        if self.runtime.rank == 0:
            checkpoint.save_record(directory, self.progress, self.seen)
        self.runtime.put(self.progress.step, directory)
        self._wait()
        if self.runtime.rank == 0:
            self.runtime.publish(self.progress.step)
        self._wait()
        self.runtime.report({"step": self.progress.step, "loss": self.progress.last_loss})
        self._say("train: checkpoint of step %d", self.progress.step)

    def _wait(self) -> None:
        if self.runtime.world_size > 1:
            dist.barrier()

    def _share_loss(self) -> None:
        """Add what all ranks' losses have come to since the last time to the record; a collective."""
        if self.runtime.world_size > 1:
            dist.all_reduce(self.loss)
        self.progress.loss_sum += float(self.loss)
        self.loss.zero_()

    def _leaving(self) -> bool:
        """Whether to save now because this machine goes away: when that is first heard, and once more shortly before."""
        deadline = self.runtime.deadline()
        if deadline is None:
            self.warned = False
            return False
        due = torch.tensor(float(not self.warned or time.time() > deadline - DEADLINE_SECONDS), device=self.runtime.device)
        self.warned = True
        if self.runtime.world_size > 1:
            dist.broadcast(due, 0)  # clocks differ
        return bool(due)

    def _say(self, message: str, *values: object) -> None:
        if self.runtime.rank == 0:
            log.info(message, *values)


@dataclass(frozen=True)
class _Rows:
    """Final latents, noise [b C h w], timesteps [b], features [b T W], mask [b T]."""

    final: Tensor
    noise: Tensor
    timesteps: Tensor
    features: Tensor
    mask: Tensor

    def part(self, rows: slice) -> "_Rows":
        return _Rows(self.final[rows], self.noise[rows], self.timesteps[rows], self.features[rows], self.mask[rows])


def _blank(batch: LatentBatch) -> LatentBatch:
    """One row of nothing in the shape of a batch's rows."""
    latent = np.zeros((1, *batch.latent_mean.shape[1:]), batch.latent_mean.dtype)
    return LatentBatch(np.zeros(1, np.int64), latent, latent, [""], batch.global_keys)


@contextmanager
def _deterministic(threads: int) -> Iterator[None]:
    """Fixed threads and deterministic kernels inside; as before outside."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS to be deterministic
    memory: Any = torch.utils.deterministic  # filling new memory costs time, and only helps to find reads of what was never written
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        memory.fill_uninitialized_memory = before[2]


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def _grid(pictures: np.ndarray) -> np.ndarray:
    """N H W 3 side by side, about as many columns as rows: H' W' 3."""
    columns = math.ceil(math.sqrt(len(pictures)))
    spare = -len(pictures) % columns
    padded = np.concatenate([pictures, np.full((spare, *pictures.shape[1:]), 255, np.uint8)])
    rows, (height, width) = len(padded) // columns, pictures.shape[1:3]
    return padded.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
