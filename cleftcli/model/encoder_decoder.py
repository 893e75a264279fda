"""The U-net that most networks here are; what they differ in is handed in.

Source: Liu & Ji 2021, section IV-F: the networks compared there share depth and widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cleftcli.geometry import Zyx
from cleftcli.model.layers import Pointwise, Skip, check_input, factor, level_shapes

WIDTHS = (32, 64, 96, 128, 160)  # the paper's: four encoder blocks and the bottom block
TILE: Zyx = (8, 256, 256)
LITE_WIDTHS = (16, 32, 48, 64, 80)  # for two CPU cores
LITE_TILE: Zyx = (8, 128, 128)


class EncoderDecoder(nn.Module):
    """(n, 1, *input_shape) -> (n, out_channels, *input_shape), without activation.

    Args:
        out_channels: as the objective wants.
        input_shape: zyx of the tile.
        channels: of the encoder blocks, and last of the bottom block.
        block: (channels in, out, level) -> a module that keeps the shape; level 0 is the finest.
        down: (channels, shape, smaller shape) -> a module from one to the other.
        up: (channels, shape, larger shape) -> likewise.
        bottom: (channels, shape) -> what follows the bottom block.
        skip: (channels, channels below, how many times finer than below) -> a module that takes
            the skip and what comes from below, and returns what is joined.

    Raises:
        InputError: the shape cannot be halved so often.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        input_shape: Zyx,
        channels: Sequence[int],
        block: Callable[[int, int, int], nn.Module],
        down: Callable[[int, Zyx, Zyx], nn.Module],
        up: Callable[[int, Zyx, Zyx], nn.Module],
        bottom: Callable[[int, Zyx], nn.Module] = lambda *_: nn.Identity(),
        skip: Callable[[int, int, Zyx], nn.Module] = lambda *_: Skip(),
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        shapes, last = level_shapes(input_shape, len(channels)), len(channels) - 1
        self.encoders = nn.ModuleList(
            block(a, b, n)
            for n, (a, b) in enumerate(zip((1, *channels), channels[:-1], strict=False))
        )
        self.downs = nn.ModuleList(down(channels[n], shapes[n], shapes[n + 1]) for n in range(last))
        self.bottom = nn.Sequential(
            block(channels[-2], channels[-1], last), bottom(channels[-1], shapes[-1])
        )
        upwards = range(last - 1, -1, -1)
        self.ups = nn.ModuleList(up(channels[n + 1], shapes[n + 1], shapes[n]) for n in upwards)
        self.skips = nn.ModuleList(
            skip(channels[n], channels[n + 1], factor(shapes[n], shapes[n + 1])) for n in upwards
        )
        self.decoders = nn.ModuleList(
            block(channels[n + 1] + channels[n], channels[n], n) for n in upwards
        )
        self.head = Pointwise(channels[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, z, y, x) float in [-1, 1] -> (n, out_channels, z, y, x)."""
        check_input(x, self.input_shape)
        encoded = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            encoded.append(encoder(x))
            x = down(encoded[-1])
        x = self.bottom(x)
        for up, skip, decoder in zip(self.ups, self.skips, self.decoders, strict=True):
            x = decoder(torch.cat([up(x), skip(encoded.pop(), x)], dim=1))
        out: Tensor = self.head(x)
        return out
