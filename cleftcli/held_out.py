"""How good a network is where it was not trained: threshold, scores, and a picture.

Held-out regions are predicted with the tiles and rounding that `predict` uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli.foreground import Foreground, read_annotation
from cleftcli.geometry import Zyx
from cleftcli.metrics import METRICS, scores
from cleftcli.model.inference import Predictor
from cleftcli.pictures import montage
from cleftcli.prediction import predict_roi, quantise, tiling_of
from cleftcli.sampling import Source
from cleftcli.scoring import THRESHOLDS, Pair, best_candidate, sweep
from cleftcli.volumes import in_memory
from cleftcli.volumes.intensity import intensity_range, unit

MIN_VOXELS = (0, 50, 200, 500, 1000)
SHOWN_SECTIONS, SHOWN_EDGE = 3, 512
HIGHEST_IS_BEST = {"cremi_score": False, "f1": True}  # what a threshold can be chosen by


@dataclass(frozen=True)
class Held:
    """A held-out region, predicted: the pair to score."""

    source: Source
    pair: Pair


def predicted(
    predictor: Predictor, sources: Sequence[Source], tile: Zyx, blend: str = "bump"
) -> list[Held]:
    """Predict each region, in memory; "none" stacks tiles without overlap, as the paper does."""
    return [_predicted(predictor, source, tile, blend) for source in sources]


def _predicted(predictor: Predictor, source: Source, tile: Zyx, blend: str) -> Held:
    image, ids = source.volumes()
    tiling = tiling_of(image.shape, tile, blend)
    found = predict_roi(predictor, image, intensity_range(image), tiling, source.roi)
    probability = in_memory(quantise(found[0]), like=image)
    truth = read_annotation(in_memory(ids.read(source.roi), like=ids))
    prediction = Foreground(probability, "probability", 0.5)
    return Held(source, Pair(prediction, truth, probability.roi, source.voxel_size))


def choose(held: Sequence[Held], by: str = "cremi_score") -> dict[str, Any]:
    """The threshold with the best mean of a metric, and the scores there.

    `with_min_voxels` is the best pair of a threshold and a least size, for `segment`.
    """
    metric, highest = METRICS[by], HIGHEST_IS_BEST[by]
    swept = [sweep(h.pair, THRESHOLDS, MIN_VOXELS) for h in held]
    plain = [[c for c in row if c.min_voxels == 0] for row in swept]
    best = best_candidate(plain, metric, highest=highest)
    threshold = 0.5 if best is None else plain[0][best].threshold
    found = {"threshold": threshold, "chosen_by": by, **_rows(held, plain, threshold)}
    of_both = best_candidate(swept, metric, highest=highest)
    if of_both is not None:
        chosen = [row[of_both] for row in swept]
        found["with_min_voxels"] = {
            "threshold": chosen[0].threshold,
            "min_voxels": chosen[0].min_voxels,
            by: float(np.mean([metric(c.comparison) for c in chosen])),
        }
    return found


def rank(found: Mapping[str, Any]) -> float:
    """Where `choose` puts a network among others; less is better, and no score is the worst."""
    value: float | None = found["mean"][found["chosen_by"]]
    if value is None:
        return math.inf
    return -value if HIGHEST_IS_BEST[found["chosen_by"]] else value


def score(held: Sequence[Held], threshold: float) -> dict[str, Any]:
    """The scores at a threshold that was chosen elsewhere."""
    swept = [sweep(h.pair, [threshold], [0]) for h in held]
    return {"threshold": threshold, **_rows(held, swept, threshold)}


def _rows(held: Sequence[Held], swept: Sequence[Any], threshold: float | None) -> dict[str, Any]:
    """Scores of each region, and the mean of those that every region has."""
    rows = [scores(c.comparison) for row in swept for c in row if c.threshold == threshold]
    names = [n for n, v in rows[0].items() if not isinstance(v, str)]
    means = {n: _mean([row.get(n) for row in rows]) for n in names}
    regions = [{"raw": h.source.raw.split("/")[-1], "roi": str(h.source.roi)} for h in held]
    return {"mean": means, "scores": rows, "regions": regions}


def _mean(values: Sequence[Any]) -> float | None:
    return None if None in values else float(np.mean(values))


def picture(path: Path, held: Held, threshold: float) -> None:
    """Raw, truth and prediction of the sections with most clefts, around the middle."""
    depth = held.pair.roi.shape[0]
    part = held.pair.roi.middle((depth, SHOWN_EDGE, SHOWN_EDGE))
    image = held.source.volumes()[0]
    raw = unit(image.read(part.shift(held.source.roi.offset)), intensity_range(image))
    levels = held.pair.prediction.levels(part)
    true = held.pair.truth.mask(held.pair.truth.levels(part))
    most = np.argsort(-true.sum(axis=(1, 2)), kind="stable")[:SHOWN_SECTIONS]
    montage(
        path,
        quantise(raw),
        true,
        levels / held.pair.prediction.full,
        sections=sorted(most.tolist()),
        nm_per_voxel=held.pair.voxel_size[2],
        shown=threshold,
    )
