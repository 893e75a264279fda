"""Which voxels of a volume count as cleft, by what it holds."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from cleftcli import foreground
from cleftcli.errors import IncompleteError, InputError, UsageError
from cleftcli.foreground import RULES, Foreground, read_foreground
from cleftcli.geometry import whole
from cleftcli.labels import BACKGROUND, IGNORE
from cleftcli.scoring import THRESHOLDS
from cleftcli.volumes import Space
from cleftcli.volumes.volume import InMemory, Volume


def volume(data, format="zarr2", **attributes):
    """Voxels as an opened volume."""
    data = np.asarray(data)
    data = data.reshape(1, 1, -1) if data.ndim < 3 else data
    array = InMemory(data)
    return Volume(
        "a.zarr/x", format, data.shape, data.dtype, data.shape, Space(), array, attributes
    )


def clefts(of):
    """Which voxels count as cleft, as a flat list."""
    return of.mask(of.levels(of.volume.roi)).ravel().tolist()


def ignored(of):
    """Which voxels are unknown, as a flat list."""
    return of.ignored(of.volume.roi).ravel().tolist()


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (np.array([False, True]), "mask"),
        (np.array([0, 1], np.uint8), "mask"),
        (np.array([0, 2], np.uint8), "probability"),
        (np.array([0, 255], np.uint8), "probability"),
        (np.array([0, 1], np.float32), "probability"),
        (np.array([0, 1], np.float64), "probability"),
        (np.array([0, 1], np.uint16), "ids"),
        (np.array([0, 1], np.uint32), "ids"),
        (np.array([0, 1], np.uint64), "ids"),
        (np.array([0, 1], np.int64), "ids"),
    ],
    ids=str,
)
def test_content_by_dtype(data, content):
    """Unless a volume says so, its dtype, and in uint8 its values, tell what it holds."""
    assert read_foreground(volume(data)).content == content


def test_a_late_voxel_tells_probability_from_mask(monkeypatch):
    """A uint8 volume is a mask only if no voxel anywhere is above 1."""
    data = np.zeros((40, 80, 90), np.uint8)
    data[0, 0, 0] = 1
    assert read_foreground(volume(data)).content == "mask"
    data[39, 79, 89] = 2
    assert read_foreground(volume(data)).content == "probability"
    monkeypatch.setattr(foreground, "SCAN_VOXELS", 1)
    in_chunks = replace(volume(data), chunks=(8, 40, 40))
    assert read_foreground(in_chunks).content == "probability"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64", "float32"])
@pytest.mark.parametrize("content", ["probability", "mask", "ids"])
def test_stated_content_wins(content, dtype):
    """What an output of ours says it holds is believed before its dtype."""
    assert read_foreground(volume(np.zeros(2, dtype), content=content)).content == content


@pytest.mark.parametrize("content", ["tanh-distance", "raw", 3])
def test_other_content_is_refused(content):
    """A volume that says it holds something else is an input error that repeats it."""
    with pytest.raises(InputError, match=f"holds {content}"):
        read_foreground(volume(np.zeros(2, np.float32), content=content))


def test_other_dtypes_are_refused():
    """A dtype that is no probability, mask or id is an input error that names it."""
    with pytest.raises(InputError, match="complex64"):
        read_foreground(volume(np.zeros(2, np.complex64)))


@pytest.mark.parametrize("content", ["probability", "mask", "ids", None])
def test_unfinished_output_is_refused(content):
    """An output that is not complete is never taken for a whole one."""
    attributes = {"complete": False} | ({"content": content} if content else {})
    with pytest.raises(IncompleteError, match="not finished"):
        read_foreground(volume(np.ones(2, np.uint8), **attributes))
    assert IncompleteError.exit_code == 4


def test_finished_output_is_taken():
    """An output that is complete, or does not speak of it, is read."""
    for attributes in ({"complete": True}, {}):
        assert read_foreground(volume(np.ones(2, np.float32), **attributes)).threshold == 0.5


@pytest.mark.parametrize("threshold", [*THRESHOLDS, 1.0])
def test_thresholds_on_uint8_levels(threshold):
    """A stored level counts exactly if level / 255 reaches the threshold, computed in fractions."""
    of = read_foreground(volume(np.arange(256, dtype=np.uint8)), threshold)
    wanted = Fraction(str(threshold))
    assert clefts(of) == [Fraction(k, 255) >= wanted for k in range(256)]


def test_thresholds_on_floats():
    """A float probability counts from the threshold on; NaN never does."""
    data = np.array([0, 0.699, 0.7, 0.701, 1, np.nan], np.float32)
    of = read_foreground(volume(data), 0.7)
    assert clefts(of) == [False, False, True, True, True, False]
    assert of.full == 1


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_threshold_is_the_given_the_stored_or_a_half(dtype):
    """A threshold given wins over the one stored with the prediction, and that over 0.5."""
    data = np.full(2, 9, dtype)
    assert read_foreground(volume(data, threshold=0.8), 0.3).threshold == 0.3
    assert read_foreground(volume(data, threshold=0.8)).threshold == 0.8
    assert read_foreground(volume(data)).threshold == 0.5


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, 127, float("nan")])
def test_a_threshold_is_a_probability(threshold):
    """A threshold outside (0, 1] is a usage error that repeats it."""
    with pytest.raises(UsageError, match=str(threshold)):
        read_foreground(volume(np.full(2, 9, np.uint8)), threshold)


@pytest.mark.parametrize("data", [np.array([0, 1, 0], np.uint16), np.array([False, True, False])])
def test_masks_and_ids_have_no_threshold(data):
    """A threshold does not apply to masks and ids: their levels are 0 and 1."""
    of = read_foreground(volume(data), 0.3)
    assert of.threshold is None
    assert of.levels(whole((1, 1, 3))).tolist() == [[[0, 1, 0]]]
    assert of.levels(whole((1, 1, 3))).dtype == np.uint8
    assert clefts(of) == [False, True, False]
    assert of.full == 1


def test_a_mask_ignores_255():
    """In a mask every value but 0 is cleft, and 255 is unknown."""
    of = read_foreground(volume(np.array([0, 1, 2, 255], np.uint8), content="mask"))
    assert clefts(of) == [False, True, True, False]
    assert ignored(of) == [False, False, False, True]


IDS = np.array([0, 1, BACKGROUND, IGNORE, 2**63], np.uint64)


def test_ids_outside_hdf5():
    """In ids 0 and 2^64-1 are background and 2^64-2 is unknown."""
    of = read_foreground(volume(IDS))
    assert clefts(of) == [False, True, False, False, True]
    assert ignored(of) == [False, False, False, True, False]
    assert of.rule == RULES["ids"]


def test_ids_of_cremi_files():
    """In the uint64 ids of an HDF5 file 0 is a cleft, as CREMI's scorer has it."""
    of = read_foreground(volume(IDS, "hdf5"))
    assert clefts(of) == [True, True, False, False, True]
    assert ignored(of) == [False, False, False, True, False]
    assert of.rule == RULES["cremi ids"]


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int64"])
def test_small_ids_in_hdf5_are_no_cremi_ids(dtype):
    """Ids of another dtype have no id for background: 0 is it, in HDF5 too."""
    of = read_foreground(volume(np.array([0, 1, 255], dtype), "hdf5"))
    assert clefts(of) == [False, True, True]
    assert ignored(of) == [False, False, False]
    assert of.rule == RULES["ids"]


@pytest.mark.parametrize("zero_is_cleft", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "int64", "uint64"])
def test_scores_and_submissions_see_the_same_clefts(dtype, zero_is_cleft):
    """Ids say cleft where the mask of the same volume does, whatever their dtype."""
    values = np.array([0, 1, 3, 254, 255]).astype(dtype)
    special = np.array([-1, -2]).astype(dtype) if dtype in ("int32", "int64", "uint64") else []
    of = read_foreground(
        volume(np.append(values, special).astype(dtype), content="ids", zero_is_cleft=zero_is_cleft)
    )
    ids = of.ids(of.volume.roi).ravel()
    assert (ids != 0).tolist() == clefts(of)
    assert clefts(of)[:5] == [zero_is_cleft, True, True, True, True]
    assert clefts(of)[5:] == [False] * len(special)
    assert ignored(of)[5:] == [False, True][: len(special)]


def test_a_probability_ignores_nothing():
    """A probability has no value that means unknown."""
    of = read_foreground(volume(np.arange(256, dtype=np.uint8)))
    assert not any(ignored(of))
    assert of.full == 255
    assert of.rule == RULES["probability"]


def test_a_probability_that_is_no_number_is_unknown():
    """NaN is neither cleft nor not, and is scored on no side."""
    of = read_foreground(volume(np.array([0.2, np.nan, 0.9], np.float32)))
    assert ignored(of) == [False, True, False]
    assert clefts(of) == [False, False, True]


def test_levels_are_those_of_the_box():
    """Levels of a box are the stored voxels of that box."""
    data = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    of = Foreground(volume(data), "probability", 0.5)
    box = whole((2, 2, 2)).shift((1, 2, 3))
    np.testing.assert_array_equal(of.levels(box), data[1:3, 2:4, 3:5])
    assert of.ignored(box).shape == (2, 2, 2)
