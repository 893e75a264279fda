"""Predictions and their truths in, scores out: exact, in nm, with what is undefined said."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli.detection import detect
from cleftcli.errors import UsageError
from cleftcli.foreground import PREDICTION, TRUTH, read_foreground
from cleftcli.geometry import parse_roi
from cleftcli.metrics import METRICS, cremi_score, f1, scores
from cleftcli.scoring import THRESHOLDS, Candidate, Pair, best_candidate, sweep
from cleftcli.tables import check_table, write_table
from cleftcli.volumes import Nm, Reading, open_volume, same_voxels


def evaluate(
    addresses: Sequence[tuple[str, str]],
    *,
    threshold: float | None,
    sweeping: bool,
    min_voxels: Sequence[int],
    roi: str | None,
    voxel_size: Nm | None,
    table: Path | None,
    save_to: Path | None,
) -> dict[str, Any]:
    """Score predictions; one object, as `--json` prints it.

    One volume gives its scores at the top level; several give `volumes`, a list of such objects,
    and `mean`, the mean of each score over them, as the challenge's leaderboard has it.

    Args:
        addresses: (prediction, truth): containers or datasets; predictions are probability, mask
            or ids, truths ids or mask.
        threshold: of probabilities; None takes each prediction's own, else 0.5.
        sweeping: score at many thresholds and report the best by CREMI-score; `sweep` lists all.
        min_voxels: predicted clefts with fewer voxels do not count; several to sweep over.
        roi: score this box of each prediction only.
        voxel_size: nm, for all, where the stores do not say.
        table: a .csv or .json to write, one row for each true and predicted cleft.
        save_to: a checkpoint that shall carry the threshold which a sweep finds best.

    Raises:
        IncompleteError: a prediction is not finished.
        InputError: shapes, offsets or voxel sizes do not match, or are not known.
        UsageError: options that exclude each other.
    """
    _check(addresses, threshold, min_voxels, sweeping=sweeping, table=table, save_to=save_to)
    pairs = [_pair(p, t, threshold, roi, voxel_size) for p, t in addresses]
    if sweeping:
        for pair in pairs:
            _check_sweep(pair)
    rows = [
        sweep(pair, THRESHOLDS if sweeping else [pair.prediction.threshold], min_voxels)
        for pair in pairs
    ]
    best = best_candidate(rows, cremi_score) or 0
    volumes = [_scored(p, row[best]) for p, row in zip(pairs, rows, strict=True)]
    if table is not None:
        chosen = rows[0][best]
        found = detect(_at(pairs[0], chosen))
        write_table(table, found.rows)
        volumes[0]["clefts"] = found.counts
    one = len(pairs) == 1
    result = volumes[0] if one else {"volumes": volumes, "mean": _mean(volumes)}
    if sweeping:
        result |= _swept(rows, best)
    if save_to is not None:
        _save(save_to, rows[0][best])
    return result


def _check(
    addresses: Sequence[tuple[str, str]],
    threshold: float | None,
    min_voxels: Sequence[int],
    *,
    sweeping: bool,
    table: Path | None,
    save_to: Path | None,
) -> None:
    if sweeping and threshold is not None:
        raise UsageError("--threshold and --sweep exclude each other")
    if len(min_voxels) > 1 and not sweeping:
        raise UsageError("several --min-voxels are for --sweep")
    if save_to is not None and not sweeping:
        raise UsageError("--save-to stores what --sweep finds: give both")
    check_table(table)
    if table is not None and len(addresses) > 1:
        raise UsageError("--table takes one prediction and its truth")


def _pair(
    prediction: str, truth: str, threshold: float | None, roi: str | None, voxel_size: Nm | None
) -> Pair:
    found = open_volume(prediction, prefer=PREDICTION, reading=Reading(voxel_size))
    true = same_voxels(found, open_volume(truth, prefer=TRUTH, reading=Reading(voxel_size)))
    return Pair(
        prediction=read_foreground(found, threshold),
        truth=read_foreground(true),
        roi=parse_roi(roi, found.shape) if roi else found.roi,
        voxel_size=found.voxel_size,
    )


def _check_sweep(pair: Pair) -> None:
    if pair.prediction.content != "probability":
        raise UsageError(
            f"{pair.prediction.volume.address} holds {pair.prediction.content}; only "
            "probabilities sweep"
        )


def _at(pair: Pair, chosen: Candidate) -> Pair:
    prediction = dataclasses.replace(pair.prediction, threshold=chosen.threshold)
    return dataclasses.replace(pair, prediction=prediction, min_voxels=chosen.min_voxels)


def _scored(pair: Pair, chosen: Candidate) -> dict[str, Any]:
    """What is said of one volume."""
    of = chosen.comparison
    reason = {} if chosen.threshold is not None else {"threshold_reason": "masks and ids have none"}
    measured = {"to_truth": of.to_truth, "to_prediction": of.to_prediction}
    return {
        "prediction": pair.prediction.volume.address,
        "truth": pair.truth.volume.address,
        "roi": str(pair.roi),
        "voxel_size": list(pair.voxel_size),
        "threshold": chosen.threshold,
        **reason,
        "min_voxels": chosen.min_voxels,
        **scores(of),
        "distances": {k: d and d.summary() for k, d in measured.items()},
        "predicted_voxels": of.predicted,
        "true_voxels": of.true,
        "prediction_rule": pair.prediction.rule,
        "truth_rule": pair.truth.rule,
    }


def _mean(volumes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each score's mean over the volumes; None, with the reason, where one has none."""
    found: dict[str, Any] = {}
    for name in METRICS:
        values = [v[name] for v in volumes]
        lacking = [v["prediction"] for v in volumes if v[name] is None]
        found[name] = None if lacking else float(np.mean(values))
        if lacking:
            found[f"{name}_reason"] = f"not defined for {', '.join(lacking)}"
    return found


def _swept(rows: Sequence[Sequence[Candidate]], best: int) -> dict[str, Any]:
    """Every candidate with its mean scores, and the best by CREMI-score and by F1."""
    by_f1 = best_candidate(rows, f1, highest=True)
    table = []
    for row in zip(*rows, strict=True):
        each = [scores(c.comparison) for c in row]
        means: dict[str, Any] = {
            name: None if any(s[name] is None for s in each) else _average(each, name)
            for name in METRICS
            if name != "auc"
        }
        table.append({"threshold": row[0].threshold, "min_voxels": row[0].min_voxels, **means})
    return {
        "best_by_cremi_score": table[best],
        "best_by_f1": None if by_f1 is None else table[by_f1],
        "sweep": table,
    }


def _average(each: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([s[name] for s in each]))


def _save(path: Path, chosen: Candidate) -> None:
    """Have a checkpoint carry a threshold."""
    from cleftcli.model import checkpoint

    found, weights = checkpoint.load(path)
    checkpoint.save(path, dataclasses.replace(found, threshold=chosen.threshold), weights)
