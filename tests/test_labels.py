"""Targets against brute force over all pairs of voxels, and blocks against the whole."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from cleftcli.errors import UsageError
from cleftcli.geometry import BlockPlan, Roi, whole
from cleftcli.labels import (
    BACKGROUND,
    HEINRICH_CLIP,
    HEINRICH_SCALE_NM,
    IGNORE,
    IGNORE_MASK,
    SATURATION,
    TARGETS,
    cleft_mask,
    ignore_mask,
)

DISTANCES = sorted(name for name, t in TARGETS.items() if t.dtype is np.float32)
NM = st.sampled_from([1.0, 3.7, 4.0, 4.6, 5.24, 8.0, 29.0, 40.0, 50.0])
VOXEL_SIZES = st.one_of(st.tuples(NM, NM, NM), st.sampled_from([(40.0, 4.0, 4.0), (50, 4.6, 4.6)]))
BACKGROUNDS = {"bool": 0, "uint8": 0, "uint16": 0, "uint32": 0, "uint64": BACKGROUND}
IDS = {
    "bool": [1],
    "uint8": [1],
    "uint16": [1, 2, 65535],
    "uint32": [1, 2, 2**32 - 1],
    "uint64": [1, 2, 2**40, 0, IGNORE],
}


def compute(name, ids, voxel_size=(40.0, 4.0, 4.0), scale=10.0, zero_is_cleft=False):
    return TARGETS[name].compute(ids, voxel_size, scale, zero_is_cleft=zero_is_cleft)


@st.composite
def id_volumes(draw, largest=(4, 6, 7), dtypes=tuple(IDS)):
    """A few boxes of ids, some of them touching or nested, on background."""
    dtype = draw(st.sampled_from(dtypes))
    shape = tuple(draw(st.integers(1, n)) for n in largest)
    ids = np.full(shape, BACKGROUNDS[dtype], dtype)
    for _ in range(draw(st.integers(0, 5))):
        low = [draw(st.integers(0, n - 1)) for n in shape]
        box = tuple(slice(o, o + draw(st.integers(1, 4))) for o in low)
        ids[box] = draw(st.sampled_from([*IDS[dtype], BACKGROUNDS[dtype]]))
    return ids


def meaning(ids, zero_is_cleft):
    """The cleft of each voxel, counted from 1, 0 where it is in none; and where nobody knows."""
    labels, unknown = np.zeros(ids.shape, int), np.zeros(ids.shape, bool)
    numbers = {}
    for at in np.ndindex(ids.shape):
        value = int(ids[at])
        if ids.dtype == np.uint64 and value in (BACKGROUND, IGNORE):
            unknown[at] = value == IGNORE
        elif value != 0 or (zero_is_cleft and ids.dtype == np.uint64):
            labels[at] = numbers.setdefault(value, len(numbers) + 1)
    return labels, unknown


def to_nearest(asked, wanted, voxel_size):
    """For each asked voxel the distance in nm to the nearest voxel it wants, by all pairs."""
    places = np.argwhere(np.ones(asked.shape)) * np.asarray(voxel_size)
    apart = np.where(wanted, cdist(places, places), np.inf).min(axis=1).reshape(asked.shape)
    return np.where(asked, apart, 0)


def naive_mask(ids, voxel_size, scale, zero_is_cleft):
    labels, unknown = meaning(ids, zero_is_cleft)
    return np.where(unknown, IGNORE_MASK, labels > 0)


def naive_tanh_distance(ids, voxel_size, scale, zero_is_cleft):
    labels, unknown = meaning(ids, zero_is_cleft)
    flat = labels.ravel()
    inside = to_nearest(labels > 0, flat[None, :] != flat[:, None], voxel_size)
    return np.where(unknown, np.nan, np.tanh(inside / scale))


def naive_signed_distance(ids, voxel_size, scale, zero_is_cleft):
    labels, unknown = meaning(ids, zero_is_cleft)
    mask = labels > 0
    around = np.pad(mask, 1, constant_values=True)  # what lies beyond the faces is no surface
    steps = [(z, y, x) for z in range(3) for y in range(3) for x in range(3)]
    cut = [
        around[tuple(slice(a, a + n) for a, n in zip(s, mask.shape, strict=True))] for s in steps
    ]
    surface = mask & ~np.all(cut, axis=0)
    inside = to_nearest(mask & ~surface, surface.ravel()[None, :], voxel_size)
    outside = to_nearest(~mask, mask.ravel()[None, :], voxel_size)
    distance = np.clip((inside - outside) / scale, -HEINRICH_CLIP, HEINRICH_CLIP)
    return np.where(unknown, np.nan, np.tanh(distance))


ORACLES = {
    "mask": naive_mask,
    "tanh-distance": naive_tanh_distance,
    "signed-distance": naive_signed_distance,
}


def test_every_target_has_an_oracle():
    """A new target comes with its definition written a second time."""
    assert set(ORACLES) == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=80, deadline=None)
@given(ids=id_volumes(), size=VOXEL_SIZES, scale=st.floats(2, 120), zero=st.booleans())
def test_targets_equal_brute_force(name, ids, size, scale, zero):
    """Every voxel has the value that the definition gives, from all pairs of voxels."""
    found = compute(name, ids, size, scale, zero)
    expected = ORACLES[name](ids, size, scale, zero)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=20, deadline=None)
@given(ids=id_volumes())
def test_targets_have_their_shape_and_dtype(name, ids):
    """A target has the shape of its ids and the dtype that the table says."""
    found = compute(name, ids)
    assert (found.shape, found.dtype) == (ids.shape, TARGETS[name].dtype)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_leave_the_ids_alone(name):
    """Computing a target does not change the ids it is given."""
    ids = np.full((3, 5, 5), BACKGROUND, np.uint64)
    ids[1, 1:3, 2:4] = 7
    ids[0, 0, 0] = IGNORE
    before = ids.copy()
    compute(name, ids)
    np.testing.assert_array_equal(ids, before)


@st.composite
def blockwise_cases(draw):
    """Ids, a block shape, a voxel size, and a scale whose reach is a few voxels."""
    ids = draw(id_volumes(largest=(9, 26, 26), dtypes=("bool", "uint16", "uint64")))
    block = tuple(draw(st.integers(1, n)) for n in (5, 14, 14))
    size = draw(VOXEL_SIZES)
    return ids, block, size, draw(st.floats(0.05, 1.2)) * min(size)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None)
@given(case=blockwise_cases(), zero=st.booleans())
def test_blocks_equal_the_whole_bit_for_bit(name, case, zero):
    """A target made block by block with its context has the bits of one made in one piece."""
    ids, block, size, scale = case
    target, volume = TARGETS[name], whole(ids.shape)
    expected = compute(name, ids, size, scale, zero)
    found = np.zeros_like(expected)
    for b in BlockPlan(volume, block, target.context(size, scale)):
        read = b.read.intersect(volume)
        part = compute(name, ids[read.within(volume)], size, scale, zero)
        found[b.write.within(volume)] = part[b.write.within(read)]
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [(40.0, 4.0, 4.0), (50.0, 4.6, 4.6), (10.0, 10.0, 10.0)])
@pytest.mark.parametrize("name", DISTANCES)
def test_grown_clefts_in_blocks_equal_the_whole(name, size):
    """The same holds for thin curved clefts in a volume of many blocks, touching ids included."""
    random = np.random.default_rng(3)
    field = ndimage.distance_transform_edt(random.random((14, 60, 60)) > 0.002, sampling=(4, 1, 1))
    ids = np.where((field > 5) & (field < 6.5), (field * 7 % 3).astype(np.uint64), BACKGROUND)
    scale = 0.9 * min(size)
    expected = compute(name, ids, size, scale)
    assert (expected % 1 != 0).mean() > 0.01, "the volume is too plain to tell"
    volume, context = whole(ids.shape), TARGETS[name].context(size, scale)
    for b in BlockPlan(volume, (4, 25, 23), context):
        read = b.read.intersect(volume)
        part = compute(name, ids[read.within(volume)], size, scale)[b.write.within(read)]
        assert part.tobytes() == expected[b.write.within(volume)].tobytes(), str(b.write)


def by_full_transforms(name, mask, size, scale):
    """A distance target of clefts that do not touch, by scipy's transforms of the whole volume."""
    surface = mask
    if name == "signed-distance":
        surface = mask & ~ndimage.binary_erosion(mask, np.ones((3, 3, 3)), border_value=1)
    inside = ndimage.distance_transform_edt(mask if surface is mask else ~surface, sampling=size)
    outside = ndimage.distance_transform_edt(~mask, sampling=size)
    signed = name == "signed-distance"
    distance = np.where(mask, inside, -outside if signed else 0) / scale
    most = HEINRICH_CLIP if signed else np.inf
    return np.tanh(np.clip(distance, -most, most))


@pytest.mark.parametrize("name", DISTANCES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(2, 10))
def test_sparse_clefts_equal_full_distance_transforms(name, seed, scale):
    """In a volume of many tiles and few clefts a distance is measured across tiles."""
    random = np.random.default_rng(seed)
    mask = np.zeros((36, 150, 150), bool)
    for corner in random.integers(0, mask.shape, (2, 3)):
        mask[
            tuple(slice(a, a + n) for a, n in zip(corner, random.integers(1, 9, 3), strict=True))
        ] = True
    ids, size = np.where(mask, np.uint64(4), np.uint64(BACKGROUND)), (40.0, 4.0, 4.0)
    expected = by_full_transforms(name, mask, size, scale)
    np.testing.assert_allclose(compute(name, ids, size, scale), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_touching_clefts_bound_each_other(dtype):
    """Between two clefts that touch, the nearest outside voxel is the other cleft's."""
    ids = np.full((1, 1, 12), BACKGROUNDS[dtype], dtype)
    ids[0, 0, 2:6], ids[0, 0, 6:10] = 5, 9
    found = compute("tanh-distance", ids, (1.0, 1.0, 1.0), 4.0)[0, 0]
    steps = [0, 0, 1, 2, 2, 1, 1, 2, 2, 1, 0, 0]
    np.testing.assert_allclose(found, np.tanh(np.array(steps) / 4), atol=1e-6)


def test_a_boundary_label_is_positive_in_clefts_and_zero_outside():
    """Eq. 6: y_b in (0, 1) goes with y_s = 1, and y_b = 0 with y_s = 0."""
    ids = np.full((3, 5, 5), BACKGROUND, np.uint64)
    ids[1, 1:4, 1:4] = 8
    found = compute("tanh-distance", ids, (40.0, 4.0, 4.0), 4.0)
    np.testing.assert_array_equal(found == 0, ids == BACKGROUND)
    edge, middle = math.tanh(1), math.tanh(2)  # the next section lies 40 nm away, its face 8
    plane = [[0, 0, 0, 0, 0], *[[0, edge, edge, edge, 0]] * 3, [0, 0, 0, 0, 0]]
    plane[2] = [0, edge, middle, edge, 0]
    np.testing.assert_allclose(found[1], plane, atol=1e-7)


def test_the_parts_of_a_mask_are_one_cleft():
    """In a uint8 mask there is nothing between voxels of different values."""
    ids = np.zeros((1, 1, 12), np.uint8)
    ids[0, 0, 2:6], ids[0, 0, 6:10] = 1, 2
    found = compute("tanh-distance", ids, (1.0, 1.0, 1.0), 4.0)[0, 0]
    assert found.tolist() == compute("tanh-distance", ids > 0, (1.0, 1.0, 1.0), 4.0)[0, 0].tolist()
    assert found[5] == pytest.approx(math.tanh(4 / 4))


def test_the_faces_of_the_volume_are_no_surface():
    """A cleft that fills a volume to its faces has no surface there."""
    ids = np.full((2, 3, 9), BACKGROUND, np.uint64)
    ids[:, :, 4:] = 1
    expected = np.tanh(np.array([0, 0, 0, 0, 1, 2, 3, 4, 5]) / 4)
    found = compute("tanh-distance", ids, (1.0, 1.0, 1.0), 4.0)
    np.testing.assert_allclose(found, np.broadcast_to(expected, ids.shape), atol=1e-6)
    layers = np.tanh(np.array([-4, -3, -2, -1, 0, 1, 2, 3, 4]) / 4)
    found = compute("signed-distance", ids, (1.0, 1.0, 1.0), 4.0)
    np.testing.assert_allclose(found, np.broadcast_to(layers, ids.shape), atol=1e-6)


@pytest.mark.parametrize("size", [1.0, 4.0, 4.6])
def test_tanh_is_exactly_one_beyond_its_reach(size):
    """Beyond 9.02 scales from its face a cleft is exactly 1; nearer than 9 it is not yet."""
    ids = np.full((1, 1, 240), BACKGROUND, np.uint64)
    ids[0, 0, 120:] = 1
    scale = 10 * size
    found = compute("tanh-distance", ids, (size, size, size), scale)[0, 0]
    steps = np.concatenate([-np.arange(120, 0, -1), np.arange(1, 121)]) * size / scale
    assert (found[steps >= SATURATION] == 1).all()
    assert (found[steps < 0] == 0).all()
    assert (found[np.abs(steps) < 8.95] < 1).all()


@pytest.mark.parametrize(
    ("name", "unknown"),
    [(n, IGNORE_MASK if t.dtype is np.uint8 else np.nan) for n, t in TARGETS.items()],
)
def test_unknown_voxels_are_carried(name, unknown):
    """Voxels with the ignore id are marked in every target, and no others are."""
    ids = np.full((3, 6, 6), BACKGROUND, np.uint64)
    ids[1, 1:5, 1:5] = 3
    ids[0, :2], ids[1, 2, 2] = IGNORE, IGNORE
    found = compute(name, ids)
    marked = np.isnan(found) if math.isnan(unknown) else found == unknown
    np.testing.assert_array_equal(marked, ids == IGNORE)


@pytest.mark.parametrize("name", TARGETS)
def test_unknown_voxels_mean_the_same_in_a_mask(name):
    """A uint8 mask with 255 gives the target of ids with the ignore id at the same voxels."""
    ids = np.full((3, 8, 8), BACKGROUND, np.uint64)
    ids[1, 2:5, 2:5] = 3
    ids[1, 2:5, 5:7], ids[0, 0] = IGNORE, IGNORE
    mask = np.where(ids == IGNORE, 255, ids == 3).astype(np.uint8)
    np.testing.assert_array_equal(compute(name, mask), compute(name, ids))


@pytest.mark.parametrize(
    ("name", "empty", "full"),
    [
        ("mask", 0, 1),
        ("tanh-distance", 0, 1),
        ("signed-distance", -math.tanh(HEINRICH_CLIP), math.tanh(HEINRICH_CLIP)),
    ],
)
@pytest.mark.parametrize("dtype", IDS)
def test_no_cleft_and_nothing_but_cleft(name, empty, full, dtype):
    """Without any cleft a target is at its lowest everywhere, in endless cleft at its highest."""
    ids = np.full((3, 4, 5), BACKGROUNDS[dtype], dtype)
    np.testing.assert_array_equal(compute(name, ids), np.float32(empty))
    np.testing.assert_array_equal(compute(name, np.full_like(ids, 1)), np.float32(full))


def test_zero_is_cleft_where_cremi_says_so():
    """Id 0 of uint64 ids is a cleft only where asked for; of a mask it never is."""
    ids = np.array([[[0, 1, BACKGROUND, IGNORE]]], np.uint64)
    assert cleft_mask(ids).tolist() == [[[False, True, False, False]]]
    assert cleft_mask(ids, zero_is_cleft=True).tolist() == [[[True, True, False, False]]]
    for dtype in ("bool", "uint8", "uint16"):
        small = np.array([[[0, 1]]], dtype)
        assert cleft_mask(small, zero_is_cleft=True).tolist() == [[[False, True]]]


def test_a_cleft_with_id_zero_is_a_cleft_of_its_own():
    """Where 0 is a cleft it bounds its neighbours as any id does."""
    ids = np.array([[[BACKGROUND, 0, 0, 1, 1, BACKGROUND]]], np.uint64)
    found = compute("tanh-distance", ids, (1.0, 1.0, 1.0), 2.0, zero_is_cleft=True)[0, 0]
    np.testing.assert_allclose(found, np.tanh(np.array([0, 1, 1, 1, 1, 0]) / 2), atol=1e-6)


def test_who_knows_what():
    """Unknown are 2^64-2 among uint64 ids and 255 in a uint8 mask, nothing elsewhere."""
    assert ignore_mask(np.array([IGNORE, 255, BACKGROUND], np.uint64)).tolist() == [1, 0, 0]
    assert ignore_mask(np.array([254, 255], np.uint8)).tolist() == [0, 1]
    assert ignore_mask(np.array([255, 65534], np.uint16)).tolist() == [0, 0]


@pytest.mark.parametrize("name", TARGETS)
def test_scales_are_nm_or_finest_voxel_edges(name):
    """A scale in nm is taken as it is, one in voxels is counted in the finest edge."""
    target, size = TARGETS[name], (40.0, 8.0, 4.0)
    assert target.scale_nm(size, 30.0, "nm") == 30.0
    assert target.scale_nm(size, 3.0, "voxel") == 12.0
    assert target.scale_nm(size, 2.0) == (2.0 if target.unit == "nm" else 8.0)


def test_default_scales():
    """CleftNet's scale is one finest voxel edge, Heinrich's 50 nm."""
    assert TARGETS["tanh-distance"].scale_nm((40.0, 4.0, 5.0)) == 4.0
    assert TARGETS["signed-distance"].scale_nm((40.0, 4.0, 5.0)) == HEINRICH_SCALE_NM == 50.0


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf])
def test_a_scale_is_positive(name, scale):
    """A scale that is not a positive number is a usage error that repeats it."""
    with pytest.raises(UsageError, match=f"scale {scale} "):
        TARGETS[name].scale_nm((40.0, 4.0, 4.0), scale)


@pytest.mark.parametrize("name", TARGETS)
def test_a_unit_is_nm_or_voxel(name):
    """Another unit is a usage error that lists the two."""
    with pytest.raises(UsageError, match=r"'um'.*nm or voxel"):
        TARGETS[name].scale_nm((40.0, 4.0, 4.0), 1.0, "um")


@settings(max_examples=40, deadline=None)
@given(size=VOXEL_SIZES, scale=st.floats(1, 200))
def test_context_holds_the_reach(size, scale):
    """The context is the reach in whole voxels of each axis, and a margin of at most two."""
    for target in TARGETS.values():
        for n, edge in zip(target.context(size, scale), size, strict=True):
            reach = target.reach * scale / edge
            assert reach <= n <= reach + 2  # a sum of floats may round up to the bound
            assert n == 0 or target.reach


def test_a_mask_needs_no_context():
    """A mask looks at nothing but the voxel itself."""
    assert TARGETS["mask"].context((40.0, 4.0, 4.0), 100.0) == (0, 0, 0)
    assert Roi((0, 0, 0), (1, 1, 1)).grow((0, 0, 0)).size == 1
