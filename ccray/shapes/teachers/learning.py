"""How all teachers learn: AdamW over shuffled batches, a warm-up and half a cosine, everything from one seed."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

LOG = logging.getLogger(__name__)
WARM_UP_STEPS = 200
LOG_EVERY_STEPS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One teacher's training."""

    name: str
    lessons: int
    steps: int
    batch_size: int
    peak_learning_rate: float
    seed: int


def batches(count: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """`steps` batches of indices below `count`, without repeats inside a pass; the short end of a pass is skipped."""
    generator = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    for _ in range(steps):
        if not order:
            order = [batch for batch in torch.randperm(count, generator=generator).split(batch_size) if len(batch) == batch_size]
        yield order.pop()


def warm_cosine(step: int, steps: int, warm_up: int) -> float:
    """Share of the peak learning rate: a linear rise over `warm_up` steps, then half a cosine down to 1 % at `steps`."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def learn(plan: Plan, parameters: Sequence[nn.Parameter], loss_of: Callable[[Tensor], Tensor]) -> None:
    """Minimize `loss_of` (lesson numbers of one batch, int64 -> scalar loss) over `parameters`, in place."""
    optimizer = torch.optim.AdamW(parameters, lr=plan.peak_learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, plan.steps, WARM_UP_STEPS))
    began = time.monotonic()
    for step, batch in enumerate(batches(plan.lessons, plan.batch_size, plan.steps, plan.seed)):
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % LOG_EVERY_STEPS == 0:
            LOG.info("%s step %d of %d: loss %.4f, %.0f s", plan.name, step, plan.steps, loss.item(), time.monotonic() - began)
