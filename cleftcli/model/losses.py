"""Losses: what an output costs, given the truth.

Means over the known voxels, in float32: a sum would tie the step size to the tile size. Tensors
are (n, z, y, x), a patch each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

CLASS_SHARE = 0.05  # Heinrich et al. 2018: no class weighs more than 19 times the other
SMOOTH = 1e-6  # keeps Dice defined where nothing is cleft
LEAST_BOUNDARY = 1e-2  # whose logarithm is taken: just above 0 its gradient has no bound


@dataclass(frozen=True)
class Share:
    """How the share of a class is taken, which decides the weights of eq. 7 and 8.

    Args:
        of: "patch", the volume that the paper speaks of, or "batch".
        clip: the share lies between this and 1 less this; 0 leaves it as it is, as printed.
    """

    of: Literal["patch", "batch"] = "patch"
    clip: float = CLASS_SHARE

    def __call__(self, chosen: Tensor, known: Tensor) -> Tensor:
        """The share of the known voxels that are chosen: (n or 1, 1, 1, 1) in [0, 1].

        Args:
            chosen: bool.
            known: bool, same shape; no voxel is chosen that is not known.
        """
        over = tuple(range(int(self.of == "patch"), chosen.ndim))
        count = known.sum(over, keepdim=True).clamp(min=1)
        return (chosen.sum(over, keepdim=True) / count).clamp(self.clip, 1 - self.clip)


def weighted_cross_entropy(logit: Tensor, mask: Tensor, share: Share = Share()) -> Tensor:
    """Eq. 7: -beta log P(1) inside clefts, -(1 - beta) log P(0) outside; a mean.

    beta is the share of voxels outside.

    Args:
        logit: (n, z, y, x).
        mask: same shape; 0, 1, or more where unknown.
        share: how beta is taken.
    """
    known, y = mask <= 1, (mask == 1).float()
    beta = share(mask == 0, known)
    weight = torch.where(y > 0, beta, 1 - beta) * known
    total = functional.binary_cross_entropy_with_logits(logit, y, weight, reduction="sum")
    return total / known.sum().clamp(min=1)


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
        found: (n, z, y, x) predicted.
        distance: same shape; the label, positive inside clefts; NaN where unknown.
    """
    known, y = ~distance.isnan(), distance.nan_to_num()
    inside = y > 0
    share = Share()(inside, known)
    weight = known / (2 * torch.where(inside, share, 1 - share))
    return (weight * (found - y) ** 2).sum() / known.sum().clamp(min=1)


def boundary_loss(
    boundary: Tensor, distance: Tensor, share: Share = Share(), *, literal: bool = False
) -> Tensor:
    """Eq. 8: weighted squared error of the boundary label; a mean.

    Args:
        boundary: (n, z, y, x) predicted, in (-1, 1).
        distance: same shape; the label, positive inside clefts and 0 outside; NaN where unknown.
        share: how beta is taken.
        literal: beta is the share of positive labels, as printed, instead of that of the others;
            inside clefts the error is weighted with beta, outside with 1 - beta.
    """
    known, y = ~distance.isnan(), distance.nan_to_num()
    inside = y > 0
    beta = share(inside if literal else known & ~inside, known)
    weight = torch.where(inside, beta, 1 - beta) * known
    return (weight * (boundary - y) ** 2).sum() / known.sum().clamp(min=1)


def coherence_loss(
    logit: Tensor,
    boundary: Tensor,
    distance: Tensor,
    *,
    sets: Literal["label", "prediction"] = "label",
    literal: bool = False,
) -> Tensor:
    """Eq. 9: where mask and boundary disagree; a mean.

    -(1 - p) log b over one set of voxels, -(1 - b) log P(0) over the other.

    Args:
        logit: (n, z, y, x) of the mask; p = P(1) is its sigmoid.
        boundary: same shape; b, predicted, in (-1, 1).
        distance: same shape; the boundary label; NaN where unknown.
        sets: the first holds the voxels whose label is positive, or, as printed, whose b is. Of a
            label's set the logarithm is that of 0.01 at least: where b is less inside a cleft, the
            term moves the mask alone.
        literal: the second term has log P(1), as printed. It then rewards what it should penalise.
    """
    known = ~distance.isnan()
    inside = (boundary if sets == "prediction" else distance.nan_to_num()) > 0
    log_b = torch.where(inside, boundary, 1.0)
    if sets == "label":
        log_b = log_b.clamp(min=LEAST_BOUNDARY)
    first = -(1 - logit.sigmoid()) * log_b.log()
    second = -(1 - boundary) * functional.logsigmoid(logit if literal else -logit)
    terms = torch.where(inside, first, second) * known
    return terms.sum() / known.sum().clamp(min=1)
