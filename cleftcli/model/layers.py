"""Layers that the networks share: convolution and residual blocks, factors, the input check.

Source: Liu & Ji 2021, section IV-B. Tensors are (n, c, z, y, x).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cleftcli.errors import InputError, UsageError
from cleftcli.geometry import Zyx, zyx


class ConvBlock(nn.Sequential):
    """3x3x3 convolution, batch norm, ELU: (n, c_in, z, y, x) -> (n, c_out, z, y, x)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.Conv3d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm3d(c_out), nn.ELU()
        )


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions; the input is added after the second batch norm, before its ELU."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.first = ConvBlock(c, c)
        self.second = nn.Sequential(nn.Conv3d(c, c, 3, padding=1, bias=False), nn.BatchNorm3d(c))
        self.activation = nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        out: Tensor = self.activation(x + self.second(self.first(x)))
        return out


class Pointwise(nn.Linear):
    """A 1x1x1 convolution, (n, c_in, ...) -> (n, c_out, ...), as the matrix product it is.

    With channels last the two are the same sum.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Same positions, other channels."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def conv_residual(c_in: int, c_out: int, _level: int = 0) -> nn.Sequential:
    """CleftNet's block less its feature augmentor: convolution block, then residual block."""
    return nn.Sequential(ConvBlock(c_in, c_out), ResidualBlock(c_out))


def double_conv(c_in: int, c_out: int, _level: int = 0) -> nn.Sequential:
    """U-Net's block: two convolution blocks."""
    return nn.Sequential(ConvBlock(c_in, c_out), ConvBlock(c_out, c_out))


def max_pool(_c: int, larger: Zyx, smaller: Zyx) -> nn.Module:
    """The largest of each window."""
    return nn.MaxPool3d(factor(larger, smaller))


def deconvolution(c: int, smaller: Zyx, larger: Zyx) -> nn.Module:
    """A transposed convolution whose windows do not overlap; channels stay."""
    scale = factor(larger, smaller)
    return nn.ConvTranspose3d(c, c, scale, scale)


class Skip(nn.Module):
    """A skip connection that changes nothing."""

    def forward(self, skip: Tensor, _below: Tensor) -> Tensor:
        """The skip."""
        return skip


def level_shapes(input_shape: Zyx, levels: int) -> list[Zyx]:
    """Shapes at each level of a U-net: in-plane halved, depth halved until it is 1.

    Source: section IV-B. Deviation: the paper halves a depth of 8 four times; a depth of 1 stays.

    Raises:
        InputError: an edge cannot be halved so often; the message names the nearest shape.
        UsageError: there are no levels.
    """
    if levels < 2:
        raise UsageError("channels: an encoder block and the bottom block at least")
    step = 2 ** (levels - 1)
    in_plane = [max(round(n / step), 1) * step for n in input_shape[1:]]
    nearest = zyx([_nearest_depth(input_shape[0], levels), *in_plane])
    if nearest != input_shape:
        raise InputError(
            f"input shape {input_shape} cannot be halved {levels - 1} times; "
            f"the nearest that can is {nearest}"
        )
    depths = _depths(input_shape[0], levels)
    return [(d, input_shape[1] >> level, input_shape[2] >> level) for level, d in enumerate(depths)]


def _depths(depth: int, levels: int) -> list[int]:
    return [max(depth >> level, 1) for level in range(levels)]


def _nearest_depth(depth: int, levels: int) -> int:
    """The depth closest to this that is even, or 1, wherever it is halved."""
    outward = (n for d in itertools.count() for n in (depth - d, depth + d) if n > 0)
    return next(n for n in outward if all(d == 1 or d % 2 == 0 for d in _depths(n, levels)[:-1]))


def factor(larger: Sequence[int], smaller: Sequence[int]) -> Zyx:
    """How many times the one shape is the other, on each axis."""
    return zyx([a // b for a, b in zip(larger, smaller, strict=True)])


def check_input(x: Tensor, input_shape: Zyx) -> None:
    """Refuse tensors that are not (n, 1, *input_shape).

    Raises:
        InputError: naming the shape that is expected.
    """
    if tuple(x.shape[1:]) != (1, *input_shape):
        raise InputError(
            f"the network takes (n, 1, {', '.join(map(str, input_shape))}); got {tuple(x.shape)}"
        )


def upsample(x: Tensor, shape: Zyx) -> Tensor:
    """Trilinear to `shape`."""
    return torch.nn.functional.interpolate(x, size=shape, mode="trilinear", align_corners=False)
