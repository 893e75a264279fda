"""Which true clefts were found, cleft by cleft: hit, missed, split, merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cleftcli.foreground import Foreground
from cleftcli.geometry import Block, BlockPlan, Roi
from cleftcli.scoring import Pair
from cleftcli.segmentation import Hysteresis, components

Ids = Callable[[Block], np.ndarray]


@dataclass(frozen=True)
class Detection:
    """The clefts of truth and prediction with the voxels they share.

    `rows` hold one object for each cleft of either side: id, voxels, centroid in voxels of the
    prediction, voxels shared with the other side, its partners there, and what became of it.
    `counts` adds them up.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, int]


@dataclass
class Tally:
    """How many voxels each id has, and where its middle is, gathered box by box."""

    voxels: Counter[int] = field(default_factory=Counter)
    sums: dict[int, np.ndarray] = field(default_factory=dict)  # of z, y and x of its voxels

    def add(self, ids: np.ndarray, box: Roi) -> None:
        """Take in the ids (z, y, x) of a box; 0 is none."""
        where = np.nonzero(ids)
        found, of, times = np.unique(ids[where], return_inverse=True, return_counts=True)
        self.voxels.update(dict(zip(found.tolist(), times.tolist(), strict=True)))
        at = [np.bincount(of, w, len(found)) for w in where]
        sums = np.stack(at, axis=1) + np.outer(times, box.offset)
        for each, total in zip(found.tolist(), sums, strict=True):
            self.sums[each] = self.sums.get(each, 0.0) + total

    def centroid(self, each: int) -> dict[str, float]:
        """The mean z, y and x of an id's voxels, as a table names them."""
        mean = self.sums[each] / self.voxels[each]
        return {f"centroid_{a}": round(float(m), 2) for a, m in zip("zyx", mean, strict=True)}


def detect(pair: Pair) -> Detection:
    """Hold the clefts of a pair against each other.

    Clefts of ids are the ids; those of masks and probabilities are corner-connected components.
    Voxels that are ignored on either side belong to none.
    """
    true, predicted = (
        _ids(pair.truth, pair.plan, 0),
        _ids(pair.prediction, pair.plan, pair.min_voxels),
    )
    tallies = (Tally(), Tally())
    shared: Counter[tuple[int, int]] = Counter()
    for block in pair.plan:
        unknown = pair.truth.ignored(block.write) | pair.prediction.ignored(block.write)
        both = [np.where(unknown, 0, side(block)) for side in (true, predicted)]
        for tally, ids in zip(tallies, both, strict=True):
            tally.add(ids, block.write)
        touching = (both[0] > 0) & (both[1] > 0)
        met, times = np.unique(np.stack(both)[:, touching], axis=1, return_counts=True)
        for (a, b), n in zip(met.T.tolist(), times.tolist(), strict=True):
            shared[a, b] += n
    return _judge(tallies[0], tallies[1], shared)


def _ids(side: Foreground, plan: BlockPlan, min_voxels: int) -> Ids:
    """Ids of the clefts in a block, 0 outside."""
    if side.content == "ids":
        return lambda block: side.ids(block.write)
    level = side.full * (1.0 if side.threshold is None else side.threshold)
    found = components(side.levels, plan, Hysteresis(level, level, min_voxels))
    return lambda block: found.labels(block.index)


def _judge(true: Tally, predicted: Tally, shared: Counter[tuple[int, int]]) -> Detection:
    partners: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})
    overlap: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    for (a, b), n in sorted(shared.items()):
        partners[0].setdefault(a, []).append(b)
        partners[1].setdefault(b, []).append(a)
        overlap[0][a] += n
        overlap[1][b] += n
    rows: list[dict[str, Any]] = []
    for number, (name, tally) in enumerate((("truth", true), ("prediction", predicted))):
        for cleft, voxels in sorted(tally.voxels.items()):
            met = partners[number].get(cleft, [])
            back = [partners[1 - number][m] for m in met]
            rows.append(
                {
                    "side": name,
                    "id": cleft,
                    "voxels": voxels,
                    **tally.centroid(cleft),
                    "shared_voxels": overlap[number][cleft],
                    "partners": met,
                    "hit": bool(met),
                    "split": name == "truth" and len(met) > 1,
                    "merged": any(len(b) > 1 for b in back) if name == "truth" else len(met) > 1,
                }
            )
    of_truth = [r for r in rows if r["side"] == "truth"]
    counts = {
        "true": len(true.voxels),
        "hit": sum(r["hit"] for r in of_truth),
        "missed": sum(not r["hit"] for r in of_truth),
        "split": sum(r["split"] for r in of_truth),
        "merged": sum(r["merged"] for r in of_truth),
        "predicted": len(predicted.voxels),
        "false": sum(not r["hit"] for r in rows if r["side"] == "prediction"),
    }
    return Detection(rows, counts)
