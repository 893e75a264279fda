"""Prediction of any box of a volume equals that of the whole, to the bit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from cleftcli.errors import UsageError
from cleftcli.geometry import BlockPlan, Roi, whole
from cleftcli.model import build
from cleftcli.model.inference import Predictor
from cleftcli.model.objectives import objective
from cleftcli.prediction import Tiling, predict_roi, quantise, tile_grid
from cleftcli.volumes import Space, Volume
from cleftcli.volumes.volume import InMemory


class FirstChannel:
    """An objective that takes the network's first channel for the probability."""

    def probability(self, output):
        return output[:, 0].float()


class Identity(nn.Module):
    """Probability = raw / 2 + 0.5."""

    def forward(self, x):
        return x / 2 + 0.5


class Box(nn.Module):
    """The mean of 3x3x3 voxels, 0 beyond the tile: a network that looks at its neighbours."""

    def forward(self, x):
        return functional.avg_pool3d(functional.pad(x, (1,) * 6), 3, 1) / 2 + 0.5


class Coordinates(nn.Module):
    """A value that tells which voxel of which tile it is: order and weights show."""

    def forward(self, x):
        place = torch.linspace(0, 1, x[0, 0].numel()).reshape(x.shape[2:])
        return (x + 1) * 0.3 + place * (0.2 + 0.2 * x[:, :, :1, :1, :1])


class Witness(Identity):
    """Remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen += [t.numpy().copy() for t in x[:, 0]]
        return super().forward(x)


FAKES = {"identity": Identity, "box": Box, "coordinates": Coordinates}


def predictor(network, batch_size=1):
    return Predictor(network, FirstChannel(), torch.device("cpu"), "float32", batch_size)


def volume_of(data):
    return Volume("memory", "zarr2", data.shape, data.dtype, data.shape, Space(), InMemory(data))


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def predict(network, data, tiling, roi=None, **options):
    found = predict_roi(
        predictor(network, **options), volume_of(data), (0, 255), tiling, roi or whole(data.shape)
    )
    return found.probability


def in_blocks(network, data, tiling, block, roi=None, **options):
    """Predict block by block, in reverse order, each with its own reading."""
    roi = roi or whole(data.shape)
    found = np.full(roi.shape, np.nan, np.float32)
    for one in reversed(list(BlockPlan(roi, block))):
        found[one.write.within(roi)] = predict(network, data, tiling, one.write, **options)
    return found


def edges(low, high):
    return st.tuples(*[st.integers(low, high)] * 3)


@st.composite
def tilings(draw):
    """A volume, a tile (perhaps larger), an overlap (perhaps none) and a block."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20)))
    tile = draw(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)))
    overlap = tuple(draw(st.integers(0, n - 1)) for n in tile)
    block = draw(st.tuples(st.integers(2, 9), st.integers(4, 20), st.integers(4, 20)))
    return shape, tile, overlap, block


@pytest.mark.parametrize("name", FAKES)
@settings(max_examples=40, deadline=None)
@given(case=tilings(), blend=st.sampled_from(["bump", "none"]), batch_size=st.integers(1, 3))
def test_blocks_equal_the_whole(name, case, blend, batch_size):
    """Whatever the volume, tile, overlap and block: the blocks put together are the whole."""
    shape, tile, overlap, block = case
    data, network = noise(shape), FAKES[name]()
    tiling = Tiling(tile_grid(shape, tile, overlap), blend)
    expected = predict(network, data, tiling)
    assert expected.dtype == np.float32
    assert expected.shape == shape
    found = in_blocks(network, data, tiling, block, batch_size=batch_size)
    assert np.array_equal(found, expected)


@settings(max_examples=20, deadline=None)
@given(
    block=st.tuples(st.integers(1, 4), st.integers(3, 12), st.integers(3, 12)), corner=edges(0, 5)
)
def test_blocks_of_a_part_equal_the_whole(block, corner):
    """A box of the volume, predicted in blocks of its own, is cut from the whole's prediction."""
    data = noise((9, 18, 20))
    tiling = Tiling(tile_grid(data.shape, (4, 8, 8), (1, 3, 2)), "bump")
    roi = Roi(corner, (4, 12, 11))
    expected = predict(Coordinates(), data, tiling)[roi.within(whole(data.shape))]
    assert np.array_equal(in_blocks(Coordinates(), data, tiling, block, roi=roi), expected)


@pytest.mark.parametrize("blend", ["bump", "none"])
@pytest.mark.parametrize("shape", [(7, 37, 41), (2, 20, 9)])
def test_blocks_equal_the_whole_with_cleftnet(shape, blend):
    """A real network on blocks gives the whole's prediction bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = {"channels": [4, 6, 8], "key_channels": 4}
    network = build("cleftnet", out_channels=2, input_shape=(4, 16, 16), options=options).eval()
    real = Predictor(
        network, objective("mask_and_boundary"), torch.device("cpu"), "float32", batch_size=3
    )
    data = noise(shape)
    tiling = Tiling(tile_grid(shape, (4, 16, 16)), blend)
    expected = predict_roi(real, volume_of(data), (0, 255), tiling, whole(shape)).probability
    found = np.zeros_like(expected)
    for block in BlockPlan(whole(shape), (3, 17, 23)):
        part = predict_roi(real, volume_of(data), (0, 255), tiling, block.write)
        found[block.write.within(whole(shape))] = part.probability
    torch.set_num_threads(threads)
    assert expected.std() > 1e-4
    assert np.array_equal(found, expected)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(2, 20), st.integers(2, 20)),
    tile=st.tuples(st.integers(1, 5), st.integers(2, 9), st.integers(2, 9)),
    blend=st.sampled_from(["bump", "none"]),
    data=st.data(),
)
def test_identity_gives_back_the_raw(shape, tile, blend, data):
    """A network that changes nothing gives the raw, also of volumes smaller than a tile."""
    overlap = tuple(data.draw(st.integers(0, n - 1)) for n in tile)
    z, y, x = np.indices(shape)
    raw = ((5 * z + 13 * y + 7 * x) % 256).astype(np.uint8)  # contrast in every tile's sections
    found = predict(Identity(), raw, Tiling(tile_grid(shape, tile, overlap), blend))
    np.testing.assert_allclose(found, raw / 255, atol=1e-5)


def test_stacked_tiles_of_a_volume():
    """Without blending the last tile over a voxel decides, clamped tiles last."""
    data = noise((4, 8, 20))
    tiling = Tiling(tile_grid(data.shape, (4, 8, 8), (0, 0, 0)), "none")
    found = predict(Coordinates(), data, tiling)
    last = predict(Coordinates(), data[..., 12:], Tiling(tile_grid((4, 8, 8), (4, 8, 8)), "none"))
    first = predict(Coordinates(), data[..., :8], Tiling(tile_grid((4, 8, 8), (4, 8, 8)), "none"))
    assert np.array_equal(found[..., 12:], last)
    assert np.array_equal(found[..., :8], first)
    assert not np.array_equal(found[..., 8:16], np.concatenate([first, last], -1)[..., :8])


def test_a_small_volume_is_mirrored():
    """Beyond the faces of a volume smaller than a tile the network sees reflections."""
    data = noise((3, 5, 6))
    network = Witness()
    predict(network, data, Tiling(tile_grid(data.shape, (4, 8, 8)), "bump"))
    padded = np.pad(data, ((0, 1), (0, 3), (0, 2)), mode="reflect")
    assert len(network.seen) == 1
    np.testing.assert_allclose(network.seen[0], padded / 255 * 2 - 1, atol=1e-6)


def test_real_neighbours_are_used_inside():
    """At a block's faces the network sees the volume, not reflections or padding."""
    data = noise((4, 8, 32))
    network, block = Witness(), Roi((0, 0, 12), (4, 8, 4))
    predict(network, data, Tiling(tile_grid(data.shape, (4, 8, 8), (0, 0, 4)), "bump"), block)
    for start, tile in zip((8, 12), network.seen, strict=True):
        np.testing.assert_allclose(tile, data[..., start : start + 8] / 255 * 2 - 1, atol=1e-6)


def test_constant_sections_are_grey_and_counted():
    """Sections without contrast are predicted as grey, and counted in the box asked for."""
    data = noise((6, 8, 8))
    data[1], data[4] = 0, 255
    tiling = Tiling(tile_grid(data.shape, (4, 8, 8)), "bump")
    found = predict_roi(predictor(Identity()), volume_of(data), (0, 255), tiling, whole(data.shape))
    assert found.constant_sections == [1, 4]
    np.testing.assert_allclose(found.probability[[1, 4]], 0.5, atol=1e-6)
    np.testing.assert_allclose(found.probability[[0, 2, 3, 5]], data[[0, 2, 3, 5]] / 255, atol=1e-5)
    box = Roi((2, 0, 0), (3, 8, 8))
    part = predict_roi(predictor(Identity()), volume_of(data), (0, 255), tiling, box)
    assert part.constant_sections == [4]


def test_intensities_are_read_in_the_stated_range():
    """Black and white are what the range says; the rest is clipped."""
    data = np.array([0, 1000, 2000, 3000, 4000, 5000], np.uint16).reshape(1, 1, 6)
    tiling = Tiling(tile_grid(data.shape, (1, 1, 6)), "none")
    found = predict_roi(
        predictor(Identity()), volume_of(data), (1000, 3000), tiling, whole(data.shape)
    )
    np.testing.assert_allclose(found.probability[0, 0], [0, 0, 0.5, 1, 1, 1], atol=1e-6)


def test_tiles_overlap_by_a_quarter():
    """Where nobody states it, tiles overlap by a quarter of their edges; 0 means none."""
    assert tile_grid((99, 99, 99), (8, 128, 64)).stride == (6, 96, 48)
    assert tile_grid((99, 99, 99), (8, 128, 64), (0, 0, 0)).stride == (8, 128, 64)
    assert tile_grid((99, 99, 99), (3, 2, 1)).stride == (3, 2, 1)


@pytest.mark.parametrize("overlap", [(8, 0, 0), (0, 17, 0), (0, 0, -1)])
def test_an_impossible_overlap_is_refused(overlap):
    """An overlap of a whole tile or more, or a negative one, is a usage error."""
    with pytest.raises(UsageError):
        tile_grid((99, 99, 99), (8, 16, 16), overlap)


def test_probability_is_stored_rounded():
    """0..1 is stored as 0..255, rounded to the nearest level, and every level comes back."""
    levels = np.arange(256)
    assert np.array_equal(quantise((levels / 255).astype(np.float32)), levels)
    halves = np.float32([0, 0.0019, 0.0020, 0.9980, 0.9981, 1])
    assert quantise(halves).tolist() == [math.floor(h * 255 + 0.5) for h in halves.tolist()]
    assert quantise(halves).dtype == np.uint8
