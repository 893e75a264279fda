"""Stores as labs have them: mistyped, half copied, damaged, absurd, changing under one's hands.

Each is refused by its exit code and one line that says what is there and what to type, or costs
the blocks it touches and no others.
"""

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import pytest
import zarr

from cleftcli.errors import InputError
from cleftcli.jobs import convert
from cleftcli.volumes import Space, create_volume, open_volume
from tests.conftest import VOXEL_SIZE, store

SHAPE, CHUNKS = (10, 48, 64), (10, 16, 16)
DATA = (np.cumsum(np.random.default_rng(0).integers(0, 255, SHAPE), axis=2) // 4).astype(np.uint8)
DOCUMENT = {"zarr2": ".zarray", "zarr3": "zarr.json", "n5": "attributes.json"}


def written(path, data=DATA, **options) -> Path:
    """An array that zarr-python wrote: the folder of its chunks."""
    group = zarr.open_group(path, mode="w", zarr_format=options.pop("zarr_format", 2))
    array = group.create_array("raw", shape=data.shape, dtype=data.dtype, chunks=CHUNKS, **options)
    array[...] = data
    array.attrs["resolution"] = VOXEL_SIZE
    return Path(path) / "raw"


def made(folder, format) -> Path:
    """An array of ours in a format: the folder of its chunks."""
    address = f"{folder}/in.{'n5' if format == 'n5' else 'zarr'}/raw"
    options = {"shape": SHAPE, "dtype": np.uint8, "chunks": CHUNKS, "space": Space(VOXEL_SIZE)}
    volume = create_volume(address, format=format, **options)
    volume.write(volume.roi, DATA)
    return Path(address)


def edit(path, change):
    """Apply `change` to the JSON document at `path`."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def voxels(address) -> np.ndarray:
    """All voxels of a volume."""
    volume = open_volume(str(address), prefer=("raw", "cleft"))
    return volume.read(volume.roi)


def refused(result, code, *words):
    """One line on stderr, its words and its exit code."""
    assert result.exit_code == code, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("cleft: ")
    assert "Traceback" not in result.stderr
    assert [w for w in words if w not in line] == [], line


@pytest.fixture
def small_blocks(monkeypatch):
    """`convert` works chunk by chunk."""
    monkeypatch.setattr(convert, "BLOCK_VOXELS", 2560)


# ---- paths and names


def test_a_misspelt_path_names_what_is_like_it(volume, tmp_path, cleft):
    """A path that is not there is an input error that lists the names close to it."""
    refused(cleft("info", tmp_path / "volum.zarr"), 3, "no such file", "did you mean volume.zarr?")
    refused(
        cleft("convert", tmp_path / "x" / "y.zarr", tmp_path / "o.zarr"), 3, "x/y.zarr: no such"
    )


@pytest.mark.parametrize("dataset", ["", "/volumes/labels", "/volumes/rwa"])
def test_a_group_lists_its_arrays_and_what_to_type(dataset, volume, tmp_path, cleft):
    """Several arrays, or none of that name: shapes, dtypes, and an address that works."""
    store(f"{volume}/volumes/labels/ids", DATA.astype(np.uint64))
    shutil.rmtree(volume / "volumes" / "raw")
    result = cleft("convert", f"{volume}{dataset}", tmp_path / "o.zarr")

    refused(result, 3, "volumes/labels/clefts (10x48x64 uint64)", "volumes/labels/ids (10x48x64")
    offered = result.stderr.split("Try: ")[1].strip()
    assert cleft("convert", offered, tmp_path / "o.zarr").exit_code == 0


def test_of_several_scales_the_finest_is_taken_and_named(tmp_path, cleft):
    """An OME-NGFF image is read at its first scale, and the result says so."""
    folder = written(tmp_path / "in.zarr").parent
    zarr.open_group(folder).create_array("half", shape=(10, 24, 32), dtype="u1")
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    paths = [{"path": "raw"}, {"path": "half"}]
    (folder / ".zattrs").write_text(
        json.dumps({"multiscales": [{"axes": axes, "datasets": paths}]})
    )
    result = cleft("convert", folder, tmp_path / "o.zarr", "--json")

    assert json.loads(result.stdout)["source"] == f"{folder}/raw"


@pytest.mark.parametrize("name", ["a b.zarr", "Präparat-日本.zarr", "a:b#c%20[0].zarr", "d/" * 90])
def test_odd_names_work(name, tmp_path, cleft, monkeypatch):
    """Spaces, unicode, URL characters, long paths, trailing slashes and a tilde open as named."""
    monkeypatch.setenv("HOME", str(tmp_path))
    store(f"{tmp_path}/{name}/in.zarr/raw", DATA)
    for address in (f"{tmp_path}/{name}/in.zarr/", f"~/{name}/in.zarr//raw/"):
        assert cleft("convert", address, f"~/{name}/o.zarr", "--overwrite").exit_code == 0
        assert np.array_equal(voxels(tmp_path / name / "o.zarr"), DATA)


@pytest.mark.parametrize("command", ["info", "convert"])
@pytest.mark.parametrize("name", ["circle.zarr", "nowhere.zarr", "x" * 300, "~nobody-here/a.zarr"])
def test_paths_that_lead_nowhere_are_input_errors(name, command, tmp_path, cleft):
    """Links in a circle or to nothing, names too long, unknown users."""
    (tmp_path / "circle.zarr").symlink_to(tmp_path / "circle2.zarr")
    (tmp_path / "circle2.zarr").symlink_to(tmp_path / "circle.zarr")
    (tmp_path / "nowhere.zarr").symlink_to(tmp_path / "deleted.zarr")
    path = name if name.startswith("~") else tmp_path / name
    output = [tmp_path / "o.zarr"] if command == "convert" else []
    refused(cleft(command, path, *output), 3, name[:100])


def test_a_link_to_a_folder_above_hangs_nothing(tmp_path, cleft):
    """A store that links to itself is read like any other."""
    folder = written(tmp_path / "in.zarr")
    (folder / "up").symlink_to(folder)
    (folder.parent / "self").symlink_to(folder.parent)
    assert cleft("convert", folder.parent, tmp_path / "o.zarr").exit_code == 0


@pytest.mark.parametrize("dataset", ["../../x", "raw/../../../x", ".."])
def test_a_dataset_does_not_climb_out_of_its_container(dataset, tmp_path, cleft):
    """An address with '..' behind the container is a usage error, for input and output."""
    container = written(tmp_path / "in.zarr").parent
    refused(cleft("info", f"{container}/{dataset}"), 2, "'..'")
    refused(cleft("convert", container, f"{tmp_path}/o.zarr/{dataset}"), 2, "'..'")
    assert not (tmp_path / "o.zarr").exists()


@pytest.mark.parametrize("path", ["../../x", "../secret.zarr/raw", "raw/../../secret.zarr/raw"])
def test_metadata_do_not_lead_out_of_their_container(path, tmp_path, cleft):
    """OME-NGFF that names an array elsewhere is unsafe, and that array's voxels go nowhere."""
    written(tmp_path / "secret.zarr")
    folder = written(tmp_path / "in.zarr").parent
    image = {"axes": list("zyx"), "datasets": [{"path": path}]}
    (folder / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
    refused(cleft("convert", folder, tmp_path / "o.zarr"), 7, "lead out of it")
    assert not (tmp_path / "o.zarr").exists()


@pytest.mark.parametrize(
    "output", ["in.zarr", "in.zarr/raw", "in.zarr/more.zarr", "link.zarr/o.n5"]
)
def test_an_output_is_never_written_into_its_input(output, tmp_path, cleft):
    """The input itself, a place in it, or a link to it: a usage error, nothing changed."""
    container = written(tmp_path / "in.zarr").parent
    (tmp_path / "link.zarr").symlink_to(container)
    before = sorted(container.rglob("*"))
    refused(cleft("convert", container, tmp_path / output, "--overwrite"), 2, "into the input")
    assert sorted(container.rglob("*")) == before


# ---- metadata


@pytest.mark.parametrize("damage", ["half", "list", "empty", "version"])
@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5"])
def test_unreadable_metadata_are_named(format, damage, tmp_path, cleft):
    """Metadata cut short, no JSON object, or of a version that is not known: which, and why."""
    document = made(tmp_path, format) / DOCUMENT[format]
    text = document.read_text()
    if damage == "version":
        edit(document, lambda d: d.update(zarr_format=7, dataType="int7"))  # N5 has no version
    else:
        document.write_text({"half": text[: len(text) // 2], "list": "[1, 2]", "empty": ""}[damage])
    refused(cleft("convert", document.parent, tmp_path / "o.zarr"), 3, f"raw/{document.name}")
    assert not (tmp_path / "o.zarr").exists()


@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5"])
def test_a_voxel_size_of_nonsense_is_overruled(format, tmp_path, cleft):
    """It stops a volume, with the way to correct it; --voxel-size counts instead, and says so."""
    folder = made(tmp_path, format)
    where = DOCUMENT[format] if format != "zarr2" else ".zattrs"
    if not (folder / where).exists():
        (folder / where).write_text("{}")
    nonsense = {"resolution": [0, 4, 4]}
    within = (lambda d: d["attributes"]) if format == "zarr3" else (lambda d: d)
    edit(folder / where, lambda d: within(d).update(nonsense))
    refused(cleft("convert", folder, tmp_path / "o.zarr"), 3, "correct it in the store")

    done = cleft("convert", folder, tmp_path / "o.zarr", "--voxel-size", "40,4,4")

    assert done.exit_code == 0, done.stderr
    assert "correct it in the store" in done.stderr
    assert open_volume(f"{tmp_path}/o.zarr").voxel_size == (40, 4, 4)


def test_a_chunk_limit_that_is_no_number_is_named(tmp_path, cleft, monkeypatch):
    """The variable, what it says, and what was expected."""
    folder = made(tmp_path, "zarr2")
    monkeypatch.setenv("CLEFT_MAX_CHUNK_BYTES", "4G")
    refused(cleft("info", folder), 2, "CLEFT_MAX_CHUNK_BYTES=4G")


def limited(*arguments):
    """Run `cleft` in a process with 4 GiB of address space and 20 s of processor time."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))

    command = [sys.executable, "-m", "cleftcli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)


def enlarge(folder, format, edge, chunk):
    """State another shape and chunk than the chunks have."""
    document = folder / DOCUMENT[format]
    if format == "zarr3":
        edit(document, lambda d: d.update(shape=[edge] * 3))
        grid = {"name": "regular", "configuration": {"chunk_shape": [chunk] * 3}}
        edit(document, lambda d: d.update(chunk_grid=grid))
    else:
        names = ("shape", "chunks") if format == "zarr2" else ("dimensions", "blockSize")
        edit(document, lambda d: d.update({names[0]: [edge] * 3, names[1]: [chunk] * 3}))


@pytest.mark.parametrize("format", DOCUMENT)
def test_an_absurd_chunk_is_refused_at_once(format, tmp_path):
    """A chunk that no machine holds is an input error before anything is allocated or counted."""
    folder = made(tmp_path, format)
    enlarge(folder, format, 10**6, 10**5)
    found = limited("convert", folder, tmp_path / "o.zarr")
    assert (found.returncode, found.stderr.count("\n")) == (3, 1), found.stderr
    assert "1e+06 GB" in found.stderr or "exceeds maximum chunk size" in found.stderr


@pytest.mark.parametrize("edge", [10**6, 10**15])
def test_a_huge_volume_is_described_at_once(edge, tmp_path):
    """A volume of any size in chunks of 64 is described without walking through its chunks."""
    folder = made(tmp_path, "zarr2")
    enlarge(folder, "zarr2", edge, 64)
    found = limited("info", folder, "--json")
    assert found.returncode == 0, found.stderr
    (array,) = json.loads(found.stdout)["arrays"]
    assert array["shape"] == [edge] * 3
    assert array["missing_chunks"] > 10**12


@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5", "hdf5"])
def test_an_empty_volume_says_so(format, tmp_path, cleft):
    """A volume with an axis of length 0 is an input error, not a success without voxels."""
    if format == "hdf5":
        address = tmp_path / "in.hdf"
        with h5py.File(address, "w") as file:
            file.create_dataset("raw", (0, 48, 64), np.uint8, chunks=CHUNKS, maxshape=(None,) * 3)
    else:
        address = made(tmp_path, format)
        enlarge(address, format, 0, 16)
    refused(cleft("convert", address, tmp_path / "o.zarr"), 3, "the volume is empty")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_stale_consolidated_metadata_are_left_aside(zarr_format, tmp_path, cleft):
    """Arrays that grew or were added after metadata were consolidated are seen as they are."""
    container = written(tmp_path / "in.zarr", zarr_format=zarr_format).parent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr v3 has no consolidated metadata of its own
        zarr.consolidate_metadata(container)
    zarr.open_array(container / "raw", mode="a").resize((12, 48, 64))
    zarr.open_group(container, use_consolidated=False).create_array(
        "new", shape=(2,) * 3, dtype="u1"
    )
    assert zarr.open_group(container, mode="r")["raw"].shape == SHAPE, "not stale"
    found = json.loads(cleft("info", container, "--json").stdout)["arrays"]
    assert [(Path(a["address"]).name, a["shape"][0]) for a in found] == [("new", 2), ("raw", 12)]


@pytest.mark.parametrize("cut", [100, 4000, 10**9])
def test_a_zip_file_cut_short_says_so(cut, tmp_path, cleft):
    """A zipped store reads like a folder; half copied it is an input error."""
    container, archive = written(tmp_path / "in.zarr").parent, tmp_path / "in.zarr.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(p for p in container.rglob("*") if p.is_file()):
            file.write(path, path.relative_to(container))
    assert cleft("convert", archive, tmp_path / "o.zarr").exit_code == 0
    assert np.array_equal(voxels(tmp_path / "o.zarr"), DATA)
    half = tmp_path / "half.zarr.zip"
    half.write_bytes(archive.read_bytes()[:-cut])
    refused(cleft("convert", half, tmp_path / "o2.zarr"), 3, "half.zarr.zip", "truncated")


# ---- chunks


def hurt(content, how) -> bytes:
    """A chunk as a crash or a broken copy leaves it."""
    share = {"10%": 0.1, "50%": 0.5, "90%": 0.9, "empty": 0.0}.get(how, 1.0)
    kept = content[: int(len(content) * share)]
    return {"garbage": b"\x01 this is no chunk", "zeros": bytes(len(content))}.get(how, kept)


CODECS = {
    "blosc2": {"compressors": numcodecs.Blosc("lz4")},
    "blosc3": {"compressors": zarr.codecs.BloscCodec(cname="lz4"), "zarr_format": 3},
    "plain2": {"compressors": None},
    "gzip2": {"compressors": numcodecs.GZip()},
}
HURTS = [
    *[("blosc2", how) for how in ("10%", "50%", "90%", "zeros")],
    *[("blosc3", "50%"), ("plain2", "90%"), ("gzip2", "zeros"), ("gzip2", "empty")],
    *[("zarr2", "garbage"), ("n5", "empty"), ("hdf5", "garbage")],
]


@pytest.mark.parametrize(("codec", "how"), HURTS)
def test_a_damaged_chunk_costs_its_block(codec, how, tmp_path, cleft, small_blocks):
    """Cut, emptied or overwritten: one block fails by chunk and voxels; mended, all is there."""
    key = {"blosc3": "c/0/1/1", "zarr2": "0/1/1", "n5": "1/1/0"}.get(codec, "0.1.1")
    if codec == "hdf5":
        path, key = tmp_path / "in.hdf", "/raw:0,1,1"
        with h5py.File(path, "w") as file:
            item = file.create_dataset("raw", data=DATA, chunks=CHUNKS, compression="gzip")
            item.attrs["resolution"] = VOXEL_SIZE
            at = item.id.get_chunk_info_by_coord((0, 16, 16))
        good = path.read_bytes()
        bad = hurt(good[at.byte_offset :][: at.size], how).ljust(20, b"?")
        chunk, bad = path, good[: at.byte_offset] + bad + good[at.byte_offset + len(bad) :]
    else:
        ours = codec in DOCUMENT
        path = made(tmp_path, codec) if ours else written(tmp_path / "in.zarr", **CODECS[codec])
        chunk = path / key
        good = chunk.read_bytes()
        bad = hurt(good, how)
    chunk.write_bytes(bad)
    command = ["convert", path, tmp_path / "o.zarr", "--chunks", "10,16,16", "--json"]
    result = cleft(*command)
    place = "(voxels 0:10,16:32,16:32)"
    refused(result, 4, "1 of 12 blocks failed", f"{key} {place}", "run the same command")

    chunk.write_bytes(good)
    again = cleft(*command)
    assert again.exit_code == 0
    assert json.loads(again.stdout)["blocks_resumed"] == 11
    assert np.array_equal(voxels(tmp_path / "o.zarr"), DATA)


ROW = ["--roi", "0:4,0:16,:"]  # of four chunks
TILES = ["--block", "4,16,16", "--blend", "none", "--precision", "float32"]


def test_a_damaged_chunk_costs_a_prediction_its_block(tmp_path, checkpoint, cleft):
    """`predict` does all other blocks; mended, it ends with the voxels of an undisturbed run."""
    folder = written(tmp_path / "in.zarr", **CODECS["blosc2"])
    good = shutil.copytree(folder, tmp_path / "good.zarr")  # what is read once is remembered
    options = [*ROW, *TILES, "--checkpoint", checkpoint]
    assert cleft("predict", good, "-o", tmp_path / "whole.zarr", *options).exit_code == 0
    chunk = folder / "0.0.3"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2])
    command = ["predict", folder, "-o", tmp_path / "o.zarr", *options, "--json"]
    refused(cleft(*command), 4, "1 of 4 blocks failed", "0.0.3 (voxels 0:10,0:16,48:64)")

    chunk.write_bytes(content)
    again = cleft(*command)
    assert json.loads(again.stdout)["blocks_resumed"] == 3
    assert np.array_equal(voxels(tmp_path / "o.zarr"), voxels(tmp_path / "whole.zarr"))


@pytest.mark.parametrize("command", ["convert", "predict"])
def test_a_missing_chunk_is_counted_or_refused(command, tmp_path, checkpoint, cleft):
    """Chunks that are not there are named and read as 0, or refused (3) before any work."""
    folder = written(tmp_path / "in.zarr")
    (folder / "0.0.1").unlink()
    options = [tmp_path / "o.zarr", *ROW]
    if command == "predict":
        options = ["-o", *options, *TILES, "--checkpoint", checkpoint]
    result = cleft(command, folder, *options, "--missing", "error")
    refused(result, 3, "1 of 4 chunks", "0.0.1", "--missing fill")
    assert not (tmp_path / "o.zarr").exists()

    result = cleft(command, folder, *options, "--missing", "fill", "--json")
    found = json.loads(result.stdout)["input"]
    assert (result.exit_code, found["missing"], found["first_missing"]) == (0, 1, ["0.0.1"])
    assert "1 of 4 chunks are missing and read as 0: 0.0.1" in result.stderr
    if command == "convert":
        assert not voxels(tmp_path / "o.zarr")[:, :, 16:32].any()


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_an_input_that_changes_meanwhile_is_told(format, tmp_path, monkeypatch, cleft):
    """A chunk that is replaced during the run gives a warning, and a word in the result."""
    folder = written(tmp_path / "in.zarr")
    changing = folder / "0.2.3"
    if format == "hdf5":
        folder = changing = tmp_path / "in.hdf"
        with h5py.File(folder, "w") as file:
            file.create_dataset("raw", data=DATA, chunks=CHUNKS)
    work = convert.ConvertBlock.__call__

    def meddle(self, block):
        os.utime(changing, (1, 1))
        return work(self, block)

    for changed, call in ((False, work), (True, meddle)):
        monkeypatch.setattr(convert.ConvertBlock, "__call__", call)
        result = cleft("convert", folder, tmp_path / f"{changed}.zarr", "--json")
        assert json.loads(result.stdout)["input"]["changed_while_read"] is changed
        assert ("changed while it was read" in result.stderr) is changed


@pytest.mark.parametrize("changes", [False, True])
def test_an_input_that_changes_between_runs_is_told(changes, tmp_path, monkeypatch, cleft):
    """What is resumed on another state of the input says so, as often as it is asked."""
    folder = written(tmp_path / "in.zarr")
    monkeypatch.setattr(convert, "BLOCK_VOXELS", math.prod(CHUNKS))
    command = ["convert", folder, tmp_path / "o.zarr", "--chunks", ",".join(map(str, CHUNKS))]
    work = convert.ConvertBlock.__call__

    def fail_late(self, block):
        if block.index:
            raise InputError("not yet")
        return work(self, block)

    monkeypatch.setattr(convert.ConvertBlock, "__call__", fail_late)
    assert cleft(*command).exit_code == 4
    monkeypatch.setattr(convert.ConvertBlock, "__call__", work)
    if changes:
        os.utime(folder / "0.2.3", (1, 1))
    for _ in range(2):
        result = cleft(*command, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["input"]["changed_while_read"] is changes
    os.utime(folder / "0.2.3", (2, 2))  # the output was made of one state, whatever comes after
    result = cleft(*command, "--json")
    assert json.loads(result.stdout)["input"]["changed_while_read"] is changes
