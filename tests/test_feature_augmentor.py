"""CleftNet's feature augmentor against its formula, written out in float64."""

import math

import pytest
import torch
from torch.nn import functional

from cleftcli.model.feature_augmentor import FeatureAugmentor, SelfAttention

# input shape, output shape: down, same, up, each also where the depth is 1
SHAPES = [
    ((4, 8, 8), (2, 4, 4)),
    ((1, 8, 8), (1, 4, 4)),
    ((2, 4, 4), (2, 4, 4)),
    ((1, 4, 4), (1, 4, 4)),
    ((2, 4, 4), (4, 8, 8)),
    ((1, 4, 4), (1, 8, 8)),
    ((1, 4, 4), (2, 8, 8)),
    ((2, 6, 4), (1, 3, 2)),
]


KINDS = [FeatureAugmentor, SelfAttention]


def augmentor(source, target, *, kind=FeatureAugmentor, c=5, seed=0, **options):
    torch.manual_seed(seed)
    return kind(c, source, target, **options).double()


def features(shape, *, n=2, c=5, seed=1):
    return torch.randn(n, c, *shape, generator=torch.Generator().manual_seed(seed)).double()


def queries(fa, x):
    """(n, queries, c_k): learned, or convolved from the input."""
    if isinstance(fa.query, torch.nn.Parameter):
        return fa.query.expand(len(x), -1, -1)
    return fa.query(x).flatten(2).mT


def attention(fa, source, x=None):
    """V softmax(K^T Q), eq. 1 to 4, and the 1x1x1 convolution back."""
    k, v = (
        torch.einsum("oc,nczyx->nozyx", m.weight, source).flatten(2) + m.bias[:, None]
        for m in (fa.key, fa.value)
    )
    logits = fa.scale * torch.einsum("nck,nqc->nkq", k, queries(fa, source if x is None else x))
    weight = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    z = torch.einsum("nck,nkq->ncq", v, weight)
    back = torch.einsum("oc,ncq->noq", fa.out.weight, z) + fa.out.bias[:, None]
    return back.reshape(len(source), -1, *fa.output_shape)


def residual(x, target):
    """Max pool, identity or trilinear interpolation."""
    if x.shape[2:] == target:
        return x
    if x.shape[3] < target[1]:
        return functional.interpolate(x, target, mode="trilinear", align_corners=False)
    return functional.adaptive_max_pool3d(x, target)


@pytest.mark.parametrize("options", [{}, {"value_channels": 2}, {"key_channels": 3, "scale": 0.3}])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_equals_the_formula(source, target, kind, options):
    """The output is V softmax(K^T Q), convolved back, plus the residual; so are its gradients."""
    fa, x = augmentor(source, target, kind=kind, **options), features(source).requires_grad_()
    inputs = [x, *(p for name, p in fa.named_parameters() if name != "key.bias")]
    found, expected = fa(x), attention(fa, x) + residual(x, target)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("keys", "values"), [(16, 16), (16, 8), (8, 16)])
def test_the_matrix_of_keys_and_queries_is_not_stored(kind, keys, values):
    """No allocation of forward or backward comes near keys x queries."""
    torch.manual_seed(0)
    options = {"key_channels": keys, "value_channels": values}
    fa = kind(16, (2, 64, 64), (1, 32, 32), **options)
    x = torch.randn(1, 16, 2, 64, 64, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        fa(x).sum().backward()
    largest = max(e.self_cpu_memory_usage for e in profile.events())
    assert x.nbytes / 2 < largest < 2 * 64 * 64 * 32 * 32 * 4 / 4


@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_queries_may_come_from_the_input(source, target):
    """Self-attention has no learned query: at the same keys and values another input asks else."""
    fa, x = augmentor(source, target, kind=SelfAttention), features(source)
    asked = fa._queries(x)
    assert asked.shape == (2, 1, math.prod(target), 5)
    assert (asked[0] - asked[1]).abs().amax(dim=-1).min() > 1e-6
    assert not any(p.shape[0] == math.prod(target) > 5 for p in fa.parameters())


@pytest.mark.parametrize("shape", [(3, 7, 9), (1, 5, 5), (5, 1, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_odd_sizes(kind, shape):
    """Nothing asks for even edges where the shape stays, or three times as many voxels are."""
    fa, x = augmentor(shape, shape, kind=kind), features(shape)
    torch.testing.assert_close(fa(x), attention(fa, x) + x, rtol=0, atol=1e-10)
    wide = (shape[0], 3 * shape[1], 3 * shape[2])
    for a, b in ((shape, wide), (wide, shape)):
        fa, x = augmentor(a, b, kind=kind), features(a)
        torch.testing.assert_close(fa(x), attention(fa, x) + residual(x, b), rtol=0, atol=1e-10)


def test_logits_are_not_scaled():
    """Attention is as printed, without the usual division by the root of c_k."""
    fa, x = augmentor((1, 4, 4), (1, 4, 4)), features((1, 4, 4))
    with torch.no_grad():
        fa.query *= 3  # sharpen, so that a factor would show
        scaled = augmentor((1, 4, 4), (1, 4, 4))
        scaled.load_state_dict({**fa.state_dict(), "query": fa.query / math.sqrt(5)})
        torch.testing.assert_close(fa(x), attention(fa, x) + x, rtol=0, atol=1e-10)
        assert (fa(x) - scaled(x)).abs().max() > 1e-3


@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_query_is_independent_of_the_input(source, target):
    """One query for each output position is learned, and the input may be permuted under it."""
    fa, x = augmentor(source, target), features(source)
    assert isinstance(fa.query, torch.nn.Parameter)
    assert fa.query.shape == (math.prod(target), 5)
    order = torch.randperm(math.prod(source), generator=torch.Generator().manual_seed(2))
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    attended = fa(x) - residual(x, target)
    torch.testing.assert_close(
        fa(shuffled) - residual(shuffled, target), attended, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("more", [0, 1, 10**9])
@pytest.mark.parametrize("kind", KINDS)
def test_enough_keys_are_exact(kind, more):
    """A limit that is not exceeded changes nothing, to the bit."""
    shapes = ((2, 8, 8), (1, 4, 4))
    x = features(shapes[0])
    exact = augmentor(*shapes, kind=kind)
    limited = augmentor(*shapes, kind=kind, max_keys=2 * 8 * 8 + more)
    assert torch.equal(exact(x), limited(x))


@pytest.mark.parametrize(
    ("max_keys", "pool"), [(127, 2), (32, 2), (31, 4), (8, 4), (7, 8), (2, 8), (1, 8)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_pooled_keys_attend_to_the_averaged_input(kind, max_keys, pool):
    """With fewer keys, attention is that over the input averaged in plane."""
    source, target = (2, 8, 8), (1, 4, 4)
    fa, x = augmentor(source, target, kind=kind, max_keys=max_keys), features(source)
    averaged = functional.avg_pool3d(x, (1, pool, pool))
    found = attention(fa, averaged, x) + residual(x, target)
    torch.testing.assert_close(fa(x), found, rtol=0, atol=1e-10)


@pytest.mark.parametrize("max_keys", [1, 4, 1000])
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 8, 8), (2, 6, 6), (1, 6, 6), (1, 4, 16)])
def test_no_voxel_is_left_out_of_pooled_keys(shape, max_keys):
    """Keys are at most `max_keys` or one a section, and each voxel has a part in them."""
    fa, x = augmentor(shape, shape, max_keys=max_keys), features(shape).requires_grad_()
    seen = []
    hook = fa.key.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[2:].numel()))
    (fa(x) - x).square().sum().backward()
    hook.remove()
    left_out = int((x.grad.abs().amax(dim=(0, 1)) <= 1e-12).sum())
    assert (seen[0] <= max(max_keys, shape[0]), left_out) == (True, 0)


@pytest.mark.parametrize(
    ("c", "value_channels", "c_k", "c_v"),
    [(5, None, 3, 3), (3, None, 3, 3), (2, None, 2, 2), (5, 4, 3, 4), (5, 1, 3, 1), (2, 4, 2, 2)],
)
def test_key_and_value_channels(c, value_channels, c_k, c_v):
    """c_k and c_v are the smaller of the channels and what is asked for; the output keeps c."""
    fa = augmentor((1, 4, 4), (1, 4, 4), c=c, key_channels=3, value_channels=value_channels)
    assert fa.key is not fa.value
    assert (fa.key.out_features, fa.value.out_features, fa.query.shape[1]) == (c_k, c_v, c_k)
    assert fa(features((1, 4, 4), c=c)).shape == (2, c, 1, 4, 4)
