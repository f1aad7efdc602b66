"""Numbers of a denoiser's weights and of its multiplications, from its configuration alone: what torch counts, without torch.

Block by block as diffusers builds UNet2DConditionModel and PixArtTransformer2DModel. A weight that meets `places` positions is multiplied that often;
one multiplication and addition is two FLOPs. Norms, activations and sums are left out, as torch's own counter leaves them out.
"""

from dataclasses import dataclass

from ccray.config import DiTConfig, Recipe, UNetConfig, final_size_px
from ccray.interfaces import Refused

TIME_CHANNELS = 256  # of PixArt's sinusoids


@dataclass
class Count:
    """What one forward pass of one sample is made of."""

    weights: int = 0
    multiplications: int = 0

    @property
    def gflop(self) -> float:
        """Of one forward pass, in 10^9 operations."""
        return 2 * self.multiplications / 1e9

    def linear(self, inputs: int, outputs: int, places: int = 1, bias: bool = True) -> None:
        self.weights += inputs * outputs + bias * outputs
        self.multiplications += inputs * outputs * places

    def conv(self, inputs: int, outputs: int, side: int, kernel: int = 3) -> None:
        """side: of the square that comes out."""
        self.weights += kernel**2 * inputs * outputs + outputs
        self.multiplications += kernel**2 * inputs * outputs * side**2

    def norm(self, width: int) -> None:
        self.weights += 2 * width

    def attention(self, width: int, keys_width: int, queries: int, keys: int, bias: bool = False) -> None:
        """Projections, scores and weighted sum."""
        self.linear(width, width, queries, bias)
        self.linear(keys_width, width, keys, bias)
        self.linear(keys_width, width, keys, bias)
        self.multiplications += 2 * queries * keys * width
        self.linear(width, width, queries)


def denoiser(recipe: Recipe, size_px: int) -> Count:
    """One forward pass on a picture of that size.

    Raises:
        Refused: when the denoiser has a block that is not counted.
    """
    config = recipe.denoiser
    side = size_px * config.sample_size // final_size_px(recipe)
    if isinstance(config, DiTConfig):
        return _transformer(config, side, recipe.text.max_tokens)
    known = {"DownBlock2D", "UpBlock2D", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"}
    strange = [name for name in (*config.down_block_types, *config.up_block_types) if name not in known]
    if strange:
        raise Refused(f"denoiser has a block {strange[0]!r}, which cannot be planned for: expected {', '.join(sorted(known))}")
    return _UNet(config, recipe.text.max_tokens).count(side)


class _UNet:
    """diffusers' UNet2DConditionModel."""

    def __init__(self, config: UNetConfig, tokens: int) -> None:
        self._config, self._tokens, self._count = config, tokens, Count()
        self._widths = config.block_out_channels
        self._time = 4 * self._widths[0]
        layers = config.transformer_layers_per_block
        self._depths = (layers,) * len(self._widths) if isinstance(layers, int) else layers

    def count(self, side: int) -> Count:
        first, count = self._widths[0], self._count
        count.linear(first, self._time)
        count.linear(self._time, self._time)
        count.conv(self._config.in_channels, first, side)
        skips, side = self._down(side)
        self._resnet(self._widths[-1], self._widths[-1], side)
        self._transformer(self._widths[-1], self._depths[-1], side)
        self._resnet(self._widths[-1], self._widths[-1], side)
        side = self._up(skips, side)
        count.norm(first)
        count.conv(first, self._config.out_channels, side)
        return count

    def _down(self, side: int) -> tuple[list[int], int]:
        """Widths of what the way up takes from the way down, and the side at the bottom."""
        width, skips = self._widths[0], [self._widths[0]]
        for level, kind in enumerate(self._config.down_block_types):
            for _ in range(self._config.layers_per_block):
                self._resnet(width, self._widths[level], side)
                width = self._widths[level]
                if kind.startswith("CrossAttn"):
                    self._transformer(width, self._depths[level], side)
                skips.append(width)
            if level < len(self._widths) - 1:
                side = (side + 1) // 2
                self._count.conv(width, width, side)
                skips.append(width)
        return skips, side

    def _up(self, skips: list[int], side: int) -> int:
        width = self._widths[-1]
        for level, kind in zip(reversed(range(len(self._widths))), self._config.up_block_types, strict=True):
            for _ in range(self._config.layers_per_block + 1):
                self._resnet(width + skips.pop(), self._widths[level], side)
                width = self._widths[level]
                if kind.startswith("CrossAttn"):
                    self._transformer(width, self._depths[level], side)
            if level:
                side *= 2
                self._count.conv(width, width, side)
        return side

    def _resnet(self, inputs: int, outputs: int, side: int) -> None:
        count = self._count
        count.norm(inputs)
        count.conv(inputs, outputs, side)
        count.linear(self._time, outputs)
        count.norm(outputs)
        count.conv(outputs, outputs, side)
        if inputs != outputs:
            count.conv(inputs, outputs, side, kernel=1)

    def _transformer(self, width: int, depth: int, side: int) -> None:
        count, places = self._count, side**2
        count.norm(width)
        count.linear(width, width, places)
        for _ in range(depth):
            for _ in range(3):
                count.norm(width)
            count.attention(width, width, places, places)
            count.attention(width, self._config.cross_attention_dim, places, self._tokens)
            count.linear(width, 8 * width, places)  # GEGLU: gate and value
            count.linear(4 * width, width, places)
        count.linear(width, width, places)


def _transformer(config: DiTConfig, side: int, tokens: int) -> Count:
    """diffusers' PixArtTransformer2DModel."""
    count, width = Count(), config.num_attention_heads * config.attention_head_dim
    places = (side // config.patch_size) ** 2
    count.conv(config.in_channels, width, side // config.patch_size, kernel=config.patch_size)
    for inputs, outputs in ((TIME_CHANNELS, width), (width, width), (width, 6 * width)):
        count.linear(inputs, outputs)
    for inputs in (config.caption_channels, width):
        count.linear(inputs, width, tokens)
    for _ in range(config.num_layers):
        count.weights += 6 * width  # scales and shifts
        count.attention(width, width, places, places, bias=True)
        count.attention(width, config.cross_attention_dim, places, tokens, bias=True)
        count.linear(width, 4 * width, places)
        count.linear(4 * width, width, places)
    count.weights += 2 * width
    count.linear(width, config.patch_size**2 * config.out_channels, places)
    return count
