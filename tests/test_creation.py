"""Volumes that cleft makes: kept, added to, and read by other programs."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from cleftcli.errors import UsageError
from cleftcli.geometry import Roi, whole
from cleftcli.volumes import (
    FORMATS,
    create_volume,
    list_volumes,
    open_volume,
    split_address,
    write_attributes,
)
from cleftcli.volumes import hdf5 as hdf5_files
from tests.stores import CHUNKED, CHUNKS, DTYPES, SHAPE, SPACE, created, edit, some_voxels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", CHUNKED)
def test_created_volumes_keep_all(format, dtype, tmp_path):
    """Voxels, voxel size, offset, chunks and attributes come back from a volume of ours."""
    data = some_voxels(dtype)
    volume = open_volume(created(tmp_path, format, data, attributes={"complete": False}))
    found = volume.read(volume.roi)
    np.testing.assert_array_equal(found, data)
    assert (volume.format, volume.dtype, volume.chunks) == (format, data.dtype, CHUNKS)
    assert (volume.voxel_size, volume.space.offset) == (SPACE.voxel_size, SPACE.offset)
    assert volume.attributes["complete"] is False


@pytest.mark.parametrize("format", CHUNKED)
def test_boxes_are_written_in_any_order(format, tmp_path):
    """A volume written in boxes reads as one written whole; unwritten boxes stay zero."""
    data = some_voxels("uint8")
    address = created(tmp_path, format)
    expected = np.zeros_like(data)
    for offset in ((4, 6, 8), (0, 0, 0), (2, 3, 4)):
        roi = Roi(offset, CHUNKS).intersect(whole(SHAPE))
        open_volume(address).write(roi, data[roi.within(whole(SHAPE))])
        expected[roi.within(whole(SHAPE))] = data[roi.within(whole(SHAPE))]
    volume = open_volume(address)
    np.testing.assert_array_equal(volume.read(whole(SHAPE)), expected)
    assert (volume.scan().chunks, volume.scan().missing) == (27, 24)


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("format", CHUNKED)
def test_zeros_are_stored(format, reopened, tmp_path):
    """A block of zeros leaves its chunks on disk, cut ones too; what nobody wrote is missing."""
    address = f"{tmp_path}/{format}{FORMATS[format].suffixes[0]}/a"
    volume = create_volume(
        address, shape=SHAPE, dtype="u1", chunks=CHUNKS, space=SPACE, format=format
    )
    volume = open_volume(address) if reopened else volume
    for roi in (Roi((0, 0, 0), (4, 6, 11)), Roi((4, 6, 8), (1, 1, 3))):
        volume.write(roi, np.zeros(roi.shape, np.uint8))
        found = open_volume(address)
        assert found.scan(roi).missing == 0
        assert not found.read(roi).any()
    assert (found.scan().chunks, found.scan().missing) == (27, 27 - 12 - 1)
    volume.write(volume.roi, np.zeros(SHAPE, np.uint8))
    assert open_volume(address).scan().missing == 0


@pytest.mark.parametrize("format", CHUNKED)
def test_attributes_are_added(format, tmp_path):
    """Writing an attribute changes it and leaves the others, the space and the voxels alone."""
    data = some_voxels("uint8")
    address = created(tmp_path, format, data, attributes={"complete": False, "kept": [1, 2]})
    write_attributes(open_volume(address), {"complete": True})
    volume = open_volume(address)
    assert (volume.attributes["complete"], volume.attributes["kept"]) == (True, [1, 2])
    assert volume.voxel_size == SPACE.voxel_size
    np.testing.assert_array_equal(volume.read(volume.roi), data)


@pytest.mark.parametrize("format", CHUNKED)
def test_creating_again_keeps_voxels(format, tmp_path):
    """A volume that a killed run left is opened, not emptied."""
    data = some_voxels("uint8")
    created(tmp_path, format, data)
    volume = open_volume(created(tmp_path, format))
    np.testing.assert_array_equal(volume.read(volume.roi), data)


@pytest.mark.parametrize("format", CHUNKED)
def test_a_container_can_be_the_array(format, tmp_path):
    """An array at the container's root needs no dataset in its address."""
    data = some_voxels("uint8")
    address = created(tmp_path, format, data, name="")
    volume = open_volume(address)
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    assert list_volumes(address) == [address]


@pytest.mark.parametrize("name", ["out.hdf/cleft", "out.tif", "out.precomputed", "folder/cleft"])
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


# ---- other programs read it


@pytest.mark.parametrize("name", ["cleft", "volumes/labels/clefts"])
@pytest.mark.parametrize("format", ["zarr2", "zarr3"])
def test_zarr_python_reads_it(format, name, tmp_path):
    """zarr-python sees the same voxels, dtype and chunks, in the stated format."""
    data = some_voxels("uint64")
    container = split_address(created(tmp_path, format, data, name=name))[0]
    array = zarr.open_group(container, mode="r")[name]
    assert array.metadata.zarr_format == int(format[-1])
    assert (array.chunks, array.dtype) == (CHUNKS, data.dtype)
    np.testing.assert_array_equal(array[:], data)


@pytest.mark.parametrize("format", ["zarr2", "zarr3"])
def test_ome_ngff_tells_the_space(format, tmp_path):
    """The group above an array is an OME-NGFF image in nm, zyx: 0.4 in zarr v2, 0.5 in v3."""
    address = created(tmp_path, format, some_voxels("uint8"))
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
        address = created(tmp_path, format, name=name)
    attributes = dict(zarr.open_group(Path(address).parent, mode="r").attrs)
    images = attributes.get("ome", attributes)["multiscales"]
    assert sorted(i["datasets"][0]["path"] for i in images) == ["boundary", "cleft"]


@pytest.mark.parametrize("format", ["zarr2", "zarr3"])
def test_ome_ngff_alone_suffices(format, tmp_path):
    """Without the CREMI attributes the space is read from the OME-NGFF metadata."""
    address = created(tmp_path, format, some_voxels("uint8"))

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
    address = created(tmp_path, "n5", some_voxels("uint16"))
    found = json.loads((Path(address) / "attributes.json").read_text())
    assert found["dimensions"] == [11, 7, 5]
    assert found["blockSize"] == [4, 3, 2]
    assert found["dataType"] == "uint16"
    assert found["resolution"] == [5.0, 4.0, 40.0]
    assert found["offset"] == [25.0, 12.0, 80.0]
    assert found["compression"]["type"] == "gzip"


def test_n5_container_tells_its_version(tmp_path):
    """The root of an N5 container holds the version that Java readers ask for."""
    container = split_address(created(tmp_path, "n5", some_voxels("uint8")))[0]
    assert json.loads((Path(container) / "attributes.json").read_text())["n5"].startswith("2.")


def test_hdf5_tells_cremi_attributes(tmp_path):
    """An HDF5 dataset of ours tells resolution and offset as zyx, its file the CREMI format."""
    data = some_voxels("uint64")
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        made = hdf5_files.create_array(
            file,
            "volumes/raw",
            shape=SHAPE,
            dtype=data.dtype,
            space=SPACE,
            attributes={"complete": True},
        )
        made.write(made.roi, data)
    with h5py.File(tmp_path / "a.hdf") as file:
        assert file["volumes/raw"].attrs["resolution"].tolist() == [40.0, 4.0, 5.0]
        assert file["volumes/raw"].attrs["offset"].tolist() == [80.0, 12.0, 25.0]
        assert file.attrs["file_format"] == "0.2"
    volume = open_volume(f"{tmp_path}/a.hdf")
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    assert (volume.voxel_size, volume.space.offset) == (SPACE.voxel_size, SPACE.offset)
