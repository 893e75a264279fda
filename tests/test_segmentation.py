"""Clefts found box by box against scipy's labels of the whole volume."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cleftcli.geometry import BlockPlan, Roi, whole
from cleftcli.segmentation import Components, Hysteresis, Units, components
from cleftcli.volumes import Space, create_volume, open_volume

VOXEL_SIZE, OFFSET = (40.0, 4.0, 5.0), (80.0, 12.0, 25.0)


def segment(levels, rule, *, block=None, place=(0, 0, 0), voxel_size=VOXEL_SIZE, full=255.0):
    """The clefts of a volume whose voxels start at `place`: the table, and their ids assembled."""
    roi = Roi(place, levels.shape)
    found = components(
        lambda box: levels[box.within(roi)],
        BlockPlan(roi, block or levels.shape),
        rule,
        Units(voxel_size, OFFSET, full),
    )
    ids = np.full(levels.shape, 2**63, np.uint64)
    for b in found.plan:
        ids[b.write.within(roi)] = found.labels(b.index)
    return ids, found.table


def naive(levels, rule):
    """Ids from scipy's labels of the whole volume, filtered and numbered by the definition."""
    neighbours = ndimage.generate_binary_structure(3, 3 if rule.connectivity == 26 else 1)
    labels, count = ndimage.label(levels >= rule.low, neighbours)
    kept = []
    for n in range(1, count + 1):
        mask = labels == n
        sections = np.flatnonzero(mask.any(axis=(1, 2)))
        if (
            (levels[mask] >= rule.threshold).any()
            and mask.sum() >= rule.min_voxels
            and sections[-1] - sections[0] + 1 >= rule.min_sections
        ):
            kept.append(mask)
    ids = np.zeros(levels.shape, np.uint64)
    for number, mask in enumerate(sorted(kept, key=lambda m: m.ravel().argmax()), start=1):
        ids[mask] = number
    return ids


@st.composite
def level_volumes(draw, largest=(6, 9, 10)):
    """Levels with few or many clefts, blobby or scattered, uint8 or float32."""
    shape = tuple(draw(st.integers(1, n)) for n in largest)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    field = random.random(shape) ** draw(st.sampled_from([1, 2, 4]))
    if draw(st.booleans()):
        field = ndimage.maximum_filter(field, (1, 2, 2))
    return (field * 255).astype(np.uint8) if draw(st.booleans()) else field.astype(np.float32) * 255


RULES = st.builds(
    lambda low, more, voxels, sections, connectivity: Hysteresis(
        low + more, low, voxels, sections, connectivity
    ),
    st.sampled_from([0.5, 60.0, 127.5, 200.0]),
    st.sampled_from([0.0, 30.0, 54.0]),
    st.sampled_from([0, 1, 2, 5]),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([6, 26]),
)
BLOCKS = st.tuples(*[st.integers(1, 6)] * 3)


@settings(max_examples=200, deadline=None)
@given(levels=level_volumes(), rule=RULES, block=BLOCKS)
def test_any_blocks_give_the_labels_of_the_whole(levels, rule, block):
    """Hysteresis, filters, ids and their order are those of scipy's labels of the whole volume."""
    ids, table = segment(levels, rule, block=block)
    np.testing.assert_array_equal(ids, naive(levels, rule))
    assert len(table) == ids.max(initial=0)


@settings(max_examples=40, deadline=None)
@given(levels=level_volumes(), rule=RULES, block=BLOCKS)
def test_the_table_does_not_depend_on_blocks(levels, rule, block):
    """Every row of the table is the same whatever the blocks are."""
    _, expected = segment(levels, rule)
    _, table = segment(levels, rule, block=block)
    assert [row.keys() for row in table] == [row.keys() for row in expected]
    for row, other in zip(table, expected, strict=True):
        # means are sums in another order, then rounded: they may differ in the last digit shown
        assert row == pytest.approx(other, abs=1.0001e-4)


@settings(max_examples=60, deadline=None)
@given(
    levels=level_volumes(), rule=RULES, block=BLOCKS, place=st.sampled_from([(0,) * 3, (3, 7, 2)])
)
def test_the_table_tells_each_cleft(levels, rule, block, place):
    """Voxels, box, centroid, probabilities and border of each row are those of its voxels."""
    _, table = segment(levels, rule, block=block, place=place)
    ids = naive(levels, rule)
    assert [row["id"] for row in table] == list(range(1, int(ids.max(initial=0)) + 1))
    for row in table:
        at, values = np.argwhere(ids == row["id"]), levels[ids == row["id"]].astype(float)
        low, high, centre = at.min(axis=0), at.max(axis=0) + 1, at.mean(axis=0) + place
        assert row["voxels"] == len(at)
        assert row["sections"] == high[0] - low[0]
        assert row["mean_probability"] == pytest.approx(values.mean() / 255, abs=6e-5)
        assert row["max_probability"] == pytest.approx(values.max() / 255, abs=6e-5)
        assert row["touches_border"] == bool((low == 0).any() or (high == levels.shape).any())
        assert row["volume_um3"] == pytest.approx(len(at) * 40 * 4 * 5 / 1e9)
        for n, axis in enumerate("zyx"):
            ends = (int(low[n] + place[n]), int(high[n] + place[n]))
            assert (row[f"{axis}0"], row[f"{axis}1"]) == ends
            nm = [OFFSET[n] + end * VOXEL_SIZE[n] for end in ends]
            assert [row[f"{axis}0_nm"], row[f"{axis}1_nm"]] == pytest.approx(nm)
            assert row[f"centroid_{axis}"] == pytest.approx(centre[n], abs=6e-3)
            in_nm = OFFSET[n] + centre[n] * VOXEL_SIZE[n]
            assert row[f"centroid_{axis}_nm"] == pytest.approx(in_nm, abs=6e-3)


@settings(max_examples=60, deadline=None)
@given(
    tenths=st.lists(st.integers(0, 10), min_size=12, max_size=12),
    threshold=st.integers(1, 10),
    low=st.integers(1, 10),
)
@example(tenths=[9] * 12, threshold=9, low=9)
def test_a_float_at_the_threshold_reaches_it(tenths, threshold, low):
    """A float32 voxel at exactly the threshold counts, as it does in `levels >= threshold`."""
    levels = (np.array(tenths) / 10).astype(np.float32).reshape(2, 2, 3)
    rule = Hysteresis(threshold / 10, min(low, threshold) / 10)
    ids, _ = segment(levels, rule, full=1.0)
    np.testing.assert_array_equal(ids, naive(levels, rule))


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("block", [(3, 6, 6), (1, 6, 6), (3, 2, 2), (1, 1, 1)])
def test_nothing_found(connectivity, block):
    """A volume without clefts has background everywhere and an empty table."""
    rule = Hysteresis(128, 128, connectivity=connectivity)
    ids, table = segment(np.zeros((3, 6, 6), np.uint8), rule, block=block)
    assert (ids.tolist(), table) == (np.zeros((3, 6, 6)).tolist(), [])


@pytest.mark.parametrize("connectivity", [6, 26])
def test_all_is_one_cleft(connectivity):
    """A volume that is all cleft is one cleft over any number of blocks."""
    rule = Hysteresis(128, 128, connectivity=connectivity)
    ids, (row,) = segment(np.full((5, 6, 7), 255, np.uint8), rule, block=(2, 2, 2))
    assert (ids == 1).all()
    assert (row["voxels"], row["sections"], row["touches_border"]) == (210, 5, True)


@pytest.mark.parametrize(
    ("other", "expected"), [((0, 0, 1), (1, 1)), ((0, 1, 1), (1, 2)), ((1, 1, 1), (1, 2))]
)
@pytest.mark.parametrize("block", [(2, 2, 2), (1, 1, 1)])
def test_connectivity_is_faces_or_corners(other, expected, block):
    """Voxels that share a face are one cleft; an edge or a corner joins them for 26 alone."""
    levels = np.zeros((2, 2, 2), np.uint8)
    levels[0, 0, 0] = levels[other] = 255
    counts = [
        len(segment(levels, Hysteresis(1, 1, connectivity=n), block=block)[1]) for n in (26, 6)
    ]
    assert tuple(counts) == expected


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 3, 3), (1, 101, 101)])
@pytest.mark.parametrize("connectivity", [6, 26])
def test_a_lattice_of_single_voxels_is_labelled(shape, connectivity):
    """As many clefts as a volume can hold, every second voxel on every axis, are all found."""
    levels = np.zeros(shape, np.uint8)
    levels[::2, ::2, ::2] = 255
    ids, table = segment(levels, Hysteresis(1, 1, connectivity=connectivity))
    assert len(table) == ids.max() == (levels > 0).sum()


def test_opposite_faces_do_not_touch():
    """Clefts at the end of one row and the start of the next are two."""
    levels = np.zeros((3, 4, 5), np.uint8)
    levels[1, 1, 4] = levels[1, 3, 0] = levels[0, 3, 4] = levels[2, 0, 0] = 255
    ids, _ = segment(levels, Hysteresis(1, 1), block=(1, 1, 1))
    assert ids.max() == 4


def test_hysteresis_is_decided_after_merging():
    """A cleft whose one strong voxel lies blocks away is kept whole; a weak one goes."""
    levels = np.zeros((1, 2, 12), np.uint8)
    levels[0, 0, :] = 100
    levels[0, 0, 11] = 200
    ids, (row,) = segment(levels, Hysteresis(150, 90), block=(1, 1, 2))
    assert (ids[0, 0] == 1).all()
    assert row["voxels"] == 12
    levels[0, 0, 11] = 149
    assert segment(levels, Hysteresis(150, 90), block=(1, 1, 2))[1] == []


def test_size_is_decided_after_merging():
    """A cleft cut by blocks counts all its voxels and sections."""
    levels = np.zeros((4, 2, 6), np.uint8)
    levels[:, 0, 2] = 255
    rule = Hysteresis(1, 1, min_voxels=4, min_sections=4)
    assert len(segment(levels, rule, block=(1, 1, 1))[1]) == 1
    for rule in (Hysteresis(1, 1, min_voxels=5), Hysteresis(1, 1, min_sections=5)):
        assert segment(levels, rule, block=(1, 1, 1))[1] == []


def test_ids_count_in_raster_order_of_the_first_voxel():
    """The first cleft met reading z, then y, then x is 1, though its block comes later."""
    levels = np.zeros((1, 4, 4), np.uint8)
    levels[0, 2, 0] = levels[0, 0, 3] = levels[0, 1, 1] = 255
    ids, _ = segment(levels, Hysteresis(1, 1, connectivity=6), block=(1, 4, 2))
    assert (ids[0, 0, 3], ids[0, 1, 1], ids[0, 2, 0]) == (1, 2, 3)


def test_without_a_voxel_size_the_table_has_no_nm():
    """Columns in nm are left out where the voxel size is not known; the rest stays."""
    levels = np.full((2, 2, 2), 255, np.uint8)
    _, (row,) = segment(levels, Hysteresis(1, 1), voxel_size=None)
    assert row["voxels"] == 8
    assert not [column for column in row if "nm" in column or "um" in column]


@pytest.fixture
def prediction(tmp_path):
    """A probability in chunks, and its place in the tissue."""
    field = ndimage.gaussian_filter(np.random.default_rng(2).random((8, 40, 40)), 1)
    levels = ((field - field.min()) / np.ptp(field) * 255).astype(np.uint8)
    made = create_volume(
        f"{tmp_path}/p.zarr/cleft",
        shape=levels.shape,
        dtype=np.uint8,
        chunks=(4, 16, 16),
        space=Space(VOXEL_SIZE, OFFSET),
        attributes={"content": "probability"},
    )
    made.write(made.roi, levels)
    return tmp_path / "p.zarr", levels


OPTIONS = {
    "low": 0.5,
    "min-voxels": 20,
    "min-sections": 3,
    "connectivity": 6,
}


@pytest.mark.parametrize("left_out", [*OPTIONS, None])
def test_the_command_segments_by_its_options(cleft, tmp_path, prediction, left_out):
    """Probabilities on the command line are levels of the store; each option has its effect."""
    source, levels = prediction
    chosen = {k: v for k, v in OPTIONS.items() if k != left_out}
    typed = [f"--{k}={v}" for k, v in chosen.items()]
    table = tmp_path / "t.json"
    command = ["segment", source, "-o", tmp_path / "c.zarr", "--threshold", 0.7, "--table", table]
    done = cleft(*command, *typed, "--json")
    assert done.exit_code == 0, done.stderr
    rule = Hysteresis(
        0.7 * 255,
        chosen.get("low", 0.7) * 255,
        chosen.get("min-voxels", 0),
        chosen.get("min-sections", 0),
        chosen.get("connectivity", 26),
    )
    found = open_volume(json.loads(done.stdout)["output"])
    expected, rows = segment(levels, rule)
    np.testing.assert_array_equal(found.read(found.roi), expected)
    assert json.loads(table.read_text()) == rows  # at OFFSET


def test_a_low_above_the_threshold_is_a_usage_error(cleft, tmp_path, prediction):
    """Clefts extend down from the threshold, not up; nor to 0."""
    for low in (0.71, 0):
        options = ["--threshold", 0.7, "--low", low]
        done = cleft("segment", prediction[0], "-o", tmp_path / "c.zarr", *options)
        assert done.exit_code == 2, done.stdout
        assert f"low {low}" in done.stderr


def test_a_part_is_never_taken_for_the_whole(cleft, tmp_path, prediction, monkeypatch):
    """Cut short while ids are written, an output is refused by readers and made again."""
    command = ["segment", prediction[0], "-o", tmp_path / "c.zarr"]
    with monkeypatch.context() as patch:
        patch.setattr(Components, "labels", lambda *_: 1 / 0)
        assert cleft(*command).exit_code == 1
    done = cleft("segment", tmp_path / "c.zarr", "-o", tmp_path / "d.zarr")
    assert done.exit_code == 4
    assert cleft(*command).exit_code == 0
    assert cleft("segment", tmp_path / "c.zarr", "-o", tmp_path / "d.zarr").exit_code == 0


def test_a_table_of_nothing_has_its_header(cleft, tmp_path, prediction):
    """Without a cleft a CSV still says that its rows would be clefts."""
    options = ["--min-voxels", 10**6, "--table", tmp_path / "t.csv"]
    assert cleft("segment", prediction[0], "-o", tmp_path / "c.zarr", *options).exit_code == 0
    assert (tmp_path / "t.csv").read_text().split() == ["id,voxels"]


def test_each_box_is_read_without_context():
    """Boxes are read one write roi at a time, inside the volume, by finding and by labelling."""
    levels, seen = np.full((4, 4, 4), 255, np.uint8), []

    def read(box):
        seen.append(box)
        return levels[box.within(whole(levels.shape))]

    plan = BlockPlan(whole(levels.shape), (2, 3, 4))
    found = components(read, plan, Hysteresis(1, 1))
    assert seen == [b.write for b in plan]
    found.labels(1)
    assert seen[-1] == plan[1].write
    assert found.labels(0).dtype == np.uint64
