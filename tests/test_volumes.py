"""One contract over every store, read back by independent libraries, and what stores may not do."""

import json
import math
import os
import shutil
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorstore as ts
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cleftcli.errors import CleftError, InputError, UnsafeError, UsageError
from cleftcli.geometry import Roi, whole
from cleftcli.volumes import (
    FORMATS,
    Space,
    create_volume,
    crop,
    in_memory,
    list_volumes,
    open_volume,
    split_address,
    write_attributes,
)
from cleftcli.volumes import hdf5 as hdf5_files
from cleftcli.volumes.metadata import read_space
from cleftcli.volumes.volume import InMemory, Volume

SHAPE, CHUNKS = (5, 7, 11), (2, 3, 4)
SPACE = Space((40.0, 4.0, 5.0), (80.0, 12.0, 25.0))
DTYPES = ("uint8", "uint16", "uint64", "float32")
CHUNKED = sorted(name for name, f in FORMATS.items() if f.writable)


def some_voxels(dtype, shape=SHAPE):
    """Random voxels that hold the extremes of their dtype."""
    random = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        data = random.standard_normal(shape).astype(dtype)
        data.flat[:3] = [np.finfo(dtype).max, np.finfo(dtype).tiny, -0.1]
    else:
        top = np.iinfo(dtype).max
        data = random.integers(0, top, shape, dtype, endpoint=True)
        data.flat[:3] = [top, 0, top - 1]
    return data


def make(folder, format, data=None, *, shape=SHAPE, dtype=np.uint8, name="volumes/raw", **more):
    """A store of a format with one array, filled with `data` where it is given: its address."""
    folder.mkdir(exist_ok=True)
    container = folder / f"{format}{FORMATS[format].suffixes[0]}"
    shape = shape if data is None else data.shape
    dtype = np.dtype(dtype) if data is None else data.dtype
    space, attributes = more.get("space", SPACE), more.get("attributes", {})
    if FORMATS[format].writable:
        volume = create_volume(
            f"{container}/{name}",
            shape=shape,
            dtype=dtype,
            chunks=CHUNKS,
            space=space,
            attributes=attributes,
            format=format,
        )
        if data is not None:
            volume.write(volume.roi, data)
    else:
        with h5py.File(container, "a") as file:
            volume = hdf5_files.create_array(
                file, name, shape=shape, dtype=dtype, space=space, attributes=attributes
            )
            if data is not None:
                volume.write(volume.roi, data)
    return f"{container}/{name}"


def edit(path, change):
    """Apply `change` to the JSON document at `path`."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


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


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """For each format: a volume with random voxels, and those voxels."""
    folder, data = tmp_path_factory.mktemp("stores"), some_voxels("uint16")
    return {name: (open_volume(make(folder, name, data)), data) for name in FORMATS}


@pytest.fixture
def interop():
    """The folder of stores that other programs wrote."""
    if "CLEFT_DATA" not in os.environ:
        pytest.skip("CLEFT_DATA is not set: no stores of other programs to read")
    folder = Path(os.environ["CLEFT_DATA"]) / "interop"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: no stores of other programs to read")
    return folder


# ---- the contract of every format


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
def test_voxels_survive(format, dtype, tmp_path):
    """What is written is what is read, to the bit, in the same dtype and shape."""
    data = some_voxels(dtype)
    volume = open_volume(make(tmp_path, format, data))
    found = volume.read(volume.roi)
    assert volume.shape == data.shape
    assert volume.dtype == found.dtype == data.dtype
    np.testing.assert_array_equal(found, data)


@pytest.mark.parametrize("format", FORMATS)
def test_background_id_survives(format, tmp_path):
    """2^64-1 and 2^64-2, CREMI's background and ignore, are not rounded."""
    data = np.full(SHAPE, 2**64 - 1, np.uint64)
    data[0, 0, 0] = 2**64 - 2
    found = open_volume(make(tmp_path, format, data)).read(whole(SHAPE))
    assert int(found[0, 0, 0]) == 2**64 - 2
    assert int(found[4, 6, 10]) == 2**64 - 1


@pytest.mark.parametrize("format", FORMATS)
def test_space_survives(format, tmp_path):
    """Voxel size and offset come back in nm, zyx, with a word on where they were found."""
    volume = open_volume(make(tmp_path, format, some_voxels("uint8")))
    assert volume.voxel_size == SPACE.voxel_size
    assert volume.space.offset == SPACE.offset
    assert volume.space.source != "not stated"


@pytest.mark.parametrize("format", FORMATS)
def test_axes_are_zyx(format, tmp_path):
    """A voxel marked at z=1, y=2, x=3 is found there and nowhere else."""
    data = np.zeros(SHAPE, np.uint8)
    data[1, 2, 3] = 9
    volume = open_volume(make(tmp_path, format, data))
    assert volume.shape == (5, 7, 11)
    assert np.argwhere(volume.read(volume.roi)).tolist() == [[1, 2, 3]]
    assert volume.read(Roi((1, 2, 3), (1, 1, 1))).item() == 9


@pytest.mark.parametrize("format", CHUNKED)
def test_chunks_are_zyx(format, stores):
    """A chunked volume tells its chunk shape as zyx."""
    assert stores[format][0].chunks == CHUNKS


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_box_is_read(format, stores, data):
    """Any box inside the volume reads as the same slices of the whole array."""
    volume, voxels = stores[format]
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in SHAPE)
    shape = tuple(data.draw(st.integers(1, n - o)) for n, o in zip(SHAPE, offset, strict=True))
    roi = Roi(offset, shape)
    np.testing.assert_array_equal(volume.read(roi), voxels[roi.within(volume.roi)])


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_outside_is_reflected(format, stores, data):
    """Outside its faces a volume reads as numpy's reflection, however far the box reaches."""
    volume, voxels = stores[format]
    low = tuple(data.draw(st.integers(-29, n + 28)) for n in SHAPE)
    shape = tuple(data.draw(st.integers(1, n + 29 - o)) for n, o in zip(SHAPE, low, strict=True))
    padded = np.pad(voxels, 29, mode="reflect")
    place = tuple(slice(o + 29, o + 29 + n) for o, n in zip(low, shape, strict=True))
    np.testing.assert_array_equal(volume.read(Roi(low, shape)), padded[place])


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 4)] * 3), pad=st.integers(0, 11))
def test_thin_volumes_are_reflected(shape, pad):
    """Volumes of a single section, row or column reflect as numpy's do: the voxel repeats."""
    data = np.arange(math.prod(shape)).reshape(shape)
    volume = Volume("nowhere", "zarr2", shape, data.dtype, shape, Space(), InMemory(data))
    found = volume.read(volume.roi.grow((pad, pad, pad)))
    np.testing.assert_array_equal(found, np.pad(data, pad, mode="reflect"))


@pytest.mark.parametrize("format", FORMATS)
def test_missing_chunks_read_zero(format, tmp_path):
    """Voxels that nobody wrote are zero."""
    volume = open_volume(make(tmp_path, format, dtype=np.uint16))
    assert volume.read(volume.roi).tolist() == np.zeros(SHAPE, np.uint16).tolist()


@pytest.mark.parametrize("format", CHUNKED)
def test_boxes_are_written_in_any_order(format, tmp_path):
    """A volume written in boxes reads as one written whole; unwritten boxes stay zero."""
    data = some_voxels("uint8")
    address = make(tmp_path, format, shape=SHAPE)
    for offset in ((4, 6, 8), (0, 0, 0), (2, 3, 4)):
        roi = Roi(offset, CHUNKS).intersect(whole(SHAPE))
        open_volume(address).write(roi, data[roi.within(whole(SHAPE))])
    expected = np.zeros_like(data)
    for roi in (Roi((4, 6, 8), (1, 1, 3)), Roi((0, 0, 0), CHUNKS), Roi((2, 3, 4), CHUNKS)):
        expected[roi.within(whole(SHAPE))] = data[roi.within(whole(SHAPE))]
    np.testing.assert_array_equal(open_volume(address).read(whole(SHAPE)), expected)


@pytest.mark.parametrize("format", FORMATS)
def test_attributes_survive(format, tmp_path):
    """Attributes stored with an array come back with it."""
    address = make(tmp_path, format, attributes={"content": "ids", "complete": False, "n": 3})
    found = open_volume(address).attributes
    assert (found["content"], found["complete"], found["n"]) == ("ids", False, 3)


@pytest.mark.parametrize("format", CHUNKED)
def test_attributes_are_added(format, tmp_path):
    """Writing an attribute changes it and leaves the others, the space and the voxels alone."""
    data = some_voxels("uint8")
    address = make(tmp_path, format, data, attributes={"complete": False, "kept": [1, 2]})
    write_attributes(open_volume(address), {"complete": True})
    volume = open_volume(address)
    assert (volume.attributes["complete"], volume.attributes["kept"]) == (True, [1, 2])
    assert volume.voxel_size == SPACE.voxel_size
    np.testing.assert_array_equal(volume.read(volume.roi), data)


@pytest.mark.parametrize("format", CHUNKED)
def test_creating_again_keeps_voxels(format, tmp_path):
    """A volume that a killed run left is opened, not emptied."""
    data = some_voxels("uint8")
    make(tmp_path, format, data)
    volume = open_volume(make(tmp_path, format, shape=SHAPE))
    np.testing.assert_array_equal(volume.read(volume.roi), data)


@pytest.mark.parametrize("format", CHUNKED)
def test_a_container_can_be_the_array(format, tmp_path):
    """An array at the container's root needs no dataset in its address."""
    data = some_voxels("uint8")
    address = make(tmp_path, format, data, name="").rstrip("/")
    volume = open_volume(address)
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    assert list_volumes(address) == [address]


@pytest.mark.parametrize("format", FORMATS)
def test_arrays_are_listed(format, tmp_path):
    """The arrays of a container, or below a group, are listed by addresses that open."""
    make(tmp_path, format, some_voxels("uint8"), name="volumes/raw")
    address = make(tmp_path, format, some_voxels("uint64"), name="volumes/labels/clefts")
    container = split_address(address)[0]
    expected = [f"{container}/volumes/labels/clefts", f"{container}/volumes/raw"]
    assert list_volumes(container) == expected
    assert list_volumes(f"{container}/volumes/labels") == expected[:1]
    assert [open_volume(a).dtype for a in expected] == [np.uint64, np.uint8]


@pytest.mark.parametrize("format", FORMATS)
def test_missing_voxel_size_names_the_option(format, tmp_path):
    """Without a voxel size in the store, asking for it is an input error that names the option."""
    volume = open_volume(make(tmp_path, format, some_voxels("uint8"), space=Space()))
    assert volume.space.voxel_size is None
    with pytest.raises(InputError, match="--voxel-size"):
        _ = volume.voxel_size


@pytest.mark.parametrize("format", FORMATS)
def test_a_stated_voxel_size_wins(format, tmp_path):
    """A voxel size given by hand replaces the store's and keeps its offset."""
    address = make(tmp_path, format, some_voxels("uint8"))
    volume = open_volume(address, voxel_size=(30.0, 8.0, 8.0))
    assert volume.voxel_size == (30.0, 8.0, 8.0)
    assert volume.space.offset == SPACE.offset
    assert "--voxel-size" in volume.space.source


@pytest.mark.parametrize("format", FORMATS)
def test_four_axes_are_refused(format, tmp_path):
    """An array that is not three-dimensional is an input error that tells its shape."""
    container = tmp_path / f"a{FORMATS[format].suffixes[0]}"
    if format == "hdf5":
        with h5py.File(container, "w") as file:
            file["four"] = np.zeros((2, 3, 4, 5), np.uint8)
    else:
        driver = {"zarr2": "zarr", "zarr3": "zarr3", "n5": "n5"}[format]
        store = {"driver": "file", "path": f"{container}/four/"}
        spec = {"driver": driver, "kvstore": store}
        ts.open(spec, create=True, dtype=ts.uint8, shape=(2, 3, 4, 5)).result()
        if format == "n5":
            (container / "attributes.json").write_text('{"n5": "2.0.0"}')
        else:
            zarr.open_group(container, mode="a", zarr_format=int(format[-1]))
    with pytest.raises(InputError, match=r"z, y, x|three-dimensional"):
        open_volume(f"{container}/four")


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_chunk_is_no_zero(format, tmp_path):
    """Reading a damaged chunk is an input error that names volume and voxels; others still read."""
    rows = 520 if format == "hdf5" else 12  # HDF5 chunks are 256 rows
    random = np.random.default_rng(0).integers(0, 2**32, (4, rows, 16), np.uint32)
    address = make(tmp_path, format, random)
    container, dataset = split_address(address)
    if format == "hdf5":
        with h5py.File(container) as file:
            chunk = file[dataset].id.get_chunk_info(0)
        with Path(container).open("r+b") as file:
            file.seek(chunk.byte_offset)
            file.write(b"\x00" * chunk.size)
    else:
        first = "c/0/0/0" if format == "zarr3" else "0/0/0"
        (Path(address) / first).write_bytes(b"\x01 this is no chunk")
    volume = open_volume(address)
    with pytest.raises(InputError, match="cannot read voxels 0:1,0:1,0:1"):
        volume.read(Roi((0, 0, 0), (1, 1, 1)))
    assert volume.read(Roi((2, rows - 1, 8), (1, 1, 1))).item() == random[2, -1, 8]


@pytest.mark.parametrize("format", FORMATS)
def test_reading_changes_nothing(format, tmp_path):
    """Opening, listing and reading leave every byte of a store as it was."""
    address = make(tmp_path, format, some_voxels("uint8"))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}
    volume = open_volume(address)
    volume.read(volume.roi.grow((3, 3, 3)))
    list_volumes(split_address(address)[0])
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(before)
    assert all((p.read_bytes(), p.stat().st_mtime_ns) == b for p, b in before.items())


# ---- views


def test_crop_is_the_box_at_its_place(stores):
    """A crop reads the box's voxels and lies where the box lies in the tissue."""
    volume, data = stores["zarr2"]
    part = crop(volume, Roi((1, 2, 3), (3, 4, 5)))
    np.testing.assert_array_equal(part.read(part.roi), data[1:4, 2:6, 3:8])
    np.testing.assert_array_equal(
        part.read(Roi((1, 1, 1), (2, 2, 2))), data[1:4, 2:6, 3:8][1:3, 1:3, 1:3]
    )
    assert part.space.offset == (80 + 1 * 40, 12 + 2 * 4, 25 + 3 * 5)
    assert part.voxel_size == volume.voxel_size


def test_crop_reflects_at_its_own_faces(stores):
    """Beyond its faces a crop is mirrored, though the volume goes on."""
    volume, data = stores["n5"]
    part = crop(volume, Roi((1, 2, 3), (3, 4, 5)))
    expected = np.pad(data[1:4, 2:6, 3:8], 2, mode="reflect")
    np.testing.assert_array_equal(part.read(part.roi.grow((2, 2, 2))), expected)


def test_crop_inside_the_volume_only(stores):
    """A crop that leaves the volume is refused."""
    with pytest.raises(InputError, match="leaves the volume"):
        crop(stores["zarr2"][0], Roi((3, 0, 0), (3, 7, 11)))


def test_in_memory_takes_the_place_of_a_volume(stores):
    """Voxels in memory read as a volume with the space of another."""
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    volume = in_memory(data, like=stores["zarr3"][0])
    assert (volume.shape, volume.dtype) == ((2, 3, 4), np.float32)
    assert volume.space.voxel_size == SPACE.voxel_size
    np.testing.assert_array_equal(volume.read(volume.roi), data)


# ---- other programs read what is written


@pytest.mark.parametrize("name", ["cleft", "volumes/labels/clefts"])
@pytest.mark.parametrize("format", ["zarr2", "zarr3"])
def test_zarr_python_reads_it(format, name, tmp_path):
    """zarr-python sees the same voxels, dtype and chunks, in the stated format."""
    data = some_voxels("uint64")
    container = split_address(make(tmp_path, format, data, name=name))[0]
    array = zarr.open_group(container, mode="r")[name]
    assert array.metadata.zarr_format == int(format[-1])
    assert (array.chunks, array.dtype) == (CHUNKS, data.dtype)
    np.testing.assert_array_equal(array[:], data)


@pytest.mark.parametrize("format", ["zarr2", "zarr3"])
def test_ome_ngff_tells_the_space(format, tmp_path):
    """The group above an array is an OME-NGFF image in nm, zyx: 0.4 in zarr v2, 0.5 in v3."""
    address = make(tmp_path, format, some_voxels("uint8"), name="volumes/raw")
    attributes = dict(zarr.open_group(Path(address).parent, mode="r").attrs)
    if format == "zarr3":
        assert attributes["ome"]["version"] == "0.5"
        attributes = attributes["ome"]
    (image,) = attributes["multiscales"]
    assert format == "zarr3" or image["version"] == "0.4"
    assert [a["name"] for a in image["axes"]] == ["z", "y", "x"]
    assert {(a["type"], a["unit"]) for a in image["axes"]} == {("space", "nanometer")}
    (dataset,) = image["datasets"]
    assert dataset["path"] == "raw"
    assert dataset["coordinateTransformations"] == [
        {"type": "scale", "scale": list(SPACE.voxel_size)},
        {"type": "translation", "translation": list(SPACE.offset)},
    ]


@pytest.mark.parametrize("format", ["zarr2", "zarr3"])
def test_ome_ngff_lists_every_array_once(format, tmp_path):
    """Two arrays in a group are two images; making one again does not list it twice."""
    for name in ("cleft", "boundary", "cleft"):
        address = make(tmp_path, format, shape=SHAPE, name=name)
    attributes = dict(zarr.open_group(Path(address).parent, mode="r").attrs)
    images = attributes.get("ome", attributes)["multiscales"]
    assert sorted(i["datasets"][0]["path"] for i in images) == ["boundary", "cleft"]


@pytest.mark.parametrize("format", ["zarr2", "zarr3"])
def test_ome_ngff_alone_suffices(format, tmp_path):
    """Without the CREMI attributes the space is read from the OME-NGFF metadata."""
    address = make(tmp_path, format, some_voxels("uint8"))

    def forget(document):
        attributes = document["attributes"] if format == "zarr3" else document
        del attributes["resolution"], attributes["offset"]

    edit(Path(address) / ("zarr.json" if format == "zarr3" else ".zattrs"), forget)
    volume = open_volume(address)
    assert volume.voxel_size == SPACE.voxel_size
    assert volume.space.offset == SPACE.offset
    assert "OME-NGFF" in volume.space.source


def test_n5_attributes_are_xyz(tmp_path):
    """On disk an N5 array tells dimensions, blocks, resolution and offset as x, y, z."""
    address = make(tmp_path, "n5", some_voxels("uint16"))
    found = json.loads((Path(address) / "attributes.json").read_text())
    assert found["dimensions"] == [11, 7, 5]
    assert found["blockSize"] == [4, 3, 2]
    assert found["dataType"] == "uint16"
    assert found["resolution"] == [5.0, 4.0, 40.0]
    assert found["offset"] == [25.0, 12.0, 80.0]
    assert found["compression"]["type"] == "gzip"


def test_n5_container_tells_its_version(tmp_path):
    """The root of an N5 container holds the version that Java readers ask for."""
    container = split_address(make(tmp_path, "n5", some_voxels("uint8")))[0]
    assert json.loads((Path(container) / "attributes.json").read_text())["n5"].startswith("2.")


def test_hdf5_tells_cremi_attributes(tmp_path):
    """An HDF5 dataset tells resolution and offset as zyx, its file the CREMI format."""
    container = split_address(make(tmp_path, "hdf5", some_voxels("uint8")))[0]
    with h5py.File(container) as file:
        assert file["volumes/raw"].attrs["resolution"].tolist() == [40.0, 4.0, 5.0]
        assert file["volumes/raw"].attrs["offset"].tolist() == [80.0, 12.0, 25.0]
        assert file.attrs["file_format"] == "0.2"


# ---- what other programs write is read


@pytest.mark.parametrize(
    "options",
    [
        {"zarr_format": 2, "chunks": (2, 3, 4)},
        {"zarr_format": 2, "chunks": (2, 3, 4), "order": "F"},
        {"zarr_format": 2, "chunks": (2, 3, 4), "fill_value": 7},
        {"zarr_format": 3, "chunks": (2, 3, 4)},
        {"zarr_format": 3, "chunks": (1, 2, 2), "shards": (2, 4, 4)},
        {"zarr_format": 3, "chunks": (2, 3, 4), "compressors": None},
    ],
    ids=["v2", "v2-fortran", "v2-fill", "v3", "v3-sharded", "v3-plain"],
)
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "uint64", "float32"])
def test_arrays_of_zarr_python_are_read(options, dtype, tmp_path):
    """Arrays that zarr-python wrote, sharded, big-endian or in Fortran order, read the same."""
    data = some_voxels(np.dtype(dtype).newbyteorder("=")).astype(dtype)
    array = zarr.create_array(
        tmp_path / "a.zarr", name="raw", shape=SHAPE, dtype=dtype, overwrite=True, **options
    )
    array[:] = data
    array.attrs["resolution"] = [40, 4, 4]
    volume = open_volume(str(tmp_path / "a.zarr" / "raw"))
    assert volume.voxel_size == (40, 4, 4)
    np.testing.assert_array_equal(volume.read(volume.roi), data)


@pytest.mark.parametrize("extra", [{}, {"nthreads": 1}, {"nthreads": 4, "typesize": 2}])
def test_n5_blosc_with_extra_fields(extra, tmp_path):
    """An N5 array whose blosc codec has fields that tensorstore does not know opens and reads."""
    data = some_voxels("uint16")
    metadata = {
        "dimensions": [11, 7, 5],
        "blockSize": [4, 3, 2],
        "dataType": "uint16",
        "compression": {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1},
    }
    store = {"driver": "file", "path": f"{tmp_path}/a.n5/raw/"}
    array = ts.open({"driver": "n5", "kvstore": store, "metadata": metadata}, create=True).result()
    array.T.write(data).result()
    (tmp_path / "a.n5" / "attributes.json").write_text('{"n5": "2.5.1"}')
    edit(tmp_path / "a.n5/raw/attributes.json", lambda d: d["compression"].update(extra))
    volume = open_volume(f"{tmp_path}/a.n5/raw")
    np.testing.assert_array_equal(volume.read(volume.roi), data)


@pytest.mark.parametrize("extra", [{"useZlib": False, "level": -1}, {"checksum": False}])
def test_n5_gzip_with_extra_fields(extra, tmp_path):
    """Java's default level of -1, and fields of other writers, keep no array from opening."""
    data = some_voxels("uint16")
    address = make(tmp_path, "n5", data)
    edit(Path(address) / "attributes.json", lambda d: d["compression"].update(extra))
    volume = open_volume(address)
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    assert volume.voxel_size == SPACE.voxel_size


def test_n5_1_compression_type(tmp_path):
    """N5 1.x named its codec in `compressionType`; such arrays read the same."""
    data = some_voxels("uint16")
    address = make(tmp_path, "n5", data)

    def age(document):
        document["compressionType"] = document.pop("compression")["type"]

    edit(Path(address) / "attributes.json", age)
    volume = open_volume(address)
    np.testing.assert_array_equal(volume.read(volume.roi), data)


def test_unknown_n5_codec_is_named(tmp_path):
    """A codec that cannot be read is an input error that names it."""
    address = make(tmp_path, "n5", some_voxels("uint8"))
    edit(Path(address) / "attributes.json", lambda d: d.update(compression={"type": "jpeg"}))
    with pytest.raises(InputError, match="jpeg"):
        open_volume(address)


@pytest.mark.parametrize("format", CHUNKED)
def test_metadata_that_is_no_json(format, tmp_path):
    """A metadata document cut short is an input error that names it."""
    address = make(tmp_path, format, some_voxels("uint8"))
    name = {"zarr2": ".zarray", "zarr3": "zarr.json", "n5": "attributes.json"}[format]
    document = Path(address) / name
    document.write_text(document.read_text()[:20])
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        open_volume(address)


@pytest.mark.parametrize("version", ["1.5.0", "2.5.1", "3.1.3"])
def test_n5_of_java_is_read(version, interop, tmp_path):
    """Blocks written by the Java library, in each of its formats, hold the voxels they should."""
    source = interop / f"n5-java/backward/data-{version}.n5/raw"
    volume = open_volume(one_layer_deep(tmp_path, source))
    assert volume.read(volume.roi).tolist() == [[[0] * 5 + [1] * 2] * 4 + [[2] * 5 + [3] * 2]]


@pytest.mark.parametrize("version", ["1.5.0", "2.5.1", "3.1.3"])
def test_flat_n5_of_java_is_refused(version, interop):
    """The two-dimensional array itself is an input error that says what was expected."""
    with pytest.raises(InputError, match="z, y, x"):
        open_volume(str(interop / f"n5-java/backward/data-{version}.n5/raw"))


@pytest.mark.parametrize(
    ("dataset", "voxel_size", "offset"),
    [
        ("cosem", (64, 64, 64), (28, 28, 28)),
        ("cosem_ms/s1", (64, 64, 64), (28, 28, 28)),
        ("n5v_pra", (1.5, 1.5, 1.5), (0, 0, 0)),
        ("n5v_pr", (1.5e6, 1.5e6, 1.5e6), (0, 0, 0)),
        ("c0/s0", (13e6, 11e6, 7e6), (5e6, 3e6, 2e6)),  # axes x, y, z, in mm
    ],
)
def test_n5_dialects_of_java_are_read(dataset, voxel_size, offset, interop):
    """The metadata that Java viewers and COSEM wrote give their voxel size and offset in nm."""
    volume = open_volume(str(interop / "n5-universe-java/test.n5" / dataset))
    assert volume.shape == (129 if dataset != "cosem_ms/s0" else 260, 256, 256)
    assert volume.voxel_size == pytest.approx(voxel_size)
    assert volume.space.offset == pytest.approx(offset)


# ---- dialects of metadata

AXES = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]


def image(*steps, axes=AXES, whole_image=(), path="s0"):
    """An OME-NGFF multiscale with one dataset."""
    return {
        "axes": axes,
        "datasets": [{"path": path, "coordinateTransformations": list(steps)}],
        "coordinateTransformations": list(whole_image),
    }


def scale(*values):
    return {"type": "scale", "scale": list(values)}


def translation(*values):
    return {"type": "translation", "translation": list(values)}


@pytest.mark.parametrize(
    ("attributes", "voxel_size", "offset"),
    [
        ({"resolution": [3, 2, 1]}, (3, 2, 1), (0, 0, 0)),
        ({"resolution": [3, 2, 1], "offset": [30, 20, 10]}, (3, 2, 1), (30, 20, 10)),
        ({"resolution": (3, 2, 1)}, (3, 2, 1), (0, 0, 0)),
        ({"pixelResolution": [1, 2, 3]}, (3, 2, 1), (0, 0, 0)),
        ({"pixelResolution": {"dimensions": [1, 2, 3], "unit": "nm"}}, (3, 2, 1), (0, 0, 0)),
        (
            {"pixelResolution": {"dimensions": [0.001, 0.002, 0.003], "unit": "um"}},
            (3, 2, 1),
            (0, 0, 0),
        ),
        (
            {"pixelResolution": {"dimensions": [10, 20, 30], "unit": "angstrom"}},
            (3, 2, 1),
            (0, 0, 0),
        ),
        (
            {"transform": {"axes": ["z", "y", "x"], "scale": [3, 2, 1], "translate": [6, 5, 4]}},
            (3, 2, 1),
            (6, 5, 4),
        ),
        (
            {
                "transform": {
                    "axes": ["x", "y", "z"],
                    "scale": [1, 2, 3],
                    "translate": [4, 5, 6],
                    "units": ["nm", "nm", "nm"],
                }
            },
            (3, 2, 1),
            (6, 5, 4),
        ),
        (
            {
                "transform": {
                    "axes": ["y", "z", "x"],
                    "scale": [2, 0.003, 10],
                    "translate": [5, 0.006, 40],
                    "units": ["nm", "um", "angstrom"],
                }
            },
            (3, 2, 1),
            (6, 5, 4),
        ),
        (  # COSEM writes both; `transform` names its axes and wins
            {
                "transform": {"axes": ["z", "y", "x"], "scale": [3, 2, 1]},
                "pixelResolution": [9, 9, 9],
            },
            (3, 2, 1),
            (0, 0, 0),
        ),
    ],
)
def test_dialects_of_an_array(attributes, voxel_size, offset):
    """CREMI, n5-viewer and COSEM attributes give the same space, whatever order and unit."""
    found = read_space(attributes)
    assert found.voxel_size == pytest.approx(voxel_size)
    assert found.offset == pytest.approx(offset)


def test_n5_resolution_is_turned():
    """In an N5 store `resolution` and `offset` are x, y, z; named axes are not turned again."""
    found = read_space({"resolution": [1, 2, 3], "offset": [4, 5, 6]}, xyz=True)
    assert (found.voxel_size, found.offset) == ((3, 2, 1), (6, 5, 4))
    named = {"transform": {"axes": ["z", "y", "x"], "scale": [3, 2, 1]}}
    assert read_space(named, xyz=True).voxel_size == (3, 2, 1)


@pytest.mark.parametrize("nested", [False, True], ids=["0.4", "0.5"])
@pytest.mark.parametrize(
    ("multiscale", "voxel_size", "offset"),
    [
        (image(scale(3, 2, 1)), (3, 2, 1), (0, 0, 0)),
        (image(scale(3, 2, 1), translation(6, 5, 4)), (3, 2, 1), (6, 5, 4)),
        (
            image(scale(3, 2, 1), translation(6, 5, 4), whole_image=[scale(2, 2, 2)]),
            (6, 4, 2),
            (12, 10, 8),
        ),
        (
            image(scale(3, 2, 1), whole_image=[scale(2, 2, 2), translation(1, 1, 1)]),
            (6, 4, 2),
            (1, 1, 1),
        ),
        (
            image(
                scale(0.003, 20, 1),
                translation(0.006, 50, 4),
                axes=[
                    {"name": "z", "unit": "micrometer"},
                    {"name": "y", "unit": "angstrom"},
                    {"name": "x", "unit": "nanometer"},
                ],
            ),
            (3, 2, 1),
            (6, 5, 4),
        ),
    ],
)
def test_ome_ngff_of_a_group(multiscale, voxel_size, offset, nested):
    """OME-NGFF scale and translation, of dataset and image, combine; units become nm."""
    group = {"ome": {"version": "0.5", "multiscales": [multiscale]}}
    parents = [("s0", group if nested else {"multiscales": [multiscale]})]
    found = read_space({}, parents=parents)
    assert found.voxel_size == pytest.approx(voxel_size)
    assert found.offset == pytest.approx(offset)


def test_ome_ngff_speaks_for_its_own_datasets():
    """A multiscale says nothing of an array it does not list, and an outer group may."""
    inner = {"multiscales": [image(scale(9, 9, 9), path="other")]}
    outer = {"multiscales": [image(scale(3, 2, 1), path="a/s0")]}
    assert read_space({}, parents=[("s0", inner)]).voxel_size is None
    found = read_space({}, parents=[("s0", inner), ("a/s0", outer)])
    assert found.voxel_size == (3, 2, 1)


def test_an_array_speaks_for_itself_first():
    """What an array states of itself wins over the group above it."""
    group = {"multiscales": [image(scale(9, 9, 9))]}
    assert read_space({"resolution": [3, 2, 1]}, parents=[("s0", group)]).voxel_size == (3, 2, 1)


def test_no_metadata_is_no_guess():
    """Where nothing is stated the voxel size is unknown, not one."""
    assert read_space({"name": "raw"}).voxel_size is None
    assert read_space({}, parents=[("s0", {"multiscales": [image()]})]).voxel_size is None


@pytest.mark.parametrize(
    "attributes",
    [
        {"resolution": [0, 4, 4]},
        {"resolution": [40, -4, 4]},
        {"resolution": [40, 4, float("nan")]},
        {"resolution": [40, 4, float("inf")]},
        {"resolution": [40, 4]},
        {"resolution": [40, 4, 4, 1]},
        {"resolution": 4.0},
        {"resolution": None},
        {"resolution": ["z", "y", "x"]},
        {"resolution": [40, 4, 4], "offset": [1, 2]},
        {"resolution": [40, 4, 4], "offset": None},
        {"pixelResolution": [0, 1, 1]},
        {"pixelResolution": 4},
        {"pixelResolution": {"unit": "nm"}},
        {"pixelResolution": {"dimensions": [1, 1, 1], "unit": "parsec"}},
        {"pixelResolution": {"dimensions": [1, 1, 1], "unit": None}},
        {"transform": {"axes": ["z", "y", "x"], "scale": [0, 1, 1]}},
        {"transform": {"axes": ["z", "y", "x"], "scale": [1, 1]}},
        {"transform": {"axes": ["c", "y", "x"], "scale": [1, 1, 1]}},
        {"transform": {"axes": ["z", "y", "x"], "scale": [1, 1, 1], "units": ["ell"] * 3}},
    ],
    ids=str,
)
def test_impossible_metadata_is_an_input_error(attributes):
    """A voxel size that is not three positive numbers in a known unit is the input's fault."""
    with pytest.raises(InputError):
        read_space(attributes)


@pytest.mark.parametrize(
    "multiscale",
    [
        image(scale(3, 2, 0)),
        image(scale(3, 2)),
        image(scale(3, 2, 1), axes=[{"name": a, "unit": "cubit"} for a in "zyx"]),
        image(scale(3, 2, 1), axes=[{"name": a} for a in "tyx"]),
    ],
    ids=["zero", "two", "unit", "axes"],
)
def test_impossible_ome_ngff_is_an_input_error(multiscale):
    """OME-NGFF metadata that give no voxel size in nm are the input's fault."""
    with pytest.raises(InputError):
        read_space({}, parents=[("s0", {"multiscales": [multiscale]})])


def test_an_unknown_unit_lists_the_known():
    """The message names the unit and those that would do."""
    attributes = {"pixelResolution": {"dimensions": [1, 1, 1], "unit": "parsec"}}
    with pytest.raises(InputError, match=r"parsec.*angstrom"):
        read_space(attributes)


# ---- addresses


@pytest.mark.parametrize(
    ("address", "container", "dataset"),
    [
        ("a.zarr", "a.zarr", ""),
        ("a.zarr/", "a.zarr", ""),
        ("a.zarr/volumes/raw", "a.zarr", "volumes/raw"),
        ("a.zarr//volumes/raw/", "a.zarr", "volumes/raw"),
        ("/data/fafb.n5/volumes/raw/s0", "/data/fafb.n5", "volumes/raw/s0"),
        ("sample_A.hdf/volumes/labels/clefts", "sample_A.hdf", "volumes/labels/clefts"),
        ("x.h5/raw", "x.h5", "raw"),
        ("x.hdf5/raw", "x.hdf5", "raw"),
        ("outer.zarr/inner.zarr/raw", "outer.zarr/inner.zarr", "raw"),
        ("../up.zarr/raw", "../up.zarr", "raw"),
        ("s3://bucket/a.zarr/volumes/raw", "s3://bucket/a.zarr", "volumes/raw"),
        ("https://host/a.n5/raw/", "https://host/a.n5", "raw"),
    ],
)
def test_address_is_container_and_dataset(address, container, dataset):
    """An address is split behind the last component with a known suffix."""
    assert split_address(address) == (container, dataset)


def test_home_is_expanded(monkeypatch):
    """A tilde is the home folder."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert split_address("~/a.zarr/raw") == ("/home/somebody/a.zarr", "raw")


@pytest.mark.parametrize(
    "address", ["a.zarr/../b", "a.n5/volumes/../../../raw", "a.hdf/..", "s3://b/a.zarr/../raw"]
)
def test_a_dataset_may_not_climb(address):
    """A dataset with '..' is refused, whatever it would lead to."""
    with pytest.raises(UsageError, match=r"\.\."):
        split_address(address)


@pytest.mark.parametrize("format", CHUNKED)
def test_a_container_needs_no_suffix(format, tmp_path):
    """A store in a folder without a known suffix is found by the documents in it."""
    data = some_voxels("uint8")
    container = split_address(make(tmp_path, format, data))[0]
    plain = tmp_path / "plain"
    Path(container).rename(plain)
    volume = open_volume(f"{plain}/volumes/raw")
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    assert split_address(f"{plain}/volumes/raw") == (str(plain), "volumes/raw")


@pytest.mark.parametrize("format", FORMATS)
def test_a_container_alone_is_its_only_array(format, tmp_path):
    """A container with one array needs no dataset."""
    address = make(tmp_path, format, some_voxels("uint8"), name="deep/down/array")
    assert open_volume(split_address(address)[0]).address == address


@pytest.mark.parametrize("format", FORMATS)
def test_a_container_alone_is_the_preferred_array(format, tmp_path):
    """With several arrays, the first of those that the command looks for is taken."""
    make(tmp_path, format, some_voxels("uint8"), name="volumes/raw")
    address = make(tmp_path, format, some_voxels("uint64"), name="volumes/labels/clefts")
    container = split_address(address)[0]
    assert open_volume(container).dtype == np.uint8
    assert open_volume(container, prefer=("clefts", "volumes/labels/clefts")).dtype == np.uint64


def test_a_container_alone_is_the_finest_scale(tmp_path):
    """Of an OME-NGFF image the first dataset is taken."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for name, size in (("s0", 8), ("s1", 4)):
        group.create_array(name, shape=(size,) * 3, dtype="uint8")
    datasets = [
        {"path": name, "coordinateTransformations": [scale(*[n] * 3)]}
        for name, n in (("s0", 4), ("s1", 8))
    ]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": AXES, "datasets": datasets}]
    volume = open_volume(str(tmp_path / "a.zarr"))
    assert (volume.shape, volume.voxel_size) == ((8, 8, 8), (4, 4, 4))
    assert open_volume(str(tmp_path / "a.zarr/s1")).voxel_size == (8, 8, 8)


@pytest.mark.parametrize("format", FORMATS)
def test_a_group_lists_its_arrays(format, tmp_path):
    """A group with several arrays, or a dataset that is not there, lists what could be meant."""
    make(tmp_path, format, some_voxels("uint8"), name="a/one", space=Space())
    address = make(tmp_path, format, some_voxels("uint8"), name="a/two", space=Space())
    container = split_address(address)[0]
    for named in (container, f"{container}/a", f"{container}/volumes/rwa"):
        with pytest.raises(InputError, match=r"a/one, a/two.*Try: .*/a/one"):
            open_volume(named)


@pytest.mark.parametrize("format", FORMATS)
def test_a_misspelt_path_suggests_the_right_one(format, tmp_path):
    """A container that is not there is an input error that names the one like it."""
    container = split_address(make(tmp_path, format, some_voxels("uint8")))[0]
    suffix = FORMATS[format].suffixes[0]
    Path(container).rename(tmp_path / f"sample_A{suffix}")
    with pytest.raises(InputError, match=f"no such file.*did you mean sample_A{suffix}"):
        open_volume(f"{tmp_path}/smaple_A{suffix}/volumes/raw")


def test_a_folder_that_is_no_store(tmp_path):
    """A folder or file that is no store says so."""
    (tmp_path / "notes.txt").write_text("no volume")
    for address in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="not a zarr, N5 or HDF5 store"):
            open_volume(str(address))


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_container_says_so(format, tmp_path):
    """A container without arrays is an input error."""
    container = tmp_path / f"a{FORMATS[format].suffixes[0]}"
    if format == "hdf5":
        h5py.File(container, "w").close()
    elif format == "n5":
        container.mkdir()
        (container / "attributes.json").write_text('{"n5": "2.0.0"}')
    else:
        zarr.open_group(container, mode="w", zarr_format=int(format[-1]))
    with pytest.raises(InputError, match="no three-dimensional array"):
        open_volume(str(container))


@pytest.mark.parametrize("name", ["out.hdf/cleft", "out.tif", "folder/cleft"])
def test_output_goes_to_zarr_or_n5(name, tmp_path):
    """Only zarr and N5 can be written block by block."""
    with pytest.raises(UsageError, match=r"\.zarr or \.n5"):
        create_volume(f"{tmp_path}/{name}", shape=SHAPE, dtype="u1", chunks=CHUNKS, space=SPACE)


def test_output_is_zarr_2_or_n5_by_its_name(tmp_path):
    """Without a format, .zarr is zarr v2 and .n5 is N5."""
    for suffix, format in ((".zarr", "zarr2"), (".n5", "n5")):
        address = f"{tmp_path}/out{suffix}/cleft"
        create_volume(address, shape=SHAPE, dtype="u1", chunks=CHUNKS, space=SPACE)
        assert open_volume(address).format == format


# ---- HDF5 files that point elsewhere


@pytest.fixture
def strangers(tmp_path):
    """An HDF5 file whose datasets lie in other files, and one dataset of its own."""
    secret = tmp_path / "secret.hdf"
    with h5py.File(secret, "w") as file:
        file["volumes/raw"] = np.full(SHAPE, 42, np.uint8)
    (tmp_path / "secret.bin").write_bytes(b"*" * math.prod(SHAPE))
    layout = h5py.VirtualLayout(SHAPE, np.uint8)
    layout[...] = h5py.VirtualSource(str(secret), "volumes/raw", SHAPE)
    path = tmp_path / "strangers.hdf"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink(str(secret), "volumes/raw")
        file["group"] = h5py.ExternalLink(str(secret), "volumes")
        file["detour"] = h5py.SoftLink("/link")
        file["own"] = np.zeros(SHAPE, np.uint8)
        file.create_virtual_dataset("virtual", layout)
        external = [(str(tmp_path / "secret.bin"), 0, math.prod(SHAPE))]
        file.create_dataset("external", SHAPE, np.uint8, external=external)
    return str(path)


POINTERS = ["link", "group/raw", "detour", "virtual", "external"]


@pytest.mark.parametrize("dataset", POINTERS)
def test_hdf5_pointing_elsewhere_is_unsafe(dataset, strangers):
    """External links, external storage and virtual datasets are refused as unsafe."""
    with pytest.raises(UnsafeError):
        open_volume(f"{strangers}/{dataset}")


@pytest.mark.parametrize("dataset", POINTERS)
def test_no_reader_follows_hdf5_elsewhere(dataset, strangers):
    """The format's own reader refuses them too, whoever calls it."""
    with pytest.raises(UnsafeError):
        FORMATS["hdf5"].open_array(strangers, dataset)


def test_listing_hdf5_stays_in_the_file(strangers):
    """Listing shows nothing of the file that links lead to, and own datasets still open."""
    assert not any("link" in a or "group" in a for a in list_volumes(strangers))
    assert open_volume(f"{strangers}/own").read(whole(SHAPE)).sum() == 0


def test_hdf5_soft_links_within_the_file_are_followed(tmp_path):
    """A dataset by its second name in the same file is that dataset."""
    path = tmp_path / "a.hdf"
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = some_voxels("uint8")
        file["raw"] = h5py.SoftLink("/volumes/raw")
    np.testing.assert_array_equal(
        open_volume(f"{path}/raw").read(whole(SHAPE)), some_voxels("uint8")
    )


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all", None], ids=["empty", "text", "cut"])
def test_a_damaged_hdf5_file_is_an_input_error(content, tmp_path):
    """A file that is cut short or something else is the input's fault, by name."""
    path = Path(split_address(make(tmp_path, "hdf5", some_voxels("uint64")))[0])
    path.write_bytes(path.read_bytes()[:700] if content is None else content)
    with pytest.raises(InputError, match=r"hdf5\.hdf"):
        open_volume(f"{path}/volumes/raw")


def test_hdf5_changed_on_disk_is_read_anew(tmp_path):
    """A file replaced by another version is read as it is now."""
    address = make(tmp_path, "hdf5", np.zeros(SHAPE, np.uint8))
    assert open_volume(address).read(whole(SHAPE)).max() == 0
    path = Path(split_address(address)[0])
    other = Path(split_address(make(tmp_path / "new", "hdf5", np.ones(SHAPE, np.uint8)))[0])
    other.replace(path)
    assert open_volume(address).read(whole(SHAPE)).min() == 1


def test_what_is_unsafe_has_its_own_exit_code(strangers):
    """Scripts can tell an unsafe file (7) from an unusable one (3)."""
    with pytest.raises(CleftError) as caught:
        open_volume(f"{strangers}/virtual")
    assert caught.value.exit_code == 7
