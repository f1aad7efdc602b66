"""What training costs, before it is paid: floating-point operations and memory, counted on tensors that have shapes but no numbers."""

import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ccray.config import Precision, TrainConfig
from ccray.models.denoiser import predict
from ccray.training import optimizer, shard

# bf16 or fp16 with fp32 sums, dense (half of what is printed "with sparsity"), in FLOP/s; NVIDIA's data sheet of each product.
# The longest name that a device's own name holds is its.
PEAK_FLOPS_PER_SECOND: dict[str, float] = {
    "A100": 312e12,
    "H100": 989e12,  # SXM
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "A10G": 70e12,
}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, of one rank that is not sharded."""

    weights: int
    moments: int  # AdamW's two
    average: int
    work: int  # gradients, activations and what passes, at their peak

    @property
    def total(self) -> int:
        return self.weights + self.moments + self.average + self.work


def training_flops(model: nn.Module, latent_shape: tuple[int, ...], tokens: int, width: int) -> float:
    """Operations of one sample's forward and backward pass, two a multiply-add; what activation checkpointing computes again is not counted.

    Convolutions and matrix products alone (norms and the like do not show beside them); 1.4 s on one core for the SD2 UNet.

    Args:
        model: a denoiser, in whatever coat; only its configuration is looked at.
        latent_shape: C h w.
        tokens: of a caption.
        width: of a token's feature.
    """
    with torch.device("meta"):
        twin = _twin(model)
        return _counted(lambda: predict(twin, *_inputs(1, latent_shape, tokens, width)).sum().backward())


def encode_flops(autoencoder: Any, size_px: int) -> float:
    """Operations in which a diffusers AutoencoderKL encodes one picture of `size_px` squared."""
    with torch.device("meta"):
        twin = type(autoencoder).from_config(autoencoder.config)
        return _counted(lambda: twin.encode(torch.empty(1, 3, size_px, size_px)))


def text_flops(encoder: Any, tokens: int) -> float:
    """Operations in which a text encoder of transformers reads one caption of `tokens`, padding included."""
    with torch.device("meta"):
        twin = type(encoder)(encoder.config)
        return _counted(lambda: twin(torch.zeros(1, tokens, dtype=torch.long)))


def peak_flops_per_second(device: str, precision: Precision) -> float | None:
    """What a device can do at most, dense; None where nobody says: CPUs, unknown GPUs, and fp32, which torch computes partly as TF32."""
    if torch.device(device).type != "cuda" or precision not in ("bf16", "fp16"):
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """`PEAK_FLOPS_PER_SECOND` of a GPU that calls itself `name`."""
    held = [known for known in PEAK_FLOPS_PER_SECOND if known in name]
    return PEAK_FLOPS_PER_SECOND[max(held, key=len)] if held else None


def training_memory(
    model: nn.Module, config: TrainConfig, rows: int, pieces: int, latent_shape: tuple[int, ...], tokens: int, width: int, device: str = "cpu"
) -> Memory:
    """The most memory that a step takes on one rank, by running it on tensors without numbers.

    The switches of `config` apply, except compilation, which rather saves. Not in it: workspaces of kernels, what an allocator loses to
    fragments, the text encoder and the VAE.

    Args:
        model: a denoiser, in whatever coat; only its configuration is looked at.
        config: switches, precision, and whether any step is averaged (`ema_steps`).
        rows: of a micro-batch.
        pieces: micro-batches of a step.
        latent_shape: C h w.
        tokens: of a caption.
        width: of a token's feature.
        device: "cpu" or "cuda"; a CUDA device must be there, for autocast asks for it.
    """
    with FakeTensorMode(), torch.device(device):
        twin = _twin(model).train()
        shard.switch(twin, config)
        weights = list(twin.parameters())
        live = _Live([*weights, *twin.buffers()])
        inputs = _inputs(rows, latent_shape, tokens, width)
        with live:
            for _ in range(min(pieces, 2)):  # the second finds the gradients of the first; so does the third
                _pass(twin, inputs, config.precision, device)
            passes = live.peak
            adamw = optimizer.build(weights, config)
            adamw.step()
            before, live.peak = live.now, live.now
            adamw.step()  # the moments are there by now, and counted apart
    wide = 2 if config.precision == "fp64" else 1  # counted in fp32
    size = wide * _bytes(weights)
    work = max(wide * passes, size + wide * (live.peak - before))
    return Memory(size, 2 * size, 0 if config.ema_steps == 0 else size, work)


def _pass(model: nn.Module, inputs: tuple[Tensor, ...], precision: Precision, device: str) -> None:
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16) if precision == "bf16" else nullcontext():
        prediction = predict(model, *inputs)
    prediction.to(inputs[0].dtype).square().mean().backward()


def _twin(model: nn.Module) -> Any:
    """The same network afresh, without a coat, on the device of the context."""
    kind = UNet2DConditionModel if isinstance(model, UNet2DConditionModel) else PixArtTransformer2DModel
    parts: Any = model
    return kind.from_config(parts.config)


def _inputs(rows: int, latent_shape: tuple[int, ...], tokens: int, width: int) -> tuple[Tensor, ...]:
    """Latents, timesteps, features and mask, on the device of the context."""
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    return torch.empty(rows, *latent_shape), torch.empty(rows), torch.empty(rows, tokens, width), mask


def _counted(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


class _Live(TorchDispatchMode):
    """Bytes of all storages that operations made and nobody has let go of."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, answer)
        return answer

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._held:
            self._held.add(storage._cdata)
            weakref.finalize(storage, self._let_go, storage._cdata, storage.nbytes())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _let_go(self, address: int, size: int) -> None:
        self._held.discard(address)
        self.now -= size
