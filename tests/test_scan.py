"""Missing and damaged chunks: counted without decoding, and no zero when they are read."""

import os
import shutil
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from cleftcli.errors import InputError
from cleftcli.geometry import Roi
from cleftcli.volumes import FORMATS, open_volume, split_address
from tests.stores import (
    CHUNKED,
    CHUNKS,
    SHAPE,
    WRITERS,
    created,
    edit,
    marked,
    n5_array,
    precomputed_array,
    some_voxels,
    zarr_array,
)

LARGE, LARGE_CHUNKS = (8, 16, 16), (4, 8, 8)
FIRST = {"zarr2": "0.0.0", "zarr3": "c/0/0/0", "n5": "0/0/0", "precomputed": "5-9_3-6_2-4"}
SECOND_SECTION = Roi((2, 0, 0), (2, *SHAPE[1:]))


def zarr2(folder, data, separator):
    encoding = {"name": "v2", "separator": separator}
    return zarr_array(folder / "a.zarr", "raw", data, version=2, chunk_key_encoding=encoding)


def zarr3(folder, data, name, separator):
    encoding = {"name": name, "separator": separator}
    return zarr_array(folder / "a.zarr", "raw", data, version=3, chunk_key_encoding=encoding)


# how chunks are named -> (function(folder, data) -> address, key of the chunk z=1, y=0, x=0)
NAMINGS = {
    "zarr2 .": (lambda folder, data: zarr2(folder, data, "."), "1.0.0"),
    "zarr2 /": (lambda folder, data: zarr2(folder, data, "/"), "1/0/0"),
    "zarr3 default /": (lambda folder, data: zarr3(folder, data, "default", "/"), "c/1/0/0"),
    "zarr3 default .": (lambda folder, data: zarr3(folder, data, "default", "."), "c.1.0.0"),
    "zarr3 v2 /": (lambda folder, data: zarr3(folder, data, "v2", "/"), "1/0/0"),
    "zarr3 v2 .": (lambda folder, data: zarr3(folder, data, "v2", "."), "1.0.0"),
    "n5": (lambda folder, data: n5_array(folder / "a.n5", "raw", data), "0/0/1"),
    "precomputed": (WRITERS["precomputed"], "5-9_3-6_4-6"),
}


def blosc(format, folder, data):
    """An array of Blosc chunks: its address."""
    if format == "n5":
        codec = {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}
        return n5_array(folder / "a.n5", "raw", data, compression=codec, chunks=LARGE_CHUNKS)
    options = {"version": int(format[-1]), "chunks": LARGE_CHUNKS}
    if format == "zarr3":
        options["compressors"] = zarr.codecs.BloscCodec()
    return zarr_array(folder / "a.zarr", "raw", data, **options)


def compressible():
    """Voxels that Blosc makes smaller."""
    return np.random.default_rng(0).integers(0, 9, LARGE, np.uint8)


# ---- missing


@pytest.mark.parametrize("naming", NAMINGS)
def test_missing_chunks_are_counted(naming, tmp_path):
    """However a format names its chunks, one that is gone is counted, named and read as zeros."""
    write, key = NAMINGS[naming]
    data = some_voxels("uint8") | 1
    address = write(tmp_path, data)
    assert open_volume(address).scan().missing == 0
    assert Path(address, key).is_file()
    Path(address, key).unlink()
    volume = open_volume(address)
    found = volume.scan()
    assert (found.chunks, found.missing, found.first_missing) == (27, 1, (key,))
    assert found.damaged == ()
    assert volume.scan(SECOND_SECTION).chunks == 9
    assert volume.scan(SECOND_SECTION).missing == 1
    assert volume.scan(Roi((0, 0, 0), (2, *SHAPE[1:]))).missing == 0
    assert not volume.read(Roi((2, 0, 0), CHUNKS)).any()
    assert volume.read(Roi((2, 0, 0), SHAPE).intersect(volume.roi)).any()


def test_shards_are_counted_where_chunks_share_files(tmp_path):
    """Of a sharded zarr v3 array the shards are the unit: one that is gone is missing."""
    options = {"version": 3, "chunks": (1, 2, 2), "shards": (2, 4, 4)}
    address = zarr_array(tmp_path / "a.zarr", "raw", some_voxels("uint8") | 1, **options)
    assert open_volume(address).chunks == (1, 2, 2)
    assert (open_volume(address).scan().chunks, open_volume(address).scan().missing) == (18, 0)
    Path(address, "c/1/0/2").unlink()
    found = open_volume(address).scan()
    assert (found.missing, found.first_missing) == (1, ("c/1/0/2",))


def test_precomputed_shards_cannot_be_counted(tmp_path):
    """Where many chunks share a file with an index, missing is unknown, not none."""
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 0,
        "hash": "identity",
        "minishard_bits": 0,
        "shard_bits": 0,
        "minishard_index_encoding": "raw",
        "data_encoding": "raw",
    }
    data = some_voxels("uint8")
    address = precomputed_array(tmp_path / "a.precomputed", "5_4_40", data, sharding=sharding)
    volume = open_volume(address)
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    assert (volume.scan().chunks, volume.scan().missing) == (27, None)


def test_hdf5_chunks_never_written(tmp_path):
    """Chunks of an HDF5 dataset that nobody wrote are missing; the others are not."""
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        item = file.create_dataset("raw", SHAPE, "u1", chunks=CHUNKS)
        item[:2] = 7
    volume = open_volume(f"{tmp_path}/a.hdf")
    found = volume.scan()
    assert (found.chunks, found.missing, found.first_missing[0]) == (27, 18, "/raw:1,0,0")
    assert volume.scan(Roi((0, 0, 0), (2, 7, 11))).missing == 0
    assert volume.scan(SECOND_SECTION).missing == 9


@pytest.mark.parametrize("written", [False, True])
def test_hdf5_without_chunks(written, tmp_path):
    """A contiguous dataset is one chunk: missing where it was made and never written."""
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        item = file.create_dataset("raw", SHAPE, "u1")
        if written:
            item[...] = 0
    found = open_volume(f"{tmp_path}/a.hdf").scan()
    assert (found.chunks, found.missing) == (1, 0 if written else 1)


def test_a_gap_in_a_folder_of_tiff(tmp_path):
    """A section whose number is skipped is missing."""
    for number, section in zip((0, 1, 3, 4), some_voxels("uint8"), strict=False):
        tifffile.imwrite(tmp_path / f"z{number}.tif", section)
    found = open_volume(str(tmp_path)).scan()
    assert (found.chunks, found.missing, found.first_missing) == (5, 1, ("section 2",))


# ---- damaged


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5"])
def test_a_truncated_blosc_chunk(format, share, tmp_path):
    """It is found by its header without decoding, reading it is an error, other boxes read."""
    data = compressible()
    address = blosc(format, tmp_path, data)
    assert open_volume(address).scan().damaged == ()
    chunk = Path(address, FIRST[format])
    content = chunk.read_bytes()
    left = int(len(content) * share)
    chunk.write_bytes(content[:left])
    volume = open_volume(address)
    (damage,) = volume.scan().damaged
    assert (damage.key, damage.roi) == (FIRST[format], Roi((0, 0, 0), LARGE_CHUNKS))
    left -= 16 if format == "n5" else 0
    assert ("shorter than a Blosc header" if left < 16 else f"{left} of ") in damage.reason
    named = f"chunk {FIRST[format]} .voxels 0:4,0:8,0:8."
    with pytest.raises(InputError, match=f"cannot read voxels 3:5,0:1,0:1.*{named}"):
        volume.read(Roi((3, 0, 0), (2, 1, 1)))
    other = Roi((0, 0, 8), (8, 16, 8))
    np.testing.assert_array_equal(volume.read(other), data[:, :, 8:])
    assert volume.scan(other).damaged == ()


@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5"])
def test_a_blosc_chunk_with_bytes_behind_it(format, tmp_path):
    """A chunk longer than its header says was overwritten by something else."""
    address = blosc(format, tmp_path, compressible())
    with Path(address, FIRST[format]).open("ab") as file:
        file.write(b"more")
    (damage,) = open_volume(address).scan().damaged
    assert "truncated or overwritten" in damage.reason


def test_a_checksum_behind_blosc(tmp_path):
    """The crc32c that zarr v3 may put behind a chunk is no part of it; a cut is still found."""
    codecs = [zarr.codecs.BloscCodec(), zarr.codecs.Crc32cCodec()]
    options = {"version": 3, "chunks": LARGE_CHUNKS, "compressors": codecs}
    address = zarr_array(tmp_path / "a.zarr", "raw", compressible(), **options)
    assert open_volume(address).scan().damaged == ()
    os.truncate(Path(address, "c/0/0/0"), 60)
    assert len(open_volume(address).scan().damaged) == 1


@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5", "precomputed"])
def test_a_chunk_of_no_bytes(format, tmp_path):
    """What a full disk leaves behind is damage, not a missing chunk."""
    address = WRITERS[format](tmp_path, some_voxels("uint8"))
    Path(address, FIRST[format]).write_bytes(b"")
    volume = open_volume(address)
    found = volume.scan()
    assert (found.missing, [str(d) for d in found.damaged]) == (
        0,
        [f"{FIRST[format]} (voxels 0:2,0:3,0:4): 0 bytes"],
    )
    with pytest.raises(InputError, match="cannot read voxels 0:1,0:1,0:1: chunk"):
        volume.read(Roi((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize("format", ["zarr2", "zarr3", "zarr3 crc32c", "zarr3 transpose"])
def test_an_uncompressed_chunk_of_another_length(format, tmp_path):
    """Where nothing is compressed every chunk has the same length."""
    options = {"version": int(format[4]), "compressors": None}
    if "crc32c" in format:
        options["compressors"] = zarr.codecs.Crc32cCodec()
    if "transpose" in format:
        options["filters"] = zarr.codecs.TransposeCodec(order=(2, 0, 1))
    address = zarr_array(tmp_path / "a.zarr", "raw", some_voxels("uint16"), **options)
    assert open_volume(address).scan().damaged == ()
    length = 52 if "crc32c" in format else 48
    os.truncate(Path(address, FIRST[format[:5]]), length - 7)
    (damage,) = open_volume(address).scan().damaged
    assert damage.reason == f"{length - 7} of {length} bytes"
    with pytest.raises(InputError, match=r"chunk .*0.0.0 \(voxels 0:2,0:3,0:4\)"):
        open_volume(address).read(Roi((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_chunk_is_no_zero(format, tmp_path):
    """Reading a damaged chunk is an input error that names the voxels; others still read."""
    data = some_voxels("uint16")
    address = WRITERS[format](tmp_path, data)
    container, dataset = split_address(address)
    if format == "hdf5":
        with h5py.File(container) as file:
            chunk = file[dataset].id.get_chunk_info(0)
        with Path(container).open("r+b") as file:
            file.seek(chunk.byte_offset)
            file.write(b"\x00" * chunk.size)
    elif format == "tiff":
        tifffile.imwrite(address, data, compression="zlib", photometric="minisblack")
        with tifffile.TiffFile(address) as file:
            place, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
        with Path(address).open("r+b") as file:
            file.seek(place)
            file.write(b"\x00" * length)
    else:
        Path(address, FIRST[format]).write_bytes(b"\x01 this is no chunk")
    volume = open_volume(address)
    with pytest.raises(InputError, match="cannot read voxels 0:1,0:1,0:1"):
        volume.read(Roi((0, 0, 0), (1, 1, 1)))
    assert volume.read(Roi((4, 6, 10), (1, 1, 1))).item() == data[4, 6, 10]


@pytest.mark.parametrize("format", CHUNKED)
def test_the_message_names_few_of_many_damaged_chunks(format, tmp_path):
    """Reading over many damaged chunks names three and counts the rest."""
    address = WRITERS[format](tmp_path, some_voxels("uint8"))
    for path in Path(address).rglob("*"):
        if path.is_file() and path.suffix != ".json" and not path.name.startswith(".z"):
            path.write_bytes(b"bad")
    with pytest.raises(InputError, match="and 24 more"):
        open_volume(address).read(Roi((0, 0, 0), SHAPE))


def test_a_truncated_hdf5_file(tmp_path):
    """A file that lost its end does not open, and says so."""
    container = split_address(WRITERS["hdf5"](tmp_path, some_voxels("uint64")))[0]
    os.truncate(container, Path(container).stat().st_size - 40)
    with pytest.raises(InputError, match=r"hdf5\.hdf: is cut short"):
        open_volume(container)


# ---- what is no chunk, and what changes


@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5", "precomputed"])
def test_strays_are_no_chunks(format, tmp_path):
    """Files of a writer still at work, of an editor, and chunks beyond the array do not count."""
    data = marked((1, 2, 3))
    address = WRITERS[format](tmp_path, data)
    before = open_volume(address).scan()
    chunk = Path(address, FIRST[format])
    for name in (".partial", ".__lock", "~", ".bak"):
        shutil.copy(chunk, f"{chunk}{name}")
    beyond = FIRST[format].replace("0", "9")
    strays = ["17-20_3-6_2-4", "6-9_3-6_2-4"] if format == "precomputed" else [beyond]
    for stray in strays:
        Path(address, stray).parent.mkdir(parents=True, exist_ok=True)
        Path(address, stray).write_bytes(b"")
    (Path(address) / "notes.txt").write_text("0.0.0")
    found = open_volume(address).scan()
    assert (found.chunks, found.missing, found.damaged) == (27, 26, ())
    assert found == before


@pytest.mark.parametrize("format", FORMATS)
def test_the_stamp_changes_with_a_chunk(format, tmp_path):
    """An input that changes under a run is noticed; one that does not has the same stamp."""
    address = WRITERS[format](tmp_path, some_voxels("uint8"))
    before = open_volume(address).scan().stamp
    assert before == open_volume(address).scan().stamp != ""
    container = Path(split_address(address)[0])
    if container.is_dir():
        chunk = Path(address, FIRST[format])
        content = chunk.read_bytes()
        assert open_volume(address).scan(SECOND_SECTION).stamp != before
        chunk.write_bytes(content[::-1])  # as long as before
    else:
        other = tmp_path / "other"
        other.mkdir()
        replaced = WRITERS[format](other, some_voxels("uint8")[::-1] // 2)
        Path(split_address(replaced)[0]).replace(container)
    assert open_volume(address).scan().stamp != before


@pytest.mark.parametrize("sections", [4, 5])
def test_the_stamp_of_a_stack_changes(sections, tmp_path):
    """The pages of one file have one stamp, and do not cancel each other."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, some_voxels("uint8")[:sections], photometric="minisblack")
    before = open_volume(str(path)).scan().stamp
    os.utime(path, (1, 1))
    assert open_volume(str(path)).scan().stamp not in ("", before)


def test_an_output_is_seen_to_grow(tmp_path):
    """Chunks of ours that are written after opening are found by the next scan and reading."""
    volume = open_volume(created(tmp_path, "zarr2"))
    assert volume.scan().missing == 27
    volume.write(Roi((0, 0, 0), CHUNKS), np.ones(CHUNKS, np.uint8))
    assert volume.scan().missing == 26
    edit(Path(volume.address) / ".zattrs", lambda d: d.update(complete=True))
    assert volume.scan().missing == 26
    assert open_volume(volume.address).read(Roi((0, 0, 0), CHUNKS)).all()


def test_summaries_are_short(tmp_path):
    """For JSON: counts, and at most twenty examples of each."""
    address = WRITERS["zarr2"](tmp_path, some_voxels("uint8"))
    for path in Path(address).glob("[0-9]*"):
        path.write_bytes(b"" if path.name.startswith("0") else zlib.compress(b"no Blosc"))
    summary = open_volume(address).scan().summary()
    assert (summary["chunks"], summary["missing"], summary["damaged"]) == (27, 0, 27)
    assert len(summary["first_damaged"]) == 20
