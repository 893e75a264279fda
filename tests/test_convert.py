"""`cleft convert`: voxel for voxel, in its place, resumable, and nothing of others is touched."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cleftcli.blockwise import HERE
from cleftcli.foreground import read_foreground
from cleftcli.geometry import between
from cleftcli.jobs.convert import convert
from cleftcli.labels import BACKGROUND
from cleftcli.volumes import AS_STORED, Reading, open_volume
from tests.conftest import VOXEL_SIZE, store
from tests.stores import DOCUMENT, SHAPE, SPACE, WRITERS, created, marked, some_voxels, zarr_array

SUFFIX = {"zarr2": ".zarr", "zarr3": ".zarr", "n5": ".n5"}


def ok(result):
    """The JSON, or else the stdout, of a command that succeeded."""
    assert result.exit_code == 0, result.stderr + str(result.exception)
    return json.loads(result.stdout) if result.stdout.startswith("{") else result.stdout


def refused(result, code, *words):
    """A command said why it refused, in one line and without a library's words."""
    assert result.exit_code == code, result.stderr + str(result.exception)
    last = result.stderr.rstrip("\n").rsplit("\n", 1)[-1]
    assert last.startswith("cleft: ")
    assert "Error parsing" not in last
    for word in words:
        assert word in last


def voxels(address):
    """All voxels at an address."""
    found = open_volume(str(address))
    return found.read(found.roi)


def on_disk(folder):
    """Every file below a folder, and its bytes."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def sections(folder, data, space=SPACE, **_):
    """A folder of TIFF sections."""
    (folder / "sections").mkdir()
    for z, section in enumerate(data):
        tifffile.imwrite(folder / "sections" / f"z{z:03}.tif", section)
    return str(folder / "sections")


SOURCES = {k: v for k, v in WRITERS.items() if k not in ("precomputed", "tiff")} | {
    "sections": sections
}
DTYPES = ["uint8", "uint16", "int16", "int64", "uint64", "float32", "float64", ">u2", "<f8"]


@st.composite
def cuts(draw):
    """A box of SHAPE."""
    pairs = [sorted(draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in SHAPE]
    return between(*zip(*pairs, strict=True))


@settings(max_examples=10, deadline=None)
@given(
    source=st.sampled_from(sorted(SOURCES)),
    target=st.sampled_from(sorted(SUFFIX)),
    dtype=st.sampled_from(DTYPES),
    chunks=st.tuples(*[st.integers(1, 8)] * 3),
    roi=st.none() | cuts(),
)
def test_a_copy_is_the_same_volume(source, target, dtype, chunks, roi):
    """Voxels, dtype, voxel size and place in the tissue are equal, in the chunks asked for."""
    data = some_voxels(np.dtype(dtype).newbyteorder("=") if source == "n5" else dtype)
    with tempfile.TemporaryDirectory() as folder:
        address = SOURCES[source](Path(folder), data, space=SPACE)
        made = convert(
            address,
            f"{folder}/copy{SUFFIX[target]}",
            format=target,
            chunks=chunks,
            roi=None if roi is None else str(roi),
            reading=Reading(SPACE.voxel_size) if source == "sections" else AS_STORED,
            missing="fill",
            workers=HERE,
            overwrite=False,
            report=lambda *_: None,
        )
        found = open_volume(made["output"])
        read = found.read(found.roi)

    box = found.roi if roi is None else roi
    origin = (0.0, 0.0, 0.0) if source == "sections" else SPACE.offset
    assert np.array_equal(read, data[tuple(map(slice, box.offset, box.end))])
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert found.format == target
    assert found.chunks == chunks
    assert found.space.voxel_size == SPACE.voxel_size
    wanted = [o + n * v for o, n, v in zip(origin, box.offset, SPACE.voxel_size, strict=True)]
    assert list(found.space.offset) == wanted


@pytest.mark.parametrize("target", ["zarr3", "zarr2"])
def test_a_mask_is_copied(cleft, tmp_path, target):
    """bool stays bool."""
    data = some_voxels("bool")
    source = zarr_array(tmp_path / "mask.zarr", "mask", data, version=2)

    ok(cleft("convert", source, tmp_path / "copy.zarr", "--format", target))

    assert np.array_equal(voxels(tmp_path / "copy.zarr"), data)
    assert open_volume(f"{tmp_path}/copy.zarr").dtype == bool


@pytest.mark.parametrize("target", SUFFIX)
def test_id_0_of_cremi_stays_a_cleft(cleft, tmp_path, target):
    """foreground, evaluate and make-labels of the copy see the clefts of the HDF5 file."""
    ids = np.full((4, 8, 8), BACKGROUND, np.uint64)
    ids[1, 2:5, 2:5] = 0
    ids[2, 4:7, 1:3] = 9
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["volumes/labels/clefts"] = ids
        file["volumes/labels/clefts"].attrs["resolution"] = VOXEL_SIZE
    copy = tmp_path / f"a{SUFFIX[target]}"

    ok(cleft("convert", tmp_path / "a.hdf", copy, "--format", target))

    clefts = read_foreground(open_volume(str(copy)))
    assert np.array_equal(clefts.mask(clefts.levels(clefts.volume.roi)), ids != BACKGROUND)
    scores = ok(cleft("evaluate", copy, tmp_path / "a.hdf", "--json"))
    assert (scores["cremi_score"], scores["predicted_voxels"]) == (0, 15)
    made = ok(cleft("make-labels", copy, "-o", tmp_path / "l.zarr", "--target", "mask", "--json"))
    assert np.array_equal(voxels(made["output"]), ids != BACKGROUND)


def test_what_a_volume_says_of_itself_goes_along(cleft, tmp_path):
    """Content, threshold and intensity range; not that it was finished by another command."""
    said = {"content": "probability", "threshold": 0.3, "probability_is": "value / 255"}
    said["contrastAdjustment"] = {"min": 3, "max": 9}
    source = store(f"{tmp_path}/p.zarr/cleft", marked((0, 0, 0)), complete=True, **said)

    made = ok(cleft("convert", source.address, tmp_path / "c.n5", "--json"))

    assert made["output"] == f"{tmp_path}/c.n5/cleft"
    copy = open_volume(made["output"])
    assert {k: copy.attributes[k] for k in said} == said
    assert copy.attributes["complete"] is True
    assert read_foreground(copy).threshold == 0.3


@pytest.mark.parametrize("target", SUFFIX)
def test_the_format_is_the_one_asked_for(cleft, tmp_path, target):
    """--format zarr2, zarr3, n5; by default the suffix tells."""
    data = some_voxels("uint16")
    source = WRITERS["hdf5"](tmp_path, data, space=SPACE)
    copy = tmp_path / f"copy{SUFFIX[target]}"

    made = ok(cleft("convert", source, copy, "--format", target, "--json"))
    ok(cleft("convert", source, tmp_path / f"default{SUFFIX[target]}"))

    assert (copy / "volumes/raw" / DOCUMENT[target]).is_file()
    assert made["format"] == target
    default = {".zarr": "zarr2", ".n5": "n5"}[SUFFIX[target]]
    assert open_volume(f"{tmp_path}/default{SUFFIX[target]}").format == default
    if target != "n5":  # zarr-python reads it
        assert np.array_equal(zarr.open_group(copy, mode="r")["volumes/raw"][:], data)


# dtype, what is refused and the words for it, what works instead
IMPOSSIBLE = {
    "bool in n5": ("bool", "out.n5", "", "n5 has no bool", "out.zarr", "--format zarr3"),
    "float16 in n5": ("float16", "out.n5", "", "n5 has no float16", "out.zarr", ""),
    "n5 in .zarr": ("uint8", "out.zarr", "--format n5", "n5 goes to .n5", "out.zarr", ""),
    "zarr3 in .n5": ("uint8", "out.n5", "--format zarr3", "goes to .zarr", "out.n5", ""),
    "hdf5": ("uint8", "out.hdf", "", "a local .zarr or .n5", "out.zarr", ""),
    "no format": (
        "uint8",
        "out.zarr",
        "--format x",
        "'x' is not one of 'zarr2', 'zarr3', 'n5'",
        "out.zarr",
        "",
    ),
    "no chunk": ("uint8", "out.zarr", "--chunks 0,8,8", "positive", "out.zarr", "--chunks 1,8,8"),
    "less": ("uint8", "out.zarr", "--chunks -1,8,8", "positive", "out.zarr", "--chunks 1,8,8"),
    "too large": ("uint8", "out.zarr", "--chunks 4000", "64 GB", "out.zarr", "--chunks 40"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_written_leaves_nothing_behind(cleft, tmp_path, case):
    """Exit 2 with one line; no file or ledger is left that would block the corrected command."""
    dtype, wrong, option, words, right, mended = IMPOSSIBLE[case]
    source = zarr_array(tmp_path / "v.zarr", "raw", some_voxels(dtype), version=3)
    before = sorted(tmp_path.iterdir())

    refused(cleft("convert", source, tmp_path / wrong, *option.split()), 2, words)

    assert sorted(tmp_path.iterdir()) == before
    ok(cleft("convert", source, tmp_path / right, *mended.split()))
    assert np.array_equal(voxels(tmp_path / right), some_voxels(dtype))
    if right != wrong != "out.hdf":  # the refused place can be used for something else
        other = WRITERS["hdf5"](tmp_path, some_voxels("uint8"), name="raw")
        ok(cleft("convert", other, tmp_path / wrong))


def test_no_format_hides_what_another_wrote(cleft, tmp_path):
    """A container keeps its format: a second array takes it, and another one is refused."""
    data = some_voxels("uint8")
    source = WRITERS["hdf5"](tmp_path, data)
    for first, other in (("zarr3", "zarr2"), ("zarr2", "zarr3")):
        out = f"{tmp_path}/{first}.zarr"
        ok(cleft("convert", source, out, "--format", first))

        refused(cleft("convert", source, f"{out}/b", "--format", other), 2, first, other)
        ok(cleft("convert", source, f"{out}/c"))

        shown = ok(cleft("info", out, "--json"))["arrays"]
        assert [a["address"] for a in shown] == [f"{out}/c", f"{out}/volumes/raw"]
        assert {a["format"] for a in shown} == {first}


@pytest.fixture
def blocks(monkeypatch):
    """Small blocks, so that there are several."""
    monkeypatch.setattr("cleftcli.jobs.convert.BLOCK_VOXELS", 64)


@pytest.fixture
def source(tmp_path):
    """An HDF5 dataset."""
    return WRITERS["hdf5"](tmp_path, some_voxels("uint8"), space=SPACE)


KILLED = """
import os, signal, sys
from cleftcli.blockwise import HERE
from cleftcli.jobs import convert as job
from cleftcli.volumes import AS_STORED
def report(done, total, _):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
job.BLOCK_VOXELS = 64
job.convert(*sys.argv[1:], format=None, chunks=(2, 3, 4), roi=None, reading=AS_STORED,
            missing="fill", workers=HERE, overwrite=False, report=report)
"""


def test_a_copy_killed_half_way_and_made_again_has_the_same_bytes(cleft, tmp_path, source, blocks):
    """SIGKILL loses at most the blocks in flight; a part is never taken for the whole."""
    command = [sys.executable, "-c", KILLED, source, tmp_path / "killed.zarr"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    refused(cleft("convert", tmp_path / "killed.zarr", tmp_path / "c.zarr"), 4, "not finished")
    unfinished = ok(cleft("info", tmp_path / "killed.zarr", "--json"))["arrays"][0]
    assert [w for w in unfinished["warnings"] if "not finished" in w]

    options = ["--chunks", "2,3,4", "--json"]
    again = ok(cleft("convert", source, tmp_path / "killed.zarr", *options))
    whole = ok(cleft("convert", source, tmp_path / "whole.zarr", *options))

    assert 3 <= again["blocks_resumed"] < again["blocks"]
    assert whole["blocks_resumed"] == 0
    assert np.array_equal(voxels(again["output"]), some_voxels("uint8"))
    assert on_disk(tmp_path / "killed.zarr") == on_disk(tmp_path / "whole.zarr")


def test_the_same_command_again_does_nothing(cleft, tmp_path, source, blocks):
    """All blocks are known to be done, and no chunk is written again."""
    command = ["convert", source, tmp_path / "out.zarr", "--json"]
    ok(cleft(*command))
    chunk = tmp_path / "out.zarr/volumes/raw/0/0/0"
    before = chunk.stat().st_mtime_ns

    again = ok(cleft(*command))

    assert again["blocks_resumed"] == again["blocks"] > 0
    assert chunk.stat().st_mtime_ns == before


OTHERWISE = {
    "chunks": (["--chunks", "2,3,4"], "chunks: [16, 128, 128] -> [2, 3, 4]"),
    "roi": (["--roi", "1:,:,:"], "roi: '0:5,0:7,0:11' -> '1:5,0:7,0:11'"),
    "voxel size": (["--voxel-size", "9,8,8"], "voxel_size: [40.0, 4.0, 5.0] -> [9.0, 8.0, 8.0]"),
    "axes": (["--axes", "zxy"], "axes: 'zyx (as stored)' -> 'zxy"),
    "format": (["--format", "zarr3"], "format: 'zarr2' -> 'zarr3'"),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_other_settings_are_refused_and_named(cleft, tmp_path, source, case):
    """5 with what differs; --overwrite replaces it."""
    option, said = OTHERWISE[case]
    ok(cleft("convert", source, tmp_path / "out.zarr"))

    refused(cleft("convert", source, tmp_path / "out.zarr", *option), 5, said, "--overwrite")

    assert np.array_equal(voxels(tmp_path / "out.zarr"), some_voxels("uint8"))
    ok(cleft("convert", source, tmp_path / "out.zarr", *option, "--overwrite"))


def test_another_source_at_the_same_place_is_refused(cleft, tmp_path):
    """A source written anew in another dtype is not mixed with the old one."""
    command = ["convert", tmp_path / "v.zarr", tmp_path / "out.zarr"]
    for dtype, code in (("uint8", 0), ("uint16", 5)):
        zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=2)
        zarr_array(tmp_path / "v.zarr", "raw", some_voxels(dtype), version=2)
        done = cleft(*command)
        assert done.exit_code == code
    assert "dtype: 'uint8' -> 'uint16'" in done.stderr


def test_the_source_is_never_the_output(cleft, tmp_path):
    """Equal to it, inside it, by a link: 2, and not a byte of it changes."""
    source = Path(created(tmp_path, "zarr2", some_voxels("uint8"))).parents[1]
    link = tmp_path / "link.zarr"
    link.symlink_to(source)
    before = on_disk(source)

    for target in (source, source / "volumes/raw", source / "b", source / "c.zarr", link / "d.n5"):
        for option in ([], ["--overwrite"]):
            refused(cleft("convert", source, target, *option), 2, "into the input")

    assert on_disk(source) == before


def test_a_channel_and_turned_axes(cleft, tmp_path):
    """--axes and --channel choose what is copied; without them it is refused with what to type."""
    data = np.stack([some_voxels("uint8"), 255 - some_voxels("uint8")])
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["raw"] = data.transpose(3, 2, 1, 0)

    refused(cleft("convert", tmp_path / "v.h5", tmp_path / "out.zarr"), 3, "--axes", "--channel")
    option = ["--axes", "xyzc", "--channel", 1, "--voxel-size", "40,4,5"]
    made = ok(cleft("convert", tmp_path / "v.h5", tmp_path / "out.zarr", *option, "--json"))

    assert "turned to zyx from xyz" in made["axes"]
    assert "c 1 taken" in made["axes"]
    assert np.array_equal(voxels(made["output"]), data[1])
    assert open_volume(made["output"]).space.voxel_size == (40, 4, 5)
