"""Checkpoints written while training goes on, so that the last complete one cannot be lost.

At a step of its choice every rank copies its shards to host memory: that is all that training waits for. A thread of each rank then writes the
files, puts them on the shelf and waits for the others on a gloo group of its own, whose collectives cannot mix with those of training; when all
have put theirs, the first rank publishes. One checkpoint is under way at a time. (`dcp.async_save` is not used: it ends at different steps on
different ranks, so the ranks would not agree on which checkpoint to wait for.)
"""

import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from ccray.interfaces import Failed, Runtime
from ccray.training import checkpoint
from ccray.training.checkpoint import Progress, Tensors
from ccray.training.ema import local
from ccray.training.seen import Seen

log = logging.getLogger(__name__)


class Saver:
    """The one checkpoint that is under way; a context, which is not left before that one is complete, unless by something fatal."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if runtime.world_size > 1 else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._host: dict[tuple[str, str], Tensor] = {}  # the one copy in host memory, used again by each checkpoint

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        fatal = error is not None and not isinstance(error, Exception)
        try:
            if not fatal:
                self.wait()
        except Failed as failure:
            if error is None:
                raise
            log.warning("%s", failure)  # what ended the run stands
        finally:
            self._pool.shutdown(wait=not fatal)
            if self._group is not None and error is None:
                dist.destroy_process_group(self._group)

    def start(self, tensors: Tensors, progress: Progress, seen: Seen) -> None:
        """Begin a checkpoint, once the one before is complete; a collective of all ranks.

        Args:
            tensors: of `checkpoint.tensors_of`; they may change as soon as this returns.
            progress: may change as well.
            seen: must not be added to any more; only the first rank's is written.

        Raises:
            Failed: when the one before could not be written.
        """
        self.wait()
        copied = self._copied(tensors)
        self._pending = self._pool.submit(self._write, copied, replace(progress, drawn=dict(progress.drawn), sums=list(progress.sums)), seen)

    def wait(self) -> None:
        """Until the checkpoint under way, if any, is complete.

        Raises:
            Failed: on every rank alike, when a rank could not write its part, or the run was taken over.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _copied(self, tensors: Tensors) -> Tensors:
        found = {group: {name: self._on_host(group, name, tensor) for name, tensor in named.items()} for group, named in tensors.items()}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._host = {(group, name): local(tensor) for group, named in found.items() for name, tensor in named.items()}
        return found

    def _on_host(self, group: str, name: str, tensor: Tensor) -> Tensor:
        mine = local(tensor)
        host = self._host.get((group, name))
        if host is None:
            host = torch.empty_like(mine, device="cpu", pin_memory=mine.is_cuda)
        host.copy_(mine, non_blocking=True)
        # `DTensor.from_local` would move it back to the mesh's device.
        return DTensor(host, tensor._spec, requires_grad=False) if isinstance(tensor, DTensor) else host

    def _write(self, tensors: Tensors, progress: Progress, seen: Seen) -> None:
        """In the thread: write, put, agree, publish, agree."""
        step = progress.step
        self._agree(self._fault(step, lambda: self._put(tensors, progress, seen)))
        self._agree(self._fault(step, lambda: self._runtime.publish(step)) if self._runtime.rank == 0 else None)
        if self._runtime.rank == 0:
            log.info("train: checkpoint of step %d", step)

    def _put(self, tensors: Tensors, progress: Progress, seen: Seen) -> None:
        with tempfile.TemporaryDirectory(prefix="ccray-checkpoint-") as folder:
            checkpoint.write(Path(folder), tensors, self._group)
            if self._runtime.rank == 0:
                checkpoint.write_record(Path(folder), progress, seen)
            self._runtime.put(progress.step, Path(folder))

    def _fault(self, step: int, act: Callable[[], None]) -> str | None:
        """What went wrong with this rank's part, in one sentence."""
        try:
            act()
        except Failed as failure:
            return str(failure)
        except (Exception, CheckpointException) as error:
            return (
                f"rank {self._runtime.rank} could not write the checkpoint of step {step}: {_cause(error)}; the one before it stays the newest: "
                f"see that the run's place and {tempfile.gettempdir()}, through which checkpoints pass, have room and may be written, and run the "
                "same command again"
            )
        return None

    def _agree(self, fault: str | None) -> None:
        """Tell each other what went wrong; a collective."""
        faults: list[str | None] = [fault]
        if self._group is not None:
            faults = [None] * self._runtime.world_size
            dist.all_gather_object(faults, fault, self._group)
        for found in faults:
            if found is not None:
                raise Failed(found)


def _cause(error: BaseException) -> str:
    """The first reason below an error of torch's checkpoints; else what the error says."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__}: {error}"
