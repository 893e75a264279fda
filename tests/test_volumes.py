"""One contract over every store: whoever wrote it, it reads the same."""

import math
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleftcli.errors import InputError, UsageError
from cleftcli.geometry import Roi, whole
from cleftcli.volumes import (
    FORMATS,
    Reading,
    Space,
    create_volume,
    crop,
    in_memory,
    list_volumes,
    open_volume,
    split_address,
)
from cleftcli.volumes.volume import InMemory, Volume
from tests.stores import (
    CHUNKS,
    DTYPES,
    LACKS,
    SHAPE,
    SPACE,
    WRITERS,
    able,
    marked,
    some_voxels,
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """For each format: a volume with random voxels, and those voxels."""
    folder, data = tmp_path_factory.mktemp("stores"), some_voxels("uint16")
    return {name: (open_volume(write(folder, data)), data) for name, write in WRITERS.items()}


# ---- the contract of every format


def test_every_format_is_under_contract():
    """A format that is added to the table must be added to these tests."""
    assert set(WRITERS) == set(FORMATS)
    assert all(set(who) < set(FORMATS) for who in LACKS.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
def test_voxels_survive(format, dtype, tmp_path):
    """What is written is what is read, to the bit, in the same dtype and shape."""
    data = some_voxels(dtype)
    volume = open_volume(WRITERS[format](tmp_path, data))
    found = volume.read(volume.roi)
    assert volume.format == format
    assert volume.shape == data.shape
    assert volume.dtype == found.dtype == data.dtype
    np.testing.assert_array_equal(found, data)


@pytest.mark.parametrize("format", FORMATS)
def test_background_id_survives(format, tmp_path):
    """2^64-1 and 2^64-2, CREMI's background and ignore, are not rounded."""
    data = np.full(SHAPE, 2**64 - 1, np.uint64)
    data[0, 0, 0] = 2**64 - 2
    found = open_volume(WRITERS[format](tmp_path, data)).read(whole(SHAPE))
    assert int(found[0, 0, 0]) == 2**64 - 2
    assert int(found[4, 6, 10]) == 2**64 - 1


@pytest.mark.parametrize("dtype", [">u2", ">u8", ">f4"])
@pytest.mark.parametrize("format", FORMATS)
def test_big_endian_voxels_survive(format, dtype, tmp_path):
    """Voxels stored most significant byte first have the values that were meant."""
    data = some_voxels(dtype)
    volume = open_volume(WRITERS[format](tmp_path, data))
    np.testing.assert_array_equal(volume.read(volume.roi), data)


@pytest.mark.parametrize("format", FORMATS)
def test_voxels_leave_in_the_byte_order_of_the_machine(format, tmp_path):
    """torch and cc3d refuse others, and edt misreads them."""
    volume = open_volume(WRITERS[format](tmp_path, some_voxels(">u8")))
    assert volume.dtype.isnative
    assert volume.read(volume.roi).dtype == volume.dtype


@pytest.mark.parametrize("format", FORMATS)
def test_masks_survive(format, tmp_path):
    """Boolean voxels are read as such, by the formats that have them."""
    if format in LACKS["bool"]:
        with pytest.raises((ValueError, TypeError)):
            WRITERS[format](tmp_path, some_voxels("bool"))
        return
    data = some_voxels("bool")
    volume = open_volume(WRITERS[format](tmp_path, data))
    assert volume.dtype == bool
    np.testing.assert_array_equal(volume.read(volume.roi), data)


@pytest.mark.parametrize("format", FORMATS)
def test_space_survives(format, tmp_path):
    """Voxel size and offset come back in nm, zyx, with a word on where they were found."""
    volume = open_volume(WRITERS[format](tmp_path, some_voxels("uint8")))
    assert volume.voxel_size == pytest.approx(SPACE.voxel_size)
    kept = (0, 0, 0) if format in LACKS["offset"] else SPACE.offset
    assert volume.space.offset == kept
    assert volume.space.source != "not stated"


@pytest.mark.parametrize("format", FORMATS)
def test_axes_are_zyx(format, tmp_path):
    """A voxel marked at z=1, y=2, x=3 is found there and nowhere else."""
    volume = open_volume(WRITERS[format](tmp_path, marked((1, 2, 3))))
    assert volume.shape == (5, 7, 11)
    assert np.argwhere(volume.read(volume.roi)).tolist() == [[1, 2, 3]]
    assert volume.read(Roi((1, 2, 3), (1, 1, 1))).item() == 9


@pytest.mark.parametrize("format", FORMATS)
def test_chunks_are_zyx(format, stores):
    """A volume tells its chunk shape as zyx; that of TIFF is a section."""
    assert stores[format][0].chunks == ((1, 7, 11) if format == "tiff" else CHUNKS)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_box_is_read(format, stores, data):
    """Any box inside the volume reads as the same slices of the whole array."""
    volume, voxels = stores[format]
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in SHAPE)
    shape = tuple(data.draw(st.integers(1, n - o)) for n, o in zip(SHAPE, offset, strict=True))
    roi = Roi(offset, shape)
    np.testing.assert_array_equal(volume.read(roi), voxels[roi.within(volume.roi)])


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=30, deadline=None)
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
def test_missing_chunks_read_zero_and_are_counted(format, tmp_path):
    """Voxels that nobody wrote are zero, and `scan` knows how many chunks of them there are."""
    data = marked((1, 2, 3), dtype=np.uint16)
    volume = open_volume(WRITERS[format](tmp_path, data))
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    found = volume.scan()
    if format in LACKS["holes"]:
        assert (found.chunks, found.missing) == (5, 0)
        return
    assert (found.chunks, found.missing, found.damaged) == (27, 26, ())
    assert len(found.first_missing) == 20
    here = volume.scan(Roi((0, 0, 0), (2, 3, 4)))
    assert (here.chunks, here.missing, here.first_missing) == (1, 0, ())


@pytest.mark.parametrize("format", FORMATS)
def test_attributes_survive(format, tmp_path):
    """Attributes stored with an array come back with it; a format without any has none."""
    stored = {"content": "ids", "complete": False, "n": 3}
    if format in LACKS["attributes"]:
        assert open_volume(WRITERS[format](tmp_path, some_voxels("u1"))).attributes == {}
        return
    found = open_volume(WRITERS[format](tmp_path, some_voxels("u1"), attributes=stored)).attributes
    assert {k: found[k] for k in stored} == stored


@pytest.mark.parametrize("format", able("several arrays"))
def test_arrays_are_listed(format, tmp_path):
    """The arrays of a container, or below a group, are listed by addresses that open."""
    WRITERS[format](tmp_path, some_voxels("uint8"), name="volumes/raw")
    address = WRITERS[format](tmp_path, some_voxels("uint64"), name="volumes/labels/clefts")
    container = split_address(address)[0]
    expected = [f"{container}/volumes/labels/clefts", f"{container}/volumes/raw"]
    assert list_volumes(container) == expected
    assert list_volumes(f"{container}/volumes/labels") == expected[:1]
    assert [open_volume(a).dtype for a in expected] == [np.uint64, np.uint8]


@pytest.mark.parametrize("format", FORMATS)
def test_one_array_is_listed(format, tmp_path):
    """A container with one array lists that, by its address."""
    address = WRITERS[format](tmp_path, some_voxels("uint8"))
    assert list_volumes(split_address(address)[0]) == [address]


@pytest.mark.parametrize("format", FORMATS)
def test_missing_voxel_size_names_the_option(format, tmp_path):
    """Without a voxel size in the store, asking for it is an input error that names the option."""
    volume = open_volume(WRITERS[format](tmp_path, some_voxels("uint8"), space=Space()))
    if format in LACKS["silence"]:
        assert volume.voxel_size == (1, 1, 1)
        return
    assert volume.space.voxel_size is None
    with pytest.raises(InputError, match="--voxel-size"):
        _ = volume.voxel_size


@pytest.mark.parametrize("format", FORMATS)
def test_a_stated_voxel_size_wins(format, tmp_path):
    """A voxel size given by hand replaces the store's and keeps its offset."""
    address = WRITERS[format](tmp_path, some_voxels("uint8"))
    volume = open_volume(address, reading=Reading((30.0, 8.0, 8.0)))
    assert volume.voxel_size == (30.0, 8.0, 8.0)
    assert volume.space.offset == open_volume(address).space.offset
    assert "--voxel-size" in volume.space.source


@pytest.mark.parametrize("format", FORMATS)
def test_reading_changes_nothing(format, tmp_path):
    """Opening, listing, scanning and reading leave every byte of a store as it was."""
    address = WRITERS[format](tmp_path, some_voxels("uint8"))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}
    volume = open_volume(address)
    volume.read(volume.roi.grow((3, 3, 3)))
    volume.scan()
    list_volumes(split_address(address)[0])
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(before)
    assert all((p.read_bytes(), p.stat().st_mtime_ns) == b for p, b in before.items())


@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5"])
def test_a_zipped_store_reads_as_its_folder(format, tmp_path):
    """A container in a zip file has the same voxels, space and arrays; missing chunks count."""
    data = marked((1, 2, 3), dtype=np.uint16)
    folder = Path(split_address(WRITERS[format](tmp_path, data))[0])
    container = f"{folder}.zip"
    with zipfile.ZipFile(container, "w") as archive:
        for path in (p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(folder))
    volume = open_volume(container)
    np.testing.assert_array_equal(volume.read(volume.roi), data)
    assert (volume.format, volume.voxel_size) == (format, SPACE.voxel_size)
    assert list_volumes(container) == [volume.address] == [f"{container}/volumes/raw"]
    assert (volume.scan().chunks, volume.scan().missing) == (27, 26)
    cut = tmp_path / f"cut_{Path(container).name}"
    cut.write_bytes(Path(container).read_bytes()[:-30])
    with pytest.raises(InputError, match=rf"{cut.name}.*truncated"):
        open_volume(str(cut))


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
    assert part.scan().chunks == 2 * 2 * 2


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
    assert volume.scan().missing == 0


# ---- slices

BOUNDS = st.none() | st.integers(-12, 12)


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.builds(slice, BOUNDS, BOUNDS, st.sampled_from([None, 1]))] * 3))
def test_slices_are_numpys(box):
    """`volume[z0:z1, y0:y1, x0:x1]` is what numpy gives: open ends, negative ones, empty boxes."""
    data = some_voxels("uint16")
    like = Volume("v", "zarr2", data.shape, data.dtype, data.shape, SPACE, InMemory(data))
    found = like[box]

    assert found.dtype == data.dtype
    assert np.array_equal(found, data[box])


@pytest.mark.parametrize(
    "box", [0, slice(2), ..., (0, slice(2), slice(2)), (slice(2),) * 2, (slice(None, None, 2),) * 3]
)
def test_what_is_no_box_is_refused(box):
    """A single index, a step or fewer axes would read something else than was meant, or loop."""
    data = some_voxels("uint16")
    volume = Volume("v", "zarr2", data.shape, data.dtype, data.shape, SPACE, InMemory(data))
    with pytest.raises(UsageError, match="z0:z1"):
        volume[box]


def test_a_worker_that_opens_an_output_for_each_block_does_not_grow(tmp_path):
    """A million blocks are a million openings: hundreds of bytes each would show."""
    create_volume(
        f"{tmp_path}/a.zarr/raw",
        shape=(4, 4, 4),
        dtype=np.uint8,
        chunks=(4, 4, 4),
        space=Space((40.0, 8.0, 8.0)),
    )
    grown = """
    import itertools, psutil, statistics, sys
    from cleftcli.volumes import open_volume
    held = []
    for _ in range(8):
        for _ in range(200):
            open_volume(sys.argv[1])
        held.append(psutil.Process().memory_info().rss)
    print(statistics.median(b - a for a, b in itertools.pairwise(held)) / 200)
    """
    command = [sys.executable, "-c", textwrap.dedent(grown), f"{tmp_path}/a.zarr/raw"]
    found = subprocess.run(command, capture_output=True, check=True, text=True)
    assert float(found.stdout) < 1000
