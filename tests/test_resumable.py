"""An output's place: nothing of anybody else is overwritten, nothing of ours is in the way."""

import fcntl
import json
import shutil

import h5py
import numpy as np
import pytest

from cleftcli.labels import BACKGROUND
from tests.stores import WRITERS, some_voxels, zarr_array


@pytest.fixture
def source(tmp_path):
    """A volume to convert."""
    return WRITERS["hdf5"](tmp_path, some_voxels("uint8"))


def test_overwriting_keeps_other_files_of_the_container(cleft, tmp_path, source):
    """An array that is replaced takes nothing with it that cleft did not write."""
    out = tmp_path / "out.zarr"
    assert cleft("convert", source, out).exit_code == 0
    (out / "notes.txt").write_text("mine")
    assert cleft("convert", source, out, "--roi", "1:,:,:", "--overwrite").exit_code == 0
    assert (out / "notes.txt").read_text() == "mine"


def test_what_took_the_place_of_our_output_is_kept(cleft, tmp_path, source):
    """A ledger that was left behind makes nobody's array ours."""
    out = tmp_path / "out.zarr"
    assert cleft("convert", source, out).exit_code == 0
    for name in ("volumes/raw", "theirs"):
        shutil.rmtree(out)
        zarr_array(out, name, some_voxels("uint8"), version=2)
        before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        for option in ([], ["--overwrite"], ["--roi", "1:,:,:", "--overwrite"]):
            assert cleft("convert", source, out, *option).exit_code == 5
        assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_an_output_is_not_pulled_from_under_a_writer(cleft, tmp_path, source):
    """--overwrite is refused while another process writes."""
    out = tmp_path / "out.zarr"
    assert cleft("convert", source, out).exit_code == 0
    with (tmp_path / "out.zarr.volumes.raw.ledger").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = cleft("convert", source, out, "--overwrite")
    assert done.exit_code == 5
    assert "another process" in done.stderr


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
@pytest.mark.parametrize("suffix", ["zarr", "n5"])
def test_no_array_is_made_within_another(cleft, tmp_path, source, names, suffix):
    """Readers would not see one of them; the refusal leaves no ledger."""
    out = tmp_path / f"out.{suffix}"
    assert cleft("convert", source, out / names[0]).exit_code == 0
    done = cleft("convert", source, out / names[1])
    assert done.exit_code == 2, done.stderr
    assert len(json.loads(cleft("info", out, "--json").stdout)["arrays"]) == 1
    assert not list(tmp_path.glob(f"out.{suffix}.{names[1].replace('/', '.')}.ledger"))


def test_a_container_keeps_its_format(cleft, tmp_path, source, checkpoint):
    """A prediction into a zarr v3 container of ours is zarr v3, beside what is there."""
    out = tmp_path / "out.zarr"
    assert cleft("convert", source, out, "--format", "zarr3").exit_code == 0
    options = ["--checkpoint", checkpoint, "--allow-voxel-size-mismatch"]
    done = cleft("predict", source, "-o", out, *options)
    assert done.exit_code == 0, done.stderr
    arrays = json.loads(cleft("info", out, "--json").stdout)["arrays"]
    assert [a["format"] for a in arrays] == ["zarr3", "zarr3"]


@pytest.mark.parametrize("block", ["0,16,16", "-4,16,16", "a,b,c", "1,2"])
def test_blocks_that_cannot_be_are_usage_errors(cleft, tmp_path, volume, checkpoint, block):
    """A block takes a voxel at least on every axis."""
    options = ["-o", tmp_path / "p.zarr", "--checkpoint", checkpoint, f"--block={block}"]
    done = cleft("predict", volume, *options)
    assert done.exit_code == 2, done.stderr


def test_a_cleft_with_id_0_is_exported(cleft, tmp_path):
    """In CREMI files 0 is a cleft: it is written under another id, none is lost."""
    ids = np.full((3, 8, 8), BACKGROUND, np.uint64)
    ids[0, :4], ids[2, 4:] = 0, 7
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["volumes/labels/clefts"] = ids
        file["volumes/labels/clefts"].attrs["resolution"] = (40.0, 4.0, 4.0)
    source = tmp_path / "a.hdf/volumes/labels/clefts"
    done = cleft("export-cremi", source, "-o", tmp_path / "out.hdf", "--json")
    assert done.exit_code == 0, done.stderr
    with h5py.File(tmp_path / "out.hdf") as file:
        found = file["volumes/labels/clefts"][:]
    assert ((found != BACKGROUND) == (ids != BACKGROUND)).all()
    assert not (found == 0).any()
    assert len(np.unique(found[ids != BACKGROUND])) == 2
