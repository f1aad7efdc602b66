"""Which kernels torch may choose, and with how many threads, for as long as a run lasts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def chosen(deterministic: bool, threads: int) -> Iterator[None]:
    """Fixed threads inside, because a sum's bits change with their number, and as before outside.

    deterministic: only kernels that give the same bits every time; else cuDNN tries out which of its convolutions is the fastest.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS to be deterministic
    memory: Any = torch.utils.deterministic  # filling new memory costs time, and only helps to find reads of what was never written
    cudnn: Any = torch.backends.cudnn
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory, cudnn.benchmark
    _choose(threads, deterministic, False, not deterministic)
    try:
        yield
    finally:
        _choose(*before)


def _choose(threads: int, deterministic: bool, fill: bool, benchmark: bool) -> None:
    memory: Any = torch.utils.deterministic
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    memory.fill_uninitialized_memory = fill
    torch.backends.cudnn.benchmark = benchmark
