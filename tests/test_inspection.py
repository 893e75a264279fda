"""What is seen of an input before the work: chunks, intensities, voxel size, and what is said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cleftcli.errors import InputError
from cleftcli.geometry import Roi, whole
from cleftcli.inspection import (
    BINS,
    SAMPLED_EDGE,
    SAMPLED_SECTIONS,
    Sample,
    distance,
    doubts,
    intensity_doubts,
    look,
    voxel_size_doubts,
    what_was_read,
)
from cleftcli.volumes import Space, Volume, open_volume
from cleftcli.volumes.volume import InMemory
from tests.conftest import VOXEL_SIZE
from tests.servers import serve
from tests.stores import created, some_voxels


def kept(data, space=Space(VOXEL_SIZE), **attributes):  # noqa: B008
    """An array as a volume."""
    shape = data.shape
    return Volume("v/raw", "zarr2", shape, data.dtype, shape, space, InMemory(data), attributes)


def ok(result):
    """The JSON of a command that succeeded."""
    assert result.exit_code == 0, result.stderr + str(result.exception)
    return json.loads(result.stdout)


def refused(result, code, *words):
    """A command said why it refused."""
    assert result.exit_code == code, result.stderr + str(result.exception)
    for word in words:
        assert word in result.stderr


def read(address):
    """All voxels at an address."""
    found = open_volume(str(address))
    return found.read(found.roi)


def sample(values, **more):
    """One section of these intensities."""
    return Sample({0: np.asarray(values)}, more.get("strange", []), more.get("unreadable", []))


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float16", "float32"])
def test_a_few_sections_are_looked_at(dtype):
    """Some from the first to the last, cut around the middle, every voxel as stored."""
    data = np.zeros((30, 1100, 9), dtype)
    data[:, :38] = data[:, -38:] = 1  # outside
    data += np.arange(30).astype(dtype)[:, None, None]

    found = look(kept(data))

    assert len(found.sections) == SAMPLED_SECTIONS
    assert (found.sections[0], found.sections[-1]) == (0, 29)
    assert found.constant == found.sections
    assert found.values.size == SAMPLED_SECTIONS * SAMPLED_EDGE * 9
    assert (found.values.min(), found.values.max()) == (0, 29)
    assert found.histogram((0, 255)) == []


def test_a_part_is_looked_at_by_its_place_in_the_volume():
    """Sections are named by their z in the volume, voxels are those of the box."""
    data = some_voxels("uint8", (9, 20, 20))

    found = look(kept(data), Roi((4, 3, 2), (3, 5, 6)))

    assert found.sections == [4, 5, 6]
    assert np.array_equal(found.values, data[4:7, 3:8, 2:8].ravel())


def test_sections_are_told_apart():
    """Constant ones, those with NaN or inf, those of nothing else, and the others."""
    data = some_voxels("uint8", (5, 4, 4)).astype(np.float32)
    data[1] = 7
    data[2, 0, 0], data[2, 0, 1] = np.nan, np.inf
    data[3] = np.nan

    found = look(kept(data))

    assert found.constant == [1]
    assert found.strange == [2, 3]
    assert found.values.size == 16 + 16 + 14 + 16
    assert np.isfinite(found.values).all()


def test_a_histogram_is_of_the_sections_with_contrast():
    """Lost sections do not weigh; it sums to 1, black in the first bin and white in the last."""
    found = Sample({0: np.array([0, 255, 255, 100], np.uint8), 1: np.zeros(99, np.uint8)}, [], [])

    histogram = found.histogram((0, 255))

    assert len(histogram) == BINS
    assert sum(histogram) == 1
    assert (histogram[0], histogram[-1], histogram[25]) == (0.25, 0.5, 0.25)
    assert found.histogram((255, 0)) == histogram[::-1]


def test_a_distance_is_how_far_intensities_moved():
    """Wasserstein: a shift by a quarter of the range is 0.25, and the way back as far."""
    a, b = np.eye(BINS)[8], np.eye(BINS)[8 + BINS // 4]

    assert distance(a, b) == distance(b, a) == 0.25
    assert distance(a, a) == 0


def test_of_a_checkpoint_without_a_histogram_nothing_is_said():
    """Nor of a volume without a section that has contrast."""
    trained = np.eye(BINS)[3].tolist()

    assert intensity_doubts(sample([250, 240]), (0, 255), []) == []
    assert intensity_doubts(sample([]), (0, 255), trained) == []


def test_a_symmetric_histogram_cannot_be_swapped():
    """Where bright and dark are alike, far is said instead."""
    trained = (np.eye(BINS)[0] + np.eye(BINS)[-1]).tolist()

    (said,) = intensity_doubts(sample([126, 128]), (0, 255), [t / 2 for t in trained])

    assert "far from" in said


def test_what_swaps_back_is_typed_to_the_last_digit():
    """A range of many digits is not rounded."""
    trained = np.eye(BINS)[3].tolist()
    low, high = 1234567.0, 1234567.0 + 1024

    (said,) = intensity_doubts(sample([high - 40, high - 60]), (low, high), trained)

    assert "--intensity-range 1235591,1234567 " in said


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (None, "the voxel size is not known: not stated"),
        ((4.0, 4.0, 40.0), "z is not the coarsest axis of (4.0, 4.0, 40.0) nm"),
        ((8.0, 8.0, 8.0), None),
        ((40.0, 4.0, 4.0), None),
    ],
)
def test_a_doubtful_voxel_size_is_said(size, said):
    """Not known, or finest along z, where --axes may be wrong."""
    found = doubts(kept(np.zeros((2, 2, 2)), Space(size)))

    assert [f[: len(said or "")] for f in found] == ([said] if said else [])


def test_what_is_not_finished_is_said():
    """Of an output of ours with blocks missing."""
    data = np.zeros((2, 2, 2))

    assert doubts(kept(data, complete=True)) == []
    assert "not finished" in doubts(kept(data, complete=False))[0]


@pytest.mark.parametrize("times", [1.45, 1 / 1.45])
def test_voxels_may_differ_as_much_as_networks_bear(times):
    """Up to 1.5 times on each axis; beyond it is refused, whichever is the larger."""
    trained = (40.0, 8.0, 8.0)
    near, far = (tuple(8.0 * times**n if n else 8.0 for n in p) for p in ((0, 1, 1), (0, 0, 2)))
    volume = kept(np.zeros((2, 2, 2)))

    fits = replace(volume, space=Space((40.0, *near[1:])))
    assert voxel_size_doubts(fits, trained, any_size=False) == []
    wrong = replace(volume, space=Space((40.0, *far[1:])))
    with pytest.raises(InputError, match=r"2\.1 times apart"):
        voxel_size_doubts(wrong, trained, any_size=False)
    (doubt,) = voxel_size_doubts(wrong, trained, any_size=True)
    assert "2.1 times apart; expect little" in doubt


def test_an_input_that_changes_is_noticed(tmp_path, caplog):
    """A chunk written anew between two looks; one outside the box does not count."""
    volume = open_volume(created(tmp_path, "zarr2", some_voxels("uint8")))
    box = Roi((0, 0, 0), (2, 3, 4))
    before, before_box = volume.scan(), volume.scan(box)
    assert not what_was_read(volume, before, None, set(), {})["changed_while_read"]

    volume.write(Roi((4, 6, 8), (1, 1, 3)), np.full((1, 1, 3), 5, np.uint8))

    assert what_was_read(volume, before, None, set(), {})["changed_while_read"]
    assert not what_was_read(volume, before_box, box, {before_box.stamp}, {})["changed_while_read"]
    assert what_was_read(volume, before_box, box, {before_box.stamp, "other"}, {})[
        "changed_while_read"
    ]
    assert "changed while it was read" in caplog.text
    assert volume.roi == whole(volume.shape)


@pytest.fixture
def blocks(monkeypatch):
    """Small blocks, so that there are several."""
    monkeypatch.setattr("cleftcli.jobs.convert.BLOCK_VOXELS", 64)


def test_what_the_input_lacks_is_counted(cleft, tmp_path, blocks):
    """--json has chunks, missing and damaged; --missing error refuses before anything is made."""
    source = Path(created(tmp_path, "zarr2", some_voxels("uint8")))
    whole = ok(cleft("convert", source, tmp_path / "whole.zarr", "--json"))
    assert whole["input"] == {
        "chunks": 27, "missing": 0, "first_missing": [], "damaged": 0, "first_damaged": [],
        "changed_while_read": False, "blocks_with_missing_chunks": 0,
    }  # fmt: skip
    (source / "1/1/1").unlink()

    done = cleft("convert", source, tmp_path / "gap.zarr", "--json")

    seen = ok(done)["input"]
    assert (seen["missing"], seen["first_missing"]) == (1, ["1/1/1"])
    assert "1 of 27 chunks are missing and read as 0: 1/1/1" in done.stderr
    assert (read(tmp_path / "gap.zarr")[2:4, 3:6, 4:8] == 0).all()
    refused(cleft("convert", source, tmp_path / "no.zarr", "--missing", "error"), 3, "1/1/1")
    assert not list(tmp_path.glob("no.zarr*"))


def test_a_damaged_chunk_costs_its_block_only(cleft, tmp_path, blocks):
    """4, the chunk named; once it is mended the same command does what is left."""
    source = Path(created(tmp_path, "zarr2", some_voxels("uint8")))
    kept = (source / "1/1/1").read_bytes()
    (source / "1/1/1").write_bytes(kept[:7])
    command = ["convert", source, tmp_path / "out.zarr", "--chunks", "2,3,4", "--json"]

    refused(cleft(*command), 4, "1/1/1", "The others are done")
    (source / "1/1/1").write_bytes(kept)
    made = ok(cleft(*command))

    assert made["blocks_resumed"] == made["blocks"] - 1
    assert np.array_equal(read(made["output"]), some_voxels("uint8"))


# what commands of blocks do with an input of a server that cannot list its chunks
ASKING = {
    "convert": ("uint8", ["--chunks", "2,3,4"]),
    "make-labels": ("uint64", ["--target", "mask", "--voxel-size", "40,4,4", "-o"]),
}


@pytest.mark.parametrize("command", ASKING)
def test_where_nobody_can_list_each_block_asks(command, cleft, tmp_path, blocks, monkeypatch):
    """A server with too many chunks to ask for beforehand: gaps are met, counted and refused."""
    monkeypatch.setattr("cleftcli.volumes.scan.MOST_ASKED", 3)
    monkeypatch.setattr("cleftcli.jobs.make_labels.BLOCK_VOXELS", 64)
    monkeypatch.setattr("cleftcli.jobs.make_labels.CHUNK", (2, 3, 4))
    dtype, options = ASKING[command]
    source = Path(created(tmp_path / "data", "zarr2", some_voxels(dtype)))
    (source / "1/1/1").unlink()
    with serve(tmp_path / "data") as served:
        address = f"{served.url}/zarr2.zarr/volumes/raw"
        done = cleft(command, address, *options, tmp_path / "out.zarr", "--json")
        made = ok(done)
        assert "1 blocks met missing chunks" in done.stderr
        strict = ["--missing", "error", *options, tmp_path / "no.zarr"]
        refused(cleft(command, address, *strict), 4, "1/1/1")

    assert made["input"]["missing"] is None
    assert made["input"]["blocks_with_missing_chunks"] == 1
