"""CleftNet's feature augmentor: attention from learned queries to all of its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleftcli.geometry import Zyx, zyx
from cleftcli.model.layers import Pointwise, factor, upsample


class FeatureAugmentor(nn.Module):
    """Z = V softmax(K^T Q) with Q learned, one query per output position, plus a residual.

    (n, c, *input_shape) -> (n, c, *output_shape). The residual is a max pool where the output is
    smaller, trilinear interpolation where it is larger, the input itself where it is the same.
    The matrix of keys and queries is not stored, where PyTorch has a fused kernel: on a CPU always.

    Args:
        c: channels in and out.
        input_shape: zyx.
        output_shape: zyx; also the shape of the learned query.
        key_channels: c_k = min(c, key_channels).
        value_channels: c_v = min(c, value_channels); None is c_k.
        max_keys: keys and values are average-pooled in plane to at most this many positions, or
            to one a section; None is exact, as printed.
        scale: of the logits K^T Q; 1 as printed.

    Source: Liu & Ji 2021, section III-A, eq. 1 to 5.
    Deviation: c_k and c_v are not given there; `max_keys`.
    """

    def __init__(
        self,
        c: int,
        input_shape: Zyx,
        output_shape: Zyx,
        *,
        key_channels: int = 32,
        value_channels: int | None = None,
        max_keys: int | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        c_k = min(c, key_channels)
        c_v = min(c, value_channels or key_channels)
        self.input_shape, self.output_shape, self.scale = input_shape, output_shape, scale
        self.pool = _key_pool(input_shape, max_keys)
        self.key = Pointwise(c, c_k)
        self.value = Pointwise(c, c_v)
        self.out = Pointwise(c_v, c)
        self.query = self._new_query(c, c_k)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, *input_shape) -> (n, c, *output_shape)."""
        source = functional.avg_pool3d(x, self.pool) if max(self.pool) > 1 else x
        k, v = _tokens(self.key(source)), _tokens(self.value(source))
        z = attend(self._queries(x).to(k.dtype), k, v, scale=self.scale)
        z = z.squeeze(1).mT.reshape(len(x), -1, *self.output_shape)
        out: Tensor = self.out(z) + self._residual(x)
        return out

    def _new_query(self, _c: int, c_k: int) -> nn.Parameter | nn.Module:
        d, h, w = self.output_shape
        # unit variance of q.k at the start, for keys of unit variance
        return nn.Parameter(torch.randn(d * h * w, c_k) * c_k**-0.5)

    def _queries(self, x: Tensor) -> Tensor:
        """(n, 1, output positions, c_k)."""
        assert isinstance(self.query, Tensor)
        return self.query.expand(len(x), 1, -1, -1)

    def _residual(self, x: Tensor) -> Tensor:
        if self.output_shape == self.input_shape:
            return x
        if self.output_shape[1] > self.input_shape[1]:
            return upsample(x, self.output_shape)
        return functional.max_pool3d(x, factor(self.input_shape, self.output_shape))


class SelfAttention(FeatureAugmentor):
    """A feature augmentor whose queries come from its input, and not from training alone.

    They are a pointwise convolution of the input where the output has its shape, a strided 3x3x3
    convolution where it is smaller, a transposed one where it is larger.

    Source: the ablation of Liu & Ji 2021, table V; the queries as in Wang et al. 2020, "Non-local
    U-Nets". Deviation: the ablation's convolutions are not given.
    """

    def _new_query(self, c: int, c_k: int) -> nn.Module:
        small, large = sorted((self.input_shape, self.output_shape))
        stride = factor(large, small)
        if max(stride) == 1:
            return Pointwise(c, c_k)
        if self.output_shape == small:
            return nn.Conv3d(c, c_k, 3, stride, padding=1)
        behind = zyx([s - 1 for s in stride])
        return nn.ConvTranspose3d(c, c_k, 3, stride, padding=1, output_padding=behind)

    def _queries(self, x: Tensor) -> Tensor:
        assert isinstance(self.query, nn.Module)
        return _tokens(self.query(x))


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """softmax(scale q k^T) v, (n, 1, queries, c_v), without storing q k^T.

    Fused kernels want as many channels in values as in keys: zeros fill up the fewer.
    """
    c_k, c_v = k.shape[-1], v.shape[-1]
    q, k = (functional.pad(t, (0, max(c_v - c_k, 0))) for t in (q, k))
    v = functional.pad(v, (0, max(c_k - c_v, 0)))
    return functional.scaled_dot_product_attention(q, k, v, scale=scale)[..., :c_v]


def _tokens(x: Tensor) -> Tensor:
    """(n, c, z, y, x) -> (n, 1, positions, c)."""
    return x.flatten(2).mT.unsqueeze(1).contiguous()


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
