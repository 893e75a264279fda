"""3-D U-Net with the widths of CleftNet: max pooling down, transposed convolution up.

Source: Çiçek et al. 2016; widths and depth as the baseline of Liu & Ji 2021, section IV-F.
Deviation: padded convolutions and ELU, as the other networks of that comparison.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleftcli.geometry import Zyx
from cleftcli.model.layers import ConvBlock, Pointwise, check_input, factor, level_shapes


class Network(nn.Module):
    """(n, 1, *input_shape) -> (n, out_channels, *input_shape), without activation.

    Args:
        out_channels: as the objective wants.
        input_shape: zyx of the tile.
        channels: of the encoder blocks, and last of the bottom block.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        input_shape: Zyx = (8, 256, 256),
        channels: Sequence[int] = (32, 64, 96, 128, 160),
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        shapes = level_shapes(input_shape, len(channels))
        self.factors = [factor(a, b) for a, b in itertools.pairwise(shapes)]
        self.encoders = nn.ModuleList(
            _double(a, b) for a, b in zip((1, *channels[:-1]), channels, strict=True)
        )
        steps = list(zip(channels[1:], channels[:-1], self.factors, strict=True))[::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose3d(c, skip, f, f) for c, skip, f in steps)
        self.decoders = nn.ModuleList(_double(2 * skip, skip) for _, skip, _ in steps)
        self.head = Pointwise(channels[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, z, y, x) float in [-1, 1] -> (n, out_channels, z, y, x)."""
        check_input(x, self.input_shape)
        skips = []
        for encoder, scale in zip(self.encoders[:-1], self.factors, strict=True):
            x = encoder(x)
            skips.append(x)
            x = functional.max_pool3d(x, scale)
        x = self.encoders[-1](x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(torch.cat([up(x), skips.pop()], dim=1))
        out: Tensor = self.head(x)
        return out


def _double(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(ConvBlock(c_in, c_out), ConvBlock(c_out, c_out))
