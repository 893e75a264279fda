"""A mask of where to work, against the same mask blown up voxel by voxel."""

import pickle
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cleftcli.errors import InputError
from cleftcli.geometry import Roi, between, whole
from cleftcli.mask import open_mask
from cleftcli.volumes import Space, Volume, create_volume, open_volume
from cleftcli.volumes.volume import InMemory
from tests.conftest import VOXEL_SIZE, store

UNKNOWN = Space()


def raw(shape, space=UNKNOWN):
    """A volume of a shape and a space."""
    data = np.zeros(shape, np.uint8)
    return Volume("raw", "memory", shape, data.dtype, shape, space, InMemory(data))


def masks(folder, data, space=UNKNOWN):
    """A stored mask: its address."""
    address = f"{tempfile.mkdtemp(dir=folder)}/m.zarr/mask"
    made = create_volume(
        address, shape=data.shape, dtype=data.dtype, chunks=(16, 16, 16), space=space
    )
    made.write(made.roi, data)
    return address


def blown_up(mask, factor, start, shape):
    """The mask at the volume's size by np.repeat; False where it does not reach."""
    large = mask != 0
    for axis, times in enumerate(factor):
        large = np.repeat(large, times, axis=axis)
    found = np.zeros(shape, bool)
    there = Roi(start, large.shape).intersect(whole(shape))
    found[there.within(whole(shape))] = large[there.within(Roi(start, large.shape))]
    return found


def nm(factor, start, *, centres, size=VOXEL_SIZE, offset=(80.0, 16.0, 24.0)):
    """The space of a mask that begins at a voxel of a volume of that size and offset."""
    axes = zip(factor, start, size, offset, strict=True)
    moved = [o + (s + (f - 1) / 2 * centres) * v for f, s, v, o in axes]
    return Space(tuple(f * v for f, v in zip(factor, size, strict=True)), tuple(moved))


axis = st.tuples(
    st.integers(1, 24),  # length
    st.integers(1, 7),  # factor
    st.integers(-9, 12),  # start
    st.integers(1, 9),  # length of the mask
    st.tuples(st.integers(0, 23), st.integers(0, 23)),  # of a box
)


@settings(max_examples=60, deadline=None)
@given(st.tuples(axis, axis, axis), st.sampled_from(["bool", "u1", "i2", "u8"]), st.booleans())
def test_a_mask_that_lies_anywhere_is_the_blown_up_one(axes, dtype, centres):
    """For any whole factors and shift, in any box, voxel for voxel; `covers` is their any()."""
    shape, factor, start, length, box = zip(*axes, strict=True)
    space = nm(factor, start, centres=centres)
    ambiguous = any(f % 2 and f > 1 and s for f, s in zip(factor, start, strict=True))
    reach = Roi(start, tuple(f * n for f, n in zip(factor, length, strict=True)))
    equal = any(s + (f - 1) / 2 * centres == 0 != s for f, s in zip(factor, start, strict=True))
    assume(centres or not ambiguous)
    assume(not equal)  # how these are taken is tested below
    assume(reach.intersect(whole(shape)).size)
    data = np.random.default_rng(sum(length)).integers(0, 4, length).astype(dtype) // 2
    volume = raw(shape, Space(VOXEL_SIZE, (80.0, 16.0, 24.0)))
    with tempfile.TemporaryDirectory() as folder:
        found = open_mask(masks(folder, data.astype(dtype), space), volume)
        assert (found.factor, found.start) == (factor, start)
        expected = blown_up(data, factor, start, shape)
        assert np.array_equal(found.inside(volume.roi), expected)
        ends = [sorted((a % n, b % n)) for (a, b), n in zip(box, shape, strict=True)]
        roi = between(tuple(a for a, _ in ends), tuple(b + 1 for _, b in ends))
        cut = expected[roi.within(volume.roi)]
        assert np.array_equal(found.inside(roi), cut)
        assert found.inside(roi).dtype == bool
        assert found.covers(roi) == cut.any()


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16]))] * 3))
def test_shapes_tell_powers_of_two(axes):
    """Without voxel sizes: a mask of ceil(n / f) lies where it was made, or is refused."""
    shape, factor = zip(*axes, strict=True)
    length = tuple(-(-n // f) for n, f in zip(shape, factor, strict=True))
    data = np.random.default_rng(0).integers(0, 2, length).astype(bool)
    volume = raw(shape)
    with tempfile.TemporaryDirectory() as folder:
        address = masks(folder, data)
        try:
            found = open_mask(address, volume)
        except InputError as error:
            assert "both must state their voxel size" in str(error)  # noqa: PT017 either is right
            return
        assert np.array_equal(found.inside(volume.roi), blown_up(data, factor, (0, 0, 0), shape))


# length of volume and mask, and the factor; None where it is not clear
FITS = {
    (64, 4): 16, (125, 8): 16, (1250, 79): 16, (100, 100): 1, (2, 2): 1, (1, 1): 1, (37, 1): 37,
    (60, 4): None, (100, 99): None, (64, 65): None, (99, 33): 3, (100, 7): 16, (250, 7): None,
}  # fmt: skip


@pytest.mark.parametrize(("lengths", "factor"), FITS.items())
def test_shapes_tell_factors_that_are_clear(tmp_path, lengths, factor):
    """A power of two or a divisor is taken of several; two of them, or none, are refused."""
    n, m = lengths
    volume = raw((2, 3, n))
    address = masks(tmp_path, np.ones((2, 3, m), bool))
    if factor is None:
        with pytest.raises(InputError, match="axis x; both must state"):
            open_mask(address, volume)
    else:
        assert open_mask(address, volume).factor == (1, 1, factor)


def laid(tmp_path, *, size=(40.0, 8.0, 8.0), offset=(0.0, 0.0, 0.0), shape=(4, 4, 4)):
    """A mask of a space over a volume of 4x12x12 voxels of 40x8x8 nm that begins at 0."""
    address = masks(tmp_path, np.ones(shape, np.uint8), Space(size, offset))
    return open_mask(address, raw((4, 12, 12), Space(VOXEL_SIZE)))


def test_equal_offsets_are_equal_places(tmp_path):
    """Of masks that copied the volume's offset, and of those that follow OME-NGFF."""
    size = (40.0, 24.0, 24.0)
    assert laid(tmp_path, size=size).start == (0, 0, 0)
    assert laid(tmp_path, size=size, offset=(0.0, 8.0, 8.0)).start == (0, 0, 0)
    assert laid(tmp_path, size=size, offset=(0.0, 16.0, -16.0)).start == (0, 1, -3)
    assert laid(tmp_path, size=(40.0, 16.0, 16.0), offset=(40.0, 4.0, 16.0)).start == (1, 0, 2)


def test_rounded_sizes_are_whole_multiples(tmp_path):
    """Metadata often round."""
    assert laid(tmp_path, size=(40.0, 24.1, 23.9)).factor == (1, 3, 3)


REFUSED = {
    "half a voxel apart": ({"offset": (0.0, 4.0, 0.0)}, "0.50 voxels apart on axis y"),
    "a third": ({"size": (40.0, 24.0, 24.0), "offset": (0.0, 0.0, 5.0)}, "on axis x"),
    "one and a half": ({"size": (40.0, 12.0, 8.0)}, "(40.0, 12.0, 8.0) nm are no whole"),
    "finer": ({"size": (40.0, 4.0, 4.0)}, "no whole multiples of the volume's, (40.0, 8.0, 8.0)"),
    "beside it": ({"offset": (0.0, 0.0, 960.0)}, "beside 0:4,0:12,0:12"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mask_that_does_not_lie_on_the_voxels_is_refused(tmp_path, case):
    """With the numbers."""
    options, words = REFUSED[case]
    with pytest.raises(InputError) as raised:
        laid(tmp_path, **options)
    assert words in str(raised.value)


def test_a_mask_of_another_extent_is_said(tmp_path, caplog):
    """Where it ends before the volume, or whole voxels behind it; not where it is cut."""
    size = (40.0, 40.0, 40.0)
    laid(tmp_path, size=size, shape=(4, 3, 3))
    assert not caplog.records
    for shape in ((4, 2, 3), (4, 3, 4), (5, 3, 3)):
        laid(tmp_path, size=size, shape=shape)
        assert "covers voxels 0:" in caplog.records.pop().getMessage()
        caplog.clear()


def test_floats_are_no_mask(tmp_path):
    """A probability would be inside nearly everywhere."""
    address = masks(tmp_path, np.ones((4, 12, 12), np.float32))
    with pytest.raises(InputError, match="is float32; a mask is"):
        open_mask(address, raw((4, 12, 12)))


def test_a_mask_goes_to_other_processes_and_is_found_in_a_container(tmp_path):
    """It pickles; a container alone means its `mask`."""
    address = masks(tmp_path, np.eye(12, dtype=np.uint8)[None].repeat(4, 0))
    store(address.removesuffix("mask") + "raw", np.zeros((4, 12, 12), np.uint8))
    found = open_mask(address.removesuffix("/mask"), raw((4, 12, 12)))
    assert found.address == address
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.inside(Roi((1, 2, 2), (1, 3, 3)))[0], np.eye(3, dtype=bool))


def test_only_the_piece_is_read(tmp_path, monkeypatch):
    """A block decodes no more of a large mask than it touches."""
    address = masks(tmp_path, np.ones((4, 12, 12), np.uint8))
    found = open_mask(address, raw((8, 24, 24)))
    opened, asked = open_volume(address), []

    class Watched:
        def read(self, slices):
            asked.append([(s.start, s.stop) for s in slices])
            return opened.array.read(slices)

    watched = replace(opened, array=Watched())
    monkeypatch.setattr("cleftcli.mask.open_input", lambda *_: watched)
    assert found.inside(Roi((3, 5, 7), (2, 4, 1))).all()
    assert found.covers(Roi((3, 5, 7), (2, 4, 1)))
    assert asked == [[(1, 3), (2, 5), (3, 4)]] * 2
