"""Axes, voxel sizes, offsets and shapes of other people's volumes: read right, or asked about."""

import json
import re

import numpy as np
import pytest
import zarr

from cleftcli.jobs import convert
from cleftcli.volumes import Space, create_volume, open_volume
from tests.conftest import VOXEL_SIZE, store


def array(path, data, **attributes) -> str:
    """An array that zarr-python wrote, with attributes: its address."""
    made = zarr.create_array(path, name="raw", data=data, zarr_format=2)
    made.attrs.update(attributes)
    return f"{path}/raw"


def voxels(address) -> np.ndarray:
    """All voxels of a volume."""
    volume = open_volume(str(address), prefer=("raw", "cleft"))
    return volume.read(volume.roi)


@pytest.mark.parametrize("axes", [None, "zyx"])
def test_axes_are_said_and_believed_and_can_be_overruled(axes, tmp_path, cleft):
    """N5 stores x, y, z: a marked voxel keeps its place, unless --axes says otherwise."""
    data = np.zeros((8, 16, 32), np.uint8)
    data[1, 2, 3] = 9
    store(f"{tmp_path}/in.n5/raw", data)
    options = [] if axes is None else ["--axes", axes]
    result = cleft("convert", tmp_path / "in.n5", tmp_path / "o.zarr", *options, "--json")
    found, copy = json.loads(result.stdout), voxels(tmp_path / "o.zarr")

    assert np.argwhere(copy).tolist() == [[1, 2, 3] if axes is None else [3, 2, 1]]
    assert copy.shape == ((8, 16, 32) if axes is None else (32, 16, 8))
    assert found["axes"].startswith("xyz (N5, turned" if axes is None else "zyx (--axes)")
    assert found["voxel_size"] == ([40, 8, 8] if axes is None else [8, 8, 40])
    assert ("z is not the coarsest axis" in result.stderr) is (axes == "zyx")


@pytest.mark.parametrize("size", [[0, 4, 4], [40, -4, 4], [40, 4], ["?"] * 3, [float("nan"), 4, 4]])
def test_an_impossible_voxel_size_is_an_input_error(size, tmp_path, cleft):
    """Not three positive numbers: refused (3), nothing assumed."""
    address = array(tmp_path / "in.zarr", np.ones((4, 8, 8), np.uint8), resolution=size)
    result = cleft("convert", address, tmp_path / "o.zarr")
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert re.search("voxel size|resolution", result.stderr)


def test_without_a_voxel_size_only_what_measures_stops(tmp_path, cleft):
    """Copying warns; scoring, which would give distances in unknown units, is refused (3)."""
    address = array(tmp_path / "in.zarr", np.ones((4, 8, 8), np.uint64))
    copied = cleft("convert", address, tmp_path / "o.zarr")
    scored = cleft("evaluate", tmp_path / "o.zarr", address)

    assert copied.exit_code == 0
    assert "the voxel size is not known" in copied.stderr
    assert scored.exit_code == 3
    assert "--voxel-size" in scored.stderr.splitlines()[-1]


def test_micrometres_are_nanometres(tmp_path, cleft):
    """A voxel size in µm comes out in nm."""
    array(tmp_path / "in.zarr", np.ones((4, 8, 8), np.uint8))
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    scale = [{"type": "scale", "scale": [0.04, 0.004, 0.004]}]
    datasets = [{"path": "raw", "coordinateTransformations": scale}]
    group = zarr.open_group(tmp_path / "in.zarr")
    group.attrs["multiscales"] = [{"axes": axes, "datasets": datasets}]
    found = json.loads(cleft("info", tmp_path / "in.zarr", "--json").stdout)["arrays"][0]
    assert found["voxel_size"] == pytest.approx([40, 4, 4])


def test_an_offset_between_voxels_is_kept(tmp_path, cleft):
    """An offset that is no multiple of the voxel size is carried on as it is, not rounded."""
    space = Space((40.0, 4.0, 4.0), (13.0, 5.0, 0.5))
    options = {"shape": (4, 8, 8), "dtype": np.uint8, "chunks": (4, 8, 8), "space": space}
    create_volume(f"{tmp_path}/in.zarr/raw", **options)
    for name, roi, offset in (("a", ":,:,:", (13, 5, 0.5)), ("b", "1:,2:,3:", (53, 13, 12.5))):
        result = cleft("convert", tmp_path / "in.zarr", tmp_path / f"{name}.zarr", "--roi", roi)
        assert result.exit_code == 0
        assert open_volume(f"{tmp_path}/{name}.zarr").space.offset == offset


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 16, 40), (3, 2, 16), (5, 17, 15)])
def test_volumes_of_any_size_are_predicted(shape, tmp_path, checkpoint, cleft):
    """Smaller than a tile, a single section, odd sizes: the prediction has the input's shape."""
    data = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    store(f"{tmp_path}/in.zarr/raw", data)
    options = ["--checkpoint", checkpoint, "--precision", "float32", "--dtype", "float32"]
    result = cleft("predict", tmp_path / "in.zarr", "-o", tmp_path / "o.zarr", *options)
    assert result.exit_code == 0, result.stderr
    found = voxels(tmp_path / "o.zarr")
    assert found.shape == shape
    assert np.isfinite(found).all()


def test_every_voxel_of_a_prime_sized_volume_is_written_once(tmp_path, cleft, monkeypatch):
    """Blocks that do not divide the volume leave no remainder and write nothing twice."""
    data = np.random.default_rng(0).integers(1, 255, (7, 23, 29), np.uint8)
    store(f"{tmp_path}/in.zarr/raw", data)
    times, work = np.zeros_like(data), convert.ConvertBlock.__call__

    def counted(self, block):
        times[block.write.within(open_volume(self.source.address).roi)] += 1
        return work(self, block)

    monkeypatch.setattr(convert, "BLOCK_VOXELS", 900)
    monkeypatch.setattr(convert.ConvertBlock, "__call__", counted)
    options = ["--chunks", "2,5,11", "--json"]
    result = cleft("convert", tmp_path / "in.zarr", tmp_path / "o.zarr", *options)

    assert json.loads(result.stdout)["blocks"] > 8
    assert times.min() == times.max() == 1
    assert np.array_equal(voxels(tmp_path / "o.zarr"), data)


@pytest.mark.parametrize(
    ("shape", "typed"),
    [((8, 9), None), ((2, 4, 8, 9), "--axes czyx --channel 0"), ((4, 8, 9, 3), "--axes zyxc")],
)
def test_other_numbers_of_axes_are_asked_about(shape, typed, tmp_path, cleft):
    """Flat images are refused (3); channels too, until one is chosen by what the message says."""
    data = np.random.default_rng(0).integers(1, 255, shape, np.uint8)
    address = array(tmp_path / "in.zarr", data, resolution=VOXEL_SIZE)
    result = cleft("convert", address, tmp_path / "o.zarr")

    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert "expected axes z, y, x" in result.stderr
    assert str(shape) in result.stderr
    if typed is not None:
        words = re.search(r"--axes \w+ --channel \d", result.stderr)[0]
        assert words.startswith(typed)
        assert cleft("convert", address, tmp_path / "o.zarr", *words.split()).exit_code == 0
        first = data[0] if words.split()[1][0] == "c" else data[..., 0]
        assert np.array_equal(voxels(tmp_path / "o.zarr"), first)
