"""V-Net with the widths of CleftNet: residual stages, strided convolution down, transposed up.

Source: Milletari, Navab & Ahmadi 2016; a baseline of Liu & Ji 2021, section IV-F.
Deviation: 3x3x3 kernels, batch norm and ELU, as the other networks of that comparison; padded
depth-aware strides; the input of a stage is brought to its width by a pointwise convolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from cleftcli.geometry import Zyx
from cleftcli.model.encoder_decoder import LITE_TILE, LITE_WIDTHS, TILE, WIDTHS, EncoderDecoder
from cleftcli.model.layers import ConvBlock, Pointwise, deconvolution, factor

LITE = {"input_shape": LITE_TILE, "channels": LITE_WIDTHS}
CONVOLUTIONS = (1, 2, 3)  # of the stages from the finest; those below have as many as the last


class Network(EncoderDecoder):
    """(n, 1, *input_shape) -> (n, out_channels, *input_shape), without activation.

    Args:
        out_channels: as the objective wants.
        input_shape: zyx of the tile.
        channels: of the encoder stages, and last of the bottom stage.
    """

    def __init__(
        self, *, out_channels: int, input_shape: Zyx = TILE, channels: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__(
            out_channels=out_channels,
            input_shape=input_shape,
            channels=channels,
            block=Stage,
            down=_strided,
            up=deconvolution,
        )


class Stage(nn.Module):
    """Convolution blocks whose input is added to their output before the last ELU."""

    def __init__(self, c_in: int, c_out: int, level: int) -> None:
        super().__init__()
        count = CONVOLUTIONS[min(level, len(CONVOLUTIONS) - 1)]
        widths = [c_in, *[c_out] * count]
        blocks = [ConvBlock(a, b) for a, b in itertools.pairwise(widths)]
        self.activation = blocks[-1].pop(-1)
        self.blocks = nn.Sequential(*blocks)
        self.widen = Pointwise(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, z, y, x) -> (n, c_out, z, y, x)."""
        out: Tensor = self.activation(self.widen(x) + self.blocks(x))
        return out


def _strided(c: int, larger: Zyx, smaller: Zyx) -> nn.Module:
    """A convolution whose windows do not overlap."""
    scale = factor(larger, smaller)
    return nn.Conv3d(c, c, scale, scale)
