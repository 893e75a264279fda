"""CleftNet's feature augmentor: attention from learned queries to all of its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleftcli.geometry import Zyx
from cleftcli.model.layers import Pointwise, factor, upsample


class FeatureAugmentor(nn.Module):
    """Z = V softmax(K^T Q) with Q learned, one query per output position, plus a residual.

    (n, c, *input_shape) -> (n, c, *output_shape). The residual is a max pool where the output is
    smaller, trilinear interpolation where it is larger, the input itself where it is the same.

    Args:
        c: channels in and out.
        input_shape: zyx.
        output_shape: zyx; also the shape of the learned query.
        key_channels: c_k = c_v = min(c, key_channels).
        max_keys: keys and values are average-pooled in plane to at most this many positions, or
            to one a section; None is exact, as printed.

    Source: Liu & Ji 2021, section III-A, eq. 1 to 5; logits are not scaled, as printed.
    Deviation: c_k and c_v are not given there; `max_keys`.
    """

    def __init__(
        self,
        c: int,
        *,
        input_shape: Zyx,
        output_shape: Zyx,
        key_channels: int = 32,
        max_keys: int | None = None,
    ) -> None:
        super().__init__()
        c_k = min(c, key_channels)
        self.input_shape, self.output_shape = input_shape, output_shape
        self.pool = _key_pool(input_shape, max_keys)
        self.key = Pointwise(c, c_k)
        self.value = Pointwise(c, c_k)
        self.out = Pointwise(c_k, c)
        d, h, w = output_shape
        # unit variance of q.k at the start, for keys of unit variance
        self.query = nn.Parameter(torch.randn(d * h * w, c_k) * c_k**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, *input_shape) -> (n, c, *output_shape)."""
        n = len(x)
        source = functional.avg_pool3d(x, self.pool) if max(self.pool) > 1 else x
        k = self.key(source).flatten(2).mT.unsqueeze(1).contiguous()  # (n, 1, keys, c_k)
        v = self.value(source).flatten(2).mT.unsqueeze(1).contiguous()
        q = self.query.to(k.dtype).expand(n, 1, -1, -1)  # (n, 1, queries, c_k)
        z = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        z = z.squeeze(1).mT.reshape(n, -1, *self.output_shape)
        out: Tensor = self.out(z) + self._residual(x)
        return out

    def _residual(self, x: Tensor) -> Tensor:
        if self.output_shape == self.input_shape:
            return x
        if self.output_shape[1] > self.input_shape[1]:
            return upsample(x, self.output_shape)
        return functional.max_pool3d(x, factor(self.input_shape, self.output_shape))


def _key_pool(shape: Zyx, max_keys: int | None) -> Zyx:
    """In-plane windows, doubling until at most `max_keys` positions are left, or one a section.

    An edge that cannot be doubled exactly goes on to its next divisor, so that no row is lost.
    """
    d, h, w = shape
    y = x = 1
    while max_keys is not None and d * (h // y) * (w // x) > max_keys and (y, x) != (h, w):
        y, x = _doubled(h, y), _doubled(w, x)
    return 1, y, x


def _doubled(edge: int, window: int) -> int:
    """The smallest divisor of an edge that is twice the window or more, at most the edge."""
    return min((n for n in range(2 * window, edge) if edge % n == 0), default=edge)
