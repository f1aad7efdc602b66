"""The coat that a denoiser of one device puts on for training, always in this order: checkpointing, compilation, sharding."""

from typing import Any

import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from ccray.config import TrainConfig


def blocks(model: nn.Module) -> list[nn.Module]:
    """The parts whose weights are gathered together: a UNet's down, mid and up blocks, a PixArt transformer's blocks."""
    parts: Any = model
    if isinstance(model, UNet2DConditionModel):
        return [*parts.down_blocks, parts.mid_block, *parts.up_blocks]
    assert isinstance(model, PixArtTransformer2DModel)
    return list(parts.transformer_blocks)


def prepare(model: nn.Module, config: TrainConfig, world_size: int, device: str) -> nn.Module:
    """Move the denoiser to its device with full-precision weights, and make it train on `world_size` ranks.

    Gradients of the ranks are summed, not averaged: the loss is already a share of the global mean. One rank is not sharded at all.
    """
    parts: Any = model.to(device).train().requires_grad_(True)
    wanted = torch.float64 if config.precision == "fp64" else torch.float32
    if parts.dtype != wanted:
        parts.to(wanted)
    if config.gradient_checkpointing:
        parts.enable_gradient_checkpointing()
    if config.compile:
        for block in blocks(model):
            block.compile()
    if world_size > 1:
        _shard(model, world_size, torch.device(device).type)
    return model


def _shard(model: nn.Module, world_size: int, device_type: str) -> None:
    mesh = init_device_mesh(device_type, (world_size,))
    for module in [*blocks(model), model]:
        sharded: Any = fully_shard(module, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


def reshard(model: nn.Module) -> None:
    """Let go of gathered weights, which a forward pass without a backward pass keeps: they may no longer be those of the shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
