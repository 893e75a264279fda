"""The scores of a comparison, by name; one that has no value says why. Numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Callable

from cleftcli.comparison import Comparison, Distances


class Undefined(Exception):
    """A score has no value here; the message says why."""


def precision(of: Comparison) -> float:
    """Share of predicted cleft voxels that are true."""
    return _share(of.true_positives, of.predicted, "the prediction holds no cleft voxel")


def recall(of: Comparison) -> float:
    """Share of true cleft voxels that are predicted."""
    return _share(of.true_positives, of.true, "the truth holds no cleft voxel")


def f1(of: Comparison) -> float:
    """Harmonic mean of precision and recall."""
    both = of.predicted + of.true
    return _share(2 * of.true_positives, both, "neither side holds a cleft voxel")


def auc(of: Comparison) -> float:
    """Area under the ROC curve: how often a cleft voxel is more probable than another voxel."""
    if of.auc is None:
        raise Undefined("it takes probabilities, and a truth with both cleft and other voxels")
    return of.auc


def adgt(of: Comparison) -> float:
    """Average distance from predicted cleft voxels to the truth, nm: weighs false positives."""
    return _measured(of, of.to_truth).mean


def adf(of: Comparison) -> float:
    """Average distance from true cleft voxels to the prediction, nm: weighs false negatives."""
    return _measured(of, of.to_prediction).mean


def cremi_score(of: Comparison) -> float:
    """Mean of ADGT and ADF, nm; less is better. Source: CREMI; Liu & Ji 2021, eq. 11."""
    return (adgt(of) + adf(of)) / 2


def far_false_positives(of: Comparison) -> float:
    """Predicted cleft voxels farther than 200 nm from any true one."""
    return _measured(of, of.to_truth).far


def far_false_negatives(of: Comparison) -> float:
    """True cleft voxels farther than 200 nm from any predicted one."""
    return _measured(of, of.to_prediction).far


def f1_200nm(of: Comparison) -> float:
    """F1 where a voxel counts as right within 200 nm of the other side."""
    ours, theirs = _measured(of, of.to_truth), _measured(of, of.to_prediction)
    precise, found = 1 - ours.far / ours.count, 1 - theirs.far / theirs.count
    return _share(2 * precise * found, precise + found, "no voxel lies within 200 nm")


def _share(part: float, of: float, why: str) -> float:
    if not of:
        raise Undefined(why)
    return part / of


def _measured(of: Comparison, side: Distances | None) -> Distances:
    if side is None:
        empty = [n for n, v in (("prediction", of.predicted), ("truth", of.true)) if not v]
        raise Undefined(f"no cleft voxel in the {' and the '.join(empty)}: nothing to measure to")
    return side


METRICS: dict[str, Callable[[Comparison], float]] = {
    "cremi_score": cremi_score,
    "adgt": adgt,
    "adf": adf,
    "f1": f1,
    "precision": precision,
    "recall": recall,
    "auc": auc,
    "false_positives": far_false_positives,
    "false_negatives": far_false_negatives,
    "f1_200nm": f1_200nm,
}


def scores(of: Comparison) -> dict[str, float | str | None]:
    """Every metric by name; an undefined one is None, with the reason under `<name>_reason`."""
    found: dict[str, float | str | None] = {}
    for name, metric in METRICS.items():
        try:
            found[name] = metric(of)
        except Undefined as why:
            found[name] = None
            found[f"{name}_reason"] = str(why)
    return found
