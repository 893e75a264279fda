"""What a feature augmentor asks its input: one query for each output position.

A query is a module, (n, c, *source) -> (n, 1, positions of the target, c_k).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from cleftcli.geometry import Zyx, zyx
from cleftcli.model.layers import Pointwise, factor


def tokens(x: Tensor) -> Tensor:
    """(n, c, z, y, x) -> (n, 1, positions, c)."""
    return x.flatten(2).mT.unsqueeze(1).contiguous()


class Full(nn.Module):
    """A learned vector for each position, the same for every input.

    Source: Liu & Ji 2021, section III-A. Deviation: "randomly initialized" is all that is said of
    the start; here keys of unit variance meet it with products of unit variance.
    """

    def __init__(self, _c: int, c_k: int, _source: Zyx, target: Zyx) -> None:
        super().__init__()
        self.full = nn.Parameter(torch.randn(math.prod(target), c_k) * c_k**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """The queries."""
        return self.full.expand(len(x), 1, -1, -1)


class Separable(nn.Module):
    """The sum of a learned vector for each z, each y and each x.

    Every patch teaches each of them at many positions, where a vector of `Full` has one.
    """

    def __init__(self, _c: int, c_k: int, _source: Zyx, target: Zyx) -> None:
        super().__init__()
        self.z, self.y, self.x = (
            nn.Parameter(torch.randn(n, c_k) * (3 * c_k) ** -0.5) for n in target
        )

    def forward(self, x: Tensor) -> Tensor:
        """The queries."""
        every = self.z[:, None, None] + self.y[:, None] + self.x
        return every.flatten(0, 2).expand(len(x), 1, -1, -1)


class Frozen(nn.Module):
    """The start of `Full`, which no training changes: a control."""

    full: Tensor

    def __init__(self, c: int, c_k: int, source: Zyx, target: Zyx) -> None:
        super().__init__()
        self.register_buffer("full", Full(c, c_k, source, target).full.detach())

    def forward(self, x: Tensor) -> Tensor:
        """The queries."""
        return self.full.expand(len(x), 1, -1, -1)


class Uniform(nn.Module):
    """Zeros: every position gets the mean of all values. A control."""

    def __init__(self, _c: int, c_k: int, _source: Zyx, target: Zyx) -> None:
        super().__init__()
        self.shape = (math.prod(target), c_k)

    def forward(self, x: Tensor) -> Tensor:
        """The queries."""
        return x.new_zeros(len(x), 1, *self.shape)


class FromInput(nn.Module):
    """Convolved from the input: self-attention, which the paper compares with.

    A pointwise convolution where the output has the input's shape, a strided 3x3x3 convolution
    where it is smaller, a transposed one where it is larger.

    Source: Liu & Ji 2021, section IV-H and table VI, which compare with Liu et al. 2020 and Wang,
    Xie & Ji 2020. Deviation: the paper says "a linear transformation on the input"; the kinds of
    convolution follow Wang et al. 2020, "Non-local U-Nets".
    """

    def __init__(self, c: int, c_k: int, source: Zyx, target: Zyx) -> None:
        super().__init__()
        small, large = sorted((source, target))
        stride = factor(large, small)
        self.convolution: nn.Module
        if max(stride) == 1:
            self.convolution = Pointwise(c, c_k)
        elif target == small:
            self.convolution = nn.Conv3d(c, c_k, 3, stride, padding=1)
        else:
            behind = zyx([s - 1 for s in stride])
            self.convolution = nn.ConvTranspose3d(
                c, c_k, 3, stride, padding=1, output_padding=behind
            )

    def forward(self, x: Tensor) -> Tensor:
        """The queries."""
        return tokens(self.convolution(x))


QUERIES: dict[str, type[Full | Separable | Frozen | Uniform | FromInput]] = {
    "full": Full,
    "separable": Separable,
    "frozen": Frozen,
    "uniform": Uniform,
    "input": FromInput,
}
LEARNED = (Full, Separable)


def learned_queries(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a network that are learned queries, by name."""
    return {
        f"{name}.{own}": parameter
        for name, module in network.named_modules()
        if isinstance(module, LEARNED)
        for own, parameter in module.named_parameters()
    }


def correlations(start: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, float]:
    """How far queries have moved: Pearson's correlation of each with its start.

    1 where one has not moved, or is a single number.

    Args:
        start: queries by name, as they were.
        now: those and others, as they are.
    """
    return {name: _correlation(value, now[name]) for name, value in start.items()}


def _correlation(a: Tensor, b: Tensor) -> float:
    pair = torch.stack([t.detach().float().cpu().flatten() for t in (a, b)])
    found = torch.corrcoef(pair)[0, 1].item() if pair.shape[1] > 1 else 1.0
    return found if math.isfinite(found) else 1.0


def said(found: Iterable[float]) -> str:
    """A line about the correlations of queries with their start."""
    values = list(found)
    return f"queries: correlation with their start {min(values):.3f} to {max(values):.3f}"
