"""A tile as a sequence of patches, through transformer layers: what `vit` and `mae` share.

Tokens are in raster order of their patches, z slowest: `patchify` and the embedding agree on it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cleftcli.errors import InputError, UsageError
from cleftcli.geometry import Zyx, zyx

PATCH: Zyx = (1, 16, 16)  # sections are far apart: a patch is flat

# PyTorch's fast path of layers in evaluation stores heads x tokens x tokens; without it none is
torch.backends.mha.set_fastpath_enabled(False)


class TokenEncoder(nn.Module):
    """(n, 1, *input_shape) -> the tokens behind each layer, (n, tokens, width) each.

    Args:
        input_shape: zyx of the tile.
        patch: zyx of what becomes one token.
        width: channels of a token, a multiple of 6.
        depth: layers.
        heads: of attention.

    Source: Dosovitskiy et al. 2021; fixed sine and cosine positions as He et al. 2022.

    Raises:
        InputError: the tile is not made of whole patches; the message names the nearest that is.
    """

    def __init__(self, *, input_shape: Zyx, patch: Zyx, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.grid = token_grid(input_shape, patch)
        self.embed = nn.Conv3d(1, width, patch, patch)
        self.register_buffer("positions", sin_cos(self.grid, width), persistent=False)
        self.layers = transformer_layers(width, depth, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> list[Tensor]:
        """Tokens behind each layer, the last ones normalised.

        Args:
            x: (n, 1, z, y, x) float in [-1, 1].
            visible: (n, k) indices of the tokens to look at; None is all.
        """
        tokens = self.embed(x).flatten(2).mT + self.positions
        if visible is not None:
            tokens = tokens.gather(1, visible[:, :, None].expand(-1, -1, tokens.shape[2]))
        found = []
        for layer in self.layers:
            tokens = layer(tokens)
            found.append(tokens)
        found[-1] = self.norm(tokens)
        return found


def transformer_layers(width: int, depth: int, heads: int) -> nn.ModuleList:
    """Layers normalised before attention and before the four times wider MLP.

    Raises:
        UsageError: the heads do not divide the width.
    """
    if width % heads:
        raise UsageError(f"width {width} cannot be shared by {heads} heads")
    return nn.ModuleList(
        nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        for _ in range(depth)
    )


def token_grid(input_shape: Zyx, patch: Zyx) -> Zyx:
    """How many patches a tile holds along each axis.

    Raises:
        InputError: not whole ones; the message names the nearest shape that would.
    """
    nearest = zyx([max(round(n / p), 1) * p for n, p in zip(input_shape, patch, strict=True)])
    if nearest != input_shape:
        raise InputError(
            f"input shape {input_shape} is not made of whole patches of {patch}; "
            f"the nearest that is is {nearest}"
        )
    return zyx([n // p for n, p in zip(input_shape, patch, strict=True)])


def patchify(x: Tensor, patch: Zyx) -> Tensor:
    """(n, z, y, x) -> (n, tokens, voxels of a patch), both in raster order."""
    n, *shape = x.shape
    d, h, w = (a // p for a, p in zip(shape, patch, strict=True))
    split = x.reshape(n, d, patch[0], h, patch[1], w, patch[2])
    return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(n, d * h * w, math.prod(patch))


def unpatchify(tokens: Tensor, grid: Zyx, patch: Zyx) -> Tensor:
    """The inverse of `patchify`: (n, tokens, voxels of a patch) -> (n, z, y, x)."""
    split = tokens.reshape(len(tokens), *grid, *patch).permute(0, 1, 4, 2, 5, 3, 6)
    return split.reshape(len(tokens), *(g * p for g, p in zip(grid, patch, strict=True)))


def sin_cos(grid: Zyx, width: int) -> Tensor:
    """Fixed positions, (tokens, width) float32: a third of the channels for each axis.

    Each third holds sines, then cosines, at wavelengths from 2 pi tokens up to almost 2 pi 10^4.

    Raises:
        InputError: the width is no multiple of 6.
    """
    if width % 6:
        raise InputError(f"width {width}: sine and cosine on three axes need a multiple of 6")
    frequency = 10_000.0 ** -(torch.arange(width // 6) / (width // 6))
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij")
    angles = [a.reshape(-1, 1) * frequency for a in axes]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)
