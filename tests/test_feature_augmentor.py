"""CleftNet's feature augmentor against its formula, written out in float64."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from cleftcli.model.feature_augmentor import FeatureAugmentor
from cleftcli.model.queries import QUERIES, correlations, learned_queries

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


EVERY_QUERY = pytest.mark.parametrize("query", QUERIES)


def augmentor(source, target, *, c=5, seed=0, **options):
    torch.manual_seed(seed)
    return FeatureAugmentor(c, source, target, **options).double()


def features(shape, *, n=2, c=5, seed=1):
    return torch.randn(n, c, *shape, generator=torch.Generator().manual_seed(seed)).double()


def queries(fa, x):
    """(n, queries, c_k), written out for each kind."""
    query, (d, h, w) = fa.query, fa.output_shape
    match type(query).__name__:
        case "Full" | "Frozen":
            found = query.full
        case "Separable":
            places = itertools.product(range(d), range(h), range(w))
            found = torch.stack([query.z[z] + query.y[y] + query.x[x] for z, y, x in places])
        case "Uniform":
            found = torch.zeros(d * h * w, fa.key.out_features, dtype=x.dtype)
        case "FromInput":
            return query.convolution(x).flatten(2).mT
    return found.expand(len(x), -1, -1)


def attention(fa, source, x=None):
    """V softmax(K^T Q), eq. 3 and 4, and the 1x1x1 convolution back."""
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
@EVERY_QUERY
@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_equals_the_formula(source, target, query, options):
    """The output is V softmax(K^T Q), convolved back, plus the residual; so are its gradients."""
    fa, x = augmentor(source, target, query=query, **options), features(source).requires_grad_()
    inputs = [x, *(p for name, p in fa.named_parameters() if name != "key.bias")]
    found, expected = fa(x), attention(fa, x) + residual(x, target)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@EVERY_QUERY
@pytest.mark.parametrize(("keys", "values"), [(16, 16), (16, 8), (8, 16)])
def test_the_matrix_of_keys_and_queries_is_not_stored(query, keys, values):
    """No allocation of forward or backward comes near keys x queries."""
    torch.manual_seed(0)
    options = {"key_channels": keys, "value_channels": values, "query": query}
    fa = FeatureAugmentor(16, (2, 64, 64), (1, 32, 32), **options)
    x = torch.randn(1, 16, 2, 64, 64, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        fa(x).sum().backward()
    largest = max(e.self_cpu_memory_usage for e in profile.events())
    assert x.nbytes / 2 < largest < 2 * 64 * 64 * 32 * 32 * 4 / 4


@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_queries_may_come_from_the_input(source, target):
    """Self-attention has no learned query: at the same keys and values another input asks else."""
    fa, x = augmentor(source, target, query="input"), features(source)
    asked = fa.query(x)
    assert asked.shape == (2, 1, math.prod(target), 5)
    assert (asked[0] - asked[1]).abs().amax(dim=-1).min() > 1e-6
    assert learned_queries(fa) == {}


@pytest.mark.parametrize("shape", [(3, 7, 9), (1, 5, 5), (5, 1, 3)])
@EVERY_QUERY
def test_odd_sizes(query, shape):
    """Nothing asks for even edges where the shape stays, or three times as many voxels are."""
    fa, x = augmentor(shape, shape, query=query), features(shape)
    torch.testing.assert_close(fa(x), attention(fa, x) + x, rtol=0, atol=1e-10)
    wide = (shape[0], 3 * shape[1], 3 * shape[2])
    for a, b in ((shape, wide), (wide, shape)):
        fa, x = augmentor(a, b, query=query), features(a)
        torch.testing.assert_close(fa(x), attention(fa, x) + residual(x, b), rtol=0, atol=1e-10)


def test_logits_are_not_scaled():
    """Attention is as printed, without the usual division by the root of c_k."""
    fa, x = augmentor((1, 4, 4), (1, 4, 4)), features((1, 4, 4))
    with torch.no_grad():
        fa.query.full *= 3  # sharpen, so that a factor would show
        scaled = augmentor((1, 4, 4), (1, 4, 4))
        scaled.load_state_dict({**fa.state_dict(), "query.full": fa.query.full / math.sqrt(5)})
        torch.testing.assert_close(fa(x), attention(fa, x) + x, rtol=0, atol=1e-10)
        assert (fa(x) - scaled(x)).abs().max() > 1e-3


@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_query_is_independent_of_the_input(source, target):
    """One query for each output position is learned, and the input may be permuted under it."""
    fa, x = augmentor(source, target), features(source)
    assert isinstance(fa.query.full, torch.nn.Parameter)
    assert fa.query.full.shape == (math.prod(target), 5)
    order = torch.randperm(math.prod(source), generator=torch.Generator().manual_seed(2))
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    attended = fa(x) - residual(x, target)
    torch.testing.assert_close(
        fa(shuffled) - residual(shuffled, target), attended, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("more", [0, 1, 10**9])
@EVERY_QUERY
def test_enough_keys_are_exact(query, more):
    """A limit that is not exceeded changes nothing, to the bit."""
    shapes = ((2, 8, 8), (1, 4, 4))
    x = features(shapes[0])
    exact = augmentor(*shapes, query=query)
    limited = augmentor(*shapes, query=query, max_keys=2 * 8 * 8 + more)
    assert torch.equal(exact(x), limited(x))


@pytest.mark.parametrize(
    ("max_keys", "pool"), [(127, 2), (32, 2), (31, 4), (8, 4), (7, 8), (2, 8), (1, 8)]
)
@EVERY_QUERY
def test_pooled_keys_attend_to_the_averaged_input(query, max_keys, pool):
    """With fewer keys, attention is that over the input averaged in plane."""
    source, target = (2, 8, 8), (1, 4, 4)
    fa, x = augmentor(source, target, query=query, max_keys=max_keys), features(source)
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
    assert (fa.key.out_features, fa.value.out_features, fa.query.full.shape[1]) == (c_k, c_v, c_k)
    assert fa(features((1, 4, 4), c=c)).shape == (2, c, 1, 4, 4)


@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_separable_queries_are_few(source, target):
    """One vector for each z, y and x; the queries start as large as those of `full`."""
    d, h, w = target
    fa = augmentor(source, target, query="separable")
    assert {k: v.numel() for k, v in learned_queries(fa).items()} == {
        f"query.{axis}": 5 * n for axis, n in zip("zyx", (d, h, w), strict=True)
    }
    wide = {
        query: FeatureAugmentor(64, (4, 64, 64), (2, 32, 32), query=query).query
        for query in ("full", "separable")
    }
    x = torch.zeros(1, 64, 4, 64, 64)
    sizes = {query: made(x).square().sum(-1).mean().item() for query, made in wide.items()}
    assert sizes["full"] == pytest.approx(1, rel=0.1)
    assert sizes["separable"] == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("query", QUERIES)
def test_only_learned_queries_learn(query):
    """A step changes `full`, and all three parts of `separable`; the controls have nothing."""
    fa, x = augmentor((2, 4, 4), (1, 2, 2), query=query), features((2, 4, 4))
    before = {k: v.detach().clone() for k, v in learned_queries(fa).items()}
    control = {k: v.clone() for k, v in fa.state_dict().items() if k == "query.full"}
    optimizer = torch.optim.SGD(fa.parameters(), 0.1)
    fa(x).square().sum().backward()
    optimizer.step()
    moved = [k for k, v in learned_queries(fa).items() if not torch.equal(v, before[k])]
    expected = {"full": ["query.full"], "separable": ["query.z", "query.y", "query.x"]}
    assert moved == expected.get(query, [])
    if query == "frozen":
        assert torch.equal(fa.query.full, control["query.full"])


def test_uniform_queries_give_the_mean_of_the_values():
    """The control that knows no position: every output gets the same."""
    fa, x = augmentor((2, 4, 4), (1, 2, 2), query="uniform"), features((2, 4, 4))
    mean = fa.value(x).mean(dim=(2, 3, 4), keepdim=True)
    expected = fa.out(mean) + residual(x, (1, 2, 2))
    torch.testing.assert_close(fa(x), expected, rtol=0, atol=1e-10)


def test_queries_tell_how_far_they_moved():
    """1 where they are as at the start, whatever their scale; 0 where they are drawn anew."""
    start = learned_queries(augmentor((2, 16, 16), (2, 16, 16)))
    start = {k: v.detach() for k, v in start.items()}
    other = learned_queries(augmentor((2, 16, 16), (2, 16, 16), seed=1))
    assert correlations(start, {k: 3 * v + 1 for k, v in start.items()}) == pytest.approx(
        {"query.full": 1}
    )
    assert abs(correlations(start, other)["query.full"]) < 0.1
    assert correlations({"one": torch.ones(1)}, {"one": torch.zeros(1)}) == {"one": 1}
    half = correlations(start, {k: v + other[k].detach() for k, v in start.items()})
    assert half["query.full"] == pytest.approx(math.sqrt(0.5), abs=0.05)
