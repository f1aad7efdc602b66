"""Which device there really is."""

import logging

import torch

log = logging.getLogger(__name__)


def usable(device: str) -> str:
    """`device`, or "cpu" where a CUDA device is asked for and torch finds none (a CPU build of torch, a node whose GPUs are only counted)."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        log.warning("%s was asked for, but torch finds no CUDA device here: working on the CPU", device)
        return "cpu"
    return device
