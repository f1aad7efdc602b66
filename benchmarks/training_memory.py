"""Peak memory of training against what `training.cost` says beforehand, for some sizes and switches; each case in a process of its own.

Measured on a CPU as resident memory over what the process held before the model was built, on CUDA (--device cuda) as torch's own peak.

python -m benchmarks.training_memory [--device cuda]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import torch

from benchmarks.random_sd2 import TOKENS, Sizes
from ccray.config import TrainConfig
from ccray.models import denoiser
from ccray.training import cost, optimizer, shard
from ccray.training.ema import Ema

MIB = 2**20
SIZES = {
    "narrow": Sizes(size_px=128, unet_width=64, head_width=16, vae_width=8, text_width=64, text_layers=1, groups=16),
    "wide": Sizes(size_px=64, unet_width=128, head_width=16, vae_width=8, text_width=64, text_layers=1, groups=16),
}
CASES: tuple[tuple[str, int, int, dict[str, object]], ...] = (  # size, rows of a micro-batch, micro-batches, switches
    ("narrow", 8, 1, {}),
    ("narrow", 8, 2, {"ema_steps": 0}),
    ("narrow", 8, 1, {"gradient_checkpointing": True}),
    ("narrow", 8, 1, {"fused_attention": False}),
    ("wide", 4, 1, {}),
    ("wide", 4, 2, {"ema_steps": 0, "gradient_checkpointing": True}),
    ("wide", 4, 1, {"fused_optimizer": False}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", type=int, help="measure this one here")
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(*CASES[arguments.case], arguments.device)))
        return
    ratios = []
    for number, (name, rows, pieces, switches) in enumerate(CASES):
        found, expected = _apart(number, arguments.device)
        ratios.append(found / expected)
        print(f"{name}, {pieces} x {rows} rows, {switches}: {found:.0f} MiB, predicted {expected:.0f}: {ratios[-1]:.3f}", file=sys.stderr)
    print(
        json.dumps(
            {
                "what": "peak memory of training ÷ prediction",
                "ours": f"{len(ratios)} cases: {', '.join(f'{ratio:.2f}' for ratio in ratios)}",
                "other": "counted on tensors without numbers (training.cost)",
                "figure": f"{min(ratios):.2f} to {max(ratios):.2f}",
                "goal": "0.9 to 1.1",
                "how": f"SD2's UNet at two widths, fp32, {arguments.device}; checkpointing, average, micro-batches, attention, optimiser on and off",
            }
        )
    )


def _apart(number: int, device: str) -> tuple[float, float]:
    """One case in a process whose allocator gives large blocks back at once."""
    words = [sys.executable, "-m", "benchmarks.training_memory", "--case", str(number), "--device", device]
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    answer = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=settings)
    found, expected = json.loads(answer.stdout.splitlines()[-1])
    return found, expected


def measure(name: str, rows: int, pieces: int, switches: dict[str, object], device: str) -> tuple[float, float]:
    """MiB of three steps at their peak, and as predicted."""
    torch.set_num_threads(1)
    sizes, config = SIZES[name], TrainConfig.model_validate(switches)
    shape = sizes.latent_shape
    expected = cost.training_memory(denoiser.meta(sizes.unet), config, rows, pieces, shape, TOKENS, sizes.text_width, device)
    small = SIZES["narrow"].unet.model_copy(update={"block_out_channels": (32, 32, 32, 32)})
    _train(small, config, 1, 1, shape, sizes.text_width, device)  # libraries are read, pools are filled
    before = _reset(device)
    _train(sizes.unet, config, rows, pieces, shape, sizes.text_width, device)
    return (_peak(device) - before) / MIB, expected.total / MIB


def _train(network: object, config: TrainConfig, rows: int, pieces: int, shape: tuple[int, ...], width: int, device: str) -> None:
    model = shard.prepare(denoiser.build(network), config, 1, device)  # type: ignore[arg-type]
    adamw, ema = optimizer.build(model.parameters(), config), Ema(model, 0.99)
    if config.ema_steps != 0:
        ema.open()
    mask = torch.ones(rows, TOKENS, dtype=torch.bool, device=device)
    for _ in range(3):
        for _ in range(pieces):
            latents, features = torch.randn(rows, *shape, device=device), torch.randn(rows, TOKENS, width, device=device)
            denoiser.predict(model, latents, torch.ones(rows, device=device), features, mask).square().mean().backward()
        finite = optimizer.clip(list(model.parameters()), None).isfinite()
        optimizer.step(adamw, finite)
        adamw.zero_grad()
        ema.update(finite)


def _reset(device: str) -> int:
    """Begin a new peak; bytes held now."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return int(psutil.Process().memory_info().rss)


def _peak(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
