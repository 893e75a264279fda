"""`cleft info`: facts of any store, problems that can be seen, and no traceback for what is odd."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from cleftcli.labels import BACKGROUND
from cleftcli.model.checkpoint import load, save
from cleftcli.volumes import FORMATS, Space
from tests.conftest import store
from tests.stores import (
    CHUNKED,
    CHUNKS,
    DOCUMENT,
    LACKS,
    SHAPE,
    SPACE,
    WRITERS,
    able,
    created,
    some_voxels,
    zarr_array,
)

TOLD = {
    "address", "format", "shape", "axes", "dtype", "chunks", "codec", "voxel_size", "offset",
    "space_from", "stored_chunks", "missing_chunks", "first_missing", "damaged_chunks",
    "first_damaged", "sampled_sections", "min", "max", "histogram_range", "histogram", "warnings",
}  # fmt: skip


@pytest.fixture
def shown(cleft):
    """The arrays that `info` describes."""

    def run(path, *options):
        done = cleft("info", path, *options, "--json")
        assert done.exit_code == 0, done.stderr + str(done.exception)
        return json.loads(done.stdout)["arrays"]

    return run


@pytest.fixture
def hdf5(tmp_path):
    """Arrays in one HDF5 file."""

    def write(**arrays):
        with h5py.File(tmp_path / "v.h5", "w") as file:
            for name, data in arrays.items():
                file[name] = data
                file[name].attrs["resolution"] = (40.0, 4.0, 4.0)
        return tmp_path / "v.h5"

    return write


def command(*arguments, **more):
    """A process of its own."""
    found = [sys.executable, "-m", "cleftcli", *map(str, arguments)]
    return subprocess.Popen(found, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


@pytest.mark.parametrize("format", FORMATS)
def test_every_store_is_described(cleft, shown, tmp_path, format):
    """The same facts of each, in JSON and for a person."""
    data = some_voxels("uint8")
    address = WRITERS[format](tmp_path, data, space=SPACE)

    (found,) = shown(address)

    assert not TOLD - found.keys()
    assert found["format"] == format
    assert found["shape"] == list(SHAPE)
    assert found["dtype"] == "uint8"
    assert found["axes"].startswith(("zyx", "xyz", "xyzc"))
    assert found["chunks"] == list((1, *SHAPE[1:]) if format == "tiff" else CHUNKS)
    assert found["voxel_size"] == list(SPACE.voxel_size)
    assert found["offset"] == [0, 0, 0] if format in LACKS["offset"] else list(SPACE.offset)
    assert (found["missing_chunks"], found["damaged_chunks"]) == (0, 0)
    assert (found["min"], found["max"]) == (0, 255)
    assert found["histogram_range"] == [0, 255]
    assert sum(found["histogram"]) == pytest.approx(1, abs=1e-4)
    text = cleft("info", address).stdout
    assert re.search("^histogram {9}[ ▁▂▃▄▅▆▇█]{64}$", text, re.MULTILINE)
    assert "40.0, 4.0, 5.0" in text


@pytest.mark.parametrize("format", able("several arrays"))
def test_all_arrays_are_listed(shown, tmp_path, format):
    """A container or a group shows what lies in it, an address that array alone."""
    for name in ("volumes/raw", "volumes/labels/clefts", "other"):
        address = WRITERS[format](tmp_path, some_voxels("uint16"), name=name)
    container = address.removesuffix("/other")

    assert [a["address"] for a in shown(container)] == [
        f"{container}/{n}" for n in ("other", "volumes/labels/clefts", "volumes/raw")
    ]
    assert len(shown(f"{container}/volumes")) == 2
    assert len(shown(address)) == 1


def test_ids_show_how_many_and_the_commonest(shown, hdf5):
    """Not a histogram; sections without a cleft are no problem of ids."""
    ids = np.full((4, 8, 8), BACKGROUND, np.uint64)
    ids[1, 0] = 0
    ids[2, :2, :2] = 7

    (found,) = shown(hdf5(ids=ids))

    assert found["ids"] == 3
    assert found["commonest_id"] == BACKGROUND
    assert found["its_share"] == (256 - 8 - 4) / 256
    assert "histogram" not in found
    assert found["warnings"] == []


def test_outputs_of_ours_have_sections_without_clefts(shown, tmp_path):
    """A probability of 0 in a section is no lost section."""
    data = np.zeros((3, 8, 8), np.uint8)
    data[1, 2:4, 2:4] = 250
    made = store(f"{tmp_path}/p.zarr/cleft", data, content="probability", threshold=0.3)

    (found,) = shown(made.address)

    assert (found["content"], found["threshold"]) == ("probability", 0.3)
    assert found["warnings"] == []


@pytest.mark.parametrize("dtype", ["float16", "uint8", "float64"])
def test_a_constant_volume_has_finite_statistics(shown, hdf5, dtype):
    """200 in float16, whose sum would overflow, is 200."""
    (found,) = shown(hdf5(raw=np.full((5, 40, 40), 200, dtype)))

    assert (found["min"], found["max"], found["histogram"]) == (200, 200, [])
    assert found["warnings"] == ["sections without contrast, of 5 looked at: [0, 1, 2, 3, 4]"]


def test_extremes_are_shown_as_they_are(shown, hdf5):
    """The ends of float16, float64 and bool; no range that overflows, no NaN in JSON."""
    big, small = some_voxels("float64"), some_voxels("float16")
    big[-1, 0, 0] = np.finfo("f8").min
    small[-1, 0, 0] = np.finfo("f2").min
    nothing = np.full(SHAPE, np.nan, "f4")

    found = shown(hdf5(a=big, b=small, c=some_voxels("bool"), d=nothing))

    assert [f["max"] for f in found] == [np.finfo("f8").max, 65504, True, None]
    assert [len(f["histogram"]) for f in found] == [0, 64, 64, 0]


def test_problems_are_warnings(shown, tmp_path, hdf5):
    """Lost, strange and unreadable sections, missing and damaged chunks, doubtful voxel sizes."""
    raw = some_voxels("float32")
    raw[1], raw[2, 0, 0] = 3, np.nan
    (found,) = shown(hdf5(raw=raw))
    assert found["warnings"] == [
        "sections without contrast, of 5 looked at: [1]",
        "sections with NaN or inf, of 5 looked at: [2]",
    ]

    address = created(tmp_path, "zarr2", some_voxels("uint8"))
    (tmp_path / "zarr2.zarr/volumes/raw/0/0/0").unlink()
    (tmp_path / "zarr2.zarr/volumes/raw/1/1/1").write_bytes(b"")
    (found,) = shown(address)
    assert (found["missing_chunks"], found["first_missing"]) == (1, ["0/0/0"])
    assert (found["damaged_chunks"], found["first_damaged"][0][:5]) == (1, "1/1/1")
    lost, torn, unread = found["warnings"]
    assert lost == "1 of 27 chunks missing, read as 0: 0/0/0"
    assert torn.startswith("1 of 27 chunks damaged: 1/1/1 (voxels 2:4,3:6,4:8)")
    assert unread == "sections that cannot be read, of 5 looked at: [2, 3]"

    (found,) = shown(address, "--voxel-size", "4,4,40")
    assert "z is not the coarsest axis of (4.0, 4.0, 40.0) nm" in found["warnings"][0]


@pytest.mark.parametrize("format", able("silence"))
def test_an_unknown_voxel_size_is_a_warning_with_its_reason(shown, tmp_path, format):
    """Null in JSON, and why; --voxel-size, --axes and --channel apply as in every command."""
    address = WRITERS[format](tmp_path, some_voxels("uint8"), space=Space(None))

    (found,) = shown(address)
    assert found["voxel_size"] is None
    reason = "TIFF without OME-XML" if format == "tiff" else "not stated"
    assert found["warnings"][0].startswith(f"the voxel size is not known: {reason}")

    (found,) = shown(address, "--voxel-size", "40,4,5", "--axes", "yzx")
    assert (found["voxel_size"], found["warnings"]) == ([40, 4, 5], [])
    assert found["shape"] == ([7, 11, 5] if format == "n5" else [7, 5, 11])


@pytest.mark.parametrize("damage", ["dtype", "torn"])
@pytest.mark.parametrize("format", CHUNKED)
def test_one_broken_array_hides_no_other(shown, cleft, tmp_path, format, damage):
    """It is shown with its error, the others as ever."""
    for name in ("a", "b", "c"):
        address = created(tmp_path, format, some_voxels("uint8"), name=name)
    container = address.removesuffix("/c")
    path = tmp_path / container / "b" / DOCUMENT[format]
    torn = path.read_text()
    for kind in ('"|u1"', '"uint8"'):
        torn = torn.replace(kind, '"complexity"')
    path.write_text(torn if damage == "dtype" else torn[:20])

    first, broken, last = shown(container)

    assert broken.keys() == {"address", "error"}
    assert broken["address"] == f"{container}/b"
    assert first["max"] == last["max"] == 255
    assert "error    " in cleft("info", container).stdout


def test_what_holds_nothing_is_said(cleft, tmp_path):
    """No store, a store without arrays, nothing at all: 3 and one line."""
    (tmp_path / "folder.zarr").mkdir()
    zarr_array(tmp_path / "group.zarr", "a", some_voxels("uint8"), version=2)
    shutil.rmtree(tmp_path / "group.zarr" / "a")

    for name in ("folder.zarr", "group.zarr", "missing.zarr"):
        done = cleft("info", tmp_path / name)
        assert done.exit_code == 3
        assert done.stderr.startswith(f"cleft: {tmp_path / name}: ")


def test_a_checkpoint_tells_what_it_was_trained_on(cleft, checkpoint):
    """Network, voxel size and the histogram of its data, by file or by its run folder."""
    found, weights = load(checkpoint)
    run = checkpoint.with_name("run")
    run.mkdir()
    known = dataclasses.replace(found, intensities=(0.25, 0.5, 0.25), step=7)
    save(run / "checkpoint.safetensors", known, weights)

    (by_file, by_run) = (
        json.loads(cleft("info", p, "--json").stdout) for p in (run / "checkpoint.safetensors", run)
    )

    assert by_file == by_run
    assert by_file["kind"] == "checkpoint"
    assert (by_file["network"], by_file["step"]) == ("cleftnet", 7)
    assert by_file["intensities"] == [0.25, 0.5, 0.25]
    assert by_file["parameters"] == sum(w.numel() for w in weights.values())
    assert "intensities  ▄█▄" in cleft("info", run).stdout
    assert "intensities" not in cleft("info", checkpoint).stdout


def test_a_reader_that_hangs_up_is_no_error(hdf5):
    """`cleft info | head`: no traceback, exit 0."""
    many = {f"raw{n}": some_voxels("uint8") for n in range(60)}
    # more than a pipe holds; unbuffered, Python would not notice that it was not all taken
    process = command("info", hdf5(**many), "--json", env={"PYTHONUNBUFFERED": ""})
    process.stdout.read(1)
    process.stdout.close()

    said = process.stderr.read().decode()

    assert process.wait(60) == 0
    process.stderr.close()
    assert said == ""


def test_a_terminal_without_unicode_gets_ascii(hdf5):
    """Histograms are drawn with letters that it has."""
    process = command("info", hdf5(raw=some_voxels("uint8")), env={"PYTHONIOENCODING": "ascii"})

    shown, said = process.communicate(timeout=60)

    assert process.returncode == 0, said.decode()
    bars = shown.decode("ascii").split("histogram ")[1].split("\n")[0]
    assert set(bars) & set(".:-=+*#")
