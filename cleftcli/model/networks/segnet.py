"""SegNet in 3-D: no skips; the decoder puts values back where max pooling took them from.

Source: Badrinarayanan, Kendall & Cipolla 2017; a baseline of Liu & Ji 2021, section IV-F.
Deviation: widths, depth and ELU as the other networks of that comparison.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from cleftcli.geometry import Zyx
from cleftcli.model.encoder_decoder import LITE_TILE, LITE_WIDTHS, TILE, WIDTHS
from cleftcli.model.layers import Pointwise, check_input, double_conv, factor, level_shapes

LITE = {"input_shape": LITE_TILE, "channels": LITE_WIDTHS}


class Network(nn.Module):
    """(n, 1, *input_shape) -> (n, out_channels, *input_shape), without activation.

    Args:
        out_channels: as the objective wants.
        input_shape: zyx of the tile.
        channels: of the encoder blocks, and last of the bottom block.
    """

    def __init__(
        self, *, out_channels: int, input_shape: Zyx = TILE, channels: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        shapes = level_shapes(input_shape, len(channels))
        self.factors = [factor(a, b) for a, b in itertools.pairwise(shapes)]
        self.encoders = nn.ModuleList(
            double_conv(a, b) for a, b in zip((1, *channels), channels[:-1], strict=False)
        )
        # unpooled values need as many channels as their places have
        self.bottom = nn.Sequential(
            double_conv(channels[-2], channels[-1]), double_conv(channels[-1], channels[-2])
        )
        narrower = [channels[0], *channels[:-2]][::-1]
        self.decoders = nn.ModuleList(
            double_conv(a, b) for a, b in zip(channels[-2::-1], narrower, strict=True)
        )
        self.head = Pointwise(channels[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, z, y, x) float in [-1, 1] -> (n, out_channels, z, y, x)."""
        check_input(x, self.input_shape)
        places = []
        for encoder, scale in zip(self.encoders, self.factors, strict=True):
            x = encoder(x)
            shape = x.shape[2:]
            x, place = functional.max_pool3d(x, scale, return_indices=True)
            places.append((place, scale, shape))
        x = self.bottom(x)
        for decoder in self.decoders:
            place, scale, shape = places.pop()
            x = decoder(functional.max_unpool3d(x, place, scale, output_size=shape))
        out: Tensor = self.head(x)
        return out
