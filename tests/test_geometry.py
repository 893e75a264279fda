"""Boxes, the block plan and the tile grid, against brute force over every voxel."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleftcli.errors import UsageError
from cleftcli.geometry import (
    Block,
    BlockPlan,
    Roi,
    TileGrid,
    between,
    fit_block,
    fit_chunk,
    hull,
    parse_roi,
    parse_zyx,
    whole,
    zyx,
)


def three(low, high):
    return st.tuples(*[st.integers(low, high)] * 3)


ROIS = st.builds(Roi, three(-5, 9), three(1, 8))


def voxels(roi):
    """Every voxel of a box, as a set of tuples."""
    axes = [range(o, o + s) for o, s in zip(roi.offset, roi.shape, strict=True)]
    return set(itertools.product(*axes))


@st.composite
def grids(draw):
    shape, tile = draw(three(1, 14)), draw(three(1, 7))
    context = tuple(draw(st.integers(0, (t - 1) // 2)) for t in tile)
    stride = tuple(draw(st.integers(1, t - 2 * c)) for t, c in zip(tile, context, strict=True))
    return TileGrid(shape, tile, stride, context)


@st.composite
def grids_with_roi(draw):
    grid = draw(grids())
    offset = tuple(draw(st.integers(0, n - 1)) for n in grid.shape)
    shape = tuple(draw(st.integers(1, n - o)) for n, o in zip(grid.shape, offset, strict=True))
    return grid, Roi(offset, shape)


def all_tiles(grid):
    """Every tile of the grid, from its definition alone, in raster order."""
    starts = []
    for length, tile, stride in zip(grid.shape, grid.tile, grid.stride, strict=True):
        last = max(0, length - tile)
        starts.append(sorted({s for s in range(0, length, stride) if s < last} | {last}))
    return [Roi(offset, grid.tile) for offset in itertools.product(*starts)]


@settings(max_examples=60, deadline=None)
@given(a=ROIS, b=ROIS)
def test_roi_intersection_is_set_intersection(a, b):
    """The intersection of two boxes holds exactly the voxels that are in both."""
    assert voxels(a.intersect(b)) == voxels(a) & voxels(b)
    assert a.intersect(b).size == len(voxels(a) & voxels(b))


@settings(max_examples=60, deadline=None)
@given(a=ROIS, b=ROIS)
def test_roi_holds_is_set_inclusion(a, b):
    """A box holds another exactly if it holds its voxels."""
    assert a.holds(b) == (voxels(b) <= voxels(a))
    assert a.holds(a.intersect(b)) or not a.intersect(b).size


@settings(max_examples=60, deadline=None)
@given(a=ROIS, by=three(-4, 4))
def test_roi_shift_moves_every_voxel(a, by):
    """Shifting moves every voxel by the same step and is undone by its opposite."""
    moved = {tuple(v + b for v, b in zip(voxel, by, strict=True)) for voxel in voxels(a)}
    assert voxels(a.shift(by)) == moved
    assert a.shift(by).shift(tuple(-b for b in by)) == a


@settings(max_examples=60, deadline=None)
@given(a=ROIS, context=three(0, 3))
def test_roi_grow_adds_context_on_both_sides(a, context):
    """Growing adds the context before the first and after the last voxel of every axis."""
    grown = a.grow(context)
    assert grown.offset == tuple(o - c for o, c in zip(a.offset, context, strict=True))
    assert grown.end == tuple(e + c for e, c in zip(a.end, context, strict=True))
    assert grown.holds(a)


@settings(max_examples=60, deadline=None)
@given(outer=ROIS, other=ROIS)
def test_roi_within_cuts_its_own_voxels(outer, other):
    """The slices of a box cut its voxels, and no others, out of an array over an outer box."""
    inner = outer.intersect(other)
    if not inner.size:
        return
    place = np.stack(np.meshgrid(*map(range, outer.offset, outer.end), indexing="ij"), axis=-1)
    found = place[inner.within(outer)].reshape(-1, 3)
    assert {tuple(map(int, v)) for v in found} == voxels(inner)
    assert len(found) == inner.size


@settings(max_examples=40, deadline=None)
@given(rois=st.lists(ROIS, min_size=1, max_size=5))
def test_hull_is_the_smallest_box_around_all(rois):
    """The hull holds every box, and each of its faces touches one of them."""
    box = hull(rois)
    assert all(box.holds(r) for r in rois)
    for axis in range(3):
        assert box.offset[axis] in [r.offset[axis] for r in rois]
        assert box.end[axis] in [r.end[axis] for r in rois]


@settings(max_examples=40, deadline=None)
@given(a=ROIS)
def test_roi_text_reads_back(a):
    """What a box prints is what --roi takes."""
    a = a.shift(tuple(-o + 1 for o in a.offset))
    assert parse_roi(str(a), a.end) == a


def test_empty_where_ends_cross():
    """A box whose end lies before its offset holds nothing and is not negative."""
    assert between((3, 3, 3), (5, 2, 4)) == Roi((3, 3, 3), (2, 0, 1))
    assert between((3, 3, 3), (5, 2, 4)).size == 0


def test_whole_starts_at_the_origin():
    """The box of a volume starts at zero and has the volume's shape."""
    assert whole((2, 3, 4)) == Roi((0, 0, 0), (2, 3, 4))
    assert whole((2, 3, 4)).end == (2, 3, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:5,0:7,0:11", Roi((0, 0, 0), (5, 7, 11))),
        ("1:3,2:7,10:11", Roi((1, 2, 10), (2, 5, 1))),
        (":,:,:", Roi((0, 0, 0), (5, 7, 11))),
        ("1:,:4,2:9", Roi((1, 0, 2), (4, 4, 7))),
    ],
)
def test_parse_roi_reads_boxes(text, expected):
    """A box is read as zyx, half-open; a bound left out is the volume's face."""
    assert parse_roi(text, (5, 7, 11)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0:5",
        "0:5,0:7",
        "0:5,0:7,0:11,0:1",
        "0-5,0-7,0-11",
        "a:b,c:d,e:f",
        "0:1:2,0:7,0:11",
        "0,0,0",
        "0.5:2,0:7,0:11",
        "0:6,0:7,0:11",  # leaves the volume
        "-1:5,0:7,0:11",
        "0:-1,0:7,0:11",
        "2:2,0:7,0:11",  # empty
        "3:2,0:7,0:11",
        "0:11,0:7,0:5",  # xyz
    ],
)
def test_parse_roi_refuses_what_is_no_box(text):
    """Anything but a box inside the volume is a usage error that repeats the text."""
    with pytest.raises(UsageError, match=r"roi|three values"):
        parse_roi(text, (5, 7, 11))


@pytest.mark.parametrize(
    ("text", "expected"), [("1,2,3", (1, 2, 3)), ("8", (8, 8, 8)), (" 1, 2, 3 ", (1, 2, 3))]
)
def test_parse_zyx_reads_three_or_one(text, expected):
    """Three numbers are z, y, x; one number stands for all axes."""
    assert parse_zyx(text) == expected


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "a,b,c", "1.5", "1;2;3", "1x2x3"])
def test_parse_zyx_refuses_the_rest(text):
    """Anything but one or three whole numbers is a usage error."""
    with pytest.raises(UsageError):
        parse_zyx(text)


def test_zyx_wants_three_values():
    """Two or four values are no place; numpy integers become ints."""
    assert all(type(v) is int for v in zyx(np.arange(3)))
    for wrong in ((1, 2), (1, 2, 3, 4)):
        with pytest.raises(UsageError, match="three values"):
            zyx(wrong)


@settings(max_examples=60, deadline=None)
@given(roi=ROIS, block=three(1, 9), context=three(0, 4))
def test_blocks_partition_the_roi(roi, block, context):
    """Every voxel of the roi is in the write roi of exactly one block, no other voxel in any."""
    seen = [v for b in BlockPlan(roi, block, context) for v in voxels(b.write)]
    assert len(seen) == len(set(seen))
    assert set(seen) == voxels(roi)


@settings(max_examples=60, deadline=None)
@given(roi=ROIS, block=three(1, 9), context=three(0, 4))
def test_blocks_read_their_context(roi, block, context):
    """The read roi is the write roi and `context` voxels more on every side."""
    for b in BlockPlan(roi, block, context):
        assert b.read.offset == tuple(o - c for o, c in zip(b.write.offset, context, strict=True))
        assert b.read.end == tuple(e + c for e, c in zip(b.write.end, context, strict=True))
        assert all(0 < n <= m for n, m in zip(b.write.shape, block, strict=True))


@settings(max_examples=60, deadline=None)
@given(roi=ROIS, block=three(1, 9))
def test_block_indices_are_stable(roi, block):
    """Block i is the i-th of the plan, in raster order, whether counted or asked for."""
    plan = BlockPlan(roi, block)
    blocks = list(plan)
    assert len(plan) == len(blocks) == math.prod(plan.counts)
    assert [b.index for b in blocks] == list(range(len(plan)))
    assert [plan[i] for i in range(len(plan))] == blocks
    assert [b.write.offset for b in blocks] == sorted(b.write.offset for b in blocks)


@pytest.mark.parametrize("index", [-1, 8, 1000])
def test_block_index_outside_the_plan_is_refused(index):
    """There is no block before the first or after the last."""
    with pytest.raises(IndexError):
        BlockPlan(whole((4, 4, 4)), (2, 2, 2))[index]


def test_a_huge_plan_is_made_on_demand():
    """A plan of 10^12 blocks has a length and a last block without being listed."""
    plan = BlockPlan(whole((10**6, 10**6, 10**6)), (100, 100, 100), (1, 2, 3))
    last = Roi((999900, 999900, 999900), (100, 100, 100))
    assert len(plan) == 10**12
    assert plan[10**12 - 1] == Block(10**12 - 1, last, last.grow((1, 2, 3)))


def decided(grid, tile):
    """The voxels that a tile decides, from the definition alone, as a set of tuples."""

    def along(axis):
        low, high = tile.offset[axis], tile.end[axis]
        near = low + grid.context[axis] if low else low
        far = high - grid.context[axis] if high < grid.shape[axis] else high
        return [v for v in range(low, high) if near <= v < far]

    return set(itertools.product(*map(along, range(3))))


@settings(max_examples=80, deadline=None)
@given(grid=grids())
def test_tiles_decide_every_voxel(grid):
    """Every voxel of the volume is decided by at least one tile: all but the tiles' context."""
    tiles = grid.touching(whole(grid.shape))
    assert all(voxels(grid.kept(t)) == decided(grid, t) for t in tiles)
    assert set().union(*(decided(grid, t) for t in tiles)) >= voxels(whole(grid.shape))
    assert grid.count(whole(grid.shape)) == len(tiles)


@settings(max_examples=80, deadline=None)
@given(grid=grids())
def test_tiles_lie_at_multiples_or_at_the_far_face(grid):
    """Tiles start at multiples of the stride; only the last of an axis is clamped to the face."""
    assert grid.touching(whole(grid.shape)) == all_tiles(grid)
    for axis in range(3):
        starts = grid.starts(axis, 0, grid.shape[axis])
        assert all(s % grid.stride[axis] == 0 for s in starts[:-1])
        assert starts[-1] == max(0, grid.shape[axis] - grid.tile[axis])
        assert starts == sorted(set(starts))


@settings(max_examples=150, deadline=None)
@given(case=grids_with_roi())
def test_touching_tiles_are_those_of_the_whole_grid(case):
    """The tiles of a box are exactly those of the whole grid that decide a voxel of it."""
    grid, roi = case
    expected = [t for t in all_tiles(grid) if decided(grid, t) & voxels(roi)]
    assert grid.touching(roi) == expected
    assert grid.count(roi) == len(expected)


@settings(max_examples=40, deadline=None)
@given(case=grids_with_roi(), block=three(1, 9))
def test_tiles_of_a_voxel_do_not_depend_on_blocks(case, block):
    """A voxel meets the same tiles in the same order whatever block asks for it."""
    grid, roi = case
    voxel = Roi(roi.offset, (1, 1, 1))
    for b in BlockPlan(whole(grid.shape), block):
        if b.write.holds(voxel):
            mine = [t for t in grid.touching(b.write) if grid.kept(t).holds(voxel)]
            assert mine == grid.touching(voxel)


@settings(max_examples=40, deadline=None)
@given(tile=three(2, 9), data=st.data())
def test_a_small_volume_has_one_tile(tile, data):
    """A volume no larger than a tile has one tile, at its origin."""
    shape = tuple(data.draw(st.integers(1, t)) for t in tile)
    stride = tuple(data.draw(st.integers(1, t)) for t in tile)
    assert TileGrid(shape, tile, stride).touching(whole(shape)) == [Roi((0, 0, 0), tile)]


@pytest.mark.parametrize("stride", [(3, 2, 2), (2, 3, 2), (2, 2, 3), (0, 1, 1), (1, -1, 1)])
def test_a_grid_with_gaps_is_refused(stride):
    """Strides beyond the tile, zero or negative are a usage error."""
    with pytest.raises(UsageError, match="gaps"):
        TileGrid((9, 9, 9), (2, 2, 2), stride)


@pytest.mark.parametrize(
    ("stride", "context"), [((1, 1, 3), (2, 0, 1)), ((2, 1, 1), (2, 0, 0)), ((1, 1, 1), (0, -1, 0))]
)
def test_a_context_that_leaves_gaps_is_refused(stride, context):
    """What tiles decide has to meet; a context is no less than 0."""
    with pytest.raises(UsageError, match="gaps"):
        TileGrid((9, 9, 9), (4, 4, 4), stride, context)


@settings(max_examples=100, deadline=None)
@given(shape=three(1, 400), chunk=three(1, 64), voxels=st.integers(1, 10**7))
def test_fit_block_is_whole_chunks_within_budget(shape, chunk, voxels):
    """A block is whole chunks, none beyond the volume, within budget unless one chunk is not."""
    block = fit_block(shape, chunk, voxels)
    assert all(b % c == 0 and b > 0 for b, c in zip(block, chunk, strict=True))
    assert all(b - c < n for b, c, n in zip(block, chunk, shape, strict=True))
    assert math.prod(map(min, block, shape)) <= voxels or block == chunk


@settings(max_examples=100, deadline=None)
@given(shape=three(1, 400), chunk=three(1, 64))
def test_fit_block_takes_all_that_fits(shape, chunk):
    """With room enough, one block covers the volume."""
    block = fit_block(shape, chunk, 10**9)
    assert len(BlockPlan(whole(shape), block)) == 1


@settings(max_examples=150, deadline=None)
@given(block=three(1, 300), chunk=three(1, 128))
def test_fit_chunk_divides_the_block(block, chunk):
    """Chunks fill a block without remainder: no two blocks share one."""
    found = fit_chunk(block, chunk)
    for b, c, d in zip(block, chunk, found, strict=True):
        assert b % d == 0
        assert d == b or (d <= c <= 4 * d)


@pytest.mark.parametrize(
    ("block", "chunk", "expected"),
    [
        ((32, 256, 256), (16, 128, 128), (16, 128, 128)),
        ((24, 192, 200), (16, 128, 128), (12, 96, 100)),
        ((8, 100, 131), (16, 128, 128), (8, 100, 131)),  # smaller than a chunk, and prime
    ],
)
def test_fit_chunk_takes_the_largest_divisor(block, chunk, expected):
    """The chunk of an axis is the largest divisor of the block that is no larger than wanted."""
    assert fit_chunk(block, chunk) == expected
