"""Attention U-Net: a ResUnet whose skips pass through additive attention gates.

Source: Oktay et al. 2018, figure 2 and eq. 1 to 3; a baseline of Liu & Ji 2021, sections IV-F and
IV-G: it differs from CleftNet without label augmentor in the attention alone, so its blocks are
residual. Deviation: widths, padding and ELU as the other networks of that comparison; no deep
supervision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleftcli.geometry import Zyx, zyx
from cleftcli.model.encoder_decoder import LITE_TILE, LITE_WIDTHS, TILE, WIDTHS, EncoderDecoder
from cleftcli.model.layers import Pointwise, conv_residual, deconvolution, max_pool, upsample

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
            skip=Gate,
        )


class Gate(nn.Module):
    """A skip, weighed voxel by voxel by how it goes with what comes from the level below.

    The weight is sigmoid(psi(relu(W_x skip + W_g below))), found on the coarser grid.
    """

    def __init__(self, c: int, below: int, finer: Zyx) -> None:
        super().__init__()
        self.of_skip = nn.Conv3d(c, c, finer, finer, bias=False)
        self.of_below = Pointwise(below, c)
        self.psi = Pointwise(c, 1)
        # a convolution, for batch norms fold into these alone
        self.out = nn.Sequential(nn.Conv3d(c, c, 1, bias=False), nn.BatchNorm3d(c))

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        """(n, c, z, y, x) and (n, c_below, smaller) -> (n, c, z, y, x)."""
        agree = functional.relu(self.of_skip(skip) + self.of_below(below))
        weight = upsample(torch.sigmoid(self.psi(agree)), zyx(skip.shape[2:]))
        out: Tensor = self.out(skip * weight)
        return out
