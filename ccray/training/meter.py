"""What the steps since the last line of metrics have come to. It is counted on the device, so that no step waits for it."""

import torch
import torch.distributed as dist
from torch import Tensor

from ccray.training.checkpoint import Progress

BANDS = ("loss_0_25", "loss_25_50", "loss_50_75", "loss_75_100")  # per cent of the way from data to noise, by timestep


class Meter:
    """Loss, loss by band of timesteps, and steps that were skipped, of one rank."""

    def __init__(self, device: str) -> None:
        self._sums = torch.zeros(1 + 2 * len(BANDS), dtype=torch.float64, device=device)  # loss; rows' losses by band; rows by band
        self._step = torch.zeros_like(self._sums)
        self._bands = torch.arange(len(BANDS), device=device)[:, None]
        # Steps that were made, skipped, skipped in a row up to now, and the longest such row since the last sharing.
        self._made, self._skipped, self._row, self._longest = torch.zeros(4, dtype=torch.int64, device=device)

    def restore(self, progress: Progress) -> None:
        """Go on from a checkpoint."""
        self._row.fill_(progress.skipped_in_a_row)

    @torch.no_grad()
    def add(self, loss: Tensor, losses: Tensor, level: Tensor) -> None:
        """One micro-batch.

        Args:
            loss: its share of the global mean, a scalar.
            losses: of its rows that count, [b].
            level: of the same rows, their timesteps as a share of all, 0 to 1.
        """
        hits = (level * len(BANDS)).long().clamp(max=len(BANDS) - 1) == self._bands
        self._step[0] += loss
        self._step[1:] += torch.cat([torch.where(hits, losses.double(), 0).sum(dim=1), hits.sum(dim=1)])

    @torch.no_grad()
    def close(self, made: Tensor) -> None:
        """The end of a step; where `made` (bool scalar) is false it leaves no trace but in the number of skipped ones."""
        self._sums += torch.where(made, self._step, 0)
        self._step.zero_()
        self._made += made
        self._skipped += ~made
        self._row.add_(1).mul_(~made)
        torch.maximum(self._longest, self._row, out=self._longest)

    def share(self, progress: Progress) -> int:
        """Add what all ranks counted since the last sharing to the record; a collective. The longest row of skipped steps since then."""
        if dist.is_initialized():
            dist.all_reduce(self._sums)
        sums = self._sums.tolist()
        made, skipped, progress.skipped_in_a_row, longest = torch.stack([self._made, self._skipped, self._row, self._longest]).tolist()
        progress.sums = [before + now for before, now in zip(progress.sums or [0.0] * len(sums), sums, strict=True)]
        progress.loss_steps += made
        progress.skipped += skipped
        for tensor in (self._sums, self._made, self._skipped, self._longest):
            tensor.zero_()
        return int(longest)


def losses(progress: Progress) -> dict[str, float]:
    """Mean losses over the steps since the last line of metrics, of the bands that were visited, and their record begun anew; empty when all were skipped."""
    total, *bands = progress.sums
    found = {"loss": total / progress.loss_steps} if progress.loss_steps else {}
    for name, loss, rows in zip(BANDS, bands[: len(BANDS)], bands[len(BANDS) :], strict=True):
        if rows:
            found[name] = loss / rows
    progress.sums, progress.loss_steps = [], 0
    return found
