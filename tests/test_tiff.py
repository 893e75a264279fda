"""TIFF: stacks and folders as microscopes and ImageJ leave them; what is lost or odd is said."""

import importlib.util
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from cleftcli.errors import InputError, UnsafeError, UsageError
from cleftcli.geometry import Roi, whole
from cleftcli.volumes import Reading, open_volume
from cleftcli.volumes.intensity import centred, intensity_range
from tests.stores import SHAPE, imagej_stack, marked, ome_stack, some_voxels

NM = (40.0, 4.0, 5.0)


def folder(path, names, sections, **options):
    """A folder with one TIFF a section: its address."""
    path.mkdir(exist_ok=True)
    for name, section in zip(names, sections, strict=True):
        tifffile.imwrite(path / name, section, **options)
    return str(path)


def libtiff(path, data, **options):
    """A multi-page file written by libtiff, without metadata."""
    first, *others = [Image.fromarray(section) for section in data]
    first.save(path, save_all=True, append_images=others, **options)


def read(address, **how):
    volume = open_volume(str(address), reading=Reading(**how))
    return volume.read(volume.roi)


def cut(path, share):
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


# ---- a folder, one file a section


def test_sections_come_in_natural_order(tmp_path):
    """z2 lies before z10, whatever the alphabet says."""
    data = some_voxels("uint8", (12, 7, 11))
    address = folder(tmp_path / "a", [f"z{n}.tif" for n in range(1, 13)], data)
    np.testing.assert_array_equal(read(address), data)


def test_the_number_that_varies_counts(tmp_path):
    """Numbers that all names share, such as a date, do not matter."""
    data = some_voxels("uint8")
    names = [f"2024-05_run7_z{n}_v2.TIFF" for n in range(98, 103)]
    np.testing.assert_array_equal(read(folder(tmp_path / "a", names, data)), data)


@pytest.mark.parametrize("step", [1, 10])
def test_a_skipped_number_is_a_missing_section(step, tmp_path):
    """A lost section reads as zeros at its place, the others stay at theirs, and it is counted."""
    data = some_voxels("uint16", (6, 7, 11))
    kept = [0, 1, 2, 4, 5]
    address = folder(tmp_path / "a", [f"s{step * n:04}.tif" for n in kept], data[kept])
    volume = open_volume(address)
    found = volume.read(volume.roi)
    np.testing.assert_array_equal(found[kept], data[kept])
    assert not found[3].any()
    scan = volume.scan()
    assert (scan.chunks, scan.missing, scan.first_missing) == (6, 1, ("section 3",))
    assert volume.scan(Roi((0, 0, 0), (3, 7, 11))).missing == 0


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a1_b1.tif", "a1_b2.tif", "a2_b1.tif"], "more than one number"),
        (["left1.tif", "right2.tif"], "more than one number"),
        (["z1.tif", "z01.tif", "z2.tif"], "the same number"),
        (["z1.tif", "z2.tif", "z900.tif"], "more than half are missing"),
        (["z1.tif"], "single TIFF"),
    ],
)
def test_names_that_count_no_sections(names, words, tmp_path):
    """Where the order or the gaps would be a guess, the folder is refused."""
    sections = some_voxels("uint8", (len(names), 7, 11))
    with pytest.raises(InputError, match=words):
        open_volume(folder(tmp_path / "a", names, sections))


def test_other_files_in_the_folder_are_no_sections(tmp_path):
    """Notes, folders, and the hidden files of a Mac are left alone."""
    data = some_voxels("uint8")
    address = folder(tmp_path / "a", [f"z{n}.tif" for n in range(5)], data)
    (tmp_path / "a/._z3.tif").write_bytes(b"Mac OS X")
    (tmp_path / "a/readme.txt").write_text("z0 is the top")
    (tmp_path / "a/z9.tif").mkdir()
    np.testing.assert_array_equal(read(address), data)


@pytest.mark.parametrize("odd", [np.zeros((8, 11), np.uint8), np.zeros((7, 11), np.uint16)])
def test_a_section_unlike_the_first(odd, tmp_path):
    """A section of another shape or dtype is damage, named; the others still read."""
    address = folder(tmp_path / "a", ["z1.tif", "z2.tif"], marked((1, 2, 3))[:2])
    tifffile.imwrite(tmp_path / "a/z3.tif", odd)
    volume = open_volume(address)
    with pytest.raises(InputError, match=r"z3\.tif is uint.*the first uint8 \(7, 11\)"):
        volume.read(volume.roi)
    assert volume.read(Roi((1, 2, 3), (1, 1, 1))).item() == 9
    (damage,) = volume.scan().damaged
    assert damage.roi == Roi((2, 0, 0), (1, 7, 11))
    assert "the first uint8" in damage.reason


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_where_zero_is_white_the_network_sees_it_so(dtype, compression, as_folder, tmp_path):
    """Voxels are those stored; black and white are the other way round, as the file says."""
    data, most = some_voxels(dtype), np.iinfo(dtype).max
    options = {"photometric": "miniswhite", "compression": compression}
    if as_folder:
        for n, section in enumerate(most - data):
            tifffile.imwrite(tmp_path / f"z{n}.tif", section, **options)
        address = str(tmp_path)
    else:
        address = str(tmp_path / "a.tif")
        tifffile.imwrite(address, most - data, **options)
    volume = open_volume(address)
    np.testing.assert_array_equal(volume.read(volume.roi), most - data)
    seen = centred(volume.read(volume.roi), intensity_range(volume))
    np.testing.assert_allclose(seen, centred(data, (0, most)), atol=1e-6)
    assert intensity_range(volume, (0, 10)) == (0, 10)  # what a person says comes first
    assert volume.scan().damaged == ()


def test_a_section_that_is_inverted_against_the_first(tmp_path):
    """One of a folder that says that 0 is white, where the first does not, is damage."""
    address = folder(tmp_path / "a", ["z1.tif", "z2.tif"], marked((1, 2, 3))[:2])
    tifffile.imwrite(tmp_path / "a/z3.tif", np.zeros((7, 11), np.uint8), photometric="miniswhite")
    volume = open_volume(address)
    with pytest.raises(
        InputError, match=r"z3\.tif is uint8 \(7, 11\), 0 is white, the first uint8"
    ):
        volume.read(volume.roi)
    assert len(volume.scan().damaged) == 1


@pytest.mark.parametrize("content", [b"", b"no TIFF", b"II*\0junk"], ids=["empty", "text", "cut"])
@pytest.mark.parametrize("name", ["z0.tif", "z4.tif"])
def test_a_section_that_is_no_tiff(name, content, tmp_path):
    """A broken file is an input error with its name, first of the folder or last."""
    address = folder(tmp_path / "a", [f"z{n}.tif" for n in range(5)], some_voxels("uint8"))
    (tmp_path / "a" / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(name)):
        read(address)
    if name != "z0.tif":
        assert [d.key for d in open_volume(address).scan().damaged] == [f"{name} page 0"]


def test_a_folder_states_no_voxel_size(tmp_path):
    """Single sections know no distance: the voxel size is asked for."""
    volume = open_volume(folder(tmp_path / "a", ["1.tif", "2.tif"], some_voxels("u1")[:2]))
    with pytest.raises(InputError, match=r"no distance of sections.*--voxel-size"):
        _ = volume.voxel_size


# ---- one file


@pytest.mark.parametrize(
    "write",
    [
        lambda path, data: tifffile.imwrite(path, data, photometric="minisblack"),
        lambda path, data: tifffile.imwrite(path, data, photometric="minisblack", bigtiff=True),
        lambda path, data: tifffile.imwrite(
            path, data, photometric="minisblack", compression="zlib", predictor=True
        ),
        lambda path, data: tifffile.imwrite(path, data, photometric="minisblack", tile=(16, 16)),
        libtiff,
        lambda path, data: libtiff(path, data, compression="tiff_deflate"),
    ],
    ids=["plain", "big", "deflate", "tiled", "libtiff", "libtiff-deflate"],
)
def test_multi_page_files(write, tmp_path):
    """Pages are sections, however they are laid out and packed."""
    data = some_voxels("uint16", (4, 33, 20))
    write(tmp_path / "a.tif", data)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), data)
    assert open_volume(str(tmp_path / "a.tif")).scan().damaged == ()


def test_pages_written_one_at_a_time(tmp_path):
    """A stack that a script appended page by page is one stack."""
    data = some_voxels("uint8")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for section in data:
            file.write(section, contiguous=False)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), data)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_imagej_keeps_large_stacks_behind_one_page(byteorder, dtype, tmp_path):
    """A hyperstack of a single page and a run of voxels reads whole, in either byte order."""
    data = some_voxels(dtype)
    imagej_stack(tmp_path / "a.tif", data, NM, truncate=True, byteorder=byteorder)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 1
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), data)


def test_lzw_needs_imagecodecs(tmp_path):
    """Where the decoder is not installed, the message says what to install."""
    data = some_voxels("uint8")
    libtiff(tmp_path / "a.tif", data, compression="tiff_lzw")
    if importlib.util.find_spec("imagecodecs"):
        np.testing.assert_array_equal(read(tmp_path / "a.tif"), data)
        return
    with pytest.raises(InputError, match=r"pip install 'cleft\[tiff\]'"):
        read(tmp_path / "a.tif")


def test_a_single_section_is_no_volume(tmp_path):
    """One flat image is refused with a word on stacks and folders, by itself and in a folder."""
    tifffile.imwrite(tmp_path / "a.tif", some_voxels("uint8")[0])
    with pytest.raises(InputError, match=r"a single section.*folder of all sections"):
        open_volume(str(tmp_path / "a.tif"))
    with pytest.raises(InputError, match="single TIFF"):
        open_volume(str(tmp_path))


def test_pages_of_several_kinds(tmp_path):
    """A page of another shape is not left out: that would move all sections behind it."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for section in (*some_voxels("uint8"), np.zeros((3, 3), np.uint8)):
            file.write(section, contiguous=False, metadata=None)
    with pytest.raises(InputError, match=r"several kinds \(5x7x11, 3x3\)"):
        open_volume(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
@pytest.mark.parametrize(
    "write",
    [
        lambda path, data: tifffile.imwrite(path, data, photometric="minisblack"),
        lambda path, data: tifffile.imwrite(
            path, data, photometric="minisblack", compression="zlib"
        ),
        lambda path, data: imagej_stack(path, data, NM),
        lambda path, data: imagej_stack(path, data, NM, truncate=True),
        lambda path, data: ome_stack(path, data, NM, compression="zlib"),
        lambda path, data: libtiff(path, data),
        lambda path, data: libtiff(path, data, compression="tiff_deflate"),
    ],
    ids=["plain", "deflate", "imagej", "imagej-one-page", "ome", "libtiff", "libtiff-deflate"],
)
def test_a_truncated_file(write, share, tmp_path):
    """A file cut short never reads as a whole one, nor as a smaller one, and is no traceback."""
    path = tmp_path / "a.tif"
    write(path, some_voxels("uint8", (6, 40, 40)))
    cut(path, share)
    with pytest.raises(InputError, match=r"a\.tif") as caught:
        read(path)
    if "cannot read voxels" in str(caught.value):
        damaged = open_volume(str(path)).scan().damaged
        assert damaged[-1].roi == Roi((5, 0, 0), (1, 40, 40))
        assert all("truncated" in d.reason for d in damaged)
    else:
        assert "single section" not in str(caught.value)


def test_sections_before_the_cut_still_read(tmp_path):
    """What a truncated file still holds is read, and its scan names the rest."""
    data = some_voxels("uint8", (6, 40, 40))
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack")
    cut(tmp_path / "a.tif", 0.5)
    volume = open_volume(str(tmp_path / "a.tif"))
    damaged = [d.roi.offset[0] for d in volume.scan().damaged]
    assert damaged == [3, 4, 5]
    np.testing.assert_array_equal(volume.read(whole((3, 40, 40))), data[:3])


# ---- channels


@pytest.mark.parametrize("layout", ["folder", "stack"])
def test_colours_are_channels(layout, tmp_path):
    """RGB sections are read one channel at a time, and only when told which."""
    data = np.stack([marked((0, 0, 0)), marked((1, 2, 3)), marked((4, 6, 10))], axis=-1)
    address = str(tmp_path / "a.tif")
    if layout == "folder":
        names = [f"z{n}.tif" for n in range(len(data))]
        address = folder(tmp_path / "a", names, data, photometric="rgb")
    else:
        tifffile.imwrite(address, data, photometric="rgb")
    with pytest.raises(InputError, match=r"3 channels.*--channel"):
        open_volume(address)
    with pytest.raises(UsageError, match="--channel 3"):
        open_volume(address, reading=Reading(channel=3))
    for channel, place in enumerate([[0, 0, 0], [1, 2, 3], [4, 6, 10]]):
        assert np.argwhere(read(address, channel=channel)).tolist() == [place]


@pytest.mark.parametrize("kind", ["imagej-zcyx", "ome-czyx"])
def test_channels_of_a_hyperstack(kind, tmp_path):
    """Of a stack with channels the one named is read, with the voxel size."""
    first, second = marked((4, 6, 10)), marked((1, 2, 3))
    if kind == "imagej-zcyx":
        imagej_stack(tmp_path / "a.tif", np.stack([first, second], 1), NM, axes="ZCYX")
    else:
        ome_stack(tmp_path / "a.tif", np.stack([first, second]), NM, axes="CZYX")
    with pytest.raises(InputError, match=r"2 channels.*--channel"):
        open_volume(str(tmp_path / "a.tif"))
    volume = open_volume(str(tmp_path / "a.tif"), reading=Reading(channel=1))
    assert (volume.shape, volume.voxel_size) == (SHAPE, pytest.approx(NM))
    assert np.argwhere(volume.read(volume.roi)).tolist() == [[1, 2, 3]]
    assert volume.scan().chunks == 5


# ---- voxel size


@pytest.mark.parametrize(
    ("unit", "times"),
    [("nm", 1), ("um", 1e-3), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("mm", 1e-6)],
)
def test_imagej_voxel_size(unit, times, tmp_path):
    """ImageJ's spacing and resolution are in its unit, however it writes the micrometre."""
    sizes = [v * times for v in NM]
    imagej_stack(tmp_path / "a.tif", some_voxels("uint8"), sizes, unit=unit)
    volume = open_volume(str(tmp_path / "a.tif"))
    assert volume.voxel_size == pytest.approx(NM, rel=1e-5)
    assert volume.space.source == "ImageJ"


@pytest.mark.parametrize(("unit", "times"), [("nm", 1), ("µm", 1e-3), ("Å", 10), ("mm", 1e-6)])
def test_ome_voxel_size(unit, times, tmp_path):
    """OME-XML states the size of each axis with its unit."""
    sizes = [v * times for v in NM]
    ome_stack(tmp_path / "a.tif", some_voxels("uint8"), sizes, unit=unit)
    volume = open_volume(str(tmp_path / "a.tif"))
    assert volume.voxel_size == pytest.approx(NM)
    assert volume.space.source == "OME-XML"


def test_ome_sizes_are_micrometres_by_default(tmp_path):
    """The OME schema's own default unit is the micrometre."""
    sizes = {"PhysicalSizeZ": 0.04, "PhysicalSizeY": 0.004, "PhysicalSizeX": 0.005}
    metadata = {"axes": "ZYX", **sizes}
    options = {"photometric": "minisblack", "ome": True}
    tifffile.imwrite(tmp_path / "a.tif", some_voxels("uint8"), metadata=metadata, **options)
    assert open_volume(str(tmp_path / "a.tif")).voxel_size == pytest.approx(NM)


@pytest.mark.parametrize("unit", ["pixel", "", "inch", "light year"])
def test_an_unusable_unit_leaves_the_voxel_size_open(unit, tmp_path):
    """ImageJ's pixel, no unit, or one we do not know, are never taken for nm."""
    imagej_stack(tmp_path / "a.tif", some_voxels("uint8"), NM, unit=unit)
    volume = open_volume(str(tmp_path / "a.tif"))
    assert volume.space.voxel_size is None
    assert "ImageJ" in volume.space.source


def test_ome_without_the_distance_of_sections(tmp_path):
    """Two known axes of three are no voxel size."""
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.005, "PhysicalSizeY": 0.004}
    options = {"photometric": "minisblack", "ome": True}
    tifffile.imwrite(tmp_path / "a.tif", some_voxels("uint8"), metadata=metadata, **options)
    volume = open_volume(str(tmp_path / "a.tif"))
    assert volume.space.voxel_size is None
    assert "PhysicalSize" in volume.space.source


def test_an_ome_tiff_that_leads_to_other_files(tmp_path):
    """OME-XML can name other files for its sections: they are not read."""
    ome_stack(tmp_path / "secret.ome.tif", np.full(SHAPE, 42, np.uint8), NM)
    with tifffile.TiffFile(tmp_path / "secret.ome.tif") as file:
        text = file.ome_metadata
    uuid = re.search('UUID="([^"]+)"', text).group(1)
    inner = f'PlaneCount="5"><UUID FileName="../secret.ome.tif">{uuid}</UUID></TiffData>'
    text = re.sub(r'PlaneCount="5"\s*/>', inner, text).replace(f'UUID="{uuid}"', 'UUID="urn:x"')
    (tmp_path / "own").mkdir()
    path = tmp_path / "own/a.ome.tif"
    options = {"photometric": "minisblack", "metadata": None, "description": text}
    tifffile.imwrite(path, np.zeros(SHAPE, np.uint8), **options)
    with pytest.raises(UnsafeError, match="other files"):
        open_volume(str(path))
