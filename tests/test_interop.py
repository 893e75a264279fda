"""Stores that other programs write, in every dialect they have."""

import json
import os
import shutil
import struct
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr

from cleftcli.errors import InputError
from cleftcli.geometry import Roi, whole
from cleftcli.volumes import has_array, list_volumes, open_volume, split_address
from tests.stores import (
    CHUNKED,
    CHUNKS,
    DOCUMENT,
    SHAPE,
    SPACE,
    WRITERS,
    edit,
    n5_array,
    some_voxels,
    zarr_array,
)

BLOSC = {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}


def assert_reads(address, data):
    volume = open_volume(str(address))
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    return volume


# ---- zarr


@pytest.mark.parametrize(
    "options",
    [
        {"version": 2},
        {"version": 2, "order": "F"},
        {"version": 2, "fill_value": 7},
        {"version": 2, "compressors": numcodecs.GZip(5)},
        {"version": 2, "compressors": numcodecs.Zstd(3)},
        {"version": 3},
        {"version": 3, "chunks": (1, 2, 2), "shards": (2, 4, 4)},
        {"version": 3, "compressors": None},
        {"version": 3, "compressors": [zarr.codecs.BloscCodec(), zarr.codecs.Crc32cCodec()]},
        {"version": 3, "filters": zarr.codecs.TransposeCodec(order=(2, 0, 1))},
        {"version": 3, "serializer": zarr.codecs.BytesCodec(endian="big")},
    ],
    ids=["v2", "v2-fortran", "v2-fill", "v2-gzip", "v2-zstd", "v3", "v3-sharded", "v3-plain",
         "v3-blosc-crc", "v3-transpose", "v3-big"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [">u2", "uint64", "float32"])
def test_arrays_of_zarr_python_are_read(options, dtype, tmp_path):
    """Sharded, turned, big-endian, in Fortran order or packed in any way, arrays read the same."""
    data = some_voxels(dtype)
    attributes = {"resolution": [40, 4, 4]}
    address = zarr_array(tmp_path / "a.zarr", "raw", data, attributes=attributes, **options)
    assert assert_reads(address, data).voxel_size == (40, 4, 4)


@pytest.mark.parametrize("place", ["start", "end"])
def test_the_index_of_a_shard_is_anywhere(place, tmp_path):
    """zarr v3 shards hold their index at the start or at the end."""
    data = some_voxels("uint16")
    codecs = [zarr.codecs.BytesCodec(), zarr.codecs.ZstdCodec()]
    sharding = zarr.codecs.ShardingCodec(chunk_shape=(1, 2, 2), codecs=codecs, index_location=place)
    options = {"version": 3, "chunks": (2, 4, 4), "compressors": None, "serializer": sharding}
    address = zarr_array(tmp_path / "a.zarr", "raw", data, **options)
    assert assert_reads(address, data).chunks == (1, 2, 2)


@pytest.mark.parametrize("filters", [[], None], ids=["empty", "null"])
def test_no_filters_are_none(filters, tmp_path):
    """Java writes an empty list of filters, Python null: both mean none."""
    data = some_voxels("uint16")
    address = zarr_array(tmp_path / "a.zarr", "raw", data, version=2)
    edit(Path(address) / ".zarray", lambda d: d.update(filters=filters))
    assert_reads(address, data)


def test_a_filter_is_refused_by_name(tmp_path):
    """Voxels behind a filter are not read as if it were not there."""
    data = some_voxels("uint16")
    options = {"version": 2, "filters": [numcodecs.Delta("u2")]}
    address = zarr_array(tmp_path / "a.zarr", "raw", data, **options)
    with pytest.raises(InputError, match=r"a\.zarr/raw: .*filters"):
        open_volume(address)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["compressor"].update(level=-1),
        lambda d: d.update(fill_value="0"),
        lambda d: d.update(fill_value=None),
        lambda d: d.pop("fill_value"),
        lambda d: d["compressor"].update(nthreads=4),
    ],
    ids=["gzip level -1", "fill value as text", "null", "no fill value", "more of the codec"],
)
def test_zarray_documents_of_java(change, tmp_path):
    """n5-zarr writes gzip's default level as -1 and the fill value as text."""
    data = some_voxels("uint16") | 1
    options = {"version": 2, "compressors": numcodecs.GZip(5)}
    address = zarr_array(tmp_path / "a.zarr", "raw", data, **options)
    edit(Path(address) / ".zarray", change)
    assert_reads(address, data)


def test_stale_consolidated_metadata_are_ignored(tmp_path):
    """An array and a voxel size that are newer than `.zmetadata` are those that count."""
    data = some_voxels("uint8")
    attributes = {"resolution": [1, 1, 1]}
    address = zarr_array(tmp_path / "a.zarr", "raw", data, version=2, attributes=attributes)
    zarr.consolidate_metadata(tmp_path / "a.zarr", zarr_format=2)
    edit(Path(address) / ".zattrs", lambda d: d.update(resolution=[40, 4, 5]))
    new = f"{tmp_path}/a.zarr/new"
    shutil.copytree(address, new)
    assert assert_reads(address, data).voxel_size == (40, 4, 5)
    assert list_volumes(f"{tmp_path}/a.zarr") == [new, address]
    assert_reads(new, data)


# ---- N5


@pytest.mark.parametrize(
    "codec",
    [
        BLOSC,
        {**BLOSC, "nthreads": 1},
        {**BLOSC, "nthreads": 4, "typesize": 2},
        {"type": "gzip", "useZlib": False, "level": -1},
        {"type": "gzip", "checksum": False},
        {"type": "raw"},
        {"type": "xz", "preset": 6},
        {"type": "bzip2", "blockSize": 8},
        {"type": "zstd", "level": 3, "nbWorkers": 0},
    ],
    ids=json.dumps,
)
def test_codecs_of_n5_writers(codec, tmp_path):
    """Java's defaults, and fields that other writers add, keep no array from opening."""
    data = some_voxels("uint16")
    known = {k: v for k, v in codec.items() if k in ("type", *BLOSC, "useZlib")}
    address = n5_array(tmp_path / "a.n5", "raw", data, compression=known)
    stated = {"compression": codec, "resolution": [5, 4, 40]}
    edit(Path(address) / "attributes.json", lambda d: d.update(stated))
    assert assert_reads(address, data).voxel_size == SPACE.voxel_size


def test_n5_1_compression_type(tmp_path):
    """N5 1.x named its codec in `compressionType`; such arrays read the same."""
    data = some_voxels("uint16")
    address = n5_array(tmp_path / "a.n5", "raw", data)

    def age(document):
        document["compressionType"] = document.pop("compression")["type"]

    edit(Path(address) / "attributes.json", age)
    assert_reads(address, data)


def test_unknown_n5_codec_is_named(tmp_path):
    """A codec that cannot be read is an input error that names it."""
    address = WRITERS["n5"](tmp_path, some_voxels("uint8"))
    codec = {"type": "jpeg", "quality": 75}
    edit(Path(address) / "attributes.json", lambda d: d.update(compression=codec))
    with pytest.raises(InputError, match="codec 'jpeg' is not supported"):
        open_volume(address)


@pytest.mark.parametrize("stored", [CHUNKS, (1, 1, 3)], ids=["whole", "clipped"])
def test_blocks_at_the_far_faces(stored, tmp_path):
    """Paintera writes them whole, Java clipped: what lies beyond the array is not read."""
    data = some_voxels("uint16")
    address = n5_array(tmp_path / "a.n5", "raw", data, compression={"type": "raw"})
    block = np.full(stored, 77, ">u2")
    block[:1, :1, :3] = data[4:, 6:, 8:]
    header = struct.pack(">HHIII", 0, 3, *stored[::-1])
    Path(address, "2/2/2").write_bytes(header + block.tobytes())
    volume = assert_reads(address, data)
    assert volume.scan().damaged == ()
    corner = volume.read(Roi((3, 5, 7), (3, 3, 6)))  # reflected beyond the faces
    np.testing.assert_array_equal(corner[:2, :2, :4], data[3:, 5:, 7:])
    np.testing.assert_array_equal(corner[2, 2, 4:], data[3, 5, [9, 8]])


# ---- documents


@pytest.mark.parametrize("format", CHUNKED)
def test_a_container_without_documents_of_its_own(format, tmp_path):
    """A suffix is enough: the root and groups need no documents where an array has one."""
    data = some_voxels("uint8")
    address = WRITERS[format](tmp_path, data)
    container = Path(split_address(address)[0])
    group = "zarr.json" if format == "zarr3" else {"n5": "attributes.json"}.get(format, ".zgroup")
    for folder in (container, container / "volumes"):
        for name in (group, ".zattrs"):
            (folder / name).unlink(missing_ok=True)
    assert_reads(address, data)
    assert_reads(container, data)
    assert list_volumes(str(container)) == [address]
    assert list_volumes(f"{container}/volumes") == [address]


@pytest.mark.parametrize("format", CHUNKED)
def test_metadata_that_are_no_json(format, tmp_path):
    """A metadata document cut short is an input error that names it."""
    address = WRITERS[format](tmp_path, some_voxels("uint8"))
    document = Path(address) / DOCUMENT[format]
    document.write_text(document.read_text()[:20])
    with pytest.raises(InputError, match=DOCUMENT[format].replace(".", r"\.")):
        open_volume(address)


# ---- HDF5


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all", None], ids=["empty", "text", "cut"])
def test_a_damaged_hdf5_file_is_an_input_error(content, tmp_path):
    """A file that is cut short or something else is the input's fault, by name."""
    path = Path(split_address(WRITERS["hdf5"](tmp_path, some_voxels("uint64")))[0])
    path.write_bytes(path.read_bytes()[:700] if content is None else content)
    with pytest.raises(InputError, match=r"hdf5\.hdf"):
        open_volume(f"{path}/volumes/raw")


def test_hdf5_changed_on_disk_is_read_anew(tmp_path):
    """A file replaced by another version is read as it is now."""
    address = WRITERS["hdf5"](tmp_path, np.zeros(SHAPE, np.uint8))
    assert open_volume(address).read(whole(SHAPE)).max() == 0
    (tmp_path / "new").mkdir()
    other = WRITERS["hdf5"](tmp_path / "new", np.ones(SHAPE, np.uint8))
    Path(split_address(other)[0]).replace(split_address(address)[0])
    assert open_volume(address).read(whole(SHAPE)).min() == 1


# ---- the stores that Java wrote


@pytest.fixture
def interop():
    """The folder of stores that other programs wrote."""
    if "CLEFT_DATA" not in os.environ:
        pytest.skip("CLEFT_DATA is not set: no stores of other programs to read")
    folder = Path(os.environ["CLEFT_DATA"]) / "interop"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: no stores of other programs to read")
    return folder


def one_layer_deep(folder, source):
    """A copy of an N5 container whose flat array has a third axis of length 1, its voxels kept."""
    target = folder / source.parent.name / source.name
    shutil.copytree(source.parent, target.parent)
    for chunk in [p for p in target.rglob("*") if p.is_file() and p.name != "attributes.json"]:
        content = chunk.read_bytes()
        mode, rank, *shape = struct.unpack(">HHII", content[:12])
        assert (mode, rank) == (0, 2)
        chunk.write_bytes(struct.pack(">HHIII", mode, 3, *shape, 1) + content[12:])
        moved = chunk.with_name(chunk.name + ".block")
        chunk.rename(moved)
        chunk.mkdir()
        moved.rename(chunk / "0")

    def deepen(document):
        for key in ("dimensions", "blockSize"):
            document[key].append(1)

    edit(target / "attributes.json", deepen)
    return str(target)


@pytest.mark.parametrize("version", ["1.5.0", "2.5.1", "3.1.3"])
def test_n5_of_java_is_read(version, interop, tmp_path):
    """Blocks written by the Java library, in each of its formats, hold the voxels they should."""
    source = interop / f"n5-java/backward/data-{version}.n5/raw"
    volume = open_volume(one_layer_deep(tmp_path, source))
    assert volume.read(volume.roi).tolist() == [[[0] * 5 + [1] * 2] * 4 + [[2] * 5 + [3] * 2]]
    with pytest.raises(InputError, match="z, y, x"):
        open_volume(str(source))


NO_UNIT = "pixelResolution [1.5, 1.5, 1.5] has no unit"
S0, S1, S2 = (260, 512, 512), (129, 256, 256), (65, 128, 128)
DIALECTS = {  # dataset -> shape, voxel size in nm, offset in nm, words of the source
    "test.n5/cosem": (S1, (64, 64, 64), (28, 28, 28), "transform"),
    "test.n5/cosem_ms/s0": (S0, (32, 32, 32), (21, 21, 21), "transform"),
    "test.n5/cosem_ms/s1": (S1, (64, 64, 64), (28, 28, 28), "transform"),
    "test.n5/cosem_ms/s2": (S2, (128, 128, 128), (35, 35, 35), "transform"),
    "test.n5/c0/s0": (S1, (13e6, 11e6, 7e6), (5e6, 3e6, 2e6), "transform"),
    "test.n5/c0/s1": ((64, 128, 128), (26e6, 22e6, 14e6), (7.5e6, 4.5e6, 3e6), "transform"),
    "test.n5/n5v_pr": (S1, (1.5e6,) * 3, (0, 0, 0), "pixelResolution"),
    "test.n5/n5v_pr-ds": (S1, (3e6,) * 3, (0.75e6,) * 3, "downsamplingFactors"),
    "test.n5/n5v_pra": (S1, None, (0, 0, 0), NO_UNIT),
    "test.n5/n5v_pra-ds": (S1, None, (0, 0, 0), NO_UNIT),
    "test.n5/n5v_ds": (S1, None, (0, 0, 0), "not stated"),
    "test.n5/others/res": (S1, None, (0, 0, 0), "not stated"),
    "test.n5/others/resOff": (S1, None, (0, 0, 0), "not stated"),
    "root_dataset.n5/s0": (S0, (32, 32, 32), (21, 21, 21), "transform"),
    "root_dataset.n5/s1": (S1, (64, 64, 64), (28, 28, 28), "transform"),
    "root_dataset.n5/s2": (S2, (128, 128, 128), (35, 35, 35), "transform"),
    "canonical.n5/affine": (S0, (4e3, 3e3, 2e3), (0, 0, 0), "spatialTransform"),
    "translation_examples.n5/scattered_multiscales/level0": (S1, None, (0, 0, 0), "not stated"),
    "translation_examples.n5/scattered_multiscales/level1": (S2, None, (0, 0, 0), "not stated"),
    "translation_examples.n5/scattered_multiscales/level2": (
        (33, 64, 64), None, (0, 0, 0), "not stated",
    ),
    "metadata.zarr/cOrder/1": ((1536, 4096, 4096), (13, 12, 11), (3, 2, 1), "OME-NGFF"),
    "metadata.zarr/fOrder/1": ((1536, 4096, 4096), (13, 12, 11), (3, 2, 1), "OME-NGFF"),
}  # fmt: skip
FLAT = [f"metadata.zarr/coordTforms/{kind}/s0" for kind in ("ss", "st", "ts", "tt")]


@pytest.mark.parametrize("dataset", DIALECTS)
def test_dialects_of_java_are_read(dataset, interop):
    """What each attributes.json states is the shape, voxel size and offset in nm, zyx."""
    shape, voxel_size, offset, source = DIALECTS[dataset]
    volume = open_volume(str(interop / "n5-universe-java" / dataset))
    assert volume.shape == shape
    assert volume.space.voxel_size == (voxel_size and pytest.approx(voxel_size))
    assert volume.space.offset == pytest.approx(offset)
    assert source in volume.space.source
    assert volume.scan(Roi((0, 0, 0), (1, 1, 1))).missing == 1
    assert not volume.read(Roi((0, 0, 0), (1, 1, 1))).any()


def test_no_array_of_java_is_left_out(interop):
    """Every array that can be found there is either in the table above or flat."""
    root = interop / "n5-universe-java"
    containers = [p for p in root.iterdir() if p.suffix in (".n5", ".zarr")]
    held = [c for c in containers if c.name != "ngff.n5"]  # attributes of a group, no array
    found = {str(Path(a).relative_to(root)) for c in held for a in list_volumes(str(c))}
    assert found == {*DIALECTS, *FLAT}
    assert not has_array(str(root / "canonical.n5/axes/xyz"))


@pytest.mark.parametrize("dataset", FLAT)
def test_flat_zarr_of_java_is_refused(dataset, interop):
    """Two-dimensional images are an input error with their address."""
    with pytest.raises(InputError, match=dataset):
        open_volume(str(interop / "n5-universe-java" / dataset))


@pytest.mark.parametrize(
    ("source", "name", "voxel_size", "offset"),
    [
        ("ngff.n5/ngff_grpAttributes", "s1", (10.48, 8, 8), (2.62, 2, 2)),
        ("canonical.n5/multiscaleAffine", "a", (4e3, 3e3, 2e3), (0, 0, 0)),
    ],
)
def test_groups_of_java_speak_for_their_arrays(source, name, voxel_size, offset, interop, tmp_path):
    """Attributes that Java wrote for a group give the space of an array put below it."""
    data = some_voxels("uint8")
    address = n5_array(tmp_path / "a.n5", f"group/{name}", data)
    shutil.copy(
        interop / "n5-universe-java" / source / "attributes.json",
        tmp_path / "a.n5/group/attributes.json",
    )
    volume = assert_reads(address, data)
    assert volume.voxel_size == pytest.approx(voxel_size)
    assert volume.space.offset == pytest.approx(offset)
