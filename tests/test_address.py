"""Addresses: where a container ends, which array is meant, and what may not be reached."""

import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from cleftcli.errors import CleftError, InputError, UnsafeError, UsageError
from cleftcli.geometry import whole
from cleftcli.volumes import (
    FORMATS,
    Reading,
    absolute,
    has_array,
    list_volumes,
    open_volume,
    split_address,
)
from tests.stores import (
    CHUNKED,
    SHAPE,
    WRITERS,
    able,
    edit,
    marked,
    precomputed_array,
    some_voxels,
    zarr_array,
)

SEVERAL = able("several arrays")
AXES = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]


def images(path, *sizes):
    """An OME-NGFF image with one dataset a voxel size, the first at `path`0."""
    steps = [[{"type": "scale", "scale": [n] * 3}] for n in sizes]
    listed = [{"path": f"{path}{i}", "coordinateTransformations": s} for i, s in enumerate(steps)]
    return {"version": "0.4", "axes": AXES, "datasets": listed}


# ---- splitting


@pytest.mark.parametrize(
    ("address", "container", "dataset"),
    [
        ("a.zarr", "a.zarr", ""),
        ("a.zarr/", "a.zarr", ""),
        ("a.zarr/volumes/raw", "a.zarr", "volumes/raw"),
        ("a.zarr//volumes/raw/", "a.zarr", "volumes/raw"),
        ("./a.zarr/./raw", "a.zarr", "raw"),
        ("/data/fafb.n5/volumes/raw/s0", "/data/fafb.n5", "volumes/raw/s0"),
        ("sample_A.hdf/volumes/labels/clefts", "sample_A.hdf", "volumes/labels/clefts"),
        ("x.h5/raw", "x.h5", "raw"),
        ("x.hdf5/raw", "x.hdf5", "raw"),
        ("stack.tif", "stack.tif", ""),
        ("stack.tiff/", "stack.tiff", ""),
        ("a.zarr.zip/raw", "a.zarr.zip", "raw"),
        ("p.precomputed/8_8_40", "p.precomputed", "8_8_40"),
        ("outer.zarr/inner.zarr/raw", "outer.zarr/inner.zarr", "raw"),
        ("../up.zarr/raw", "../up.zarr", "raw"),
        ("with space.zarr/two words/raw", "with space.zarr", "two words/raw"),
        ("Schnitt_µ.zarr/größe", "Schnitt_µ.zarr", "größe"),
        ("a#1.zarr/100%/x", "a#1.zarr", "100%/x"),
        ("no/such/place", "no/such/place", ""),
        ("s3://bucket/a.zarr/volumes/raw", "s3://bucket/a.zarr", "volumes/raw"),
        ("https://host/a.n5/raw/", "https://host/a.n5", "raw"),
        ("https://host/a.n5//raw/./s0", "https://host/a.n5", "raw/s0"),
        ("gs://b/x/", "gs://b/x", ""),
        ("precomputed://gs://b/x", "gs://b/x", ""),
        ("precomputed://gs://b/x.precomputed/8_8_40", "gs://b/x.precomputed", "8_8_40"),
        ("zarr://s3://b/a.zarr/raw", "s3://b/a.zarr", "raw"),
        ("zarr3://https://host/a.zarr/raw", "https://host/a.zarr", "raw"),
        ("n5:///data/a.n5/raw", "/data/a.n5", "raw"),
        ("precomputed:///data/p", "/data/p", ""),
    ],
)
def test_address_is_container_and_dataset(address, container, dataset):
    """An address is split behind the last component with a known suffix, a prefix is dropped."""
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


@pytest.mark.parametrize("name", ["with space", "Größe µ", "#1", "100%25", "%2e%2e", "a?b", "[x]&"])
@pytest.mark.parametrize("format", FORMATS)
def test_any_name_is_a_name(format, name, tmp_path):
    """Folders and datasets may be called anything a file system takes."""
    folder = tmp_path / name
    folder.mkdir()
    data = marked((1, 2, 3))
    address = WRITERS[format](folder, data, name=name)
    volume = open_volume(address)
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    assert list_volumes(split_address(address)[0]) == [address]
    assert volume.scan().missing in (0, 26)
    assert has_array(address)


@pytest.mark.parametrize(
    "address",
    [f"/{'x' * 300}/b", f"/{'x' * 300}.zarr/raw", f"/{'x/' * 2100}a.zarr", f"/{'x/' * 2100}b"],
    ids=["name", "container", "path", "path without a suffix"],
)
def test_a_very_long_path(address):
    """A path that no file system takes is an input error, not a traceback."""
    with pytest.raises(InputError, match=r"no such|cannot be looked for"):
        open_volume(address)


@pytest.mark.parametrize("format", FORMATS)
def test_a_link_is_what_it_leads_to(format, tmp_path):
    """A symbolic link to a container, under another name, reads as the container."""
    data = some_voxels("uint8")
    container, dataset = split_address(WRITERS[format](tmp_path, data))
    link = tmp_path / f"link{Path(container).suffix}"
    link.symlink_to(container)
    volume = open_volume(f"{link}/{dataset}".rstrip("/"))
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    shutil.rmtree(container) if Path(container).is_dir() else Path(container).unlink()
    with pytest.raises(InputError, match="a link that leads nowhere"):
        open_volume(f"{link}/{dataset}".rstrip("/"))


@pytest.mark.parametrize("format", [*CHUNKED, "precomputed", "hdf5"])
def test_a_container_needs_no_suffix(format, tmp_path):
    """A store without a known suffix is found by the documents in it."""
    data = some_voxels("uint8")
    container = split_address(WRITERS[format](tmp_path, data))[0]
    plain = tmp_path / "plain"
    Path(container).rename(plain)
    volume = open_volume(f"{plain}/volumes/raw")
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    assert split_address(f"{plain}/volumes/raw") == (str(plain), "volumes/raw")
    assert volume.format == format


# ---- choosing an array


@pytest.mark.parametrize("format", FORMATS)
def test_a_container_alone_is_its_only_array(format, tmp_path):
    """A container with one array needs no dataset."""
    address = WRITERS[format](tmp_path, some_voxels("uint8"), name="deep/down/array")
    assert open_volume(split_address(address)[0]).address == address


@pytest.mark.parametrize("format", SEVERAL)
def test_a_container_alone_is_the_preferred_array(format, tmp_path):
    """With several arrays, the first of those that the command looks for is taken."""
    WRITERS[format](tmp_path, some_voxels("uint8"), name="volumes/raw")
    address = WRITERS[format](tmp_path, some_voxels("uint64"), name="volumes/labels/clefts")
    container = split_address(address)[0]
    assert open_volume(container).dtype == np.uint8
    assert open_volume(container, prefer=("clefts", "volumes/labels/clefts")).dtype == np.uint64


def test_a_container_alone_is_the_finest_scale(tmp_path):
    """Of an OME-NGFF image the first dataset is taken; the others by name."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for name, size in (("s0", 8), ("s1", 4)):
        group.create_array(name, shape=(size,) * 3, dtype="uint8")
    group.attrs["multiscales"] = [images("s", 4, 8)]
    volume = open_volume(str(tmp_path / "a.zarr"))
    assert (volume.shape, volume.voxel_size) == ((8, 8, 8), (4, 4, 4))
    assert open_volume(str(tmp_path / "a.zarr/s1")).voxel_size == (8, 8, 8)


def test_a_precomputed_volume_alone_is_its_finest_scale(tmp_path):
    """Of the scales in `info` the first is taken; the others by their key."""
    container = tmp_path / "a.precomputed"
    data = some_voxels("uint8")
    precomputed_array(container, "5_4_40", data)
    precomputed_array(container, "10_8_40", data[:, :3, :5], resolution=(10, 8, 40))
    assert open_volume(str(container)).voxel_size == (40, 4, 5)
    volume = open_volume(f"{container}/10_8_40")
    assert volume.voxel_size == (40, 8, 10)
    np.testing.assert_array_equal(volume.read(volume.roi), data[:, :3, :5])
    with pytest.raises(InputError, match=r"5_4_40 \(5x7x11 uint8\).*Try: .*/5_4_40"):
        open_volume(f"{container}/20_16_40")


@pytest.mark.parametrize("path", ["../../secret", "/etc"])
def test_metadata_may_not_lead_out_of_the_container(path, tmp_path):
    """A multiscale whose datasets lie elsewhere is unsafe, not followed."""
    zarr_array(tmp_path / "secret.zarr", "0", some_voxels("uint8"), version=2)
    zarr_array(tmp_path / "a.zarr", "x", some_voxels("uint8"), version=2)
    edit(tmp_path / "a.zarr/.zattrs", lambda d: d.update(multiscales=[images(path, 4)]))
    with pytest.raises(UnsafeError, match="lead out of it"):
        open_volume(f"{tmp_path}/a.zarr")


@pytest.mark.parametrize("format", SEVERAL)
def test_a_group_lists_its_arrays(format, tmp_path):
    """A group, or a dataset that is not there, lists arrays with shape, dtype and what to type."""
    WRITERS[format](tmp_path, some_voxels("uint8"), name="a/one")
    address = WRITERS[format](tmp_path, some_voxels("uint16"), name="a/two")
    container = split_address(address)[0]
    listed = r"a/one \(5x7x11 uint8\), a/two \(5x7x11 uint16\).*Try: .*/a/one"
    for named, what in (
        (container, "several arrays"),
        (f"{container}/a", "a group, not an array"),
        (f"{container}/volumes/rwa", "no such dataset"),
    ):
        with pytest.raises(InputError, match=f"{what}.*{listed}"):
            open_volume(named)
    assert not has_array(f"{container}/a")
    assert has_array(address)


@pytest.mark.parametrize("format", FORMATS)
def test_a_misspelt_path_suggests_the_right_one(format, tmp_path):
    """A container that is not there is an input error that names the one like it."""
    container, dataset = split_address(WRITERS[format](tmp_path, some_voxels("uint8")))
    suffix = Path(container).suffix
    Path(container).rename(tmp_path / f"sample_A{suffix}")
    with pytest.raises(InputError, match=f"no such file.*did you mean sample_A{suffix}"):
        open_volume(f"{tmp_path}/smaple_A{suffix}/{dataset}")


def test_a_folder_that_is_no_store(tmp_path):
    """A folder or file that is no store says so."""
    (tmp_path / "notes.txt").write_text("no volume")
    for address in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="not a zarr, N5, precomputed, HDF5 or TIFF store"):
            open_volume(str(address))


@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5", "hdf5"])
def test_an_empty_container_says_so(format, tmp_path):
    """A container without arrays is an input error."""
    container = tmp_path / f"a{(*FORMATS[format].suffixes, '.hdf')[0]}"
    if format == "hdf5":
        h5py.File(container, "w").close()
    elif format == "n5":
        edit(container / "attributes.json", lambda d: d.update(n5="2.0.0"))
    else:
        zarr.open_group(container, mode="w", zarr_format=int(format[-1]))
    with pytest.raises(InputError, match="no three-dimensional array"):
        open_volume(str(container))


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
    """External links, external storage and virtual datasets are refused, by any way in."""
    with pytest.raises(UnsafeError):
        open_volume(f"{strangers}/{dataset}")
    with pytest.raises(UnsafeError):
        FORMATS["hdf5"].open_array(strangers, dataset, Reading())


def test_listing_hdf5_stays_in_the_file(strangers):
    """Listing shows nothing of the file that links lead to, and own datasets still open."""
    assert not any("link" in a or "group" in a for a in list_volumes(strangers))
    assert open_volume(f"{strangers}/own").read(whole(SHAPE)).sum() == 0


def test_hdf5_soft_links_within_the_file_are_followed(tmp_path):
    """A dataset by its second name in the same file is that dataset."""
    path = tmp_path / "a.hdf"
    data = some_voxels("uint8")
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = data
        file["raw"] = h5py.SoftLink("/volumes/raw")
    np.testing.assert_array_equal(open_volume(f"{path}/raw").read(whole(SHAPE)), data)


def test_what_is_unsafe_has_its_own_exit_code(strangers):
    """Scripts can tell an unsafe file (7) from an unusable one (3)."""
    with pytest.raises(CleftError) as caught:
        open_volume(f"{strangers}/virtual")
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a.zarr/raw", "{here}/a.zarr/raw"),
        ("a.zarr", "{here}/a.zarr"),
        ("sub/a.n5/volumes/raw/s0", "{here}/sub/a.n5/volumes/raw/s0"),
        ("/data/a.zarr/raw", "/data/a.zarr/raw"),
        ("s3://bucket/a.zarr/raw", "s3://bucket/a.zarr/raw"),
        ("https://host/a.n5/raw", "https://host/a.n5/raw"),
    ],
)
def test_an_address_for_another_folder(tmp_path, monkeypatch, address, expected):
    """Relative to where it was typed; servers stay where they are."""
    monkeypatch.chdir(tmp_path)
    assert absolute(address) == expected.format(here=tmp_path)
