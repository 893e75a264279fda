"""Tiles into probabilities with networks whose answer is known."""

import ctypes
import itertools
import logging
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cleftcli.errors import DeviceLost, ResourceError
from cleftcli.geometry import Roi, hull, whole
from cleftcli.model import checkpoint as checkpoints
from cleftcli.model import inference
from cleftcli.model.inference import (
    TTA,
    Predictor,
    bump_window,
    constant_sections,
    grey_constant_sections,
    load_predictor,
    predict_box,
)
from cleftcli.prediction import tile_grid


class FirstChannel:
    """An objective that takes the network's first channel for the probability."""

    maps: ClassVar = {"cleft": lambda output: output[:, 0].float()}


class TwoMaps(FirstChannel):
    """An objective whose second map is the square of the first."""

    maps: ClassVar = {**FirstChannel.maps, "square": lambda output: output[:, 0].float() ** 2}


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


class Watching(Identity):
    """Remembers the sizes of the batches it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


class Greedy(Watching):
    """Has memory for so many tiles at once."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, x):
        found = super().forward(x)
        if len(x) > self.most:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
                "7.00 GiB of which 1.50 GiB is free. Of the allocated memory 5.00 GiB is allocated"
            )
        return found


class Failing(nn.Module):
    """Raises what it was given."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, _x):
        raise self.error


def predictor(network, objective=None, **options):
    where = torch.device("cpu")
    return Predictor(network, objective or FirstChannel(), where, "float32", **options)


def noise(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def maps_of(using, raw, tile, overlap=None, *, blend="bump", write=None):
    """What a predictor makes of a box of a volume, everything by default."""
    grid = tile_grid(raw.shape, tile, overlap)
    box = hull(grid.touching(write or whole(raw.shape)))
    shown = raw[box.within(whole(raw.shape))]
    return predict_box(using, shown, grid=grid, write=write or whole(raw.shape), blend=blend)


def run(network, raw, tile, overlap=None, *, blend="bump", write=None, **options):
    return maps_of(predictor(network, **options), raw, tile, overlap, blend=blend, write=write)[0]


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
    network = Watching()
    raw = noise((4, 8, 40))
    found = run(network, raw, (4, 8, 8), (0, 0, 0), batch_size=3)
    assert network.seen == [3, 3]
    np.testing.assert_allclose(found, raw / 2 + 0.5, atol=1e-6)


def test_a_long_block_tells_how_far_it_is(monkeypatch, caplog):
    """A line for each half minute that a block takes: tiles done, of how many."""
    clock = iter(range(0, 1000, 20))  # seconds; it is asked once or twice a tile
    monkeypatch.setattr(inference.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, logger="cleftcli"):
        run(Watching(), noise((4, 8, 40)), (4, 8, 8), (0, 0, 0), batch_size=1)

    assert [r.getMessage() for r in caplog.records] == [
        "block 0:4,0:8,0:40: 1 of 5 tiles",
        "block 0:4,0:8,0:40: 3 of 5 tiles",
    ]


def test_constant_sections_become_grey():
    """A section without contrast is 0, whatever its level; any other section is left alone."""
    raw = noise((5, 6, 7))
    raw[1], raw[3] = -1.0, 0.3
    expected = raw.copy()
    expected[[1, 3]] = 0
    assert np.array_equal(grey_constant_sections(raw), expected)


@given(st.integers(0, 2), st.integers(0, 39), st.integers(0, 40), st.booleans())
def test_one_voxel_is_contrast(z, y, x, odd):
    """A section is constant where no voxel differs, wherever the one lies that does."""
    raw = np.full((3, 40, 41), 0.3, np.float32)
    raw[z, y, x] = 0.4 if odd else 0.3
    expected = [len(np.unique(section)) == 1 for section in raw]
    assert constant_sections(raw).tolist() == expected


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


@pytest.mark.parametrize("empty", [(0, 0, 0), (0, 0, 16), (0, 0, 32)])
@pytest.mark.parametrize("blend", ["bump", "none"])
def test_a_tile_without_contrast_is_0_and_never_computed(blend, empty):
    """In every map, whatever its level, and among tiles that have something to show."""
    raw = noise((4, 8, 40))
    box = Roi(empty, (4, 8, 8)).within(whole(raw.shape))
    raw[box] = np.linspace(-1, 1, 4)[:, None, None]
    network = Watching()
    using = predictor(network, TwoMaps(), maps=("cleft", "square"), batch_size=2)
    found = maps_of(using, raw, (4, 8, 8), (0, 0, 0), blend=blend)
    expected = raw / 2 + 0.5
    expected[box] = 0
    np.testing.assert_allclose(found, [expected, expected**2], atol=1e-6)
    assert network.seen == [2, 2]
    assert (found[:, *box] == 0).all()


def test_nothing_is_computed_for_a_box_without_contrast():
    """The network is not called at all."""
    network = Watching()
    found = run(network, np.full((6, 16, 16), 0.3, np.float32), (4, 8, 8), (1, 2, 2))
    assert network.seen == []
    assert (found == 0).all()


def test_maps_are_blended_alike():
    """Each map is what it would be as the only one; they come in the order asked for."""
    raw = noise((6, 14, 20))
    both = [
        maps_of(predictor(Position(), TwoMaps(), maps=m), raw, (4, 8, 8), (1, 2, 2))
        for m in (("cleft", "square"), ("square", "cleft"))
    ]
    alone = [
        maps_of(predictor(Position(), TwoMaps(), maps=(m,)), raw, (4, 8, 8), (1, 2, 2))[0]
        for m in ("cleft", "square")
    ]
    assert np.array_equal(both[0], alone)
    assert np.array_equal(both[1], alone[::-1])
    assert not np.array_equal(*alone)


def test_flips_are_all_there_are():
    """With the tile as it is, every choice of axes to flip is there once."""
    assert sorted(TTA["flips"]) == sorted(
        axes for n in (1, 2, 3) for axes in itertools.combinations((2, 3, 4), n)
    )
    assert TTA["none"] == ()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_mean_over_all_flips(batch_size):
    """Each flip of the raw is predicted, flipped back, and averaged with the others."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.Sigmoid())
    raw = noise((4, 8, 8))
    expected = np.zeros(raw.shape)
    for turn in itertools.product((1, -1), repeat=3):
        flip = tuple(slice(None, None, t) for t in turn)
        expected += run(network, raw[flip].copy(), (4, 8, 8))[flip] / 8
    found = run(network, raw, (4, 8, 8), tta="flips", batch_size=batch_size)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - run(network, raw, (4, 8, 8))).max() > 1e-3


@pytest.mark.parametrize(
    ("batch_size", "most", "seen"),
    [(8, 2, [8, 4, 2, 2, 2]), (5, 2, [5, 2, 2, 2]), (4, 1, [4, 2, 1, 1, 1, 1, 1]), (3, 3, [3, 3])],
)
def test_batches_shrink_to_what_fits(batch_size, most, seen, caplog):
    """A batch without memory is halved until it fits, for good, and each halving said once."""
    network, raw = Greedy(most), noise((4, 8, 40))
    using = predictor(network, batch_size=batch_size)
    with caplog.at_level(logging.WARNING, "cleftcli"):
        found = maps_of(using, raw, (4, 8, 8), (0, 0, 0))[0]
    np.testing.assert_allclose(found, raw / 2 + 0.5, atol=1e-6)
    assert network.seen == seen
    assert using.batch_size <= most
    halvings = [n for n in seen if n > most]
    assert [r.args[1] for r in caplog.records] == halvings

    network.seen.clear()
    maps_of(using, raw, (4, 8, 8), (0, 0, 0))
    assert set(network.seen) == {using.batch_size}


def test_no_memory_for_one_tile():
    """It is a resource error with what was measured, and says what to do."""
    with pytest.raises(ResourceError, match=r"one tile: .*1\.50 GiB is free\. Stop") as caught:
        run(Greedy(0), noise((4, 8, 8)), (4, 8, 8), batch_size=8)
    assert "--precision bfloat16" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_no_memory_for_a_block(monkeypatch):
    """What a block itself takes is told from what a tile takes."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr(inference, "_zeros", full)
    with pytest.raises(ResourceError, match=r"a block \(a smaller --block.*9\.00 GiB"):
        run(Identity(), noise((4, 8, 8)), (4, 8, 8))


LOST = [
    torch.AcceleratorError("HIP error: an illegal memory access was encountered\nmore"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
]


@pytest.mark.parametrize("error", LOST, ids=lambda e: type(e).__name__)
def test_a_lost_device_is_told_apart(error):
    """It is a resource error of its own kind, in a line; nobody waits for the one who met it."""
    using = predictor(Failing(error))
    for _ in range(2):
        with pytest.raises(DeviceLost, match=r"^cpu was lost: \w+ error: .*$") as caught:
            maps_of(using, noise((4, 8, 8)), (4, 8, 8))
    assert isinstance(caught.value, ResourceError)
    assert caught.value.exit_code == 6


def test_other_errors_of_a_network_stay_what_they_are():
    """A bug of ours is not taken for the device's."""
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        run(Failing(RuntimeError("shapes do not match")), noise((4, 8, 8)), (4, 8, 8))


def together(work, count):
    """Call it in so many threads at once; what they return."""
    found, start = [], threading.Barrier(count)

    def one():
        start.wait()
        found.append(work())

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_one_thread_computes_at_a_time():
    """Threads that share a predictor take turns, and all get their own box."""
    inside, most = [], []

    class Slow(Position):
        def forward(self, x):
            inside.append(x)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()
            return super().forward(x)

    using, raw = predictor(Slow()), noise((4, 8, 24))
    found = together(lambda: maps_of(using, raw, (4, 8, 8), (0, 0, 0)), 4)
    assert len(most) == 12
    assert set(most) == {1}
    assert all(np.array_equal(f[0], run(Position(), raw, (4, 8, 8), (0, 0, 0))) for f in found)


def test_any_thread_computes_with_as_many_as_were_asked_for():
    """Also one that OpenMP has never met, where it takes all cores unless told."""
    openmp = next(Path(torch.__file__).parent.glob("lib/libgomp*"), None)
    if openmp is None:
        pytest.skip("this torch comes without GNU OpenMP")
    count = ctypes.CDLL(str(openmp)).omp_get_max_threads
    seen = []

    class Counting(Identity):
        def forward(self, x):
            seen.append(count())
            return super().forward(x)

    for asked in (3, 5):
        using = predictor(Counting(), threads=asked)
        together(lambda p=using: maps_of(p, noise((4, 8, 8)), (4, 8, 8)), 2)
    torch.set_num_threads(1)
    assert seen == [3, 3, 5, 5]
    assert predictor(Identity()).threads == 1


def test_threads_that_ask_at_once_load_once(checkpoint, monkeypatch):
    """They get one predictor, however long it takes to load."""
    loaded, restore = [], checkpoints.restore

    def slowly(path):
        loaded.append(path)
        time.sleep(0.05)
        return restore(path)

    monkeypatch.setattr(checkpoints, "restore", slowly)
    options = {"device": torch.device("cpu"), "precision": "float32", "batch_size": 2, "threads": 1}
    found = together(lambda: load_predictor(checkpoint, **options), 3)
    assert loaded == [checkpoint]
    assert all(f is found[0] for f in found)


def test_predictor_of_a_checkpoint(checkpoint):
    """A checkpoint becomes a predictor once per process; its values are probabilities."""
    options = {"device": torch.device("cpu"), "precision": "float32", "batch_size": 2, "threads": 1}
    found = load_predictor(checkpoint, **options)
    assert load_predictor(checkpoint, **options) is found
    assert not found.network.training
    probability = maps_of(found, noise((4, 16, 16)), (4, 16, 16))
    assert probability.shape == (1, 4, 16, 16)
    assert probability.dtype == np.float32
    assert ((probability >= 0) & (probability <= 1)).all()
