"""Cleft instances out of probabilities, box by box, equal to doing it in one piece.

Each box is labelled by itself, the parts are merged where boxes touch, and only then filtered
and numbered. Labelling a box again gives the same parts, so nothing is stored between passes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import cc3d
import numpy as np
from scipy import sparse

from cleftcli.geometry import BlockPlan, Roi

Nm = tuple[float, float, float]
ReadLevels = Callable[[Roi], np.ndarray]


@dataclass(frozen=True)
class Hysteresis:
    """Which voxels and components are clefts.

    A component of voxels >= `low` counts if one of its voxels is >= `threshold`, it holds at
    least `min_voxels` voxels and spans at least `min_sections` sections. Levels are in the unit
    of the array they are compared with. Connectivity is 6 (faces) or 26 (corners).
    """

    threshold: float
    low: float
    min_voxels: int = 0
    min_sections: int = 0
    connectivity: int = 26


@dataclass(frozen=True)
class Units:
    """What a table tells lengths and probabilities in.

    `voxel_size` in nm, None leaves the nm columns out; `offset` of the volume in nm; `full` is the
    level that means probability 1.
    """

    voxel_size: Nm | None = None
    offset: Nm = (0.0, 0.0, 0.0)
    full: float = 1.0


@dataclass(frozen=True)
class Components:
    """The clefts of a volume: one row each in `table`, and how a box is labelled with their ids."""

    plan: BlockPlan
    read: ReadLevels
    rule: Hysteresis
    first: np.ndarray  # (blocks + 1,) int64: parts found in the blocks before
    ids: np.ndarray  # (parts,) uint64: id of each part's cleft, 0 where it is none
    measured: np.ndarray  # (clefts,) PART, by id
    units: Units

    @cached_property
    def voxels(self) -> np.ndarray:
        """Voxels of each cleft by id, 0 of the background: (clefts + 1,) int64."""
        return np.concatenate([np.zeros(1, np.int64), self.measured["voxels"]])

    @cached_property
    def table(self) -> list[dict[str, object]]:
        """A row for each cleft."""
        rows = enumerate(self.measured, start=1)
        return [_row(n, part, self.plan.roi, self.units) for n, part in rows]

    def labels(self, index: int, levels: np.ndarray | None = None) -> np.ndarray:
        """Cleft ids in the write roi of block `index`: (z, y, x) uint64, background 0.

        Args:
            index: of the block in the plan.
            levels: those of the block, where they are at hand already.
        """
        known = self.read(self.plan[index].write) if levels is None else levels
        parts = _parts(known, self.rule)
        mine = self.ids[self.first[index] : self.first[index + 1]]
        return np.asarray(np.concatenate([np.zeros(1, np.uint64), mine])[parts])


def components(
    read: ReadLevels, plan: BlockPlan, rule: Hysteresis, units: Units = Units()
) -> Components:
    """Find the clefts of a volume.

    Ids count from 1 in raster order of each cleft's first voxel, whatever the blocks are.

    Args:
        read: levels (probability in any unit) of a roi inside `plan.roi`.
        plan: boxes to work in, without context.
        rule: what makes a cleft.
        units: of the table.
    """
    return components_of_each(read, plan, [rule], units)[0]


def components_of_each(
    read: ReadLevels, plan: BlockPlan, rules: Sequence[Hysteresis], units: Units = Units()
) -> list[Components]:
    """The clefts under several rules, see `components`; every voxel is read once."""
    found = [_Found(plan.roi, rule) for rule in rules]
    for block in plan:
        levels = read(block.write)
        for each in found:
            each.add(levels, block.write)
    return [each.components(read, plan, units) for each in found]


class _Found:
    """The parts of clefts under one rule, gathered block by block."""

    def __init__(self, roi: Roi, rule: Hysteresis) -> None:
        self.roi, self.rule = roi, rule
        self.first = [0]
        self.parts, self.dtype = [np.empty(0, PART)], np.dtype(np.uint8)
        self.places, self.touching = [np.empty(0, np.int64)], [np.empty(0, np.int64)]

    def add(self, levels: np.ndarray, box: Roi) -> None:
        """Take a block in."""
        self.dtype = levels.dtype
        found = _parts(levels, self.rule)
        self.parts.append(_measure(found, levels, box, self.roi))
        where, which = _shell(found, box, self.roi)
        self.places.append(where)
        self.touching.append(which - 1 + self.first[-1])
        self.first.append(self.first[-1] + len(self.parts[-1]))

    def components(self, read: ReadLevels, plan: BlockPlan, units: Units) -> Components:
        """Merge the parts, drop what is no cleft, number the rest."""
        rule = self.rule
        places, touching = np.concatenate(self.places), np.concatenate(self.touching)
        pairs = _touching(places, touching, self.roi, rule.connectivity)
        merged, group = _merge(np.concatenate(self.parts), pairs)
        keep = (
            (merged["max"] >= _as_stored(rule.threshold, self.dtype))
            & (merged["voxels"] >= rule.min_voxels)
            & (merged["z1"] - merged["z0"] >= rule.min_sections)
        )
        order = np.flatnonzero(keep)[np.argsort(merged["start"][keep], kind="stable")]
        ids = np.zeros(len(merged), np.uint64)
        ids[order] = np.arange(1, len(order) + 1, dtype=np.uint64)
        first = np.asarray(self.first)
        return Components(plan, read, rule, first, ids[group], merged[order], units)


_AXES = "zyx"
PART = np.dtype(
    [("start", "i8"), ("voxels", "i8"), ("max", "f8"), ("sum", "f8")]
    + [(f"{a}{n}", "i8") for a in _AXES for n in "01"]
    + [(f"{a}_sum", "f8") for a in _AXES]
)


def _as_stored(threshold: float, dtype: np.dtype) -> float:
    """The threshold as `levels >= threshold` rounds it, for floats narrower than its own."""
    return float(dtype.type(threshold)) if dtype.kind == "f" else threshold


def _parts(levels: np.ndarray, rule: Hysteresis) -> np.ndarray:
    """Connected parts of a box, numbered from 1."""
    # as bool, cc3d 4.1.1 fails on lattices of single voxels: its union-find is one too short
    mask = (levels >= rule.low).view(np.uint8)
    return np.asarray(cc3d.connected_components(mask, connectivity=rule.connectivity))


def _measure(parts: np.ndarray, levels: np.ndarray, roi: Roi, whole: Roi) -> np.ndarray:
    """One PART row for each part of a box, in voxels of the whole volume."""
    where = np.nonzero(parts)
    of = parts[where].astype(np.int64) - 1
    count = int(of.max()) + 1 if len(of) else 0
    rows = np.zeros(count, PART)
    if not count:
        return rows
    order = np.argsort(of, kind="stable")  # nonzero is in raster order, and so stays each part
    starts = np.searchsorted(of[order], np.arange(count))
    values = levels[where][order].astype(np.float64)
    rows["voxels"] = np.bincount(of, minlength=count)
    rows["max"] = np.maximum.reduceat(values, starts)
    rows["sum"] = np.add.reduceat(values, starts)
    position = [w[order] + o for w, o in zip(where, roi.offset, strict=True)]
    for axis, at in zip(_AXES, position, strict=True):
        rows[f"{axis}0"] = np.minimum.reduceat(at, starts)
        rows[f"{axis}1"] = np.maximum.reduceat(at, starts) + 1
        rows[f"{axis}_sum"] = np.add.reduceat(at.astype(np.float64), starts)
    z, y, x = (at[starts] - o for at, o in zip(position, whole.offset, strict=True))
    rows["start"] = (z * whole.shape[1] + y) * whole.shape[2] + x
    return rows


def _shell(parts: np.ndarray, roi: Roi, whole: Roi) -> tuple[np.ndarray, np.ndarray]:
    """Where the outermost layer of a box has parts: places in the padded volume, and the parts."""
    outermost = parts.copy()
    outermost[1:-1, 1:-1, 1:-1] = 0
    where = np.nonzero(outermost)
    at = [w + o - b for w, o, b in zip(where, roi.offset, whole.offset, strict=True)]
    return _place(at, whole), outermost[where].astype(np.int64)


def _place(at: Sequence[np.ndarray | int], whole: Roi) -> np.ndarray:
    """Number of a voxel in the volume padded by one voxel, so that no neighbour wraps around."""
    _, ny, nx = whole.shape
    return np.asarray((at[0] * (ny + 2) + at[1]) * (nx + 2) + at[2], dtype=np.int64)


def _touching(places: np.ndarray, parts: np.ndarray, whole: Roi, connectivity: int) -> np.ndarray:
    """(2, n) pairs of parts with neighbouring voxels in the layers where boxes meet."""
    order = np.argsort(places)
    places, parts = places[order], parts[order]
    steps = [d for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0)]
    steps = [d for d in steps if connectivity == 26 or sum(map(abs, d)) == 1]
    pairs = [np.empty((2, 0), np.int64)]
    for step in steps:
        wanted = places + _place(step, whole)
        at = np.minimum(np.searchsorted(places, wanted), len(places) - 1)
        met = places[at] == wanted
        pairs.append(np.stack([parts[met], parts[at[met]]]))
    return np.concatenate(pairs, axis=1)


def _merge(parts: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One PART row for each cleft, and each part's row in it."""
    count = len(parts)
    graph = sparse.coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(count, count))
    clefts, group = sparse.csgraph.connected_components(graph, directed=False)
    merged = np.zeros(clefts, PART)
    for name in ("start", *(f"{a}0" for a in _AXES)):
        merged[name] = np.iinfo(np.int64).max
        np.minimum.at(merged[name], group, parts[name])
    for name in ("max", *(f"{a}1" for a in _AXES)):
        np.maximum.at(merged[name], group, parts[name])
    for name in ("voxels", "sum", *(f"{a}_sum" for a in _AXES)):
        np.add.at(merged[name], group, parts[name])
    return merged, group


def _row(number: int, part: np.void, roi: Roi, units: Units) -> dict[str, object]:
    """A cleft as the table tells it: boxes half-open, voxels of the volume, nm of the tissue."""
    voxels, full, offset = int(part["voxels"]), units.full, units.offset
    voxel_size = units.voxel_size
    row: dict[str, object] = {"id": number, "voxels": voxels}
    row["sections"] = int(part["z1"] - part["z0"])
    row["mean_probability"] = round(float(part["sum"]) / voxels / full, 4)
    row["max_probability"] = round(float(part["max"]) / full, 4)
    ends = [(int(part[f"{a}0"]), int(part[f"{a}1"])) for a in _AXES]
    row["touches_border"] = any(
        low == o or high == e for (low, high), o, e in zip(ends, roi.offset, roi.end, strict=True)
    )
    for a, (low, high) in zip(_AXES, ends, strict=True):
        row[f"centroid_{a}"] = round(float(part[f"{a}_sum"]) / voxels, 2)
        row[f"{a}0"], row[f"{a}1"] = low, high
    if voxel_size is not None:
        row["volume_um3"] = round(voxels * math.prod(voxel_size) / 1e9, 9)
        for n, a in enumerate(_AXES):
            centroid = float(part[f"{a}_sum"]) / voxels
            row[f"centroid_{a}_nm"] = round(offset[n] + centroid * voxel_size[n], 2)
            row[f"{a}0_nm"] = round(offset[n] + ends[n][0] * voxel_size[n], 2)
            row[f"{a}1_nm"] = round(offset[n] + ends[n][1] * voxel_size[n], 2)
    return row
