"""Losses: what an output costs, given the truth.

Means over the known voxels, in float32: a sum would tie the step size to the tile size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CLASS_SHARE = (0.05, 0.95)  # Heinrich et al. 2018: no class weighs more than 19 times the other
SMOOTH = 1e-6  # keeps Dice defined where nothing is cleft
LEAST_BOUNDARY = 1e-6  # whose logarithm is taken


def weighted_cross_entropy(logit: Tensor, mask: Tensor) -> Tensor:
    """Eq. 7: -[b y log p + (1 - b)(1 - y) log(1 - p)], b the share of zeros; a mean.

    Args:
        logit: any shape.
        mask: same shape; 0, 1, or more where unknown.
    """
    known, y = mask <= 1, (mask == 1).float()
    count = known.sum().clamp(min=1)
    share = ((mask == 0).sum() / count).clamp(*CLASS_SHARE)
    weight = torch.where(y > 0, share, 1 - share) * known
    return functional.binary_cross_entropy_with_logits(logit, y, weight, reduction="sum") / count


def dice_loss(logit: Tensor, mask: Tensor) -> Tensor:
    """1 - 2 |p y| / (|p| + |y|) over the known voxels of the batch, p the sigmoid.

    Args:
        logit: any shape.
        mask: same shape; 0, 1, or more where unknown.
    """
    p, y = logit.sigmoid() * (mask <= 1), (mask == 1).float()
    return 1 - (2 * (p * y).sum() + SMOOTH) / (p.sum() + y.sum() + SMOOTH)


def balanced_error(found: Tensor, distance: Tensor) -> Tensor:
    """Weighted squared error in which inside and outside of each patch weigh alike; a mean.

    Alike, but for patches with less than 5 % of either: no class weighs more than 19 times the
    other.

    Args:
        found: (n, ...) predicted.
        distance: (n, ...) the label, positive inside clefts; NaN where unknown.
    """
    known, y = ~distance.isnan(), distance.nan_to_num()
    inside = y > 0
    kept = tuple(range(1, y.ndim))
    count = known.sum(kept, keepdim=True).clamp(min=1)
    share = (inside.sum(kept, keepdim=True) / count).clamp(*CLASS_SHARE)
    weight = known / (2 * torch.where(inside, share, 1 - share))
    return (weight * (found - y) ** 2).sum() / known.sum().clamp(min=1)


def boundary_loss(boundary: Tensor, distance: Tensor, *, literal: bool) -> Tensor:
    """Eq. 8: weighted squared error of the boundary label; a mean.

    Args:
        boundary: predicted, in (-1, 1).
        distance: the label, in [-1, 1]; NaN where unknown.
        literal: positives weigh their own share, as printed, instead of that of the others.
    """
    known, y = ~distance.isnan(), distance.nan_to_num()
    inside = y > 0
    count = known.sum().clamp(min=1)
    share = ((known & ~inside).sum() / count).clamp(*CLASS_SHARE)
    of_inside = 1 - share if literal else share
    weight = torch.where(inside, of_inside, 1 - of_inside) * known
    return (weight * (boundary - y) ** 2).sum() / count


def consistency_loss(logit: Tensor, boundary: Tensor, distance: Tensor, *, literal: bool) -> Tensor:
    """Eq. 9: where mask and boundary disagree; a mean.

    Inside clefts -(1 - p) log boundary; outside -|boundary| log(1 - p), so that a mask is
    penalised where the boundary says outside. The logarithm is that of 1e-6 at least: where the
    boundary is not positive inside a cleft, the term moves the mask alone.

    Args:
        logit: of the mask; p is its sigmoid.
        boundary: predicted boundary label, in (-1, 1).
        distance: its label, whose sign says inside or outside; NaN where unknown.
        literal: as printed: inside is where boundary > 0, and the second term has log p.
            Background then lowers the loss by being called cleft: see docs/papers.md.
    """
    known = ~distance.isnan()
    inside = boundary > 0 if literal else distance.nan_to_num() > 0
    log_p = functional.logsigmoid(logit if literal else -logit)
    agree_inside = -(1 - logit.sigmoid()) * boundary.clamp(min=LEAST_BOUNDARY).log()
    agree_outside = -boundary.abs() * log_p
    terms = torch.where(inside, agree_inside, agree_outside) * known
    return terms.sum() / known.sum().clamp(min=1)
