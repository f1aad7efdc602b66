"""The training loop: one of it, for one process or many, with or without a cluster.

A step: this rank's slice of the global batch -> captions dropped, latents drawn from their posterior and noised (randomness from seed, step and
key: `draws.py`), text encoded -> each micro-batch's share of the global mean loss, backwards -> clip, AdamW, average. So the numbers do not
depend on how many ranks share the work, beyond rounding; and a run continued on as many ranks as before is the same bit for bit. What is
no number is skipped by all ranks alike. Beside it run two threads: one writes checkpoints (`saving.py`), and on a GPU one makes the next step's
rows (`rows.py`).
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ccray.config import Phase, Recipe, phases_of, total_steps
from ccray.diffusion.generate import generate_latents
from ccray.diffusion.objective import loss_per_row, noise_latents
from ccray.diffusion.schedule import draw_timesteps
from ccray.interfaces import Failed, Latents, Runtime, Tracker
from ccray.models.autoencoder import raw_to_final, sample_raw
from ccray.models.denoiser import parameter_count
from ccray.models.pipeline import Components
from ccray.training import checkpoint, kernels, meter, optimizer, pictures, shard
from ccray.training.checkpoint import Progress
from ccray.training.ema import Ema
from ccray.training.features import Features
from ccray.training.meter import Meter
from ccray.training.pace import Pace
from ccray.training.rows import HostRows, one_ahead, one_by_one, prepare
from ccray.training.saving import Saver
from ccray.training.seen import Seen
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
    weights: dict[str, Tensor] | None  # averaged where the last step was, whole, on the CPU; None on all ranks but the first


def train(recipe: Recipe, runtime: Runtime, data: Latents, components: Components, tracker: Tracker, threads: int | None = None) -> Trained:
    """Train `components.denoiser` in place through all phases, from the newest checkpoint where there is one.

    Args:
        recipe: its train section, and the name of the run.
        runtime: where this rank runs.
        data: this rank's slices of the global batches, of all phases.
        components: the model, of which only the denoiser learns.
        tracker: curves and grids; only the first rank's is used.
        threads: of torch; None = one.

    Raises:
        Failed: when too many steps in a row have a loss or gradient that is no number; when a checkpoint cannot be written, or is damaged,
            or of another recipe.
    """
    with kernels.chosen(recipe.train.deterministic, threads or 1), Saver(runtime) as saver:
        run = _Run(recipe, runtime, data, components, tracker, saver)
        run.restore()
        with closing(run.batches()) as batches:  # type: ignore[type-var]
            for rows in batches:
                run.update(rows)
                run.tell()
        return run.result()


class _Run:
    """The state of one run on one rank."""

    def __init__(self, recipe: Recipe, runtime: Runtime, data: Latents, components: Components, tracker: Tracker, saver: Saver) -> None:
        self.config, self.runtime, self.components, self.tracker, self.saver, self.data = (
            recipe.train,
            runtime,
            components,
            tracker,
            saver,
            data,
        )
        self.phases = phases_of(recipe)
        self.progress = Progress(steps=total_steps(recipe), parameters=parameter_count(components.denoiser), settings=checkpoint.settings_of(recipe))
        self.model = shard.prepare(components.denoiser, self.config, runtime.world_size, runtime.device, recipe.resources.train.sharding)
        self.optimizer = optimizer.build(self.model.parameters(), self.config)
        self.ema = Ema(self.model, self.config.ema_decay)
        self.features = Features(components.text)
        self.seen = Seen()
        self.meter = Meter(runtime.device)
        self.pace = Pace(self.model, runtime, self.config.precision, components.text)
        self.prompts: list[str] = []
        self.dtype = torch.float64 if self.config.precision == "fp64" else torch.float32
        self.norm = torch.zeros(())
        self.warned = False

    def restore(self) -> None:
        """Continue from the newest checkpoint."""
        with self.runtime.latest() as directory:
            if directory is not None:
                self.progress = checkpoint.load(directory, self.model, self.optimizer, self.ema, self.progress.settings)
                if self.runtime.rank == 0:
                    self.seen = checkpoint.load_seen(directory)
        self.meter.restore(self.progress)
        self.pace.start(self.progress)
        self._say("train: %s parameters, from step %d to %d", f"{self.progress.parameters:,}", self.progress.step, self.progress.steps)

    def batches(self) -> Iterator[HostRows]:
        """The rows of every step that is left. Grids are drawn of prompts that are looked up here, once, before anything else reads the data."""
        first = self.progress.step
        if first == self.progress.steps:
            return
        self.prompts = list(self.config.sample_prompts) or self.data.captions(SAMPLES)
        steps, pinned = iter(range(first, self.progress.steps)), torch.device(self.runtime.device).type == "cuda"
        with closing(self.data.batches(first)) as batches:  # type: ignore[type-var]

            def make() -> HostRows | None:
                step = next(steps, None)
                return None if step is None else prepare(next(batches), self.config.seed, step, self.config.caption_dropout, pinned)

            yield from one_ahead(make) if pinned else one_by_one(make)

    @property
    def phase(self) -> Phase:
        """The one that the next update belongs to."""
        return next(phase for phase in self.phases if self.progress.step < phase.end)

    def update(self, rows: HostRows) -> None:
        """One step of the optimizer on one global batch."""
        self._backward(rows)
        self.norm = optimizer.clip(list(self.model.parameters()), self.config.clip_norm)
        made = self.norm.isfinite()
        for group in self.optimizer.param_groups:
            group["lr"] = optimizer.learning_rate(self.progress.step, self.config, self.phase.learning_rate, self.progress.steps)
        if self.phase.averages(self.progress.step):
            self.ema.open()
        else:
            self.ema.close()
        optimizer.step(self.optimizer, made)
        self.optimizer.zero_grad()
        self.ema.update(made)
        self.meter.close(made)
        self._count(rows)

    def tell(self) -> None:
        """Metrics, pictures and checkpoints, each when its step has come."""
        step, last = self.progress.step, self.progress.step == self.progress.steps
        if step % self.config.log_every == 0 or last:
            self._metrics()
        if step % self.config.sample_every == 0 or last:
            self._pictures()
        leaving = step % DEADLINE_STEPS == 0 and self._leaving()
        if step % self.config.checkpoint_every == 0 or last or leaving:
            self._checkpoint()
        if last or leaving:
            self.saver.wait()

    def result(self) -> Trained:
        """The averaged weights, or where nothing was averaged the weights themselves, gathered from all ranks."""
        tensors = self.ema.average or {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        whole = {name: _whole(tensor) for name, tensor in tensors.items()}
        return Trained(self.progress, self.seen.table().num_rows, whole if self.runtime.rank == 0 else None)

    def _backward(self, batch: HostRows) -> None:
        """Gradients of the global mean loss; where this rank's share of it is no number, neither are they, and so every rank hears of it."""
        rows, size, objective = self._rows(batch), len(batch.global_keys), self.components.objective
        pieces = list(self._pieces(batch.rows, size))
        for number, (piece, weight) in enumerate(pieces, 1):
            part = rows.part(piece)
            losses = self._losses(part)
            total = losses.sum()
            share = torch.full_like(total, weight / size).masked_fill(~total.detach().isfinite(), math.nan)
            shard.synchronise(self.model, last=number == len(pieces))
            loss = total * share
            loss.backward()
            if weight:
                self.meter.add(loss.detach(), losses.detach(), part.timesteps.double() / objective.num_train_timesteps)

    def _rows(self, batch: HostRows) -> "_Rows":
        """What the denoiser is asked and should answer, for this rank's rows."""
        features, mask = self.features.of(batch.captions)
        mean, std, posterior, noise = (self._tensor(tensor) for tensor in (batch.mean, batch.std, batch.posterior, batch.noise))
        final = raw_to_final(sample_raw(mean, std, posterior), self.components.autoencoder.scale)
        timesteps = draw_timesteps(batch.time, self.components.objective).to(self.runtime.device)
        return _Rows(final, noise, timesteps, features.to(self.runtime.device, self.dtype), mask.to(self.runtime.device))

    def _tensor(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.runtime.device, non_blocking=True).to(self.dtype)

    def _pieces(self, rows: int, size: int) -> Iterator[tuple[slice, float]]:
        """Micro-batches of a slice of `rows`, as many on every rank because their passes are collectives; an empty one weighs nothing."""
        widest = -(-size // self.runtime.world_size)
        pieces = -(-widest // (self.phase.micro_batch_size or widest))
        for number in range(pieces):
            piece = slice(rows * number // pieces, rows * (number + 1) // pieces)
            yield (piece, 1.0) if piece.stop > piece.start else (slice(0, 1), 0.0)

    def _losses(self, rows: "_Rows") -> Tensor:
        objective = self.components.objective
        noisy = noise_latents(rows.final, rows.noise, rows.timesteps, objective)
        with self._autocast():
            prediction = self.components.predict(noisy, rows.timesteps, rows.features, rows.mask)
        return loss_per_row(prediction.to(self.dtype), rows.final, rows.noise, rows.timesteps, objective)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.runtime.device).type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _count(self, rows: HostRows) -> None:
        self.pace.step(rows)
        self.progress.step += 1
        self.progress.samples += len(rows.global_keys)
        for table, captions in rows.drawn.items():
            self.progress.drawn[table] = self.progress.drawn.get(table, 0) + captions
        if self.runtime.rank == 0:
            self.seen.add(rows.global_keys)

    def _metrics(self) -> None:
        self._share()
        progress, norm = self.progress, float(self.norm)
        losses = meter.losses(progress)
        progress.last_loss = losses.get("loss", progress.last_loss)
        values = {
            **losses,
            **({"grad_norm": norm} if math.isfinite(norm) else {}),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "samples": progress.samples,
            "skipped": progress.skipped,
            **self.pace.since_last(progress),
            **progress.drawn,
        }
        progress.drawn = {}
        if self.runtime.rank == 0:
            self.tracker.scalars(progress.step, values)
        self._say("%s", progress_line(progress.step, progress.steps, values))

    def _share(self) -> None:
        """Bring the record up to date on all ranks, and end the run when too much was skipped."""
        longest, allowed = self.meter.share(self.progress), self.config.max_skipped
        if longest > allowed:
            raise Failed(
                f"{longest} steps in a row up to about step {self.progress.step} had a loss or gradient that is no number and were skipped; "
                f"train.max_skipped allows {allowed}: lower train.learning_rate, set train.clip_norm, or use train.precision=fp32; where the "
                "first checkpoint of it is already astray, delete its directory to go back to the one before"
            )

    def _pictures(self) -> None:
        """A grid at the size that the model is made for, the last phase's, drawn with the averaged weights where there are any.

        All ranks draw, because the weights are gathered from all.
        """
        self.model.eval()
        shard.reshard(self.model)
        with self.ema.applied(), self._autocast():
            latents = generate_latents(self.components, self.prompts, [self.config.seed + number for number in range(len(self.prompts))])
            shard.reshard(self.model)
        self.model.train()
        if self.runtime.rank == 0:
            self.tracker.images(self.progress.step, "samples", pictures.grid(self.components.autoencoder.decode(latents)))

    def _checkpoint(self) -> None:
        self._share()
        self.saver.start(checkpoint.tensors_of(self.model, self.optimizer, self.ema), self.progress, self.seen)
        self.seen = Seen(self.seen)
        self.runtime.report({"step": self.progress.step, "loss": self.progress.last_loss})

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


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()
