"""From stored intensities to 0..1: one rule for each dtype."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleftcli.errors import InputError
from cleftcli.volumes import Space, Volume
from cleftcli.volumes.intensity import centred, intensity_range, unit
from cleftcli.volumes.volume import InMemory

OTHERS = ["int8", "int16", "uint16", "int32", "uint32", "uint64", "float32", "float64"]


def volume(dtype, **attributes):
    data = np.zeros((1, 2, 3), dtype)
    return Volume(
        "a.zarr/raw", "zarr2", data.shape, data.dtype, data.shape, Space(), InMemory(data),
        attributes,
    )  # fmt: skip


def test_uint8_is_divided_by_255():
    """Every level of uint8 becomes itself / 255, black 0 and white 1 exactly."""
    levels = np.arange(256, dtype=np.uint8)
    found = unit(levels, intensity_range(volume(np.uint8)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, levels / 255, rtol=1e-6)
    assert (found[0], found[255]) == (0, 1)


@pytest.mark.parametrize("black_white", [(0, 255), (30, 200), (255, 0)])
def test_levels_are_looked_up_as_they_are_computed(black_white):
    """uint8 in bulk, also turned, is to the bit what its levels are one by one."""
    raw = np.random.default_rng(0).integers(0, 256, (3, 100, 120), np.uint8)
    for turned in (raw, raw.T, raw[:, ::2]):
        one_by_one = unit(turned.astype(np.uint16), black_white)
        assert np.array_equal(unit(turned, black_white), one_by_one)
        assert np.array_equal(centred(turned, black_white), one_by_one * 2 - 1)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "float32", "float64"])
def test_black_and_white_of_any_dtype(dtype):
    """Black is 0, white 1, what lies beyond is clipped, the middle is in the middle."""
    found = unit(np.array([0, 50, 100, 150, 200], dtype), (50, 150))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1], atol=1e-6)


def test_negative_intensities():
    """Signed raw has a range of its own."""
    found = unit(np.array([-2000, -1000, 0, 1000], np.int16), (-1000, 1000))
    np.testing.assert_allclose(found, [0, 0, 0.5, 1], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_no_number_is_grey(dtype):
    """NaN and both infinities become 0.5; numbers beside them are untouched."""
    raw = np.array([np.nan, np.inf, -np.inf, 0, 1, 3], dtype)
    np.testing.assert_allclose(unit(raw, (0, 2)), [0.5, 0.5, 0.5, 0, 0.5, 1])


@pytest.mark.filterwarnings("error")
def test_huge_numbers_are_white_not_grey():
    """A finite number far beyond white is white, also where float32 cannot hold it scaled."""
    np.testing.assert_allclose(unit(np.array([-1e300, 0.5, 1e300]), (0.0, 1.0)), [0, 0.5, 1])
    raw = np.array([-3e38, 0.0005, 3e38], np.float32)
    np.testing.assert_allclose(unit(raw, (0.0, 0.001)), [0, 0.5, 1], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint32, np.float64])
def test_a_narrow_range_far_from_zero_keeps_its_levels(dtype):
    """Levels that differ in the stored dtype differ in 0..1, however far from zero they lie."""
    raw = np.arange(11).astype(dtype) + dtype(2**30)
    np.testing.assert_allclose(unit(raw, (2**30, 2**30 + 10)), np.linspace(0, 1, 11), atol=1e-6)


@settings(deadline=None)
@given(
    st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([np.nan, np.inf, -np.inf]),
        min_size=1,
        max_size=20,
    ),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
)
def test_the_result_is_always_in_0_to_1(values, low, extent):
    """Whatever is stored, the network sees finite numbers from 0 to 1, in order."""
    raw = np.array(values, np.float32)
    before = raw.copy()
    found = unit(raw, (low, low + extent))
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
    assert np.array_equal(raw, before, equal_nan=True)
    order = np.argsort(raw[np.isfinite(raw)])
    assert (np.diff(found[np.isfinite(raw)][order]) >= 0).all()


def test_uint8_and_bool_need_no_range():
    """Only they have a black and a white of their own."""
    assert intensity_range(volume(np.uint8)) == (0, 255)
    assert intensity_range(volume(bool)) == (0, 1)
    np.testing.assert_array_equal(unit(np.array([False, True]), (0, 1)), [0, 1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int32", "float32"])
def test_white_below_black_inverts(dtype):
    """A swapped range turns contrast around, level by level, and is no error."""
    raw = np.arange(0, 121, 10).astype(dtype)
    swapped = intensity_range(volume(dtype), (100.0, 20.0))
    np.testing.assert_allclose(unit(raw, swapped), 1 - unit(raw, (20.0, 100.0)), atol=1e-6)


@pytest.mark.parametrize("dtype", OTHERS)
def test_a_range_is_never_guessed(dtype):
    """Any other dtype without a stated range is an input error that says what to type."""
    with pytest.raises(InputError, match=rf"a\.zarr/raw.*{dtype}.*--intensity-range"):
        intensity_range(volume(dtype))


@pytest.mark.parametrize("dtype", ["uint8", *OTHERS])
def test_a_stated_range_wins(dtype):
    """What the command says comes before attributes and before the dtype."""
    stated = volume(dtype, intensity_range=[1, 2], contrastAdjustment={"min": 3, "max": 4})
    assert intensity_range(stated, (5.0, 6.0)) == (5, 6)


def test_ranges_of_attributes():
    """Paintera's contrastAdjustment and our intensity_range are read, also of uint8."""
    contrast = {"contrastAdjustment": {"min": 10, "max": 20}}
    assert intensity_range(volume(np.uint16, **contrast)) == (10, 20)
    assert intensity_range(volume(np.uint8, **contrast)) == (10, 20)
    assert intensity_range(volume(np.float32, intensity_range=[0.5, 2])) == (0.5, 2)


@pytest.mark.parametrize(
    "stated", [(1, 1), (float("nan"), 1), (0, float("nan")), (0, float("inf")), (-1e308, 1e308)]
)
def test_an_empty_range_is_refused(stated):
    """A range whose white is its black, or whose extent is no number, is an input error."""
    with pytest.raises(InputError, match="intensity range"):
        intensity_range(volume(np.uint16), stated)


@pytest.mark.parametrize(
    "attributes",
    [
        {"intensity_range": [0]},
        {"intensity_range": 5},
        {"intensity_range": ["a", "b"]},
        {"contrastAdjustment": {"min": 0}},
    ],
)
def test_unreadable_attributes_are_an_input_error(attributes):
    """A stated range that is none is the volume's fault, and it is named."""
    with pytest.raises(InputError, match=r"a\.zarr/raw"):
        intensity_range(volume(np.uint16, **attributes))
