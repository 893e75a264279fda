"""Dialects of metadata: voxel size and offset in nm, and nothing guessed."""

import json

import pytest

from cleftcli.errors import InputError
from cleftcli.volumes.metadata import ngff_axes, read_space, scales
from cleftcli.volumes.volume import Space

AXES = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
COSEM = {"axes": ["z", "y", "x"], "scale": [3, 2, 1], "translate": [6, 5, 4], "units": ["nm"] * 3}


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


def units(*names):
    """Axes z, y, x with these units; None leaves it out."""
    stated = zip("zyx", names, strict=True)
    return [{"name": a, **({"unit": u} if u is not None else {})} for a, u in stated]


def pixel(dimensions, unit, **more):
    return {"pixelResolution": {"dimensions": dimensions, "unit": unit}, **more}


def spatial(transform, values, unit="nm", **more):
    about = {"transform": {"type": transform, transform: values}, "unit": unit, **more}
    return {"spatialTransform": about}


# ---- what an array states of itself


@pytest.mark.parametrize(
    ("attributes", "voxel_size", "offset"),
    [
        ({"resolution": [3, 2, 1]}, (3, 2, 1), (0, 0, 0)),
        ({"resolution": [3, 2, 1], "offset": [30, 20, 10]}, (3, 2, 1), (30, 20, 10)),
        ({"resolution": (3, 2, 1)}, (3, 2, 1), (0, 0, 0)),
        (pixel([1, 2, 3], "nm"), (3, 2, 1), (0, 0, 0)),
        (pixel([0.001, 0.002, 0.003], "um"), (3, 2, 1), (0, 0, 0)),
        (pixel([0.001, 0.002, 0.003], "micrometer"), (3, 2, 1), (0, 0, 0)),
        (pixel([10, 20, 30], "angstrom"), (3, 2, 1), (0, 0, 0)),
        # of a coarser scale: voxels of the finest, averaged; its first centre lies between theirs
        (pixel([1, 2, 3], "nm", downsamplingFactors=[4, 2, 1]), (3, 4, 4), (0, 1, 1.5)),
        ({"transform": {**COSEM}}, (3, 2, 1), (6, 5, 4)),
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
        # COSEM writes both; `transform` names its axes and wins
        ({"transform": COSEM, **pixel([9, 9, 9], "nm")}, (3, 2, 1), (6, 5, 4)),
        (spatial("scale", [1, 2, 3]), (3, 2, 1), (0, 0, 0)),
        (spatial("affine", [1, 0, 0, 4, 0, 2, 0, 5, 0, 0, 3, 6]), (3, 2, 1), (6, 5, 4)),
        (spatial("scale", [0.001, 0.002, 0.003], "um"), (3, 2, 1), (0, 0, 0)),
    ],
)
def test_dialects_of_an_array(attributes, voxel_size, offset):
    """CREMI, n5-viewer, COSEM and canonical attributes give the same space in any unit."""
    found = read_space(attributes)
    assert found.voxel_size == pytest.approx(voxel_size)
    assert found.offset == pytest.approx(offset)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"pixelResolution": [1, 2, 3]}, "pixelResolution [1, 2, 3] has no unit"),
        ({"pixelResolution": {"dimensions": [1, 2, 3]}}, "pixelResolution [1, 2, 3] has no unit"),
        (pixel([1, 2, 3], None), "pixelResolution [1, 2, 3] has no unit"),
        (pixel([1, 2, 3], "pixel"), "pixelResolution [1, 2, 3] has no unit"),
        (spatial("scale", [1, 2, 3], ""), "spatialTransform has no unit"),
        (
            {"transform": {"axes": ["z", "y", "x"], "scale": [3, 2, 1]}},
            "transform [3, 2, 1] has no units",
        ),
        (spatial("affine", [1, 1, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0]), "more than a scale"),
        (spatial("translation", [1, 2, 3]), "more than a scale"),
        (spatial("scale", [1, 2, 3], axes=[{"label": "z"}]), "more than a scale"),
    ],
)
def test_no_unit_is_no_guess(attributes, why):
    """Numbers without a unit are not nm: the voxel size stays unknown, with the reason."""
    found = read_space(attributes)
    assert found.voxel_size is None
    assert why in found.source
    assert read_space({**attributes, "resolution": [3, 2, 1]}).voxel_size == (3, 2, 1)
    parents = [("s0", {"multiscales": [image(scale(3, 2, 1))]})]
    assert read_space(attributes, parents=parents).voxel_size == (3, 2, 1)


@pytest.mark.parametrize("order", ["zyx", "xyz", "yzx"])
def test_vectors_without_names_follow_the_stored_order(order):
    """`resolution` and `offset` are those of the stored axes; named axes are not turned again."""
    size, offset = (
        dict(zip("zyx", (3, 2, 1), strict=True)),
        dict(zip("zyx", (6, 5, 4), strict=True)),
    )
    stated = {"resolution": [size[a] for a in order], "offset": [offset[a] for a in order]}
    found = read_space(stated, order=order)
    assert (found.voxel_size, found.offset) == ((3, 2, 1), (6, 5, 4))
    assert ("turned" in found.source) == (order != "zyx")
    assert read_space({"transform": COSEM}, order=order).voxel_size == (3, 2, 1)
    assert read_space(pixel([1, 2, 3], "nm"), order=order).voxel_size == (3, 2, 1)


# ---- what a group says of its arrays


@pytest.mark.parametrize("order", ["zyx", "xyz"])
def test_a_group_states_its_finest_scale(order):
    """As Paintera has it: `resolution` is the finest scale's, s1 averages its voxels."""
    group = {"resolution": [{"z": 3, "y": 2, "x": 1}[a] for a in order]}
    group["offset"] = [{"z": 30, "y": 20, "x": 10}[a] for a in order]
    averaged = {"downsamplingFactors": [{"z": 1, "y": 2, "x": 4}[a] for a in order]}
    finest = read_space({}, parents=[("s0", group)], order=order)
    assert (finest.voxel_size, finest.offset) == ((3, 2, 1), (30, 20, 10))
    coarse = read_space(averaged, parents=[("s1", group)], order=order)
    assert (coarse.voxel_size, coarse.offset) == ((3, 4, 4), (30, 21, 11.5))
    unknown = read_space({}, parents=[("s1", group)], order=order)
    assert unknown.voxel_size is None
    assert "downsamplingFactors" in unknown.source
    assert read_space({}, parents=[("raw", group)], order=order).voxel_size is None


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
                axes=units("micrometer", "angstrom", "nanometer"),
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


@pytest.mark.parametrize(
    "axes",
    [units(None, None, None), units("nm", "nm", None), units("pixel", "pixel", "pixel"), [*"zyx"]],
    ids=["none", "one lacks", "pixel", "before 0.4"],
)
def test_ome_ngff_without_units_is_no_guess(axes):
    """Scales without units are not nm, unless another dialect of the array states the size."""
    parents = [("s0", {"multiscales": [image(scale(3, 2, 1), axes=axes)]})]
    found = read_space({}, parents=parents)
    assert found.voxel_size is None
    assert "OME-NGFF scale [3.0, 2.0, 1.0] has no unit" in found.source
    assert read_space({"resolution": [30, 20, 10]}, parents=parents).voxel_size == (30, 20, 10)
    assert read_space({"transform": COSEM}, parents=parents).voxel_size == (3, 2, 1)


def test_cosem_lists_its_scales_in_the_group():
    """COSEM's N5 groups hold a `transform` for each scale, in a list without axes of its own."""
    scales_ = [{"path": "s0", "transform": COSEM}, {"path": "s1", "transform": {**COSEM}}]
    group = {"axes": ["x", "y", "z"], "multiscales": [{"datasets": scales_}]}
    found = read_space({}, parents=[("s0", group)], order="xyz")
    assert (found.voxel_size, found.offset) == ((3, 2, 1), (6, 5, 4))
    assert ngff_axes([("s0", group)]) is None
    assert scales(group) == ["s0"]


def test_canonical_groups_hold_one_image():
    """The canonical dialect of n5-universe has an object where others have a list."""
    group = {
        "multiscales": {"path": "", "datasets": [{"path": "a", **spatial("scale", [1, 2, 3])}]}
    }
    assert read_space({}, parents=[("a", group)]).voxel_size == (3, 2, 1)


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
    "group",
    [
        {"multiscales": "no list"},
        {"multiscales": [3, None]},
        {"multiscales": [{"datasets": "no list"}, {"datasets": [{"no": "path"}, 3]}, {}]},
        {"ome": "0.5"},
        {"ome": {"multiscales": None}},
        {"multiscales": [{"datasets": [{"path": "s0"}]}]},
    ],
    ids=json.dumps,
)
def test_strange_groups_say_nothing(group):
    """Whatever a group calls multiscales, its arrays open."""
    assert read_space({}, parents=[("s0", group)]).voxel_size is None
    assert ngff_axes([("s0", group)]) is None
    assert scales(group) in ([], ["s0"])


# ---- what is refused


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
        pixel([0, 1, 1], "nm"),
        pixel(4, "nm"),
        {"pixelResolution": {"unit": "nm"}},
        pixel([1, 1, 1], "parsec"),
        {"transform": {"axes": ["z", "y", "x"], "scale": [0, 1, 1], "units": ["nm"] * 3}},
        {"transform": {"axes": ["z", "y", "x"], "scale": [1, 1], "units": ["nm"] * 3}},
        {"transform": {"axes": ["c", "y", "x"], "scale": [1, 1, 1]}},
        {"transform": {"axes": ["z", "y", "x"], "scale": [1, 1, 1], "units": ["ell"] * 3}},
        {"spatialTransform": {"unit": "nm"}},
        spatial("affine", [1, 0, 0, 0]),
        spatial("scale", [1, 1]),
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
        image(scale(3, 2, 1), axes=units("cubit", "cubit", "cubit")),
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
    with pytest.raises(InputError, match=r"parsec.*angstrom"):
        read_space(pixel([1, 1, 1], "parsec"))


@pytest.mark.parametrize(
    "attributes",
    [
        {"resolution": [0, 4, 4]},
        {"resolution": [40, 4]},
        {"resolution": [40, 4, 4], "offset": [float("inf"), 0, 0]},
        pixel([4, 4, 40], "furlong"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_left_out_where_somebody_knows(attributes, caplog):
    """Refused, unless it is overruled: then nothing of it counts, and that is said."""
    with pytest.raises(InputError) as refused:
        read_space(attributes)

    assert read_space(attributes, overruled=True) == Space()
    assert str(refused.value) in caplog.text
