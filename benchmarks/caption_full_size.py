"""BLIP-2 OPT-2.7B at its full size on one CUDA device: pictures a second from 8-bit pixels in host memory to strings, against the device's own floor.

The weights are random (the configuration stands below; nothing is fetched), which costs what trained ones cost: 224 px, bf16, greedy, exactly
20 new tokens. The captioner is ours, below the Ray floor. Beside it: how many JPEGs one core decodes meanwhile.

python -m benchmarks.caption_full_size [--tiny] [--batch 128 ...] [--seconds 60]
"""

import argparse
import io
import json
import string
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from ccray.config import CaptionConfig
from ccray.data.pictures.images import Limits, decode
from ccray.interfaces import Subject
from ccray.models.captioners.blip2 import Blip2Captioner

NEW_TOKENS = 20
TFLOP_PER_PICTURE = 0.82  # vision 257 x 39 layers, Q-Former, 33 + 20 tokens of OPT; 2 a multiply-add
BATCHES = (64, 128, 256, 512)
QUERIES = 32

VISION = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16, "image_size": 224, "patch_size": 14}
QFORMER = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "encoder_hidden_size": 1408}
OPT = {"hidden_size": 2560, "ffn_dim": 10240, "num_hidden_layers": 32, "num_attention_heads": 32, "word_embed_proj_dim": 2560, "vocab_size": 50304}

TINY_VISION = VISION | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TINY_QFORMER = QFORMER | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "encoder_hidden_size": 32}
TINY_OPT = OPT | {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32, "vocab_size": 512}


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
        model_folder(Path(folder), tiny)
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


def model_folder(folder: Path, tiny: bool) -> None:
    """A folder like the published one, with random weights and a tokenizer that has a word for every number."""
    vision, qformer, text = (TINY_VISION, TINY_QFORMER, TINY_OPT) if tiny else (VISION, QFORMER, OPT)
    processor = Blip2Processor(_image_processor(vision["image_size"]), _tokenizer(text["vocab_size"] - 1), num_query_tokens=QUERIES)
    opt = text | {"model_type": "opt", "max_position_embeddings": 2048, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer | {"vocab_size": 30522, "cross_attention_frequency": 2},
        text_config=opt,
        num_query_tokens=QUERIES,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cpu" if tiny else "cuda:0"):
        model = Blip2ForConditionalGeneration(config)
    torch.set_default_dtype(before)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _image_processor(side_px: int) -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": side_px, "width": side_px})


def _tokenizer(words: int) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<unk>", "<pad>", "<s>", "</s>", *letters]
    names += [f"{string.ascii_lowercase[number % 26]}{number}" for number in range(words - len(names))]
    backend = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")


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
    text = TINY_OPT if tiny else OPT
    layers, wide, ahead = text["num_hidden_layers"], text["hidden_size"], text["ffn_dim"]
    weights = 2 * (layers * (4 * wide * wide + 2 * wide * ahead) + wide * text["vocab_size"])
    kept = 2 * layers * 2 * wide * (QUERIES + 1 + NEW_TOKENS / 2)  # of one picture, bytes, in the middle of its caption
    compute = _flop_a_picture(tiny) / flops
    memory = NEW_TOKENS * (weights / batch + kept) / bytes_a_second
    return max(compute, memory)


def _flop_a_picture(tiny: bool) -> float:
    if not tiny:
        return TFLOP_PER_PICTURE * 1e12
    places = (TINY_VISION["image_size"] // TINY_VISION["patch_size"]) ** 2 + 1
    vision = 2 * places * TINY_VISION["num_hidden_layers"] * (4 * 32 * 32 + 2 * 32 * 64)
    return vision + 2 * (QUERIES + 1 + NEW_TOKENS) * (TINY_OPT["num_hidden_layers"] * (4 * 32 * 32 + 2 * 32 * 64) + 32 * TINY_OPT["vocab_size"])


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
