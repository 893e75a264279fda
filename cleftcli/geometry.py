"""Boxes of voxels, the block plan and the tile grid: pure arithmetic, zyx, half-open.

Knows nothing of files, units or networks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from cleftcli.errors import UsageError

Zyx = tuple[int, int, int]


def zyx(values: Sequence[int]) -> Zyx:
    """The three values as a tuple of ints."""
    if len(values) != 3:
        raise UsageError(f"expected three values z, y, x; got {tuple(values)}")
    return cast("Zyx", tuple(int(v) for v in values))


@dataclass(frozen=True, order=True)
class Roi:
    """A half-open box of voxels: `offset` is its first voxel, `shape` its extent."""

    offset: Zyx
    shape: Zyx

    @property
    def end(self) -> Zyx:
        """The first voxel beyond the box on every axis."""
        return zyx([o + s for o, s in zip(self.offset, self.shape, strict=True)])

    @property
    def size(self) -> int:
        """How many voxels it holds."""
        return math.prod(self.shape)

    def grow(self, context: Zyx) -> Roi:
        """The box with `context` voxels more on either side."""
        return Roi(
            zyx([o - c for o, c in zip(self.offset, context, strict=True)]),
            zyx([s + 2 * c for s, c in zip(self.shape, context, strict=True)]),
        )

    def shift(self, by: Zyx) -> Roi:
        """The box moved by `by` voxels."""
        return Roi(zyx([o + b for o, b in zip(self.offset, by, strict=True)]), self.shape)

    def intersect(self, other: Roi) -> Roi:
        """The voxels in both boxes; its shape holds a 0 where they do not meet."""
        return between(
            zyx([max(a, b) for a, b in zip(self.offset, other.offset, strict=True)]),
            zyx([min(a, b) for a, b in zip(self.end, other.end, strict=True)]),
        )

    def middle(self, most: Zyx) -> Roi:
        """The box of at most `most` voxels an edge in the middle of this one."""
        shape = zyx([min(s, m) for s, m in zip(self.shape, most, strict=True)])
        corner = [(s - n) // 2 for s, n in zip(self.shape, shape, strict=True)]
        return Roi(zyx(corner), shape).shift(self.offset)

    def holds(self, other: Roi) -> bool:
        """Whether every voxel of `other` is in this box."""
        return self.intersect(other) == other

    def within(self, outer: Roi) -> tuple[slice, slice, slice]:
        """Slices that cut this box out of an array that covers `outer`."""
        z, y, x = (
            slice(o - base, o - base + s)
            for o, s, base in zip(self.offset, self.shape, outer.offset, strict=True)
        )
        return z, y, x

    def __str__(self) -> str:
        """As `--roi` takes it: z0:z1,y0:y1,x0:x1."""
        return ",".join(f"{a}:{b}" for a, b in zip(self.offset, self.end, strict=True))


def whole(shape: Zyx) -> Roi:
    """The box of a whole volume."""
    return Roi((0, 0, 0), shape)


def between(offset: Zyx, end: Zyx) -> Roi:
    """The box from `offset` up to `end`, empty on an axis where they cross."""
    return Roi(offset, zyx([max(0, b - a) for a, b in zip(offset, end, strict=True)]))


def parse_roi(text: str, shape: Zyx) -> Roi:
    """The box that `z0:z1,y0:y1,x0:x1` names in a volume of `shape`; an empty end means the face.

    Raises:
        UsageError: the text is not a box, is empty, or leaves the volume.
    """
    parts = text.split(",")
    try:
        if len(parts) != 3:
            raise ValueError
        pairs = [part.split(":") for part in parts]
        offset = zyx([int(a or 0) for a, _ in pairs])
        end = zyx([int(b or n) for (_, b), n in zip(pairs, shape, strict=True)])
    except ValueError:
        raise UsageError(f"roi {text!r} is not of the form z0:z1,y0:y1,x0:x1") from None
    roi = between(offset, end)
    if not roi.size or not whole(shape).holds(roi):
        raise UsageError(f"roi {text} is empty or leaves the volume {whole(shape)}")
    return roi


def parse_zyx(text: str) -> Zyx:
    """Three whole numbers `z,y,x`, or one for all axes.

    Raises:
        UsageError: anything else.
    """
    try:
        values = [int(v) for v in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r} is not of the form z,y,x") from None
    if min(values) < 0:
        raise UsageError(f"{text!r}: counts of voxels are positive or 0")
    return zyx(values * 3 if len(values) == 1 else values)


@dataclass(frozen=True)
class Block:
    """A unit of blockwise work: compute `write`, look at `read`, which holds it."""

    index: int
    write: Roi
    read: Roi


@dataclass(frozen=True)
class BlockPlan:
    """The blocks that cover `roi` once each, made on demand: a million cost nothing.

    Write rois partition `roi`; those at its far faces are clipped. Read rois carry `context`
    voxels more on every side and may leave the volume.
    """

    roi: Roi
    block: Zyx
    context: Zyx = (0, 0, 0)

    @property
    def counts(self) -> Zyx:
        """How many blocks there are along each axis."""
        return zyx([-(-n // b) for n, b in zip(self.roi.shape, self.block, strict=True)])

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __getitem__(self, index: int) -> Block:
        if not 0 <= index < len(self):
            raise IndexError(index)
        _, ny, nx = self.counts
        position = (index // (ny * nx), index // nx % ny, index % nx)
        offset = zyx(
            [o + p * b for o, p, b in zip(self.roi.offset, position, self.block, strict=True)]
        )
        write = Roi(offset, self.block).intersect(self.roi)
        return Block(index, write, write.grow(self.context))

    def __iter__(self) -> Iterator[Block]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True)
class TileGrid:
    """Where the network looks: tiles at multiples of `stride`, the last clamped to the far face.

    The grid belongs to the volume, not to any block, so the tiles that decide a voxel, and hence
    its predicted value, are the same whatever the blocks are. A volume smaller than a tile has
    one tile, which leaves it on the far side. `context` is what a tile looks at and does not
    decide: so many voxels at each face behind which there is another tile.
    """

    shape: Zyx
    tile: Zyx
    stride: Zyx
    context: Zyx = (0, 0, 0)

    def __post_init__(self) -> None:
        each = zip(self.stride, self.tile, self.context, strict=True)
        if any(c < 0 or not 0 < s <= t - 2 * c for s, t, c in each):
            kept = f", of which each loses {self.context} at a face," if any(self.context) else ""
            raise UsageError(f"tiles of {self.tile}{kept} at strides of {self.stride} leave gaps")

    def starts(self, axis: int, low: int, high: int) -> list[int]:
        """First voxels, ascending, of the tiles that decide `low <= voxel < high` on an axis."""
        length, tile, stride = self.shape[axis], self.tile[axis], self.stride[axis]
        last = max(length - tile, 0)
        first = max((low - tile) // stride + 1, 0) * stride
        regular = range(first, min(high, last), stride)
        kept = ((s, *self._kept(axis, s)) for s in [*regular, last])
        return [s for s, a, b in kept if a < high and low < b]

    def touching(self, roi: Roi) -> list[Roi]:
        """The tiles that decide a voxel of `roi`, in raster order."""
        axes = [self.starts(a, roi.offset[a], roi.end[a]) for a in range(3)]
        return [Roi(zyx(offset), self.tile) for offset in itertools.product(*axes)]

    def count(self, roi: Roi) -> int:
        """How many tiles decide a voxel of `roi`."""
        return math.prod(len(self.starts(a, roi.offset[a], roi.end[a])) for a in range(3))

    def kept(self, tile: Roi) -> Roi:
        """The voxels that a tile decides: all but its context."""
        low, high = zip(*(self._kept(a, tile.offset[a]) for a in range(3)), strict=True)
        return between(zyx(low), zyx(high))

    def _kept(self, axis: int, start: int) -> tuple[int, int]:
        """On an axis, the first voxel that the tile at `start` decides and the first beyond."""
        context, end = self.context[axis], start + self.tile[axis]
        return start + context * (start > 0), end - context * (end < self.shape[axis])


def hull(rois: Sequence[Roi]) -> Roi:
    """The smallest box that holds them all."""
    return between(
        zyx([min(r.offset[a] for r in rois) for a in range(3)]),
        zyx([max(r.end[a] for r in rois) for a in range(3)]),
    )


def fit_block(shape: Zyx, chunk: Zyx, voxels: int) -> Zyx:
    """The block to work in: whole chunks, at most about `voxels` voxels, no larger than needed.

    The longest axis, counted in chunks, is halved until the block fits.
    """
    counts = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]

    def size() -> int:
        return math.prod(min(k * c, n) for k, c, n in zip(counts, chunk, shape, strict=True))

    while size() > voxels and max(counts) > 1:
        axis = counts.index(max(counts))
        counts[axis] = -(-counts[axis] // 2)
    return zyx([n * c for n, c in zip(counts, chunk, strict=True)])


def fit_chunk(block: Zyx, chunk: Zyx) -> Zyx:
    """Chunks of about the wanted size that fill a block without remainder.

    On each axis the largest divisor of the block up to `chunk`, or the block itself where all
    divisors are small.
    """
    found = [
        max(d for d in range(1, c + 1) if b % d == 0) for b, c in zip(block, chunk, strict=True)
    ]
    return zyx([b if 4 * d < c else d for b, c, d in zip(block, chunk, found, strict=True)])


def tiles_of_blocks(grid: TileGrid, plan: BlockPlan) -> int:
    """How many tiles are computed for all blocks: those at a face count for each block there."""
    found = 1
    for axis in range(3):
        low, high, step = plan.roi.offset[axis], plan.roi.end[axis], plan.block[axis]
        cuts = range(low, high, step)
        found *= sum(len(grid.starts(axis, a, min(a + step, high))) for a in cuts)
    return found
