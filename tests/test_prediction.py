"""Prediction of any box of a volume equals that of the whole, to the bit."""

import itertools
import math
from typing import ClassVar

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
from cleftcli.model.inference import Predictor, bump_window
from cleftcli.model.objectives import objective
from cleftcli.prediction import (
    Tiling,
    map_address,
    predict_roi,
    quantise,
    read_input,
    tile_grid,
)
from cleftcli.volumes import Space, Volume
from cleftcli.volumes.volume import InMemory


class FirstChannel:
    """An objective that takes the network's first channel for the probability."""

    maps: ClassVar = {"cleft": lambda output: output[:, 0].float()}


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
    return found[0]


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
def grids(draw):
    """The tiles of a volume, perhaps larger than it, with or without overlap and context."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20)))
    tile = draw(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)))
    context = tuple(draw(st.integers(0, (n - 1) // 2)) for n in tile)
    overlap = tuple(draw(st.integers(2 * c, n - 1)) for n, c in zip(tile, context, strict=True))
    return tile_grid(shape, tile, overlap, context)


def partly_empty(shape, corner):
    """Noise, but one level in the octant of that corner, so that some tiles show nothing."""
    data = noise(shape)
    halves = [(slice(n // 2), slice(n // 2, None)) for n in shape]
    data[tuple(half[c] for half, c in zip(halves, corner, strict=True))] = 7
    return data


@pytest.mark.parametrize("name", FAKES)
@settings(max_examples=40, deadline=None)
@given(
    grid=grids(),
    block=st.tuples(st.integers(2, 9), st.integers(4, 20), st.integers(4, 20)),
    blend=st.sampled_from(["bump", "none"]),
    batch_size=st.integers(1, 3),
    corner=st.tuples(*[st.booleans()] * 3),
)
def test_blocks_equal_the_whole(name, grid, block, blend, batch_size, corner):
    """Whatever the volume, the tiles and the block: the blocks put together are the whole."""
    data, network = partly_empty(grid.shape, corner), FAKES[name]()
    shape, tiling = grid.shape, Tiling(grid, blend)
    expected = predict(network, data, tiling)
    assert expected.dtype == np.float32
    assert expected.shape == shape
    found = in_blocks(network, data, tiling, block, batch_size=batch_size)
    assert np.array_equal(found, expected)


def naive(network, data, grid, blend):
    """The whole volume from the definition: every tile, what it decides, and its weight there."""
    raw = data / np.float32(255) * 2 - 1
    total, weights = np.zeros(data.shape), np.zeros(data.shape)
    axes = []
    for length, tile, stride in zip(grid.shape, grid.tile, grid.stride, strict=True):
        axes.append([*range(0, max(length - tile, 0), stride), max(length - tile, 0)])
    beyond = [(0, max(t - n, 0)) for t, n in zip(grid.tile, grid.shape, strict=True)]
    padded = np.pad(raw, beyond, mode="reflect").astype(np.float32)
    for corner in itertools.product(*axes):
        box = tuple(slice(o, o + t) for o, t in zip(corner, grid.tile, strict=True))
        shown = torch.from_numpy(padded[box].copy())[None, None]
        shown[:, :, (shown[0, 0] == shown[0, 0, :, :1, :1]).all((1, 2))] = 0
        found = network(shown)[0, 0].numpy() if shown.any() else np.zeros(grid.tile)
        low = [c if o else 0 for o, c in zip(corner, grid.context, strict=True)]
        ends = zip(corner, grid.tile, grid.context, grid.shape, strict=True)
        high = [t - c if o + t < n else t for o, t, c, n in ends]
        weight = np.zeros(padded.shape)
        kept = tuple(slice(o + a, o + b) for o, a, b in zip(corner, low, high, strict=True))
        weight[kept] = bump_window([b - a for a, b in zip(low, high, strict=True)])
        weight = weight[tuple(slice(n) for n in data.shape)]
        values = np.zeros(padded.shape)
        values[box] = found
        values = values[tuple(slice(n) for n in data.shape)]
        if blend == "none":
            total[weight > 0], weights[weight > 0] = values[weight > 0], 1
        else:
            total, weights = total + values * weight, weights + weight
    assert (weights > 0).all()
    return total / weights


@pytest.mark.parametrize("name", FAKES)
@settings(max_examples=40, deadline=None)
@given(
    grid=grids(), blend=st.sampled_from(["bump", "none"]), corner=st.tuples(*[st.booleans()] * 3)
)
def test_the_whole_by_its_definition(name, grid, blend, corner):
    """An independent prediction of the whole volume, tile by tile, finds the same everywhere."""
    data, network = partly_empty(grid.shape, corner), FAKES[name]()
    found = predict(network, data, Tiling(grid, blend))
    np.testing.assert_allclose(found, naive(network, data, grid, blend), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    more=st.tuples(*[st.integers(0, 12)] * 3),
    context=edges(1, 2),
    blend=st.sampled_from(["bump", "none"]),
    data=st.data(),
)
def test_no_face_of_a_tile_shows_behind_enough_context(more, context, blend, data):
    """A network that looks at its neighbours gives what it gives for the whole volume at once."""
    tile = tuple(2 * c + data.draw(st.integers(2, 5)) for c in context)
    shape = tuple(t + m for t, m in zip(tile, more, strict=True))
    raw = noise(shape)
    found = predict(Box(), raw, Tiling(tile_grid(shape, tile, None, context), blend))
    expected = Box()(torch.from_numpy(raw / np.float32(255) * 2 - 1)[None, None])[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


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
        network,
        objective("mask_and_boundary"),
        torch.device("cpu"),
        "float32",
        batch_size=3,
        maps=("cleft", "boundary"),
    )
    data = noise(shape)
    tiling = Tiling(tile_grid(shape, (4, 16, 16)), blend)
    expected = predict_roi(real, volume_of(data), (0, 255), tiling, whole(shape))
    found = np.zeros_like(expected)
    for block in BlockPlan(whole(shape), (3, 17, 23)):
        part = predict_roi(real, volume_of(data), (0, 255), tiling, block.write)
        found[:, *block.write.within(whole(shape))] = part
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
    found = predict(Identity(), data, tiling)
    np.testing.assert_allclose(found[[1, 4]], 0.5, atol=1e-6)
    np.testing.assert_allclose(found[[0, 2, 3, 5]], data[[0, 2, 3, 5]] / 255, atol=1e-5)
    for box, constant in ((whole(data.shape), [1, 4]), (Roi((2, 0, 0), (3, 8, 8)), [4])):
        shown = read_input(volume_of(data), (0, 255), tiling.grid, box)
        assert shown.constant_sections == constant
        assert not shown.empty


def test_a_box_is_empty_where_nothing_that_decides_it_has_contrast():
    """What lies around it counts, for tiles look there."""
    data = np.full((4, 8, 24), 9, np.uint8)
    data[0, 0, 0] = 10
    grid = tile_grid(data.shape, (4, 8, 8), (0, 0, 4))
    boxes = [Roi((0, 0, x), (4, 8, 4)) for x in range(0, 24, 4)]
    found = [read_input(volume_of(data), (0, 255), grid, box).empty for box in boxes]
    assert found == [False, False, True, True, True, True]


def test_intensities_are_read_in_the_stated_range():
    """Black and white are what the range says; the rest is clipped."""
    data = np.array([0, 1000, 2000, 3000, 4000, 5000], np.uint16).reshape(1, 1, 6)
    tiling = Tiling(tile_grid(data.shape, (1, 1, 6)), "none")
    found = predict_roi(
        predictor(Identity()), volume_of(data), (1000, 3000), tiling, whole(data.shape)
    )
    np.testing.assert_allclose(found[0, 0, 0], [0, 0, 0.5, 1, 1, 1], atol=1e-6)


def test_tiles_overlap_by_a_quarter():
    """Where nobody states it, tiles overlap by a quarter of their edges; 0 means none."""
    assert tile_grid((99, 99, 99), (8, 128, 64)).stride == (6, 96, 48)
    assert tile_grid((99, 99, 99), (8, 128, 64), (0, 0, 0)).stride == (8, 128, 64)
    assert tile_grid((99, 99, 99), (3, 2, 1)).stride == (3, 2, 1)


def test_tiles_overlap_by_twice_their_context_at_least():
    """Where nobody states it; who states less is told what it takes, in a line."""
    assert tile_grid((99, 99, 99), (8, 128, 64), None, (1, 20, 4)).stride == (6, 88, 48)
    assert tile_grid((99, 99, 99), (8, 128, 64), (2, 40, 8), (1, 20, 4)).stride == (6, 88, 56)
    with pytest.raises(UsageError, match=r"overlap of \(2, 40, 8\) at least, not \(2, 39, 8\)$"):
        tile_grid((99, 99, 99), (8, 128, 64), (2, 39, 8), (1, 20, 4))


@pytest.mark.parametrize("context", [(4, 0, 0), (0, 8, 0), (0, 0, 9)])
def test_a_context_that_leaves_nothing_is_refused(context):
    """A tile has to decide a voxel at least."""
    with pytest.raises(UsageError, match="leave gaps"):
        tile_grid((99, 99, 99), (8, 16, 16), None, context)


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


@pytest.mark.parametrize(
    ("output", "boundary"),
    [
        ("a.zarr/cleft", "a.zarr/boundary"),
        ("a.zarr/volumes/my_cleft", "a.zarr/volumes/my_boundary"),
        ("a.n5/first", "a.n5/first_boundary"),
    ],
)
def test_a_further_map_lies_beside(output, boundary):
    """In the same container, under a name of its own."""
    assert map_address(output, "boundary") == boundary
    assert map_address(output, "cleft") == output
