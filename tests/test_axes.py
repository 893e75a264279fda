"""Which stored axes are z, y and x: as the store names them, or as the user says."""

import json

import h5py
import numpy as np
import pytest
import zarr

from cleftcli.errors import InputError, UsageError
from cleftcli.volumes import AS_STORED, Reading, open_volume
from cleftcli.volumes.axes import arrange
from tests.stores import CHUNKS, SHAPE, SPACE, marked, n5_array, precomputed_array, zarr_array

PLACE = (1, 2, 3)
OTHER = (4, 6, 10)
TURNED = {"resolution": [5, 4, 40], "offset": [25, 12, 80]}  # SPACE for an array stored as xyz


def found(address, **how):
    """The volume, which must be the marked one, wherever its axes are stored."""
    volume = open_volume(str(address), reading=Reading(**how))
    assert volume.shape == SHAPE
    assert np.argwhere(volume.read(volume.roi)).tolist() == [list(PLACE)]
    return volume


def ngff_image(container, channels, version, axes="tczyx"):
    """An OME-NGFF image of five axes with the mark in its last channel, another mark in others."""
    data = np.stack([marked(OTHER)] * (channels - 1) + [marked(PLACE)])[None]
    group = zarr.open_group(container, mode="w", zarr_format=version)
    array = group.create_array("0", shape=data.shape, dtype="u1", chunks=(1, 1, *CHUNKS))
    array[...] = data
    kinds = {"t": {"type": "time"}, "c": {"type": "channel"}}
    space = {"type": "space", "unit": "nanometer"}
    steps = [
        {"type": "scale", "scale": [1, 1, *SPACE.voxel_size]},
        {"type": "translation", "translation": [0, 0, *SPACE.offset]},
    ]
    image = {
        "axes": [{"name": a, **kinds.get(a, space)} for a in axes],
        "datasets": [{"path": "0", "coordinateTransformations": steps}],
    }
    if version == 2:
        group.attrs["multiscales"] = [{"version": "0.4", **image}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    return str(container)


# ---- more than three axes


@pytest.mark.parametrize("version", [2, 3])
def test_time_and_channel_of_length_one_are_dropped(version, tmp_path):
    """An OME-NGFF image (t, c, z, y, x) with one time and one channel reads as it is."""
    volume = found(ngff_image(tmp_path / "a.zarr", 1, version))
    assert (volume.voxel_size, volume.space.offset) == (SPACE.voxel_size, SPACE.offset)
    assert (volume.chunks, volume.scan().chunks, volume.scan().missing) == (CHUNKS, 27, 26)
    assert "t 0 taken" in volume.axes
    assert "c 0 taken" in volume.axes


@pytest.mark.parametrize("version", [2, 3])
def test_one_of_several_channels_is_chosen(version, tmp_path):
    """Two channels are refused until one is named; then that one is read and its chunks counted."""
    address = ngff_image(tmp_path / "a.zarr", 2, version)
    with pytest.raises(InputError, match=r"2 channels.*--channel"):
        open_volume(address)
    volume = found(address, channel=1)
    assert volume.voxel_size == SPACE.voxel_size
    assert all(".1." in k or "/1/" in k for k in volume.scan().first_missing)
    other = open_volume(address, reading=Reading(channel=0))
    assert np.argwhere(other.read(other.roi)).tolist() == [list(OTHER)]


@pytest.mark.parametrize("channel", [-1, 2])
def test_a_channel_that_is_not_there(channel, tmp_path):
    """A channel beyond the last, or counted from behind, is a usage error that tells how many."""
    address = ngff_image(tmp_path / "a.zarr", 2, 2)
    with pytest.raises(UsageError, match=rf"--channel {channel}.*2 channels"):
        open_volume(address, reading=Reading(channel=channel))


def test_several_times_are_refused(tmp_path):
    """A second position on an axis that is neither space nor channel cannot be chosen away."""
    address = ngff_image(tmp_path / "a.zarr", 2, 2, axes="ctzyx")
    with pytest.raises(InputError, match="2 positions on axis t"):
        open_volume(address)


def test_a_channel_of_three_axes(tmp_path):
    """Naming a channel where there is none is a usage error."""
    address = zarr_array(tmp_path / "a.zarr", "raw", marked(PLACE), version=2)
    with pytest.raises(UsageError, match=r"--channel 0.*no channel"):
        open_volume(address, reading=Reading(channel=0))


@pytest.mark.parametrize(
    ("shape", "likely"), [((2, *SHAPE), "czyx"), ((*SHAPE, 3), "zyxc"), ((1, 2, *SHAPE), "tczyx")]
)
@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5", "hdf5"])
def test_unnamed_axes_are_asked_for(format, shape, likely, tmp_path):
    """Four axes without names are an input error with the shape and what to type."""
    data = np.zeros(shape, np.uint8)
    if format == "hdf5":
        address = f"{tmp_path}/a.hdf/raw"
        with h5py.File(tmp_path / "a.hdf", "w") as file:
            file["raw"] = data
    elif format == "n5":
        address = n5_array(tmp_path / "a.n5", "raw", data.T, chunks=[4] * data.ndim)
    else:
        options = {"version": int(format[-1]), "chunks": shape}
        address = zarr_array(tmp_path / "a.zarr", "raw", data, **options)
    with pytest.raises(InputError, match="--axes") as caught:
        open_volume(address)
    assert str(shape) in str(caught.value)
    if format != "n5":
        assert f"--axes {likely} " in str(caught.value)


def test_unnamed_axes_of_n5_are_likely_xyz():
    """What to type is in the order of the store, since that would be believed."""
    with pytest.raises(InputError, match="--axes xyzc "):
        arrange((11, 7, 5, 2), None, "N5", AS_STORED, "a.n5/raw")
    with pytest.raises(InputError, match="--axes xyzct "):
        arrange((11, 7, 5, 2, 9), None, "N5", AS_STORED, "a.n5/raw")


@pytest.mark.parametrize("named", [False, True])
def test_two_axes_are_no_volume(named, tmp_path):
    """A flat image is refused; no words would make a volume of it, so none are asked for."""
    attributes = {"_ARRAY_DIMENSIONS": ["y", "x"]} if named else {}
    options = {"version": 2, "chunks": (7, 11), "attributes": attributes}
    address = zarr_array(tmp_path / "a.zarr", "raw", np.zeros((7, 11), np.uint8), **options)
    with pytest.raises(InputError, match=r"expected axes z, y, x; got 2 axes, shape \(7, 11\)$"):
        open_volume(address)
    with pytest.raises(UsageError, match="--axes yx"):
        open_volume(address, reading=Reading(axes="yx"))


def test_axes_are_named_by_hand(tmp_path):
    """`--axes czyx --channel 1` reads what the store does not explain, in either case."""
    data = np.stack([marked(OTHER), marked(PLACE)])
    address = zarr_array(tmp_path / "a.zarr", "raw", data, version=2, chunks=(1, *CHUNKS))
    assert "--axes" in found(address, axes="czyx", channel=1).axes
    found(address, axes="CZYX", channel=1)


@pytest.mark.parametrize("axes", ["xyz", "zyxx", "zyxcc", "abcd", "", "czy"])
def test_axes_that_do_not_fit(axes, tmp_path):
    """Axes with a letter too many, too few or twice are a usage error with the shape."""
    data = np.zeros((2, *SHAPE), np.uint8)
    address = zarr_array(tmp_path / "a.zarr", "raw", data, version=2, chunks=(1, *CHUNKS))
    with pytest.raises(UsageError, match=rf"--axes {axes}: .*4 axes.*\(2, 5, 7, 11\)"):
        open_volume(address, reading=Reading(axes=axes))


# ---- axes in another order


def test_a_zarr_array_is_turned_by_hand(tmp_path):
    """`--axes xyz` turns voxels, chunks, voxel size and offset, each once."""
    data = marked(PLACE).T
    options = {"version": 2, "chunks": CHUNKS[::-1], "attributes": TURNED}
    volume = found(zarr_array(tmp_path / "a.zarr", "raw", data, **options), axes="xyz")
    assert volume.chunks == CHUNKS
    assert (volume.voxel_size, volume.space.offset) == (SPACE.voxel_size, SPACE.offset)


def test_dimension_names_of_zarr_3(tmp_path):
    """zarr v3's own `dimension_names` tell the order, in upper case too."""
    for name, names in (("small", ["x", "y", "z"]), ("large", ["X", "Y", "Z"])):
        options = {"version": 3, "chunks": CHUNKS[::-1], "attributes": TURNED}
        address = zarr_array(
            tmp_path / "a.zarr", name, marked(PLACE).T, dimension_names=names, **options
        )
        assert found(address).voxel_size == SPACE.voxel_size


def test_array_dimensions_of_xarray(tmp_path):
    """`_ARRAY_DIMENSIONS` tell the order of a zarr v2 array."""
    attributes = {"_ARRAY_DIMENSIONS": ["x", "y", "z"], **TURNED}
    options = {"version": 2, "chunks": CHUNKS[::-1], "attributes": attributes}
    volume = found(zarr_array(tmp_path / "a.zarr", "raw", marked(PLACE).T, **options))
    assert "_ARRAY_DIMENSIONS" in volume.axes
    assert volume.voxel_size == SPACE.voxel_size


@pytest.mark.parametrize("names", [["dim_0", "dim_1", "dim_2"], ["depth", "height", "width"]])
def test_names_that_tell_nothing_are_asked_for(names, tmp_path):
    """Names without z, y and x are refused rather than guessed; `--axes` settles it."""
    attributes = {"_ARRAY_DIMENSIONS": names}
    address = zarr_array(
        tmp_path / "a.zarr", "raw", marked(PLACE), version=2, attributes=attributes
    )
    with pytest.raises(InputError, match="name them with --axes"):
        open_volume(address)
    found(address, axes="zyx")


@pytest.mark.parametrize("tags", ["zyx", "xyz", "tzyxc", "zyxc"])
def test_axistags_of_ilastik(tags, tmp_path):
    """ilastik's `axistags` tell the axes of an HDF5 dataset; channels are chosen as elsewhere."""
    data = marked(PLACE).T if tags == "xyz" else marked(PLACE)
    if tags == "tzyxc":
        data = data[None, ..., None]
    if tags == "zyxc":
        data = np.stack([marked(OTHER), data], axis=-1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exported_data"] = data
        stated = {"axes": [{"key": k, "typeFlags": 2} for k in tags]}
        file["exported_data"].attrs["axistags"] = json.dumps(stated)
        if tags == "xyz":
            file["exported_data"].attrs.update(TURNED)
    how = {"channel": 1} if tags == "zyxc" else {}
    volume = found(f"{tmp_path}/a.h5", **how)
    assert "axistags" in volume.axes
    assert tags != "xyz" or volume.voxel_size == SPACE.voxel_size


def test_labels_of_hdf5(tmp_path):
    """HDF5's own dimension labels tell the order too."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = marked(PLACE).T
        for dimension, label in zip(file["raw"].dims, "xyz", strict=True):
            dimension.label = label
    assert "labels" in found(f"{tmp_path}/a.h5").axes


@pytest.mark.parametrize("order", ["xyz", "zyx"])
def test_axes_of_n5(order, tmp_path):
    """N5 arrays that name their `axes` are read by those names; others are x, y, z."""
    data, chunks = marked(PLACE), CHUNKS
    stated = {"resolution": [5, 4, 40], "axes": list(order)}
    if order == "zyx":
        data, chunks, stated["resolution"] = data.T, chunks[::-1], [40, 4, 5]
    volume = found(n5_array(tmp_path / "a.n5", "raw", data, attributes=stated, chunks=chunks))
    assert (volume.voxel_size, volume.chunks) == (SPACE.voxel_size, CHUNKS)


def test_axes_of_n5_with_a_foreign_codec_field(tmp_path):
    """A codec field that must be hidden from the reader hides no axes with it."""
    stated = {"resolution": [40, 4, 5], "axes": ["z", "y", "x"]}
    codec = {"type": "gzip", "nthreads": 1}
    address = n5_array(tmp_path / "a.n5", "raw", marked(PLACE).T, chunks=CHUNKS[::-1])
    document = tmp_path / "a.n5/raw/attributes.json"
    about = {**json.loads(document.read_text()), **stated, "compression": codec}
    document.write_text(json.dumps(about))
    assert found(address).voxel_size == SPACE.voxel_size


def test_n5_resolution_is_turned_once(tmp_path):
    """`resolution` and `offset` of an N5 array are x, y, z as its dimensions are."""
    volume = found(n5_array(tmp_path / "a.n5", "raw", marked(PLACE), attributes=TURNED))
    assert (volume.voxel_size, volume.space.offset) == (SPACE.voxel_size, SPACE.offset)
    assert "xyz, turned" in volume.space.source


def test_channels_of_precomputed(tmp_path):
    """Of a precomputed volume with channels the one named is read."""
    data = np.stack([marked(OTHER), marked(PLACE)], axis=-1)
    address = precomputed_array(tmp_path / "a.precomputed", "5_4_40", data)
    with pytest.raises(InputError, match=r"2 channels.*--channel"):
        open_volume(address)
    assert found(address, channel=1).voxel_size == SPACE.voxel_size
