"""Every switch on and off: the same training, the same names; and each does what it says."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn

from ccray.config import DiTConfig, TrainConfig, UNetConfig
from ccray.models import precision
from ccray.training import shard
from tests.training.coats import DIT, UNET, Coat, Step, fresh, step, two_ranks

NETWORKS = pytest.mark.parametrize("network", [UNET, DIT], ids=["unet", "dit"])
SWITCHES = {
    "attention": {"fused_attention": False},
    "norms": {"low_precision_norms": True},
    "layout": {"channels_last": True},
    "checkpointing": {"gradient_checkpointing": True},
    "all": {"low_precision_norms": True, "channels_last": True, "gradient_checkpointing": True},
}
ALL = SWITCHES["all"]


def coat(network: UNetConfig | DiTConfig, **switches: object) -> Coat:
    return Coat(network, TrainConfig.model_validate(switches))


def assert_near(found: Step, expected: Step, rtol: float) -> None:
    """Losses, and each gradient against its own largest number."""
    assert found.loss == pytest.approx(expected.loss, rel=rtol)
    assert found.gradients.keys() == expected.gradients.keys()
    assert found.weights.keys() == expected.weights.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.gradients.values())
    for name, gradient in expected.gradients.items():
        scale = max(float(gradient.abs().max()), 1e-3 * largest)  # some gradients are zero but for rounding
        torch.testing.assert_close(found.gradients[name] / scale, gradient / scale, rtol=0, atol=rtol, msg=lambda text, name=name: f"{name}: {text}")


@NETWORKS
@pytest.mark.parametrize(("number", "rtol"), [("fp64", 1e-11), ("fp32", 1e-5)])
def test_a_switch_changes_no_gradient(network: UNetConfig | DiTConfig, number: str, rtol: float) -> None:
    plain = step(coat(network, precision=number))
    for name, switches in SWITCHES.items():
        found = step(coat(network, precision=number, **switches))
        assert_near(found, plain, rtol)
        if name in ("norms", "checkpointing"):
            assert found.loss == plain.loss, "the same kernels on the same numbers"


def test_compiled_blocks_have_the_same_gradients() -> None:
    assert_near(step(coat(DIT, precision="fp64", compile=True)), step(coat(DIT, precision="fp64")), 1e-11)


@pytest.mark.slow
def test_compiled_blocks_can_be_sharded(tmp_path: Path) -> None:
    one = Coat(DIT, TrainConfig(precision="fp64", compile=True, gradient_checkpointing=True), "grad-op", 2)
    ranks = two_ranks(tmp_path, {"compiled": one})["compiled"]
    assert_near(Step(sum(rank.loss for rank in ranks), ranks[0].gradients, ranks[0].weights, 0), step(coat(DIT, precision="fp64")), 1e-10)


@NETWORKS
def test_bf16_is_near_whatever_the_norms_are_computed_in(network: UNetConfig | DiTConfig) -> None:
    plain = step(coat(network))
    for switches in ({}, ALL):
        found = step(coat(network, precision="bf16", **switches))
        assert found.loss == pytest.approx(plain.loss, rel=0.01)
        assert found.loss != plain.loss
        assert _angle(found, plain) > 0.995


def _angle(found: Step, expected: Step) -> float:
    """Cosine between all gradients."""
    one, other = (torch.cat([side.gradients[name].flatten() for name in sorted(expected.gradients)]) for side in (found, expected))
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def test_norms_answer_in_the_compute_format() -> None:
    rows = torch.randn(2, 16, 4, 4)
    for kind, plain, shape in ((precision.GroupNorm, nn.GroupNorm(4, 16), (2, 16, 4, 4)), (precision.LayerNorm, nn.LayerNorm(4), (2, 16, 4, 4))):
        holder = nn.Sequential(plain)
        precision.replace(holder, kind)
        assert type(holder[0]) is kind
        with torch.autocast("cpu", torch.bfloat16):
            found = holder(rows)
        assert (found.dtype, found.shape) == (torch.bfloat16, shape)
        assert next(holder.parameters()).dtype == torch.float32
        assert holder(rows).dtype == torch.float32


def test_convolutions_are_channels_last_and_weights_are_not() -> None:
    model = shard.prepare(fresh(UNET), TrainConfig(channels_last=True), 1, "cpu")
    layouts: list[bool] = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert isinstance(layer, precision.ChannelsLastConv2d)
            layer.register_forward_hook(lambda _, __, answer: layouts.append(answer.is_contiguous(memory_format=torch.channels_last)))
    model(torch.randn(2, 4, 8, 8), torch.ones(2), torch.randn(2, 6, 32))
    assert layouts
    assert all(layouts)
    assert all(weight.is_contiguous() for weight in model.state_dict().values())


@NETWORKS
@pytest.mark.parametrize(("fused", "kind"), [(True, AttnProcessor2_0), (False, AttnProcessor)])
def test_attention_is_the_one_asked_for(network: UNetConfig | DiTConfig, fused: bool, kind: type) -> None:
    model = shard.prepare(fresh(network), TrainConfig(fused_attention=fused), 1, "cpu")
    assert {type(processor) for processor in model.attn_processors.values()} == {kind}  # type: ignore[operator, union-attr]


RANKS: dict[str, Callable[[], Coat]] = {
    "unet-full": lambda: Coat(UNET, TrainConfig(precision="fp64", **ALL), "full", 2),
    "unet-grad-op": lambda: Coat(UNET, TrainConfig(precision="fp64", **ALL), "grad-op", 2),
    "dit-full": lambda: Coat(DIT, TrainConfig(precision="fp64", fused_attention=False), "full", 2),
    "dit-grad-op": lambda: Coat(DIT, TrainConfig(precision="fp64", fused_optimizer=False), "grad-op", 2),
    "unet-bf16": lambda: Coat(UNET, TrainConfig(precision="bf16", **ALL), "full", 2),
    "dit-bf16": lambda: Coat(DIT, TrainConfig(precision="bf16"), "grad-op", 2),
}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Step]]:
    return two_ranks(tmp_path_factory.mktemp("ranks"), {name: made() for name, made in RANKS.items()})


@pytest.mark.parametrize("name", RANKS)
def test_two_ranks_have_the_gradients_of_one(sharded: dict[str, list[Step]], name: str) -> None:
    one, ranks, asked = step(RANKS[name]()), sharded[name], RANKS[name]()
    together = Step(sum(rank.loss for rank in ranks), ranks[0].gradients, ranks[0].weights, ranks[0].early)
    if asked.train.precision == "bf16":
        assert together.loss == pytest.approx(one.loss, rel=2e-3)
        assert _angle(together, one) > 0.999
    else:
        assert_near(together, one, 1e-10)
        for weight, tensor in one.weights.items():
            torch.testing.assert_close(together.weights[weight], tensor, rtol=0, atol=1e-9)
    assert {tensor.dtype for tensor in together.weights.values()} == {tensor.dtype for tensor in one.weights.values()}


@pytest.mark.parametrize("name", RANKS)
def test_gradients_are_summed_at_the_last_micro_batch_only_under_grad_op(sharded: dict[str, list[Step]], name: str) -> None:
    early = sharded[name][0].early
    assert early == 0 if RANKS[name]().sharding == "grad-op" else early > 0


def test_names_are_those_of_the_stock_network(tmp_path: Path) -> None:
    """A coat does not show in files: they load into a network without one."""
    model = shard.prepare(fresh(UNET), TrainConfig(compile=True, **ALL), 1, "cpu")
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    stock = fresh(UNET)
    again = type(stock).from_pretrained(tmp_path)
    for name, tensor in stock.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
