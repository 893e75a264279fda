"""Augmentations by name: each acts with a probability, and has parameters with defaults.

Sections are never mixed: z is the coarse axis. Raw is float32 in [0, 1] here, and gunpowder's
world unit is the voxel. What comes from beyond a patch are real voxels as far as the volume goes.
"""

from __future__ import annotations

import difflib
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from scipy.ndimage import gaussian_filter

from cleftcli.config import Table
from cleftcli.errors import UsageError
from cleftcli.geometry import Zyx, zyx
from cleftcli.gunpowder_import import gp
from cleftcli.sections import SIGMAS, Change, Deform, Displace, Orient, Orientation

Nm = tuple[float, float, float]

RAW, CLEFTS = gp.ArrayKey("RAW"), gp.ArrayKey("CLEFTS")
MOST_NM = 1000  # of any length: patches are hardly wider


class Augmentation(Table):
    """One augmentation as a config says it: a number is its probability, a table says more."""

    moves: ClassVar[Sequence[Any]] = (RAW,)  # what it acts on; all of it in the same way
    probability: float = Field(ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return value if isinstance(value, Mapping) else {"probability": value}

    def _reach_nm(self) -> float:
        """How far in plane a voxel's content may come from."""
        return 0.0

    @abstractmethod
    def _node(self, voxel_size: Nm) -> Any:
        """The gunpowder node that acts so."""


class Flip(Augmentation):
    """Mirror a patch with this probability, along one of the seven choices of axes."""

    moves = (RAW, CLEFTS)

    def _node(self, _: Nm) -> Any:
        mirrored = list(itertools.product((0, 1), (0, 1), (0, 1)))[1:]
        return Orient(self.probability, [(axes, (0, 1, 2)) for axes in mirrored])


class Rotate(Augmentation):
    """Turn a patch in plane with this probability, by one, two or three quarters."""

    moves = (RAW, CLEFTS)

    def _node(self, _: Nm) -> Any:
        quarters: list[Orientation] = [
            ((0, 1, 0), (0, 2, 1)),
            ((0, 1, 1), (0, 1, 2)),
            ((0, 0, 1), (0, 2, 1)),
        ]
        return Orient(self.probability, quarters)


class Elastic(Augmentation):
    """Deform a patch smoothly in plane, all of its sections alike."""

    moves = (RAW, CLEFTS)
    spacing_nm: float = Field(default=160, ge=1, le=MOST_NM)  # between control points
    sigma_nm: float = Field(default=8, gt=0, le=MOST_NM)  # of their displacements, y and x

    @model_validator(mode="after")
    def _unfolded(self) -> Elastic:
        if self.sigma_nm > self.spacing_nm / 8:
            raise PydanticCustomError("fold", "sigma_nm above spacing_nm / 8 folds the tissue")
        return self

    def _reach_nm(self) -> float:
        return SIGMAS * self.sigma_nm

    def _node(self, voxel_size: Nm) -> Any:
        return Deform(
            self.moves,
            _voxels(self._reach_nm(), voxel_size),
            probability=self.probability,
            spacing=[self.spacing_nm / edge for edge in voxel_size[1:]],
            sigma=[self.sigma_nm / edge for edge in voxel_size[1:]],
        )


class Misalignment(Augmentation):
    """Sections that lie wrong in plane, by whole voxels."""

    max_nm: float = Field(default=10, gt=0, le=MOST_NM)  # in y and in x, either way

    def _reach_nm(self) -> float:
        return self.max_nm

    def _node(self, voxel_size: Nm) -> Any:
        most = [self.max_nm / edge for edge in voxel_size[1:]]

        def places(random: np.random.Generator, sections: int) -> np.ndarray:
            chosen = random.random(sections) < self.probability
            drawn = np.rint(random.uniform(-1, 1, (sections, 2)) * most).astype(int)
            return self._places(chosen, drawn)

        return Displace(self.moves, _voxels(self.max_nm, voxel_size), places)

    @abstractmethod
    def _places(self, chosen: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Where each section is taken from: (sections, 2) voxels in y and x."""


class Slip(Misalignment):
    """Displace each section with this probability, in raw alone: the ids stay where they are."""

    def _places(self, chosen: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return np.where(chosen[:, None], drawn, 0)


class Shift(Misalignment):
    """From a section on, displace all; anew from each section with this probability."""

    moves = (RAW, CLEFTS)

    def _places(self, chosen: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        # not added up: the reach would grow with the sections
        last = np.maximum.accumulate(np.where(chosen, np.arange(len(chosen)) + 1, 0))
        return np.concatenate([[[0, 0]], drawn])[last]


class Defocus(Augmentation):
    """Blur each section in plane with this probability."""

    max_sigma_nm: float = Field(default=20, gt=0, le=MOST_NM)  # of the Gaussian; drawn from 0 on

    def _node(self, voxel_size: Nm) -> Any:
        def blur(section: np.ndarray, random: np.random.Generator) -> Any:
            sigma = random.uniform(0, self.max_sigma_nm)
            return gaussian_filter(section, [sigma / edge for edge in voxel_size[1:]])

        return Change(RAW, self.probability, blur)


class LowContrast(Augmentation):
    """Scale the contrast of each section about its mean with this probability."""

    contrast: float = Field(default=0.5, gt=0, le=1)

    def _node(self, _: Nm) -> Any:
        return gp.DefectAugment(
            RAW,
            prob_missing=0,
            prob_low_contrast=self.probability,
            contrast_scale=self.contrast,
        )


class Grayscale(Augmentation):
    """Scale and shift the values of a patch with this probability, each section by itself."""

    scale: float = Field(default=0.1, ge=0, lt=1)  # of the contrast about the mean: 1 +- scale
    shift: float = Field(default=0.1, ge=0, le=1)  # of the mean: +- shift

    def _node(self, _: Nm) -> Any:
        return gp.IntensityAugment(
            RAW,
            scale_min=1 - self.scale,
            scale_max=1 + self.scale,
            shift_min=-self.shift,
            shift_max=self.shift,
            slab=(1, -1, -1),
            p=self.probability,
        )


class Noise(Augmentation):
    """Add normal noise to the voxels of each section with this probability."""

    max_sigma: float = Field(default=0.1, gt=0, le=1)  # of the range of raw; drawn from 0 on

    def _node(self, _: Nm) -> Any:
        def roughen(section: np.ndarray, random: np.random.Generator) -> Any:
            sigma = np.float32(random.uniform(0, self.max_sigma))
            return section + sigma * random.standard_normal(section.shape, np.float32)

        return Change(RAW, self.probability, roughen)


class Artefact(Augmentation):
    """Darken a straight stripe of each section with this probability, as a fold or stain does."""

    width_nm: float = Field(default=100, gt=0, le=MOST_NM)  # where half of the darkening is left
    max_darkness: float = Field(default=0.9, gt=0, le=1)  # share of the value lost; drawn from 0 on

    def _node(self, voxel_size: Nm) -> Any:
        def darken(section: np.ndarray, random: np.random.Generator) -> Any:
            middle, angle = random.uniform(0, section.shape), random.uniform(0, math.pi)
            across = np.array((math.cos(angle), math.sin(angle))) * voxel_size[1:]
            y, x = np.ogrid[: section.shape[0], : section.shape[1]]
            nm = (y - middle[0]) * across[0] + (x - middle[1]) * across[1]
            shade = np.exp2(-np.square(2 * nm / self.width_nm))
            return section * (1 - random.uniform(0, self.max_darkness) * shade)

        return Change(RAW, self.probability, darken)


class MissingSection(Augmentation):
    """Blank each section with this probability: the network sees grey."""

    def _node(self, _: Nm) -> Any:
        return gp.DefectAugment(RAW, prob_missing=self.probability, prob_low_contrast=0)


def _voxels(nm: float, voxel_size: Nm) -> Zyx:
    """A length in plane in whole voxels, rounded up, by the finer edge: patches may be turned."""
    voxels = math.ceil(nm / min(voxel_size[1:]))
    return 0, voxels, voxels


# in the order in which they act: where tissue lies, then what the microscope makes of it
AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "flip": Flip,
    "rotate": Rotate,
    "elastic": Elastic,
    "shift": Shift,
    "slip": Slip,
    "defocus": Defocus,
    "low_contrast": LowContrast,
    "grayscale": Grayscale,
    "noise": Noise,
    "artefact": Artefact,
    "missing_section": MissingSection,
}


def choose(augment: Mapping[str, Any]) -> tuple[Augmentation, ...]:
    """The augmentations that a config names, in the order of the table; they can be hashed.

    Args:
        augment: for each name its probability, or a table with it and parameters.

    Raises:
        UsageError: a name or parameter is unknown, or a value impossible; each has a line.
    """
    if unknown := [name for name in augment if name not in AUGMENTATIONS]:
        raise UsageError("\n".join(_unknown(f"augment.{n}", n, AUGMENTATIONS) for n in unknown))
    return tuple(_read(n, kind, augment[n]) for n, kind in AUGMENTATIONS.items() if n in augment)


def nodes(chosen: Iterable[Augmentation], voxel_size: Nm) -> list[Any]:
    """Their gunpowder nodes, in order, for voxels of this size in nm (z, y, x)."""
    return [augmentation._node(voxel_size) for augmentation in chosen]


def reach(augment: Mapping[str, Any], voxel_size: Nm) -> Zyx:
    """How far from its place a patch's content may come, in voxels (z, y, x), on either side.

    Patches are drawn within a region, and may show voxels this far outside of it: what is held
    out from training must lie further away. The sum over all augmentations that displace; 0 in z.

    Raises:
        UsageError: see `choose`.
    """
    acting = [a for a in choose(augment) if a.probability]
    return zyx(np.sum([(0, 0, 0), *(_voxels(a._reach_nm(), voxel_size) for a in acting)], axis=0))


def _read(name: str, kind: type[Augmentation], value: Any) -> Augmentation:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        lines = [_say(f"augment.{name}", kind, e) for e in error.errors()]
        raise UsageError("\n".join(lines)) from error


def _say(key: str, kind: type[Augmentation], error: Any) -> str:
    key = ".".join([key, *map(str, error["loc"])])
    if error["type"] == "extra_forbidden":
        return _unknown(key, str(error["loc"][-1]), kind.model_fields)
    return f"{key}: {error['msg'].lower()}, got {error['input']!r}"


def _unknown(key: str, word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{key}: unknown; there are {', '.join(known)}{hint}"
