"""One step's gradients of a small denoiser in whatever coat, on one rank or on two of a gloo group."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor

from ccray.config import DiTConfig, TrainConfig, UNetConfig
from ccray.models import denoiser
from ccray.training import optimizer, shard

ROWS = 8
TOKENS, WIDTH = 6, 32
UNET = UNetConfig(
    sample_size=8,
    block_out_channels=(16, 32),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=WIDTH,
    attention_head_dim=4,
    norm_num_groups=8,
)
DIT = DiTConfig(sample_size=8, num_layers=2, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32, caption_channels=WIDTH)


@dataclass(frozen=True)
class Step:
    """What one step of `ROWS` rows left; names as in a state dict without a coat."""

    loss: float
    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]  # after a step of AdamW
    early: int  # gradients that had been summed over the ranks before the last micro-batch's backward pass


@dataclass(frozen=True)
class Coat:
    """Switches, ranks' sharding, and micro-batches of a step."""

    network: UNetConfig | DiTConfig
    train: TrainConfig
    sharding: shard.Sharding = "full"
    pieces: int = 1


def fresh(network: UNetConfig | DiTConfig) -> Any:
    """Random weights, the same every time, no tensor left at zero as a fresh network's last one is."""
    torch.manual_seed(0)
    model = denoiser.build(network)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def step(coat: Coat, rank: int = 0, world: int = 1) -> Step:
    """Rows are split over ranks, then into micro-batches; the loss is the mean over all."""
    model = shard.prepare(fresh(coat.network), coat.train, world, "cpu", coat.sharding)
    adamw = optimizer.build(model.parameters(), coat.train)
    dtype = torch.float64 if coat.train.precision == "fp64" else torch.float32
    generator = torch.Generator().manual_seed(1)
    latents, target = (torch.randn(ROWS, 4, 8, 8, generator=generator).to(dtype) for _ in range(2))
    features = torch.randn(ROWS, TOKENS, WIDTH, generator=generator).to(dtype)
    times, mask = torch.linspace(0.5, 990.25, ROWS), torch.arange(TOKENS)[None] < torch.arange(ROWS)[:, None] % TOKENS + 1
    total, early = torch.zeros(()), 0
    mine = range(rank * ROWS // world, (rank + 1) * ROWS // world)
    for piece in range(coat.pieces):
        rows = slice(mine.start + len(mine) * piece // coat.pieces, mine.start + len(mine) * (piece + 1) // coat.pieces)
        shard.synchronise(model, piece == coat.pieces - 1)
        early = sum(isinstance(weight.grad, DTensor) for weight in model.parameters())
        with torch.autocast("cpu", torch.bfloat16, enabled=coat.train.precision == "bf16"):
            answer = denoiser.predict(model, latents[rows], times[rows], features[rows], mask[rows])
        loss = (answer.to(dtype) - target[rows]).square().mean(dim=(1, 2, 3)).sum() / ROWS
        loss.backward()
        total = total + loss.detach()
    gradients = {name: _whole(weight.grad) for name, weight in model.named_parameters() if weight.grad is not None}
    optimizer.step(adamw, torch.isfinite(optimizer.clip(list(model.parameters()), None)))
    return Step(float(total), gradients, {name: _whole(tensor) for name, tensor in model.state_dict().items()}, early)


def two_ranks(folder: Path, coats: dict[str, Coat]) -> dict[str, list[Step]]:
    """Each step on two ranks: what the first and the second rank found."""
    mp.spawn(_rank, (folder, coats), nprocs=2)
    return {name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(2)] for name in coats}


def _rank(rank: int, folder: Path, coats: dict[str, Coat]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name, coat in coats.items():
        torch.save(step(coat, rank, 2), folder / f"{name}-{rank}.pt")
    dist.destroy_process_group()


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
