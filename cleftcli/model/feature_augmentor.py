"""CleftNet's feature augmentor: attention from its queries to all of its input."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from cleftcli.geometry import Zyx
from cleftcli.model.layers import Pointwise, factor, upsample
from cleftcli.model.queries import QUERIES, tokens


class FeatureAugmentor(nn.Module):
    """Z = V softmax(K^T Q), one query for each output position, plus a residual.

    (n, c, *input_shape) -> (n, c, *output_shape). The residual is a max pool where the output is
    smaller, trilinear interpolation where it is larger, the input itself where it is the same.
    The matrix of keys and queries is not stored, where PyTorch has a fused kernel: on a CPU always.

    Args:
        c: channels in and out.
        input_shape: zyx.
        output_shape: zyx; also the shape of the query.
        query: a row of QUERIES; "full" as printed.
        key_channels: c_k = min(c, key_channels).
        value_channels: c_v = min(c, value_channels); None is c_k.
        max_keys: keys and values are average-pooled in plane to at most this many positions, or
            to one a section; None is exact, as printed.
        scale: of the logits K^T Q; 1 as printed.

    Source: Liu & Ji 2021, section III-A, eq. 3 to 5.
    Deviation: c_k and c_v are not given there; `max_keys`.
    """

    def __init__(
        self,
        c: int,
        input_shape: Zyx,
        output_shape: Zyx,
        *,
        query: str = "full",
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
        self.query = QUERIES[query](c, c_k, input_shape, output_shape)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, *input_shape) -> (n, c, *output_shape)."""
        source = functional.avg_pool3d(x, self.pool) if max(self.pool) > 1 else x
        k, v = tokens(self.key(source)), tokens(self.value(source))
        z = attend(self.query(x).to(k.dtype), k, v, scale=self.scale)
        z = z.squeeze(1).mT.reshape(len(x), -1, *self.output_shape)
        out: Tensor = self.out(z) + self._residual(x)
        return out

    def _residual(self, x: Tensor) -> Tensor:
        if self.output_shape == self.input_shape:
            return x
        if self.output_shape[1] > self.input_shape[1]:
            return upsample(x, self.output_shape)
        return functional.max_pool3d(x, factor(self.input_shape, self.output_shape))


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """softmax(scale q k^T) v, (n, 1, queries, c_v), without storing q k^T.

    Fused kernels want as many channels in values as in keys: zeros fill up the fewer.
    """
    c_k, c_v = k.shape[-1], v.shape[-1]
    q, k = (functional.pad(t, (0, max(c_v - c_k, 0))) for t in (q, k))
    v = functional.pad(v, (0, max(c_k - c_v, 0)))
    return functional.scaled_dot_product_attention(q, k, v, scale=scale)[..., :c_v]


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
