"""Whether blocks show: how much a probability jumps across their faces, and next to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cleftcli.geometry import Block, Roi, between, zyx
from cleftcli.viewing.coverage import Coverage
from cleftcli.viewing.scene import Scene

MOST_FACES = 32  # of an axis to look at
MOST_EDGE = 512  # voxels of a face in its own plane
REACH = 4  # voxels on either side of a face
WORTH_A_WORD = 1.5


def seams(scene: Scene) -> dict[str, Any]:
    """For each axis the mean absolute jump of the probability across block faces, and beside them.

    `ratio` is the one over the other: near 1 where blocks do not show. It is None where nothing
    varies, or no two blocks meet. Probability is 0..1.
    """
    if scene.probability is None:
        return {"lacks": scene.lacks["probability"]}
    if scene.coverage is None:
        return {"lacks": "no ledger lies beside the output, so nobody knows its blocks"}
    found = {a: _axis(scene, scene.coverage, n) for n, a in enumerate("zyx")}
    if not any(each["faces"] for each in found.values()):
        return {"lacks": "no two blocks meet"}
    return {"reach_voxels": REACH, "axes": found}


def _axis(scene: Scene, coverage: Coverage, axis: int) -> dict[str, Any]:
    across, beside, count = [0.0, 0], [0.0, 0], 0
    for box, face in _boxes(coverage, axis):
        count += 1
        levels = scene.probability.levels(box) / scene.probability.full  # type: ignore[union-attr]
        jumps = np.moveaxis(np.abs(np.diff(levels.astype(np.float64), axis=axis)), axis, 0)
        for jump, into in ((jumps[[face]], across), (np.delete(jumps, face, 0), beside)):
            into[0] += float(jump.sum())
            into[1] += jump.size
    means = [total / n if n else None for total, n in (across, beside)]
    ratio = means[0] / means[1] if means[0] is not None and means[1] else None
    return {"faces": count, "across": means[0], "beside": means[1], "ratio": ratio}


def _boxes(coverage: Coverage, axis: int) -> Iterator[tuple[Roi, int]]:
    """Boxes around faces between blocks that are there, and which jump in a box is the face's.

    Of many, those between the blocks with most predicted voxels.
    """
    pairs = _meeting(coverage, axis)
    positive = coverage.positive.ravel()
    pairs = pairs[np.argsort(-positive[pairs].sum(axis=1), kind="stable")[:MOST_FACES]]
    for low, high in pairs:
        yield _around(coverage.plan[low], coverage.plan[high], axis)


def _meeting(coverage: Coverage, axis: int) -> np.ndarray:
    """Indices of blocks that are neighbours on an axis and both there: (n, 2)."""
    numbers = np.arange(len(coverage.plan)).reshape(coverage.plan.counts)
    count = coverage.plan.counts[axis]
    lower = numbers.take(np.arange(count - 1), axis).ravel()
    upper = numbers.take(np.arange(1, count), axis).ravel()
    there = np.isin(numbers.ravel(), coverage.there)
    return np.stack([lower, upper], axis=1)[there[lower] & there[upper]]


def _around(low: Block, high: Block, axis: int) -> tuple[Roi, int]:
    """The box on both sides of a face, within the two blocks, and the number of the face's jump."""
    face = high.write.offset[axis]
    start = max(face - REACH, low.write.offset[axis])
    end = min(face + REACH, high.write.end[axis])
    most = [MOST_EDGE] * 3
    most[axis] = end - start
    plane = high.write.middle(zyx(most))
    first, last = list(plane.offset), list(plane.end)
    first[axis], last[axis] = start, end
    return between(zyx(first), zyx(last)), face - 1 - start
