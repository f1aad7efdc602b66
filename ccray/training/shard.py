"""The coat that a denoiser of one device puts on for training, always in this order: switches, checkpointing, compilation, sharding.

Autocast around the forward pass decides what is computed in bf16, on one rank and on many. Where weights are sharded they also travel as bf16
(`MixedPrecisionPolicy`): autocast would round them to it where they are used, so half the bytes are gathered, and what the backward pass
needs of them is the gathered weights, which can be let go of, not autocast's own copies, which cannot. Gradients are summed in fp32. What many
ranks then do otherwise than one is to round the few weights that autocast leaves in fp32, those of norms and tables; inputs are left as they
are (`cast_forward_inputs=False`), for timesteps would lose their last digits.
"""

from typing import Any, Literal

import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ccray.config import TrainConfig
from ccray.models import precision

Sharding = Literal["full", "grad-op"]
RECOMPILE_LIMIT = 64  # blocks of one class share their code, at several widths, sizes and lengths of a batch; torch's own 8 would end in eager mode


def blocks(model: nn.Module) -> list[nn.Module]:
    """The parts whose weights are gathered together: a UNet's down, mid and up blocks, a PixArt transformer's blocks."""
    parts: Any = model
    if isinstance(model, UNet2DConditionModel):
        return [*parts.down_blocks, parts.mid_block, *parts.up_blocks]
    assert isinstance(model, PixArtTransformer2DModel)
    return list(parts.transformer_blocks)


def prepare(model: nn.Module, config: TrainConfig, world_size: int, device: str, sharding: Sharding = "full") -> nn.Module:
    """Move the denoiser to its device with full-precision weights, and make it train on `world_size` ranks; names of weights stay.

    Gradients of the ranks are summed, not averaged: the loss is already a share of the global mean. One rank is not sharded at all.

    Args:
        model: changed in place.
        config: precision and the switches.
        world_size: ranks of the default process group.
        device: of this rank.
        sharding: "full" gathers a block's weights for its forward and again for its backward pass; "grad-op" once a step (see `synchronise`).
    """
    parts: Any = model.to(device).train().requires_grad_(True)
    wanted = torch.float64 if config.precision == "fp64" else torch.float32
    if parts.dtype != wanted:
        parts.to(wanted)
    switch(model, config)
    if config.compile:
        _compile(model)
    if world_size > 1:
        _shard(model, config, world_size, torch.device(device).type, sharding)
    return model


def switch(model: nn.Module, config: TrainConfig) -> None:
    """How the denoiser computes what it computes: attention, norms, layout of convolutions, and what it keeps for the backward pass."""
    parts: Any = model
    parts.set_attn_processor(AttnProcessor2_0() if config.fused_attention else AttnProcessor())
    if config.low_precision_norms:
        precision.replace(model, precision.GroupNorm, precision.LayerNorm)
    if config.channels_last and isinstance(model, UNet2DConditionModel):  # the one convolution of a transformer cuts patches: nothing to gain
        precision.replace(model, precision.ChannelsLastConv2d)
    if config.gradient_checkpointing:
        parts.enable_gradient_checkpointing()


def _compile(model: nn.Module) -> None:
    """Each block's own forward pass, so that hooks of sharding stay outside."""
    for block in blocks(model):
        parts: Any = block
        parts.forward = torch.compile(parts.forward, dynamic=False, recompile_limit=RECOMPILE_LIMIT)


def _shard(model: nn.Module, config: TrainConfig, world_size: int, device_type: str, sharding: Sharding) -> None:
    mesh = init_device_mesh(device_type, (world_size,))
    travels = torch.bfloat16 if config.precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=travels, reduce_dtype=travels and torch.float32, cast_forward_inputs=False)
    gathered_again = None if sharding == "full" else False  # None: for all but the last, outermost part, whose backward pass comes first
    for module in [*blocks(model), model]:
        sharded: Any = fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=gathered_again)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    whole: Any = model
    whole.sharding = sharding


def synchronise(model: nn.Module, last: bool) -> None:
    """Before the backward pass of each micro-batch: whether it is the last one of the step.

    Under "grad-op" only the last one sums gradients over the ranks and lets go of the weights; until then each rank keeps both whole. Under
    "full" every one does, which takes the least memory.
    """
    if isinstance(model, FSDPModule) and model.sharding == "grad-op":
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last)
        model.set_is_last_backward(last)


def reshard(model: nn.Module) -> None:
    """Let go of gathered weights, which a forward pass without a backward pass keeps: they may no longer be those of the shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
