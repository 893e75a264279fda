"""Coarser levels: factors, voxels and place against plain numpy, and what is declared."""

import itertools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cleftcli import pyramid
from cleftcli.blockwise import HERE
from cleftcli.errors import ConflictError, IncompleteError, InputError, UnsafeError, UsageError
from cleftcli.geometry import BlockPlan, whole
from cleftcli.outputs import Output, create
from cleftcli.pyramid import Downsample, levels, make_pyramid, mean
from cleftcli.volumes import Space, create_volume, list_volumes, open_volume, remove_array
from tests.conftest import store
from tests.stores import CHUNKED, zarr_array

SIZE, OFFSET = (40.0, 8.0, 8.0), (80.0, 16.0, 24.0)
SHAPE = (9, 37, 50)


def naive(data, factor):
    """The mean of each box, one by one."""
    shape = [-(-n // f) for n, f in zip(data.shape, factor, strict=True)]
    found = np.zeros(shape, np.float64)
    for at in np.ndindex(*shape):
        box = tuple(slice(i * f, (i + 1) * f) for i, f in zip(at, factor, strict=True))
        found[at] = data[box].astype(np.float64).mean()
    return (np.rint(found) if data.dtype.kind == "u" else found).astype(data.dtype)


def voxels(dtype, shape=SHAPE, seed=0):
    """Random voxels up to the largest of their dtype; floats add up exactly."""
    random = np.random.default_rng(seed)
    top = {"uint8": 255, "uint16": 65535, "float32": 2**16}[dtype]
    data = random.integers(0, top, shape, endpoint=True)
    return (data / 2**16 if dtype == "float32" else data).astype(dtype)


# ---- factors


def test_levels_of_volumes_as_labs_have_them():
    """Thick sections wait until the others are as coarse; small volumes need no levels."""
    cremi = levels((125, 1250, 1250), (40.0, 4.0, 4.0))
    assert cremi == [(1, 2, 2), (1, 4, 4), (1, 8, 8)]
    assert levels((125, 1250, 1250), (4.0, 4.0, 4.0))[:2] == [(2, 2, 2), (4, 4, 4)]
    assert levels((4000, 300, 300), (8.0, 4.0, 4.0)) == [
        (1, 2, 2), (2, 4, 4), (4, 8, 8), (8, 16, 16), (16, 32, 32)
    ]  # fmt: skip
    assert levels((256, 256, 256), SIZE) == []
    assert levels((1000, 1, 1), SIZE) == [(2, 1, 1), (4, 1, 1)]
    assert levels((1, 1, 1), SIZE) == []


lengths, edges = st.integers(1, 5000), st.sampled_from([1.0, 4.0, 7.5, 8.0, 30.0, 40.0, 50.0])


@given(st.tuples(lengths, lengths, lengths), st.tuples(edges, edges, edges))
def test_levels_follow_the_rule(shape, size):
    """Level by level as the docstring says it, and the last is the first that is small enough."""
    found = [(1, 1, 1), *levels(shape, size)]
    for number, (above, below) in enumerate(itertools.pairwise([*found, None])):
        left = [-(-n // f) for n, f in zip(shape, above, strict=True)]
        edge = [v * f for v, f in zip(size, above, strict=True)]
        among = [e for e, n in zip(edge, left, strict=True) if n > 1]
        halved = [n > 1 and e < 2 * min(among) for n, e in zip(left, edge, strict=True)]
        small = all(n <= 256 for n, h in zip(left, halved, strict=True) if h)
        assert small == (below is None), number
        if below is not None:
            wanted = tuple(f * 2 if h else f for f, h in zip(above, halved, strict=True))
            assert below == wanted


# ---- voxels

small = st.tuples(*[st.integers(1, 9)] * 3)
factors = st.tuples(*[st.integers(1, 2)] * 3)


@given(small, factors, st.sampled_from(["uint8", "uint16", "float32"]), st.integers(0, 99))
def test_means_are_those_of_each_box(shape, factor, dtype, seed):
    """Rounded where numbers are whole, cut at the far faces, in the same dtype."""
    data = voxels(dtype, shape, seed)
    found = mean(data, factor)
    np.testing.assert_array_equal(found, naive(data, factor))
    assert found.dtype == data.dtype


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_a_mean_of_equals_is_their_value(value):
    """Sums do not overflow."""
    for dtype in ("uint8", "uint16"):
        top = value * (257 if dtype == "uint16" else 1)
        data = np.full((5, 5, 5), top, dtype)
        assert (mean(data, (2, 2, 2)) == top).all()


@settings(max_examples=25, deadline=None)
@given(small, factors, small)
def test_any_blocks_give_the_same_level(shape, factor, block):
    """However the level is cut into blocks, it is that of one piece."""
    data = voxels("float32", shape) + np.float32(0.1)
    with tempfile.TemporaryDirectory() as folder:
        source = store(f"{folder}/a.zarr/a", data)
        coarse = tuple(-(-n // f) for n, f in zip(shape, factor, strict=True))
        made = create_volume(
            f"{folder}/a.zarr/b", shape=coarse, dtype="f4", chunks=block, space=Space(SIZE)
        )
        work = Downsample(source.address, made.address, factor)
        for part in BlockPlan(whole(coarse), block):
            work(part)
        np.testing.assert_array_equal(made.read(made.roi), mean(data, factor))
        assert made.scan().missing == 0


# ---- a pyramid


@pytest.fixture(autouse=True)
def tiny(request, monkeypatch):
    """Where volumes are stored: levels down to 8 voxels, in blocks of a chunk."""
    if "tmp_path" in request.fixturenames:
        monkeypatch.setattr(pyramid, "SMALL", 8)
        monkeypatch.setattr(pyramid, "BLOCK_VOXELS", 8)


FACTORS = [(1, 2, 2), (1, 4, 4), (2, 8, 8)]


def finished(folder, format="zarr2", *, name="cleft", dtype="uint8", **more):
    """A finished volume of ours."""
    data = voxels(dtype)
    suffix = "n5" if format == "n5" else "zarr"
    volume = create_volume(
        f"{folder}/out.{suffix}/{name}".rstrip("/"),
        shape=SHAPE,
        dtype=dtype,
        chunks=(4, 8, 8),
        space=more.pop("space", Space(SIZE, OFFSET)),
        attributes={"made_by": "cleft 0", "complete": True, "content": "probability", **more},
        format=format,
    )
    volume.write(volume.roi, data)
    return open_volume(volume.address)


def made(volume, **more):
    """Its levels."""
    options = {"workers": HERE, "overwrite": False, "report": lambda *_: None, **more}
    return [open_volume(address) for address in make_pyramid(volume, **options)]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("format", CHUNKED)
def test_levels_are_means_at_their_place(tmp_path, format, dtype):
    """Each of the one above, in the same format, chunks and dtype, and finished."""
    seen = []
    volume = finished(tmp_path, format, dtype=dtype, threshold=0.3)
    found = made(volume, report=lambda *facts: seen.append(facts))
    assert [v.address for v in found] == [f"{volume.address}_{n}" for n in (1, 2, 3)]
    above, before = voxels(dtype), (1, 1, 1)
    for level, factor in zip(found, FACTORS, strict=True):
        step = tuple(f // b for f, b in zip(factor, before, strict=True))
        above, before = naive(above, step), factor
        np.testing.assert_array_equal(level.read(level.roi), above)
        assert (level.format, level.dtype, level.chunks) == (format, volume.dtype, (4, 8, 8))
        assert level.attributes["complete"] is True
        assert (level.attributes["content"], level.attributes["threshold"]) == ("probability", 0.3)
        assert level.scan().missing == 0
        assert level.voxel_size == tuple(v * f for v, f in zip(SIZE, factor, strict=True))
        for axis, (length, edge) in enumerate(zip(factor, SIZE, strict=True)):
            centres = OFFSET[axis] + np.arange(length) * edge
            assert level.space.offset[axis] == centres.mean()
    totals = {total for _, total, _ in seen}
    assert len(totals) == 1
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)


@pytest.mark.parametrize("format", CHUNKED)
def test_a_container_alone_is_the_full_volume(tmp_path, format):
    """Before, in between and behind, also as it is resumed."""
    volume = finished(tmp_path, format)
    container = Path(volume.address).parent
    declared = []

    def look(*_):
        assert open_volume(str(container)).address == volume.address
        files = (p.read_text() for p in container.iterdir() if p.is_file())
        declared.append("cleft_3" in "".join(files))

    made(volume, report=look)
    assert not any(declared)
    declared.clear()
    made(volume, report=look)  # levels that are there are not taken away meanwhile
    assert all(declared)
    assert open_volume(str(container)).shape == SHAPE
    assert len(list_volumes(str(container))) == 4


def image(container, name):
    """The one image of a group as the specification has it, every rule held against it."""
    group = zarr.open_group(container, mode="r")
    nested = group.metadata.zarr_format == 3
    stated = group.attrs["ome"] if nested else group.attrs
    (found,) = stated["multiscales"]
    if nested:
        assert stated["version"] == "0.5"
        assert "version" not in found
    else:
        assert found["version"] == "0.4"
    assert found["name"] == name
    assert [a["name"] for a in found["axes"]] == ["z", "y", "x"]
    assert {(a["type"], a["unit"]) for a in found["axes"]} == {("space", "nanometer")}
    sizes, shapes = [], []
    for dataset in found["datasets"]:
        assert set(dataset) == {"path", "coordinateTransformations"}
        scale, translation = dataset["coordinateTransformations"]
        assert (scale["type"], translation["type"]) == ("scale", "translation")
        assert len(scale["scale"]) == len(translation["translation"]) == 3
        array = group[dataset["path"]]
        if nested:
            assert array.metadata.dimension_names == ("z", "y", "x")
        else:
            assert array.metadata.dimension_separator == "/"
        sizes.append(scale["scale"])
        shapes.append(array.shape)
    assert shapes == sorted(shapes, reverse=True)  # from high to low
    assert sizes == sorted(sizes)
    return found["datasets"]


@pytest.mark.parametrize("format", ["zarr2", "zarr3"])
def test_levels_are_scales_of_one_image(tmp_path, format):
    """OME-NGFF: one multiscale with all of them, where zarr-python finds them."""
    volume = finished(tmp_path, format)
    made(volume)
    found = image(tmp_path / "out.zarr", "cleft")
    assert [d["path"] for d in found] == ["cleft", "cleft_1", "cleft_2", "cleft_3"]
    for dataset in found:
        level = open_volume(f"{tmp_path}/out.zarr/{dataset['path']}")
        scale, translation = dataset["coordinateTransformations"]
        assert tuple(scale["scale"]) == level.voxel_size
        assert tuple(translation["translation"]) == level.space.offset
        array = zarr.open_group(tmp_path / "out.zarr", mode="r")[dataset["path"]]
        np.testing.assert_array_equal(array[:], level.read(level.roi))


def test_levels_of_n5_say_how_many_voxels_were_averaged(tmp_path):
    """downsamplingFactors in x, y, z, beside the resolution of the level itself."""
    for level, factor in zip(made(finished(tmp_path, "n5")), FACTORS, strict=True):
        document = json.loads(Path(level.address, "attributes.json").read_text())
        assert document["downsamplingFactors"] == list(factor)[::-1]
        assert document["resolution"] == [v * f for v, f in zip(SIZE, factor, strict=True)][::-1]
        assert level.space.source.startswith("resolution")


@pytest.mark.parametrize("format", CHUNKED)
def test_other_images_of_the_group_stay(tmp_path, format):
    """A volume beside it is neither a level nor lost, and takes none away when it is removed."""
    other = finished(tmp_path, format, name="other")
    volume = finished(tmp_path, format)
    made(volume)
    remove_array(volume.address)
    assert list_volumes(str(tmp_path / Path(volume.address).parent)) == [other.address]
    if format != "n5":
        image(Path(volume.address).parent, "other")


def test_an_interrupted_pyramid_is_continued(tmp_path, monkeypatch):
    """A block that fails is reported; the same call does what is missing, and no more."""
    volume = finished(tmp_path)
    work, calls = Downsample.__call__, []

    def failing(self, block):
        if self.output.endswith("_2") and block.index == 1:
            raise InputError("torn")
        return work(self, block)

    monkeypatch.setattr(Downsample, "__call__", failing)
    with pytest.raises(IncompleteError):
        made(volume)
    assert [d["path"] for d in image(tmp_path / "out.zarr", "cleft")] == ["cleft"]

    def counted(self, block):
        calls.append((self.output[-1], block.index))
        return work(self, block)

    monkeypatch.setattr(Downsample, "__call__", counted)
    found = made(volume)
    assert [c for c in calls if c[0] != "3"] == [("2", 1)]
    again = naive(naive(voxels("uint8"), (1, 2, 2)), (1, 2, 2))
    np.testing.assert_array_equal(found[1].read(found[1].roi), again)
    assert len(image(tmp_path / "out.zarr", "cleft")) == 4


@pytest.mark.parametrize("format", CHUNKED)
def test_a_volume_that_is_opened_again_keeps_its_levels(tmp_path, format):
    """As a command does that finds its output finished; one that is made anew has none."""
    volume = finished(tmp_path, format)
    made(volume)
    group = Path(volume.address).parent
    documents = {p: p.read_bytes() for p in group.iterdir() if p.is_file()}
    plan = BlockPlan(whole(SHAPE), SHAPE)
    space = Space(SIZE, OFFSET)
    output = Output(volume.address, plan, np.uint8, (4, 8, 8), space, {}, format)
    create(output)
    assert documents == {p: p.read_bytes() for p in group.iterdir() if p.is_file()}
    store(f"{group}/other", voxels("uint8"), made_by="cleft")  # or the container would go too
    remove_array(volume.address)
    assert sorted(list_volumes(str(group))) == [f"{group}/other"]
    create(output)
    assert "cleft_1" not in "".join(p.read_text() for p in group.iterdir() if p.is_file())


@pytest.mark.parametrize("format", ["zarr2", "zarr3"])
def test_levels_of_a_volume_that_was_deleted_are_not_those_of_the_next(tmp_path, format):
    """Who deletes the folder of an array leaves its levels behind; the image has none of them."""
    volume = finished(tmp_path, format)
    made(volume)
    shutil.rmtree(volume.address)
    finished(tmp_path, format)
    assert [d["path"] for d in image(tmp_path / "out.zarr", "cleft")] == ["cleft"]


def test_levels_of_other_voxels_are_refused_or_made_anew(tmp_path):
    """A volume predicted otherwise has other levels; those of a removed one are in nobody's way."""
    made(finished(tmp_path, run={"checkpoint": "a"}))
    other = finished(tmp_path, run={"checkpoint": "b"})
    with pytest.raises(ConflictError, match="other settings"):
        made(other)
    assert len(made(other, overwrite=True)) == 3
    remove_array(other.address)
    assert len(made(finished(tmp_path, run={"checkpoint": "c"}))) == 3


def test_somebody_elses_array_is_kept(tmp_path):
    """A level's name that is taken is a conflict, with --overwrite too."""
    volume = finished(tmp_path)
    zarr_array(tmp_path / "out.zarr", "cleft_2", voxels("uint8"), version=2)
    before = {p: p.read_bytes() for p in (tmp_path / "out.zarr/cleft_2").rglob("*") if p.is_file()}
    for overwrite in (False, True):
        with pytest.raises(ConflictError):
            made(volume, overwrite=overwrite)
    after = {p: p.read_bytes() for p in (tmp_path / "out.zarr/cleft_2").rglob("*") if p.is_file()}
    assert before == after


REFUSED = {
    "ids": ({"content": "ids"}, UsageError, "ids has no mean"),
    "unfinished": ({"complete": False}, IncompleteError, "not finished"),
    "not ours": ({"complete": None}, IncompleteError, "not finished"),
    "no voxel size": ({"space": Space()}, InputError, "voxel size is not known"),
    "no group": ({"name": ""}, UsageError, "beside"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_levels_is_refused(tmp_path, case):
    """With a line, and nothing is written."""
    options, error, words = REFUSED[case]
    volume = finished(tmp_path, **options)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=words):
        made(volume)
    assert sorted(tmp_path.rglob("*")) == before


def test_metadata_that_lead_out_of_the_container_delete_nothing(tmp_path):
    """Levels are named by the group's attributes, which anybody may have written."""
    volume = finished(tmp_path)
    made(volume)
    theirs = finished(tmp_path / "other")
    path = tmp_path / "out.zarr" / ".zattrs"
    document = json.loads(path.read_text())
    document["multiscales"][0]["datasets"][1]["path"] = "../other/out.zarr/cleft"
    path.write_text(json.dumps(document))
    with pytest.raises(UnsafeError):
        remove_array(volume.address)
    assert theirs.scan().missing == volume.scan().missing == 0
