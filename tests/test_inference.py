"""Tiles into probabilities with networks whose answer is known."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cleftcli.errors import ResourceError
from cleftcli.geometry import Roi, hull, whole
from cleftcli.model.inference import (
    Predictor,
    bump_window,
    grey_constant_sections,
    load_predictor,
    predict_box,
)
from cleftcli.prediction import tile_grid


class FirstChannel:
    """An objective that takes the network's first channel for the probability."""

    channels = 1
    targets = ()

    def loss(self, output, targets):
        raise NotImplementedError

    def probability(self, output):
        return output[:, 0].float()


class Identity(nn.Module):
    """Probability = raw / 2 + 0.5."""

    def forward(self, x):
        return x / 2 + 0.5


class Tagged(nn.Module):
    """Each tile holds one value, chosen by its raw: which tile wrote a voxel can be seen."""

    def forward(self, x):
        return torch.zeros_like(x) + x.mean(dim=(1, 2, 3, 4), keepdim=True) / 2 + 0.5


class Position(nn.Module):
    """Each voxel's place in its tile, 0 to 1 in raster order."""

    def forward(self, x):
        ramp = torch.linspace(0, 1, x[0, 0].numel()).reshape(x.shape[2:])
        return ramp.expand(x.shape)


def predictor(network, **options):
    return Predictor(network, FirstChannel(), torch.device("cpu"), "float32", **options)


def noise(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def run(network, raw, tile, overlap, *, blend="bump", write=None, **options):
    grid = tile_grid(raw.shape, tile, overlap)
    tiles = grid.touching(write or whole(raw.shape))
    return predict_box(
        predictor(network, **options),
        raw,
        hull=whole(raw.shape),
        tiles=tiles,
        write=write or whole(raw.shape),
        blend=blend,
    )


@settings(deadline=None)
@given(shape=st.tuples(*[st.integers(1, 40)] * 3))
def test_bump_is_positive(shape):
    """No voxel of a tile weighs nothing; the window is symmetric and highest in the middle."""
    bump = bump_window(shape)
    assert bump.shape == shape
    assert bump.dtype == np.float32
    assert (bump > 0).all()
    assert bump.max() == bump[tuple(n // 2 for n in shape)] <= 1
    np.testing.assert_allclose(bump, bump[::-1, ::-1, ::-1], rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 256, 256), (64, 512, 512)])
def test_bump_of_real_tiles_is_positive(shape):
    """Also the corners of the largest tiles weigh more than float32 can lose."""
    assert bump_window(shape).min() > 1e-30


def test_bump_is_highest_in_the_middle():
    """The centre of a tile weighs more than its faces on every axis."""
    bump = bump_window((4, 8, 16))
    for axis in range(3):
        profile = bump.max(axis=tuple(a for a in range(3) if a != axis))
        rising = profile[: len(profile) // 2]
        assert (np.diff(rising) > 0).all()


@pytest.mark.parametrize("blend", ["bump", "none"])
@pytest.mark.parametrize("overlap", [(0, 0, 0), (1, 2, 3), (3, 4, 4), None])
def test_identity_gives_back_the_raw(overlap, blend):
    """Tiles of a network that changes nothing are put where they were taken."""
    raw = noise((9, 17, 21))
    found = run(Identity(), raw, (4, 8, 8), overlap, blend=blend)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, raw / 2 + 0.5, atol=1e-6)


def test_stacked_tiles_are_written_in_order():
    """Without blending a later tile covers an earlier one, in raster order."""
    raw = noise((6, 10, 12))
    found = run(Tagged(), raw, (4, 4, 8), (2, 1, 4), blend="none")
    expected = np.full(raw.shape, np.nan, np.float32)
    for z, y, x in itertools.product([0, 2], [0, 3, 6], [0, 4]):
        box = (slice(z, z + 4), slice(y, y + 4), slice(x, x + 8))
        expected[box] = raw[box].mean() / 2 + 0.5
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_blended_tiles_are_weighted_by_their_window():
    """Blending is the mean of the tiles over a voxel, weighted by the bump there."""
    raw = noise((4, 8, 14))
    found = run(Position(), raw, (4, 8, 8), (0, 0, 2))
    ramp, bump = np.linspace(0, 1, 4 * 8 * 8).reshape(4, 8, 8), bump_window((4, 8, 8)).astype(float)
    total, weight = np.zeros(raw.shape), np.zeros(raw.shape)
    for x in (0, 6):
        total[..., x : x + 8] += ramp * bump
        weight[..., x : x + 8] += bump
    np.testing.assert_allclose(found, total / weight, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(4, 9), st.integers(8, 20), st.integers(8, 20)),
    overlap=st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 6)),
    corner=st.tuples(*[st.floats(0, 1)] * 3),
    extent=st.tuples(*[st.floats(0, 1)] * 3),
    blend=st.sampled_from(["bump", "none"]),
)
def test_any_box_is_cut_from_the_whole(shape, overlap, corner, extent, blend):
    """Predicting a box gives the voxels that predicting everything gives there, to the bit."""
    raw = noise(shape)
    offset = [min(int(c * n), n - 1) for c, n in zip(corner, shape, strict=True)]
    sizes = [1 + int(e * (n - o - 1)) for e, n, o in zip(extent, shape, offset, strict=True)]
    box = Roi(tuple(offset), tuple(sizes))
    full = run(Position(), raw, (4, 8, 8), overlap, blend=blend)
    part = run(Position(), raw, (4, 8, 8), overlap, blend=blend, write=box)
    assert np.array_equal(part, full[box.within(whole(shape))])


@pytest.mark.parametrize(
    "network", [Identity(), Tagged(), Position()], ids=lambda n: type(n).__name__
)
@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_batch_size_changes_no_value(network, batch_size):
    """How many tiles are computed at once decides nothing, also where they do not come out even."""
    raw = noise((5, 18, 19))
    single = run(network, raw, (4, 8, 8), (1, 2, 2), batch_size=1)
    assert np.array_equal(run(network, raw, (4, 8, 8), (1, 2, 2), batch_size=batch_size), single)


def test_batches_are_always_full():
    """The network sees batches of one size only; what fills the last one is thrown away."""
    seen = []

    class Watching(Identity):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    raw = noise((4, 8, 40))
    found = run(Watching(), raw, (4, 8, 8), (0, 0, 0), batch_size=3)
    assert seen == [3, 3]
    np.testing.assert_allclose(found, raw / 2 + 0.5, atol=1e-6)


def test_raw_of_the_hull_alone_suffices():
    """`raw` may cover any box that holds the tiles, wherever it lies in the volume."""
    raw = noise((8, 24, 24))
    grid = tile_grid(raw.shape, (4, 8, 8), (1, 2, 2))
    write = Roi((3, 9, 10), (2, 5, 6))
    tiles = grid.touching(write)
    box = hull(tiles)
    found = predict_box(
        predictor(Position()), raw[box.within(whole(raw.shape))].copy(),
        hull=box, tiles=tiles, write=write, blend="bump",
    )  # fmt: skip
    assert np.array_equal(found, run(Position(), raw, (4, 8, 8), (1, 2, 2), write=write))


def test_constant_sections_become_grey():
    """A section without contrast is 0, whatever its level; any other section is left alone."""
    raw = noise((5, 6, 7))
    raw[1], raw[3] = -1.0, 0.3
    expected = raw.copy()
    expected[[1, 3]] = 0
    assert np.array_equal(grey_constant_sections(raw), expected)


@pytest.mark.parametrize("level", [-1.0, 0.25, 1.0])
def test_the_network_sees_grey_for_a_lost_section(level):
    """A section without contrast is predicted as grey, and the raw is not changed by it."""
    raw = noise((4, 8, 8))
    raw[2] = level
    before = raw.copy()
    found = run(Identity(), raw, (4, 8, 8), (0, 0, 0))
    np.testing.assert_allclose(found[2], 0.5)
    np.testing.assert_allclose(found[[0, 1, 3]], before[[0, 1, 3]] / 2 + 0.5, atol=1e-6)
    assert np.array_equal(raw, before)


def test_no_memory_says_what_to_type():
    """A device without memory for the batch is a resource error that offers half of it."""

    class Greedy(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError(f"CUDA out of memory for {x.shape}")

    with pytest.raises(ResourceError, match="--batch-size 4"):
        run(Greedy(), noise((4, 8, 8)), (4, 8, 8), (0, 0, 0), batch_size=8)


def test_predictor_of_a_checkpoint(checkpoint):
    """A checkpoint becomes a predictor once per process; its values are probabilities."""
    options = {"device": torch.device("cpu"), "precision": "float32", "batch_size": 2, "threads": 1}
    found = load_predictor(checkpoint, **options)
    assert load_predictor(checkpoint, **options) is found
    assert not found.network.training
    probability = found.probabilities([noise((4, 16, 16))])
    assert probability.shape == (1, 4, 16, 16)
    assert probability.dtype == np.float32
    assert ((probability >= 0) & (probability <= 1)).all()
