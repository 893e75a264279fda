"""CleftNet: a residual 3-D U-net whose pooling, bottom and upsampling are feature augmentors.

Source: Liu & Ji, IEEE TMI 2021, figure 3, sections III-C and IV-B.
Deviation: depth is halved only while it is more than 1; see docs/papers.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cleftcli.geometry import Zyx
from cleftcli.model.feature_augmentor import FeatureAugmentor
from cleftcli.model.layers import Pointwise, check_input, conv_residual, level_shapes


class Network(nn.Module):
    """(n, 1, *input_shape) -> (n, out_channels, *input_shape), without activation.

    Args:
        out_channels: 2 with the label augmentor: mask logit and boundary.
        input_shape: zyx of the only tile it accepts: learned queries are tied to positions.
        channels: of the encoder blocks, and last of the bottom block.
        key_channels: see FeatureAugmentor.
        max_keys: see FeatureAugmentor; None is the paper's exact attention.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        input_shape: Zyx = (8, 256, 256),
        channels: Sequence[int] = (32, 64, 96, 128, 160),
        key_channels: int = 32,
        max_keys: int | None = None,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        shapes = level_shapes(input_shape, len(channels))

        def augmentor(c: int, source: Zyx, target: Zyx) -> FeatureAugmentor:
            return FeatureAugmentor(
                c,
                input_shape=source,
                output_shape=target,
                key_channels=key_channels,
                max_keys=max_keys,
            )

        below = list(zip(channels[1:], channels[:-1], shapes[1:], shapes[:-1], strict=True))
        self.encoders = nn.ModuleList(
            conv_residual(a, b) for a, b in zip((1, *channels[:-2]), channels[:-1], strict=True)
        )
        self.downs = nn.ModuleList(augmentor(c, large, small) for _, c, small, large in below)
        self.bottom = nn.Sequential(
            conv_residual(channels[-2], channels[-1]),
            augmentor(channels[-1], shapes[-1], shapes[-1]),
        )
        self.ups = nn.ModuleList(augmentor(c, small, large) for c, _, small, large in below[::-1])
        self.decoders = nn.ModuleList(conv_residual(c + skip, skip) for c, skip, *_ in below[::-1])
        self.head = Pointwise(channels[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, z, y, x) float in [-1, 1] -> (n, out_channels, z, y, x)."""
        check_input(x, self.input_shape)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(torch.cat([up(x), skips.pop()], dim=1))
        out: Tensor = self.head(x)
        return out
