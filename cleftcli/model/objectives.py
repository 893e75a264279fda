"""What a network is taught and how its output is read: targets, loss, maps.

An objective works with every network, but for `reconstruction`, which is that of `mae`. CleftNet's
label augmentor is `mask_and_boundary`. Losses are in float32 whatever the network computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from cleftcli.errors import UsageError
from cleftcli.geometry import Zyx, zyx
from cleftcli.model.losses import (
    CLASS_SHARE,
    Share,
    balanced_error,
    boundary_loss,
    coherence_loss,
    dice_loss,
    weighted_cross_entropy,
)
from cleftcli.model.options import checked
from cleftcli.model.transformer import patchify, unpatchify

NO_CLEFTS = (
    "a masked autoencoder knows no clefts; fine-tune network vit from it (training.init_from)"
)
LEAST_VARIANCE = 1e-6  # of a patch that is normalised

# what a map is read from and as: (n, channels, z, y, x) -> (n, z, y, x) float32 in [0, 1]
Map = Callable[[Tensor], Tensor]
Clip = Annotated[float, Field(ge=0, le=0.5)]


def _mask(output: Tensor) -> Tensor:
    """Sigmoid of channel 0, which is a logit."""
    return output[:, 0].float().sigmoid()


def _boundary(output: Tensor) -> Tensor:
    """Tanh of channel 1, and what is below 0 becomes 0: outside is 0, as in the label."""
    return output[:, 1].float().tanh().clamp(min=0)


def _distance(output: Tensor) -> Tensor:
    """Channel 0 as it is: -1 becomes 0, the surface 0.5, 1 becomes 1."""
    return (output[:, 0].float().clamp(-1, 1) + 1) / 2


class Objective(Protocol):
    """Targets to ask of the sampler, and what to make of `channels` output channels.

    `maps` is all that it has to say by name: first of all `cleft`, the probability, where it
    learns of clefts.
    """

    channels: ClassVar[int]
    targets: ClassVar[tuple[str, ...]]
    maps: ClassVar[Mapping[str, Map]]

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named parts; their sum is minimised.

        Args:
            output: (n, channels, z, y, x).
            batch: each target (n, z, y, x), and `raw` (n, 1, z, y, x) in [-1, 1].
        """


@dataclass(frozen=True)
class Mask:
    """Weighted binary cross-entropy on the mask, and `dice` times the Dice loss.

    Args:
        dice: its weight; not in the paper.
        share_of: "patch", the volume that the paper speaks of, or "batch": what the classes'
            weights are taken from.
        share_clip: a class has this share at least; 0 as printed.

    Source: Liu & Ji 2021, eq. 7. Deviation: a mean; shares are clipped; Dice.
    """

    channels: ClassVar[int] = 1
    targets: ClassVar[tuple[str, ...]] = ("mask",)
    maps: ClassVar[Mapping[str, Map]] = {"cleft": _mask}
    dice: float = 0.0
    share_of: Literal["patch", "batch"] = "patch"
    share_clip: Clip = CLASS_SHARE

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"mask"} and, where it counts, {"dice"}: scalars, already weighted."""
        logit, mask = output[:, 0].float(), batch["mask"]
        parts = {"mask": weighted_cross_entropy(logit, mask, self._share)}
        return parts | ({"dice": self.dice * dice_loss(logit, mask)} if self.dice else {})

    @property
    def _share(self) -> Share:
        return Share(self.share_of, self.share_clip)


@dataclass(frozen=True)
class MaskAndBoundary(Mask):
    """CleftNet's label augmentor: L_s + `boundary` L_b + `coherence` L_c.

    Channel 0 is the mask's logit, tanh of channel 1 the boundary label.

    Args:
        boundary: alpha_1, 0.5 in the paper.
        coherence: alpha_2, 0.2 in the paper.
        coherence_sets: the voxels of its two terms: by the "label", or by the "prediction", as
            printed.
        literal: eq. 7 to 9 as printed, but for means in place of sums: nothing is clipped, eq. 8
            has the share of positives, eq. 9 log P(y_s = 1) and the sets of the prediction.

    Source: Liu & Ji 2021, eq. 7 to 10. Deviation: see the loss functions.

    Raises:
        UsageError: `literal`, and another option says otherwise.
    """

    channels: ClassVar[int] = 2
    targets: ClassVar[tuple[str, ...]] = ("mask", "tanh-distance")
    maps: ClassVar[Mapping[str, Map]] = {"cleft": _mask, "boundary": _boundary}
    boundary: float = 0.5
    coherence: float = 0.2
    coherence_sets: Literal["label", "prediction"] = "label"
    literal: bool = False

    def __post_init__(self) -> None:
        printed = {"share_of": "patch", "share_clip": CLASS_SHARE, "coherence_sets": "label"}
        changed = [name for name, default in printed.items() if getattr(self, name) != default]
        if self.literal and changed:
            raise UsageError(f"literal = true decides {', '.join(printed)}; leave out {changed[0]}")

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of `Mask`, {"boundary"} and {"coherence"}: scalars, already weighted."""
        logit, b, distance = (
            output[:, 0].float(),
            output[:, 1].float().tanh(),
            batch["tanh-distance"],
        )
        of_boundary = boundary_loss(b, distance, self._share, literal=self.literal)
        sets = "prediction" if self.literal else self.coherence_sets
        coherence = coherence_loss(logit, b, distance, sets=sets, literal=self.literal)
        return super().loss(output, batch) | {
            "boundary": self.boundary * of_boundary,
            "coherence": self.coherence * coherence,
        }

    @property
    def _share(self) -> Share:
        return Share("patch", 0.0) if self.literal else super()._share


@dataclass(frozen=True)
class Distance:
    """Squared error of the signed tanh distance, classes balanced in each patch.

    The only channel is the distance as it is, without activation; 0 is the surface of a cleft.

    Source: Heinrich et al. 2018 and the authors' code.
    """

    channels: ClassVar[int] = 1
    targets: ClassVar[tuple[str, ...]] = ("signed-distance",)
    maps: ClassVar[Mapping[str, Map]] = {"cleft": _distance}

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"distance": scalar}."""
        return {"distance": balanced_error(output[:, 0].float(), batch["signed-distance"])}


@dataclass(frozen=True)
class Reconstruction:
    """Squared error of raw where network `mae` could not see it.

    Args:
        normalise: zyx of the patches in each of which raw is first brought to mean 0 and
            variance 1; None leaves it as it is.

    Source: He et al. 2022; Cheng et al. 2023, who normalise.
    """

    channels: ClassVar[int] = 2
    targets: ClassVar[tuple[str, ...]] = ()
    maps: ClassVar[Mapping[str, Map]] = {}
    normalise: Zyx | None = None

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"reconstruction": scalar}, a mean over hidden voxels."""
        guessed, hidden = output.float().unbind(1)
        error = (guessed - self.target(batch["raw"][:, 0].float())) ** 2
        return {"reconstruction": (error * hidden).sum() / hidden.sum().clamp(min=1)}

    def target(self, raw: Tensor) -> Tensor:
        """What is to be guessed of raw (n, z, y, x)."""
        mean, deviation = self._moments(raw)
        return (raw - mean) / deviation

    def restore(self, guessed: Tensor, raw: Tensor) -> Tensor:
        """A guess in the levels of raw, to be looked at; the inverse of `target`."""
        mean, deviation = self._moments(raw)
        return guessed * deviation + mean

    def _moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the patch that a voxel is in."""
        if self.normalise is None:
            return torch.zeros_like(raw), torch.ones_like(raw)
        patch = zyx(self.normalise)
        grid = zyx([n // p for n, p in zip(raw.shape[1:], patch, strict=True)])
        patches = patchify(raw, patch)
        variance, mean = torch.var_mean(patches, dim=2, keepdim=True, correction=0)
        spread = [t.expand_as(patches) for t in (mean, (variance + LEAST_VARIANCE).sqrt())]
        mean, deviation = (unpatchify(t, grid, patch) for t in spread)
        return mean, deviation


OBJECTIVES: dict[str, type[Mask | MaskAndBoundary | Distance | Reconstruction]] = {
    "mask": Mask,
    "mask_and_boundary": MaskAndBoundary,
    "distance": Distance,
    "reconstruction": Reconstruction,
}


def objective(name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """An objective by name.

    Raises:
        UsageError: no such objective, it has no such option, or the option is of another kind.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"objective {name!r} is unknown; there are {', '.join(OBJECTIVES)}")
    known = [f.name for f in fields(OBJECTIVES[name])]
    for option in options or {}:
        if option not in known:
            raise UsageError(f"objective {name} has no option {option!r}; it has {known}")
    return OBJECTIVES[name](**checked(f"objective {name}", OBJECTIVES[name], options or {}))


def check_maps(name: str, maps: Sequence[str]) -> None:
    """Refuse maps that an objective does not have.

    Raises:
        UsageError: it lacks one, one is named twice, or `cleft` is not the first.
    """
    has = OBJECTIVES[name].maps
    if not set(maps) <= has.keys() or len(set(maps)) < len(maps) or maps[:1] != ("cleft",):
        raise UsageError(
            f"channels {','.join(maps)}: objective {name} has {','.join(has)}, cleft to come first"
        )
