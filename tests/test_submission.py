"""What the challenge's scorer would trip over, by file."""

import json

import h5py
import numpy as np
import pytest

from cleftcli import submission
from cleftcli.geometry import Roi
from cleftcli.jobs import export_cremi
from cleftcli.labels import BACKGROUND, IGNORE
from cleftcli.submission import sample_name
from tests.conftest import store

SHAPE = (3, 20, 30)


def written(path, *, ids=None, resolution=(40.0, 4.0, 4.0), offset=None, name="clefts", **more):
    """A submission, as somebody else would write it."""
    if ids is None:
        ids = np.full(SHAPE, BACKGROUND, np.uint64)
        ids[1, 2:9, 3:12] = 4
    with h5py.File(path, "w") as file:
        item = file.create_dataset(f"volumes/labels/{name}", data=ids, compression="gzip", **more)
        if resolution is not None:
            item.attrs["resolution"] = resolution
        if offset is not None:
            item.attrs["offset"] = offset
    return path


def changed(value, where=np.s_[0, 0, 0], dtype=np.uint64):
    ids = np.full(SHAPE, BACKGROUND, np.uint64)
    ids[1, 2:9, 3:12] = 4
    ids[where] = value
    return ids.astype(dtype)


def test_a_good_file_has_no_problem(tmp_path, cleft):
    """Background 2^64-1, uint64, z, y, x: exit 0; the shape alone is remarked on."""
    done = cleft("export-cremi", "--check", written(tmp_path / "a.hdf"), "--json")
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["submissions"]
    assert found["problems"] == []
    assert found["cleft_voxels"] == 63
    assert [r for r in found["remarks"] if "shape" in r] == found["remarks"]


@pytest.mark.parametrize("size", [(8.0, 8.0, 8.0), (8.0, 4.0, 8.0)])
def test_isotropic_voxels_are_not_turned(tmp_path, size):
    """Only voxels that are longer in x than in z look like x, y, z."""
    assert submission.check(written(tmp_path / "a.hdf", resolution=size))["problems"] == []


def test_voxels_are_counted_over_boxes(tmp_path, monkeypatch):
    """What is read box by box adds up to the whole file."""
    monkeypatch.setattr(submission, "BLOCK_VOXELS", 1)
    ids = changed(0, np.s_[:, ::3, 5])
    ids[:, 1, :4] = IGNORE
    found = submission.check(written(tmp_path / "a.hdf", ids=ids, chunks=(1, 8, 8)))
    zero, unknown = (ids == 0).sum(), (ids == IGNORE).sum()
    assert found["cleft_voxels"] == (ids != BACKGROUND).sum()
    assert [
        p for p in found["problems"] if p.startswith(f"{zero} voxels ({100 * zero / ids.size:.1f}")
    ]
    assert [p for p in found["problems"] if p.startswith(f"{unknown} voxels are 2^64-2")]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"ids": changed(0)}, "are 0"),
        ({"ids": changed(IGNORE)}, "2^64-2"),
        ({"ids": changed(4, np.s_[:])}, "every voxel"),
        ({"ids": changed(BACKGROUND, np.s_[:])}, "no cleft at all"),
        ({"ids": changed(0, dtype=np.uint32)}, "not uint64"),
        ({"resolution": None}, "resolution"),
        ({"resolution": (4.0, 4.0, 40.0)}, "x, y, z"),
    ],
    ids=str,
)
def test_what_the_scorer_trips_over_is_said(tmp_path, cleft, change, word):
    """Each fault is named, and the exit code is that of unusable input."""
    done = cleft("export-cremi", "--check", written(tmp_path / "a.hdf", **change), "--json")
    assert done.exit_code == 3
    (found,) = json.loads(done.stdout)["submissions"]
    assert any(word in p for p in found["problems"]), found["problems"]


def test_the_padded_frame_is_a_problem(tmp_path, cleft, monkeypatch):
    """A file that was not cut to what is scored says how to cut it."""
    monkeypatch.setattr(submission, "PADDED_SHAPE", SHAPE)
    done = cleft("export-cremi", "--check", written(tmp_path / "a.hdf"))
    assert done.exit_code == 3
    assert "--padded" in done.stdout


def test_other_voxels_and_places_are_remarks(tmp_path, cleft):
    """Another voxel size or an offset is said, and is no fault."""
    path = written(tmp_path / "a.hdf", resolution=(50.0, 4.6, 4.6), offset=(0.0, 40.0, 0.0))
    done = cleft("export-cremi", "--check", path)
    assert done.exit_code == 0, done.stdout
    assert "50.0" in done.stdout
    assert "offset" in done.stdout


def test_several_files_are_checked_and_one_bad_tells(tmp_path, cleft):
    """All are listed; one problem anywhere makes the exit code."""
    good, bad = written(tmp_path / "a.hdf"), written(tmp_path / "b.hdf", ids=changed(0))
    done = cleft("export-cremi", "--check", good, bad, "--json")
    assert done.exit_code == 3
    assert [len(s["problems"]) for s in json.loads(done.stdout)["submissions"]] == [0, 1]


def test_what_is_no_submission_is_unusable(tmp_path, cleft):
    """A file without the dataset, and none at all, are input errors without a traceback."""
    for path in (written(tmp_path / "a.hdf", name="other"), tmp_path / "none.hdf"):
        done = cleft("export-cremi", "--check", path)
        assert done.exit_code == 3
        assert "clefts" in done.stderr or "no such file" in done.stderr


def test_our_own_exports_pass(tmp_path, cleft):
    """What export-cremi writes has no problem."""
    levels = np.zeros(SHAPE, np.uint8)
    levels[1, 2:9, 3:12] = 255
    store(f"{tmp_path}/p.zarr/cleft", levels, content="probability")
    assert cleft("export-cremi", tmp_path / "p.zarr", "-o", tmp_path / "out.hdf").exit_code == 0
    assert cleft("export-cremi", "--check", tmp_path / "out.hdf").exit_code == 0


@pytest.mark.parametrize("level", [0, 255])
def test_nothing_or_nothing_else_is_refused(tmp_path, cleft, level):
    """Without any cleft, or all cleft, nothing is written unless it is meant."""
    store(f"{tmp_path}/p.zarr/cleft", np.full(SHAPE, level, np.uint8), content="probability")
    command = ["export-cremi", tmp_path / "p.zarr", "-o", tmp_path / "out.hdf"]
    done = cleft(*command)
    assert done.exit_code == 3
    assert "--allow-uniform" in done.stderr
    assert list(tmp_path.glob("*out*")) == []
    assert cleft(*command, "--allow-uniform").exit_code == 0


@pytest.fixture
def prediction(tmp_path):
    """A probability with levels of 100 and 200, and its voxels."""
    levels = np.zeros(SHAPE, np.uint8)
    levels[1, 2:9, 3:12], levels[2, 12:18, 20:28] = 200, 100
    store(f"{tmp_path}/p.zarr/cleft", levels, content="probability")
    return tmp_path / "p.zarr", levels


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_the_threshold_given_is_the_one_exported(tmp_path, cleft, prediction, threshold):
    """Cleft voxels of a file are those whose probability reaches the threshold."""
    source, levels = prediction
    options = ["--threshold", threshold, "--allow-uniform", "--json"]
    done = cleft("export-cremi", source, "-o", tmp_path / "out.hdf", *options)
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["submissions"]
    assert found["threshold"] == threshold
    with h5py.File(tmp_path / "out.hdf") as file:
        stored = file["volumes/labels/clefts"][:]
    np.testing.assert_array_equal(stored != BACKGROUND, levels >= 255 * threshold)


def test_the_padded_frame_is_cut_to_what_is_scored(tmp_path, cleft, prediction, monkeypatch):
    """--padded writes the voxels of the cut at their place; another frame is refused."""
    source, levels = prediction
    monkeypatch.setattr(export_cremi, "CROPPED", Roi((1, 2, 3), (2, 10, 20)))
    command = ["export-cremi", source, "-o", tmp_path / "out.hdf", "--padded"]
    for other in (submission.PADDED_SHAPE, (2, 20, 30), SHAPE[::-1]):
        monkeypatch.setattr(export_cremi, "PADDED_SHAPE", other)
        refused = cleft(*command)
        assert refused.exit_code == 3
        assert str(other) in refused.stderr
    monkeypatch.setattr(export_cremi, "PADDED_SHAPE", SHAPE)
    assert cleft(*command).exit_code == 0
    with h5py.File(tmp_path / "out.hdf") as file:
        item = file["volumes/labels/clefts"]
        np.testing.assert_array_equal(item[:] != BACKGROUND, levels[1:, 2:12, 3:23] >= 127.5)
        assert item.attrs["offset"].tolist() == [40.0, 16.0, 24.0]


def test_the_cut_is_the_middle_of_the_padded_frame():
    """The padding of the challenge's test volumes is as wide before as behind, or one less."""
    for n, before, kept in zip(
        submission.PADDED_SHAPE, submission.CROPPED.offset, submission.CROPPED.shape, strict=True
    ):
        assert before == (n - kept) // 2


def test_a_file_that_reads_back_otherwise_is_not_kept(tmp_path, cleft, prediction, monkeypatch):
    """A voxel that the disk lost is an error, and the earlier file stays."""
    source, out = prediction[0], tmp_path / "out.hdf"
    out.write_text("earlier")
    write = export_cremi._write

    def lossy(path, *more):
        write(path, *more)
        with h5py.File(path, "r+") as file:
            file["volumes/labels/clefts"][0, 0, 0] = 7

    monkeypatch.setattr(export_cremi, "_write", lossy)
    done = cleft("export-cremi", source, "-o", out, "--overwrite")
    assert done.exit_code == 1
    assert "reads back other voxels" in done.stderr
    assert out.read_text() == "earlier"
    assert not list(tmp_path.glob(".*.partial"))


def test_an_existing_file_is_replaced_only_when_told(tmp_path, cleft, prediction):
    """A file that is there is a conflict, and stays; --overwrite replaces it."""
    command = ["export-cremi", prediction[0], "-o", tmp_path / "out.hdf"]
    (tmp_path / "out.hdf").write_text("earlier")
    assert cleft(*command).exit_code == 5
    assert (tmp_path / "out.hdf").read_text() == "earlier"
    assert cleft(*command, "--overwrite").exit_code == 0
    assert cleft("export-cremi", "--check", tmp_path / "out.hdf").exit_code == 0


def test_an_export_needs_an_output(tmp_path, cleft):
    """Without --check, -o must be given."""
    store(f"{tmp_path}/p.zarr/cleft", np.zeros(SHAPE, np.uint8), content="probability")
    assert cleft("export-cremi", tmp_path / "p.zarr").exit_code == 2


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("A+.zarr", "sample_A+.hdf"),
        ("runs/sample_B+_20160601.cleft.zarr", "sample_B+.hdf"),
        ("sample_C.zarr", "sample_C.hdf"),
        ("prediction_A.n5", "sample_A.hdf"),
        ("Ant.zarr", "Ant.hdf"),
        ("volume.cleft.zarr", "volume.hdf"),
    ],
)
def test_files_are_named_after_samples(address, name):
    """Predictions that name a sample of the challenge are exported under it."""
    assert sample_name(address) == name
