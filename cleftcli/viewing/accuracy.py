"""How right an output is where the truth is known: scores, a sweep, and how far off voxels are."""

from __future__ import annotations

from typing import Any

import numpy as np

from cleftcli.comparison import Comparison, Distances
from cleftcli.metrics import scores
from cleftcli.scoring import THRESHOLDS, Candidate, Pair, sweep
from cleftcli.viewing.scene import Scene

BINS = 24
NO_TRUTH = "no truth was given; --truth names one"


def accuracy(scene: Scene) -> dict[str, Any]:
    """Scores at the output's threshold, the same at many, and distances of what is wrong in nm."""
    pair = scene.pair
    if pair is None:
        return {"lacks": NO_TRUTH}
    candidates = sweep(pair, _thresholds(pair), [0])
    chosen = next(c for c in candidates if c.threshold == pair.prediction.threshold)
    return {
        "roi": str(pair.roi),
        "whole": pair.roi == scene.volume.roi,
        "threshold": chosen.threshold,
        "scores": scores(chosen.comparison),
        "true_voxels": chosen.comparison.true,
        "predicted_voxels": chosen.comparison.predicted,
        "truth_rule": pair.truth.rule,
        "sweep": [_row(c) for c in candidates],
        "distances": _distances(chosen.comparison, min(pair.voxel_size)),
    }


def _thresholds(pair: Pair) -> list[float | None]:
    """Those of a sweep, and the one that is used."""
    used = pair.prediction.threshold
    return [None] if used is None else list({*THRESHOLDS, used})


def _row(candidate: Candidate) -> dict[str, Any]:
    found = scores(candidate.comparison)
    names = ("precision", "recall", "f1", "cremi_score", "adgt", "adf")
    return {"threshold": candidate.threshold, **{name: found[name] for name in names}}


def _distances(found: Comparison, shortest: float) -> dict[str, Any]:
    """Histograms over bins that grow: how many voxels are false or missed, by nm to the other side.

    Args:
        found: prediction and truth.
        shortest: edge of a voxel in nm; no wrong voxel is nearer.
    """
    if found.to_truth is None or found.to_prediction is None:
        return {"lacks": "one side has no cleft voxel, so there is nothing to measure to"}
    sides = {"false": found.to_truth, "missed": found.to_prediction}
    farthest = max([10 * shortest, *(float(d.beyond.max(initial=0)) for d in sides.values())])
    edges = np.geomspace(shortest, farthest, BINS + 1)
    edges[[0, -1]] = shortest * 0.999, farthest * 1.001  # what lies on an edge is rounded
    return {
        "lacks": None,
        "edges_nm": edges.round(3).tolist(),
        **{name: _histogram(side, edges) for name, side in sides.items()},
        "adgt": found.to_truth.mean,
        "adf": found.to_prediction.mean,
    }


def _histogram(side: Distances, edges: np.ndarray) -> list[int]:
    counts: list[int] = np.histogram(side.beyond, edges)[0].tolist()
    return counts
