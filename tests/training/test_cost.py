"""What training costs, against full-size modules, arithmetic by hand, and a real process."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from ccray import recipes
from ccray.config import TrainConfig
from ccray.models import denoiser
from ccray.training import cost, shard
from tests.training.coats import DIT, TOKENS, UNET, WIDTH, fresh

SHAPE = (4, 8, 8)


def test_stable_diffusion_2_at_256_px_costs_what_is_known() -> None:
    """About 543 GFLOP a training sample, 1.59 times that with VAE and text encoder beside it."""
    unet = denoiser.meta(recipes.commoncanvas_s_c().denoiser)
    training = cost.training_flops(unet, (4, 32, 32), 77, 1024)
    assert training == pytest.approx(543e9, rel=0.01)
    with torch.device("meta"):
        settings: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **settings)
        text = CLIPTextModel(CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16))
    beside = cost.encode_flops(vae, 256) + cost.text_flops(text, 77)
    assert (training + beside) / training == pytest.approx(1.59, abs=0.005)


def test_operations_of_a_text_encoder_are_those_by_hand() -> None:
    """Two a multiply-add: 12 T W^2 a layer in projections and feed-forward, 2 T^2 W in attention."""
    tokens, width, layers = 16, 32, 3
    text = CLIPTextModel(CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=4))
    assert cost.text_flops(text, tokens) == 2 * layers * (12 * tokens * width**2 + 2 * tokens**2 * width)


@pytest.mark.parametrize("network", [UNET, DIT], ids=["unet", "dit"])
def test_a_coat_does_not_change_the_cost(network: Any) -> None:
    plain, coated = fresh(network), fresh(network)
    shard.prepare(coated, TrainConfig(gradient_checkpointing=True, channels_last=True, fused_attention=False, compile=True), 1, "cpu")
    found = cost.training_flops(coated, SHAPE, TOKENS, WIDTH)
    assert found == cost.training_flops(plain, SHAPE, TOKENS, WIDTH) > 0
    assert all(weight.grad is None for weight in coated.parameters())


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10G", 70e12),
        ("Quadro 4000", None),
    ],
)
def test_peaks_go_by_the_longest_name(name: str, peak: float | None) -> None:
    assert cost.peak_of(name) == peak


def test_a_cpu_has_no_known_peak() -> None:
    assert cost.peak_flops_per_second("cpu", "bf16") is None


@pytest.mark.parametrize("network", [UNET, DIT], ids=["unet", "dit"])
def test_memory_follows_the_switches(network: Any) -> None:
    model = denoiser.meta(network)

    def memory(pieces: int = 1, **switches: object) -> cost.Memory:
        return cost.training_memory(model, TrainConfig.model_validate(switches), 64, pieces, SHAPE, TOKENS, WIDTH)

    plain = memory()
    parameters = sum(weight.nbytes for weight in model.parameters())
    assert (plain.weights, plain.moments, plain.average) == (parameters, 2 * parameters, parameters)
    assert plain.total == 4 * parameters + plain.work
    assert memory(ema_steps=0).average == 0
    assert memory(gradient_checkpointing=True).work < 0.8 * plain.work
    assert memory(2).work == pytest.approx(plain.work + parameters, rel=0.1), "the first micro-batch's gradients beside the second's activations"
    assert memory(precision="fp64").total == 2 * plain.total
    assert memory(precision="bf16").work < plain.work


def test_activations_by_hand() -> None:
    """Of a linear layer and a GELU behind it only what their backward passes need is kept."""
    with cost._Live([]) as live:
        layer, rows = nn.Linear(64, 256, bias=False), torch.randn(100, 64)
        weights = live.now - rows.nbytes
        answer = torch.nn.functional.gelu(layer(rows))
        assert live.now == weights + rows.nbytes + 2 * 100 * 256 * 4
        del answer
        assert live.now == weights + rows.nbytes
        assert live.peak == weights + rows.nbytes + 2 * 100 * 256 * 4


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 5])
def test_a_process_takes_what_was_predicted(case: int) -> None:
    """Resident memory of real steps; kernels' workspaces and the allocator's losses are not predicted."""
    words = [sys.executable, "-m", "benchmarks.training_memory", "--case", str(case)]
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    answer = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=settings)
    found, expected = json.loads(answer.stdout.splitlines()[-1])
    assert found == pytest.approx(expected, rel=0.15)
