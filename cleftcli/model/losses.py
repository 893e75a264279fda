"""Losses: what an output costs, given the truth.

Means over the known voxels, in float32: a sum would tie the step size to the tile size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CLASS_SHARE = (0.05, 0.95)  # Heinrich et al. 2018: no class weighs more than 19 times the other
TINY = 1e-6


def weighted_cross_entropy(logit: Tensor, mask: Tensor) -> Tensor:
    """Eq. 7: -[b y log p + (1 - b)(1 - y) log(1 - p)], b the share of zeros; a mean.

    Args:
        logit: any shape.
        mask: same shape; 0, 1, or more where unknown.
    """
    known = mask <= 1
    y = mask[known].float()
    share = (1 - y).mean().nan_to_num().clamp(*CLASS_SHARE)
    weight = torch.where(y > 0, share, 1 - share)
    terms = functional.binary_cross_entropy_with_logits(logit[known], y, weight, reduction="sum")
    return terms / max(y.numel(), 1)


def dice_loss(logit: Tensor, mask: Tensor) -> Tensor:
    """1 - 2 |p y| / (|p| + |y|) over the known voxels of the batch, p the sigmoid.

    Args:
        logit: any shape.
        mask: same shape; 0, 1, or more where unknown.
    """
    known = mask <= 1
    p, y = logit[known].sigmoid(), mask[known].float()
    return 1 - (2 * (p * y).sum() + TINY) / (p.sum() + y.sum() + TINY)


def balanced_error(found: Tensor, distance: Tensor) -> Tensor:
    """Weighted squared error in which inside and outside of each patch weigh the same; a mean.

    Args:
        found: (n, ...) predicted.
        distance: (n, ...) the label, positive inside clefts; NaN where unknown.
    """
    known = ~distance.isnan()
    y = distance.nan_to_num()
    inside = y > 0
    kept = tuple(range(1, y.ndim))
    count = known.sum(kept, keepdim=True).clamp(min=1)
    share = ((inside & known).sum(kept, keepdim=True) / count).clamp(*CLASS_SHARE)
    weight = known / (2 * torch.where(inside, share, 1 - share))
    return (weight * (found - y) ** 2).sum() / max(int(known.sum()), 1)


def boundary_loss(edge: Tensor, distance: Tensor, *, literal: bool) -> Tensor:
    """Eq. 8: weighted squared error of the boundary label; a mean.

    Args:
        edge: predicted, in (-1, 1).
        distance: the label, in [-1, 1]; NaN where unknown.
        literal: positives weigh their own share, as printed, instead of that of the others.
    """
    known = ~distance.isnan()
    y = distance[known]
    inside = y > 0
    share = (~inside).float().mean().nan_to_num().clamp(*CLASS_SHARE)
    of_inside = 1 - share if literal else share
    weight = torch.where(inside, of_inside, 1 - of_inside)
    return (weight * (edge[known] - y) ** 2).sum() / max(y.numel(), 1)


def consistency_loss(logit: Tensor, edge: Tensor, distance: Tensor, *, literal: bool) -> Tensor:
    """Eq. 9: where mask and boundary disagree; a mean.

    Inside clefts -(1 - p) log edge; outside -|edge| log(1 - p), so that a mask is penalised where
    the boundary says outside.

    Args:
        logit: of the mask; p is its sigmoid.
        edge: predicted boundary label, in (-1, 1).
        distance: its label, whose sign says inside or outside; NaN where unknown.
        literal: as printed: inside is where edge > 0, and the second term has log p. Background
            then lowers the loss by being called cleft: see docs/papers.md.
    """
    known = ~distance.isnan()
    logit, edge = logit[known], edge[known]
    inside = edge > 0 if literal else distance[known] > 0
    log_p = functional.logsigmoid(logit if literal else -logit)
    agree_inside = -(1 - logit.sigmoid()) * edge.clamp(min=TINY).log()
    agree_outside = -edge.abs() * log_p
    return torch.where(inside, agree_inside, agree_outside).sum() / max(edge.numel(), 1)
