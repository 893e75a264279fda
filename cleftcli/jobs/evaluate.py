"""A prediction and its truth in, scores out: exact, in nm, with what is undefined said."""

from __future__ import annotations

from typing import Any

import numpy as np

from cleftcli.comparison import Comparison
from cleftcli.errors import InputError, UsageError
from cleftcli.foreground import read_foreground
from cleftcli.geometry import parse_roi, zyx
from cleftcli.metrics import scores
from cleftcli.scoring import Pair, sweep
from cleftcli.volumes import Nm, Volume, crop, open_volume

SCHEMA_VERSION = 1
TRUTH = ("volumes/labels/clefts", "clefts", "mask")


def evaluate(
    prediction: str,
    truth: str,
    *,
    threshold: float | None,
    sweeping: bool,
    min_voxels: int,
    roi: str | None,
    voxel_size: Nm | None,
) -> dict[str, Any]:
    """Score a prediction; one flat object, as `--json` prints it.

    Args:
        prediction: container or dataset: probability, mask or ids.
        truth: container or dataset: ids or mask.
        threshold: of a probability; None takes the prediction's own, else 0.5.
        sweeping: score at many thresholds and report the best by CREMI-score; `sweep` lists all.
        min_voxels: predicted clefts with fewer voxels do not count.
        roi: score this box of the prediction only.
        voxel_size: nm, for both sides, where the stores do not say.

    Raises:
        IncompleteError: the prediction is not finished.
        InputError: shapes, offsets or voxel sizes do not match, or are not known.
    """
    if sweeping and threshold is not None:
        raise UsageError("--threshold and --sweep exclude each other")
    found = open_volume(prediction, prefer=("cleft", "clefts"), voxel_size=voxel_size)
    true = _same_voxels(found, open_volume(truth, prefer=TRUTH, voxel_size=voxel_size))
    pair = Pair(
        prediction=read_foreground(found, threshold),
        truth=read_foreground(true),
        roi=parse_roi(roi, found.shape) if roi else found.roi,
        voxel_size=found.voxel_size,
        min_voxels=min_voxels,
    )
    if sweeping and pair.prediction.content != "probability":
        raise UsageError(
            f"{found.address} holds {pair.prediction.content}; only probabilities sweep"
        )
    rows = sweep(pair) if sweeping else [(pair.prediction.threshold, pair.compare())]
    best, comparison = min(rows, key=lambda row: _order(row[1]))
    return {
        "schema_version": SCHEMA_VERSION,
        "prediction": found.address,
        "truth": true.address,
        "roi": str(pair.roi),
        "voxel_size": list(pair.voxel_size),
        **_threshold(best),
        "min_voxels": min_voxels,
        **scores(comparison),
        "predicted_voxels": comparison.predicted,
        "true_voxels": comparison.true,
        "prediction_rule": pair.prediction.rule,
        "truth_rule": pair.truth.rule,
        **({"sweep": [_row(t, c) for t, c in rows]} if sweeping else {}),
    }


def _threshold(value: float | None) -> dict[str, Any]:
    reason = {"threshold_reason": "masks and ids have none"} if value is None else {}
    return {"threshold": value, **reason}


def _order(of: Comparison) -> float:
    score = scores(of)["cremi_score"]
    return float("inf") if score is None else float(score)


def _row(threshold: float | None, of: Comparison) -> dict[str, Any]:
    return {"threshold": threshold, **{k: v for k, v in scores(of).items() if k != "auc"}}


def _same_voxels(prediction: Volume, truth: Volume) -> Volume:
    """The truth over the prediction's voxels; it may reach beyond them, by whole voxels.

    Raises:
        InputError: their voxel sizes differ, or the truth does not cover the prediction.
    """
    ours, theirs = prediction.voxel_size, truth.voxel_size
    if not np.allclose(ours, theirs, rtol=1e-6):
        raise InputError(
            f"{prediction.address} has voxels of {ours} nm, {truth.address} of {theirs} nm"
            f"{_turned(ours, theirs)}"
        )
    apart = np.subtract(prediction.space.offset, truth.space.offset) / ours
    if not np.allclose(apart, np.rint(apart), atol=0.01):
        raise InputError(
            f"{prediction.address} starts at {prediction.space.offset} nm, {truth.address} at "
            f"{truth.space.offset} nm: their voxels do not coincide"
        )
    roi = prediction.roi.shift(zyx(np.rint(apart).astype(int).tolist()))
    if not truth.roi.holds(roi):
        raise InputError(
            f"{prediction.address} covers voxels {roi} of {truth.address}, which has only "
            f"{truth.roi}{_turned(prediction.shape, truth.shape)}"
        )
    return crop(truth, roi)


def _turned(a: tuple[float, ...], b: tuple[float, ...]) -> str:
    return "; is one of them in x, y, z?" if tuple(a) == tuple(b)[::-1] and a != b else ""
