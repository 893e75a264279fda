"""A prediction and its truth, compared exactly and box by box: memory grows with the clefts only.

The CREMI distances are measured from cleft voxels to a k-d tree of the other side's surface
voxels; that equals the reference's full distance transform. Arrays in, counts and distances out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cleftcli.geometry import Roi

FAR_NM = 200.0  # CREMI counts cleft voxels farther than this from the other side
Nm = tuple[float, float, float]


@dataclass(frozen=True)
class Side:
    """The cleft voxels of prediction or truth: those on the surface, and how many in all."""

    name: str
    surface: np.ndarray  # (n, 3) int64, voxels zyx
    voxels: int

    def tree(self, voxel_size: Nm) -> cKDTree:
        """For nearest-neighbour questions in nm."""
        points = self.surface * np.asarray(voxel_size)
        return cKDTree(points, balanced_tree=False, compact_nodes=False)


def surface(mask: np.ndarray, inner: Roi, outer: Roi) -> np.ndarray:
    """Cleft voxels of `inner` with a face neighbour outside the cleft: (n, 3) int64, zyx.

    Args:
        mask: (z, y, x) bool over `outer`, which is `inner` and one voxel more, less at the
            volume's faces: what lies beyond those is no neighbour.
        inner: the voxels asked for.
        outer: the voxels in `mask`.
    """
    core = mask.copy()
    for axis in range(3):
        ahead, behind = _pairs(axis)
        core[behind] &= mask[ahead]
        core[ahead] &= mask[behind]
    found = np.argwhere((mask & ~core)[inner.within(outer)])
    return np.asarray(found + np.asarray(inner.offset))


def _pairs(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    ahead, behind = [slice(None)] * 3, [slice(None)] * 3
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    return tuple(ahead), tuple(behind)


@dataclass(frozen=True)
class Distances:
    """From every cleft voxel of one side to the nearest cleft voxel of the other, in nm."""

    beyond: np.ndarray  # (n,) float64: those of voxels that are not in the other side
    shared: int  # voxels in both: distance 0

    @property
    def count(self) -> int:
        """Cleft voxels measured."""
        return self.shared + len(self.beyond)

    @property
    def mean(self) -> float:
        """Their mean distance."""
        return float(self.beyond.sum() / self.count)

    @property
    def far(self) -> int:
        """Voxels farther than 200 nm."""
        return int((self.beyond > FAR_NM).sum())

    def summary(self) -> dict[str, float]:
        """Mean, std, median, max in nm, and count."""
        every = np.concatenate([np.zeros(self.shared), self.beyond])
        return {
            "mean": self.mean,
            "std": float(every.std()),
            "median": float(np.median(every)),
            "max": float(every.max()),
            "count": self.count,
        }


def distances(
    points: Iterable[np.ndarray], tree: cKDTree, shared: int, voxel_size: Nm
) -> Distances:
    """Distances of boxes of points (voxels, zyx) that lie outside the side the tree holds."""
    scale = np.asarray(voxel_size)
    parts = [tree.query(p * scale, workers=-1)[0] for p in points if len(p)]
    return Distances(np.concatenate(parts) if parts else np.empty(0), shared)


@dataclass(frozen=True)
class Comparison:
    """All that the scores need to know of a prediction and its truth."""

    true_positives: int
    false_positives: int
    false_negatives: int
    to_truth: Distances | None  # from predicted voxels; None where a side is empty
    to_prediction: Distances | None  # from true voxels
    auc: float | None  # None where the prediction has no probability, or the truth one class

    @property
    def predicted(self) -> int:
        """Predicted cleft voxels."""
        return self.true_positives + self.false_positives

    @property
    def true(self) -> int:
        """True cleft voxels."""
        return self.true_positives + self.false_negatives


def rank_sum(clefts: np.ndarray, others: np.ndarray) -> float:
    """Over all pairs: how often a cleft voxel's value beats another's, ties counting a half.

    Args:
        clefts: (n,) sorted values at true cleft voxels.
        others: (m,) values at voxels that are none, same dtype.
    """
    if others.dtype == np.uint8:
        counts = np.bincount(others, minlength=256)
        others = np.arange(256).astype(np.uint8)
    else:
        counts = np.ones(len(others), np.int64)
    above = len(clefts) - np.searchsorted(clefts, others, side="right")
    not_below = len(clefts) - np.searchsorted(clefts, others, side="left")
    return float(np.dot(counts, (above + not_below) / 2))


@dataclass(frozen=True)
class Box:
    """One box of voxels as the comparison reads it; arrays (z, y, x) over `outer`."""

    inner: Roi
    outer: Roi
    predicted: np.ndarray  # bool, False where ignored
    true: np.ndarray  # bool, False where ignored
    scored: np.ndarray  # bool: not ignored
    probability: np.ndarray | None  # uint8 or float32


def compare(boxes: Callable[[], Iterable[Box]], voxel_size: Nm) -> Comparison:
    """Compare prediction and truth in two passes over boxes that cover the volume once.

    Args:
        boxes: called once a pass; each box carries one voxel of context around its inner part,
            less at the volume's faces.
        voxel_size: nm, zyx; both sides' distances use it.

    Source: the CREMI reference's `Clefts`. Ignored voxels belong to neither side.
    """
    shared, sides, cleft_values = _gather(boxes())
    prediction, truth = sides
    both = prediction.voxels > 0 and truth.voxels > 0
    only: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    won, others = 0.0, 0
    if both or cleft_values is not None:
        for box in boxes():
            inside = box.inner.within(box.outer)
            predicted, true = box.predicted[inside], box.true[inside]
            offset = np.asarray(box.inner.offset)
            only[0].append(np.argwhere(predicted & ~true) + offset)
            only[1].append(np.argwhere(true & ~predicted) + offset)
            if cleft_values is not None and box.probability is not None:
                values = box.probability[inside][box.scored[inside] & ~true]
                won, others = won + rank_sum(cleft_values, values), others + len(values)
    pairs = 0 if cleft_values is None else len(cleft_values) * others
    return Comparison(
        true_positives=shared,
        false_positives=prediction.voxels - shared,
        false_negatives=truth.voxels - shared,
        to_truth=distances(only[0], truth.tree(voxel_size), shared, voxel_size) if both else None,
        to_prediction=(
            distances(only[1], prediction.tree(voxel_size), shared, voxel_size) if both else None
        ),
        auc=won / pairs if pairs else None,
    )


def _gather(boxes: Iterable[Box]) -> tuple[int, tuple[Side, Side], np.ndarray | None]:
    """First pass: voxels in both, both surfaces, and the sorted values at true cleft voxels."""
    shared, counts = 0, [0, 0]
    surfaces: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    values: list[np.ndarray] = []
    for box in boxes:
        inside = box.inner.within(box.outer)
        shared += int((box.predicted & box.true)[inside].sum())
        for n, mask in enumerate((box.predicted, box.true)):
            counts[n] += int(mask[inside].sum())
            surfaces[n].append(surface(mask, box.inner, box.outer))
        if box.probability is not None:
            values.append(box.probability[inside][box.true[inside]])
    prediction, truth = (
        Side(name, np.concatenate(points or [np.empty((0, 3), np.int64)]), count)
        for name, points, count in zip(("prediction", "truth"), surfaces, counts, strict=True)
    )
    found = np.sort(np.concatenate(values)) if values else None
    return shared, (prediction, truth), found
