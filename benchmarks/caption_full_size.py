"""BLIP-2 OPT-2.7B at its full size on one CUDA device: pictures a second from 8-bit pixels in host memory to strings, against the device's own floor.

The weights are random (the configuration stands below; nothing is fetched), which costs what trained ones cost: 224 px, bf16, greedy, exactly
20 new tokens. The captioner is ours, below the Ray floor. Beside it: how many JPEGs one core decodes meanwhile.

python -m benchmarks.caption_full_size [--tiny] [--batch 128 ...] [--seconds 60]
"""

import argparse
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.random_blip2 import FULL, QUERIES, TINY, model_folder
from ccray.config import CaptionConfig
from ccray.data.pictures.images import Limits, decode
from ccray.interfaces import Subject
from ccray.models.captioners.blip2 import Blip2Captioner

NEW_TOKENS = 20
TFLOP_PER_PICTURE = 0.82  # vision 257 x 39 layers, Q-Former, 33 + 20 tokens of OPT; 2 a multiply-add
BATCHES = (64, 128, 256, 512)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tiny", action="store_true", help="the same program with a tiny model on the CPU: it tests the program, its figures mean nothing"
    )
    parser.add_argument("--batch", type=int, nargs="+", help=f"pictures at once, several to compare (default {BATCHES})")
    parser.add_argument("--seconds", type=float, help="measured time of each batch size after warm-up (default 60)")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        print("caption_full_size measures a CUDA device and torch finds none here; --tiny runs the same program on the CPU", file=sys.stderr)
        return 2
    print(json.dumps(measured(arguments.tiny, arguments.batch, arguments.seconds)))
    return 0


def measured(tiny: bool, batches: list[int] | None, seconds: float | None) -> dict[str, str]:
    """One row of the table of benchmarks."""
    device = "cpu" if tiny else "cuda:0"
    batches, seconds = batches or ([2, 3] if tiny else list(BATCHES)), seconds or (0.5 if tiny else 60.0)
    with tempfile.TemporaryDirectory() as folder:
        model_folder(Path(folder), TINY if tiny else FULL, device, torch.bfloat16)
        found = {batch: pictures_a_second(folder, device, batch, seconds, tiny) for batch in batches}
    best = max(found, key=lambda batch: found[batch])
    peak, bandwidth = matmul_peak(device), copy_peak(device)
    floor = floor_seconds(best, peak, bandwidth, tiny)
    decoding = {name: decoded_a_second(data) for name, data in {"640 px": jpeg(640, 480), "2 MP": jpeg(1632, 1224)}.items()}
    sizes = ", ".join(f"{batch}: {rate:.1f}" for batch, rate in found.items())
    return {
        "what": "BLIP-2 OPT-2.7B, uint8 pixels to strings" + (" (tiny: the program is tested, not the device)" if tiny else ""),
        "ours": f"{found[best]:.1f} img/s at batch {best} (by batch {sizes})",
        "other": f"floor {1 / floor:.1f} img/s: measured {peak / 1e12:.2f} TFLOP/s bf16 matmul, {bandwidth / 1e12:.3f} TB/s",
        "figure": f"{found[best] * floor:.3f} of the floor",
        "goal": "≥ 300 img/s, stretch 400",
        "how": f"{_name(device)}; random weights, greedy, exactly {NEW_TOKENS} tokens, {seconds:g} s after warm-up; JPEG decode a core: "
        + ", ".join(f"{name} {rate:.0f} img/s" for name, rate in decoding.items()),
    }


def pictures_a_second(folder: str, device: str, batch: int, seconds: float, tiny: bool) -> float:
    """Of our captioner, in steady state: two whole batches and their compiling are outside the clock."""
    words = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS, "batch_size": batch}
    captioner = Blip2Captioner(CaptionConfig(model=folder, precision="fp32" if tiny else "bf16", **words), device)
    side = captioner.fit.width_px
    pixels = np.random.default_rng(0).integers(0, 256, (4 * batch, side, side, 3), dtype=np.uint8)
    subjects = [Subject(one) for one in pixels]
    captioner.caption(subjects[: 2 * batch])
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        captions = captioner.caption(subjects)
        done += len(captions)
    elapsed = time.perf_counter() - start
    assert captioner.batches.width == batch, f"the device's memory does not hold {batch} pictures: leave that size out"
    assert not any(caption.ended for caption in captions), "a caption ended before its last token: the work is not the stated one"
    del captioner
    if device != "cpu":
        torch.cuda.empty_cache()
    return done / elapsed


def floor_seconds(batch: int, flops: float, bytes_a_second: float, tiny: bool) -> float:
    """Seconds a picture below which the device cannot go: its FLOPs at the measured matmul peak, or, if that is longer, the decoder's weights read
    once for each new token and its keys and values once for each new token of each picture."""
    text = (TINY if tiny else FULL).opt
    layers, wide, ahead = text["num_hidden_layers"], text["hidden_size"], text["ffn_dim"]
    weights = 2 * (layers * (4 * wide * wide + 2 * wide * ahead) + wide * text["vocab_size"])
    kept = 2 * layers * 2 * wide * (QUERIES + 1 + NEW_TOKENS / 2)  # of one picture, bytes, in the middle of its caption
    compute = _flop_a_picture(tiny) / flops
    memory = NEW_TOKENS * (weights / batch + kept) / bytes_a_second
    return max(compute, memory)


def _flop_a_picture(tiny: bool) -> float:
    if not tiny:
        return TFLOP_PER_PICTURE * 1e12
    places = (TINY.vision["image_size"] // TINY.vision["patch_size"]) ** 2 + 1
    vision = 2 * places * TINY.vision["num_hidden_layers"] * (4 * 32 * 32 + 2 * 32 * 64)
    return vision + 2 * (QUERIES + 1 + NEW_TOKENS) * (TINY.opt["num_hidden_layers"] * (4 * 32 * 32 + 2 * 32 * 64) + 32 * TINY.opt["vocab_size"])


def matmul_peak(device: str) -> float:
    """FLOP/s of large bf16 matrix products, the best of several sizes."""
    return max(_timed_matmul(size, device) for size in ((256, 512) if device == "cpu" else (4096, 8192, 16384)))


def _timed_matmul(size: int, device: str) -> float:
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: left @ right, device)


def copy_peak(device: str) -> float:
    """Bytes a second, read and written, of a large copy in the device's memory."""
    source = torch.zeros(1 << (24 if device == "cpu" else 30), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: target.copy_(source), device)


def _seconds(work: Any, device: str, times: int = 20) -> float:
    work()
    _wait(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    _wait(device)
    return (time.perf_counter() - start) / times


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def jpeg(width: int, height: int) -> bytes:
    """A drawn scene with the noise of a sensor, quality 90: about the bytes a pixel that a photo has."""
    generator = np.random.default_rng(width)
    scene = Image.new("RGB", (width, height), (90, 130, 180))
    brush = ImageDraw.Draw(scene)
    for left, top, size, *colour in generator.integers(0, 256, (200, 6)).tolist():
        x, y = left * width // 256, top * height // 256
        brush.ellipse((x, y, x + size * width // 1024, y + size * width // 1024), fill=tuple(colour))
    noisy = np.clip(np.asarray(scene, np.float32) + generator.normal(0, 6, (height, width, 1)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def decoded_a_second(data: bytes, seconds: float = 1.0) -> float:
    """Pictures a second that one core decodes to pixels."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        decode(data, Limits())
        done += 1
    return done / (time.perf_counter() - start)


def _name(device: str) -> str:
    return torch.cuda.get_device_name(0) if device != "cpu" else "CPU"


if __name__ == "__main__":
    sys.exit(main())
