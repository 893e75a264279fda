"""ViT: a UNETR, transformer layers over patches and a convolutional decoder.

Source: Hatamizadeh et al. 2022, figure 1, as Cheng et al. 2023 fine-tune it for serial sections.
Deviation: anisotropic patches; the blocks of the decoder are CleftNet's; widths halve to 32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cleftcli.errors import UsageError
from cleftcli.geometry import Zyx, zyx
from cleftcli.model.encoder_decoder import LITE_TILE, TILE
from cleftcli.model.layers import ConvBlock, Pointwise, check_input, conv_residual
from cleftcli.model.transformer import PATCH, TokenEncoder

LITE = {
    "input_shape": LITE_TILE,
    "width": 192,
    "depth": 8,
    "heads": 6,
    "channels": (16, 32, 48, 64),
}


class Network(nn.Module):
    """(n, 1, *input_shape) -> (n, out_channels, *input_shape), without activation.

    Args:
        out_channels: as the objective wants.
        input_shape: zyx of the tile.
        patch: zyx of what becomes one token; in plane a square of a power of two.
        width: channels of a token.
        depth: transformer layers; the decoder takes tokens behind evenly spaced ones.
        heads: of attention.
        channels: of the decoder's levels from the finest, one for each halving of a patch.

    Raises:
        UsageError: the patch cannot be halved so often, or there are fewer layers than levels.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        input_shape: Zyx = TILE,
        patch: Zyx = PATCH,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        channels: Sequence[int] = (32, 64, 96, 128),
    ) -> None:
        super().__init__()
        self.input_shape, levels = input_shape, len(channels)
        if depth < levels:
            raise UsageError(f"depth {depth}: {levels} levels take tokens behind as many layers")
        factors = _factors(zyx(patch), levels)
        self.encoder = TokenEncoder(
            input_shape=input_shape, patch=zyx(patch), width=width, depth=depth, heads=heads
        )
        # the bottom and each level but the finest take tokens, the deeper level the deeper ones
        self.taken = [depth * n // levels - 1 for n in range(levels, 0, -1)]
        coarser = [width, *channels[:0:-1]]
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(a, b, f, f)
            for a, b, f in zip(coarser, channels[::-1], factors[::-1], strict=True)
        )
        self.skips = nn.ModuleList(
            _from_tokens(width, channels[n], factors[n:][::-1]) for n in range(levels - 1, 0, -1)
        )
        self.skips.append(ConvBlock(1, channels[0]))
        self.decoders = nn.ModuleList(conv_residual(2 * c, c) for c in channels[::-1])
        self.head = Pointwise(channels[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, z, y, x) float in [-1, 1] -> (n, out_channels, z, y, x)."""
        check_input(x, self.input_shape)
        tokens = self.encoder(x)
        grids = [tokens[n].mT.unflatten(2, self.encoder.grid) for n in self.taken]
        sources, found = [*grids[1:], x], grids[0]
        for up, skip, decoder, source in zip(
            self.ups, self.skips, self.decoders, sources, strict=True
        ):
            found = decoder(torch.cat([up(found), skip(source)], dim=1))
        out: Tensor = self.head(found)
        return out


def _factors(patch: Zyx, levels: int) -> list[Zyx]:
    """How many times coarser each level is than the one above it, from the finest on."""
    found = [zyx([2 if edge >= 2 << n else 1 for edge in patch]) for n in range(levels)]
    reached = zyx([2 ** sum(f[axis] == 2 for f in found) for axis in range(3)])
    if reached != patch or any(f[1] != 2 for f in found):
        raise UsageError(
            f"patch {patch}: with {levels} channels its height and width must be {2**levels}, "
            f"its depth a power of two up to that"
        )
    return found


def _from_tokens(width: int, c: int, factors: Sequence[Zyx]) -> nn.Sequential:
    """Tokens of `width` as a grid -> c channels at a finer level, by transposed convolutions."""
    steps = [nn.ConvTranspose3d(width if n == 0 else c, c, f, f) for n, f in enumerate(factors)]
    return nn.Sequential(*(part for step in steps for part in (step, ConvBlock(c, c))))
