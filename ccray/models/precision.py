"""The names of number formats in a recipe, as torch calls them, and layers that keep to one format or layout."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccray.config import Precision

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The format that autocast would have a convolution of `tensor` computed in; its own where autocast is off."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


class GroupNorm(nn.GroupNorm):
    """In the compute format, where autocast would have it in fp32: half the bytes go in and out (the low-precision norms of MosaicML's SD2 recipe)."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = compute_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x.to(dtype), self.num_groups, _as(self.weight, dtype), _as(self.bias, dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """As `GroupNorm` here."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = compute_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x.to(dtype), self.normalized_shape, _as(self.weight, dtype), _as(self.bias, dtype), self.eps)


class ChannelsLastConv2d(nn.Conv2d):
    """Pictures and kernel are laid out channels-last where they are cast to the compute format anyway, so stored weights keep their usual layout.

    FSDP2 shards no other, and files and averages need not know of it.
    """

    def forward(self, x: Tensor) -> Tensor:
        dtype, layout = compute_dtype(x), torch.channels_last
        return self._conv_forward(x.to(dtype, memory_format=layout), self.weight.to(dtype, memory_format=layout), self.bias)


def replace(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """Have every layer of a parent class of one of `kinds` compute as that one does; names and weights stay as they are."""
    parents = {kind.__bases__[0]: kind for kind in kinds}
    for layer in model.modules():
        if type(layer) in parents:
            layer.__class__ = parents[type(layer)]


def _as(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if weight is None else weight.to(dtype)
