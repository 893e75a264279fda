"""Which true clefts were found, cleft by cleft: hit, missed, split, merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cleftcli.foreground import Foreground
from cleftcli.geometry import Block, BlockPlan
from cleftcli.scoring import Pair
from cleftcli.segmentation import Hysteresis, components

Ids = Callable[[Block], np.ndarray]


@dataclass(frozen=True)
class Detection:
    """The clefts of truth and prediction with the voxels they share.

    `rows` hold one object for each cleft of either side: id, voxels, voxels shared with the
    other side, its partners there, and what became of it. `counts` adds them up.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, int]


def detect(pair: Pair) -> Detection:
    """Hold the clefts of a pair against each other.

    Clefts of ids are the ids; those of masks and probabilities are corner-connected components.
    Voxels that are ignored on either side belong to none.
    """
    true, predicted = (
        _ids(pair.truth, pair.plan, 0),
        _ids(pair.prediction, pair.plan, pair.min_voxels),
    )
    sizes: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    shared: Counter[tuple[int, int]] = Counter()
    for block in pair.plan:
        unknown = pair.truth.ignored(block.write) | pair.prediction.ignored(block.write)
        both = [np.where(unknown, 0, side(block)).ravel() for side in (true, predicted)]
        for size, ids in zip(sizes, both, strict=True):
            _count(size, ids[ids > 0])
        touching = (both[0] > 0) & (both[1] > 0)
        met, times = np.unique(np.stack(both)[:, touching], axis=1, return_counts=True)
        for (a, b), n in zip(met.T.tolist(), times.tolist(), strict=True):
            shared[a, b] += n
    return _judge(sizes[0], sizes[1], shared)


def _ids(side: Foreground, plan: BlockPlan, min_voxels: int) -> Ids:
    """Ids of the clefts in a block, 0 outside."""
    if side.content == "ids":
        return lambda block: side.ids(block.write)
    level = side.full * (1.0 if side.threshold is None else side.threshold)
    found = components(side.levels, plan, Hysteresis(level, level, min_voxels))
    return lambda block: found.labels(block.index)


def _count(into: Counter[int], ids: np.ndarray) -> None:
    found, times = np.unique(ids, return_counts=True)
    into.update(dict(zip(found.tolist(), times.tolist(), strict=True)))


def _judge(
    true: Counter[int], predicted: Counter[int], shared: Counter[tuple[int, int]]
) -> Detection:
    partners: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})
    overlap: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    for (a, b), n in sorted(shared.items()):
        partners[0].setdefault(a, []).append(b)
        partners[1].setdefault(b, []).append(a)
        overlap[0][a] += n
        overlap[1][b] += n
    rows: list[dict[str, Any]] = []
    for number, (name, sizes) in enumerate((("truth", true), ("prediction", predicted))):
        for cleft, voxels in sorted(sizes.items()):
            met = partners[number].get(cleft, [])
            back = [partners[1 - number][m] for m in met]
            rows.append(
                {
                    "side": name,
                    "id": cleft,
                    "voxels": voxels,
                    "shared_voxels": overlap[number][cleft],
                    "partners": met,
                    "hit": bool(met),
                    "split": name == "truth" and len(met) > 1,
                    "merged": any(len(b) > 1 for b in back) if name == "truth" else len(met) > 1,
                }
            )
    of_truth = [r for r in rows if r["side"] == "truth"]
    counts = {
        "true": len(true),
        "hit": sum(r["hit"] for r in of_truth),
        "missed": sum(not r["hit"] for r in of_truth),
        "split": sum(r["split"] for r in of_truth),
        "merged": sum(r["merged"] for r in of_truth),
        "predicted": len(predicted),
        "false": sum(not r["hit"] for r in rows if r["side"] == "prediction"),
    }
    return Detection(rows, counts)
