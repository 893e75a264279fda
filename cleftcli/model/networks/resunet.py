"""ResUnet: a 3-D U-net of CleftNet's blocks, max pooling down, transposed convolution up.

Source: Zhang, Liu & Wang 2018, in 3-D as the baseline of Liu & Ji 2021, section IV-F.
Deviation: batch norm and ELU behind each convolution, as the other networks of that comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

from cleftcli.geometry import Zyx
from cleftcli.model.encoder_decoder import LITE_TILE, LITE_WIDTHS, TILE, WIDTHS, EncoderDecoder
from cleftcli.model.layers import conv_residual, deconvolution, max_pool

LITE = {"input_shape": LITE_TILE, "channels": LITE_WIDTHS}


class Network(EncoderDecoder):
    """(n, 1, *input_shape) -> (n, out_channels, *input_shape), without activation.

    Args:
        out_channels: as the objective wants.
        input_shape: zyx of the tile.
        channels: of the encoder blocks, and last of the bottom block.
    """

    def __init__(
        self, *, out_channels: int, input_shape: Zyx = TILE, channels: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__(
            out_channels=out_channels,
            input_shape=input_shape,
            channels=channels,
            block=conv_residual,
            down=max_pool,
            up=deconvolution,
        )
