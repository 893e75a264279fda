"""What a network is taught and how its output is read: targets, loss, probability.

An objective works with every network; CleftNet's label augmentor is `mask_and_boundary`.
Losses are means over the known voxels (a sum would tie the step size to the tile size), in
float32 whatever the network computes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from cleftcli.errors import UsageError

CLASS_SHARE = (0.05, 0.95)  # Heinrich et al. 2018: no class weighs more than 19 times the other
TINY = 1e-6


class Objective(Protocol):
    """Targets to ask of the sampler, and what to make of `channels` output channels."""

    channels: ClassVar[int]
    targets: ClassVar[tuple[str, ...]]

    def loss(self, output: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named parts; their sum is minimised. output (n, c, z, y, x), targets (n, z, y, x)."""

    def probability(self, output: Tensor) -> Tensor:
        """(n, z, y, x) float32 in [0, 1]."""


@dataclass(frozen=True)
class Mask:
    """Weighted binary cross-entropy on the mask.

    Source: Liu & Ji 2021, eq. 7. Deviation: a mean; the weight is clipped to CLASS_SHARE.
    """

    channels: ClassVar[int] = 1
    targets: ClassVar[tuple[str, ...]] = ("mask",)

    def loss(self, output: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"mask": scalar}."""
        return {"mask": weighted_cross_entropy(output[:, 0].float(), targets["mask"])}

    def probability(self, output: Tensor) -> Tensor:
        """Sigmoid of the only channel."""
        return output[:, 0].float().sigmoid()


@dataclass(frozen=True)
class MaskAndBoundary:
    """CleftNet's label augmentor: L_s + `boundary` L_b + `consistency` L_c.

    Channel 0 is the mask's logit, tanh of channel 1 the boundary label.

    Args:
        boundary: alpha_1, 0.5 in the paper.
        consistency: alpha_2, 0.2 in the paper.
        literal: eq. 8 and 9 as printed instead of as explained in the text.

    Source: Liu & Ji 2021, eq. 7 to 10. Deviation: see the loss functions.
    """

    channels: ClassVar[int] = 2
    targets: ClassVar[tuple[str, ...]] = ("mask", "tanh-distance")
    boundary: float = 0.5
    consistency: float = 0.2
    literal: bool = False

    def loss(self, output: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"mask", "boundary", "consistency"}: scalars, already weighted."""
        logit, edge = output[:, 0].float(), output[:, 1].float().tanh()
        distance = targets["tanh-distance"]
        boundary = boundary_loss(edge, distance, literal=self.literal)
        consistency = consistency_loss(logit, edge, distance, literal=self.literal)
        return {
            "mask": weighted_cross_entropy(logit, targets["mask"]),
            "boundary": self.boundary * boundary,
            "consistency": self.consistency * consistency,
        }

    def probability(self, output: Tensor) -> Tensor:
        """Sigmoid of the mask's channel."""
        return output[:, 0].float().sigmoid()


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


OBJECTIVES: dict[str, type[Mask] | type[MaskAndBoundary]] = {
    "mask": Mask,
    "mask_and_boundary": MaskAndBoundary,
}


def objective(name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """An objective by name.

    Raises:
        UsageError: no such objective, or it has no such option.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"objective {name!r} is unknown; there are {', '.join(OBJECTIVES)}")
    known = [f.name for f in fields(OBJECTIVES[name])]
    for option in options or {}:
        if option not in known:
            raise UsageError(f"objective {name} has no option {option!r}; it has {known}")
    return OBJECTIVES[name](**(options or {}))
