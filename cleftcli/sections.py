"""Gunpowder nodes: mirror and turn a patch; displace, deform and change its sections.

Each draws from a generator of its own, seeded by the request it sees: never from numpy's global
state, which other nodes share. Gunpowder's world unit is the voxel here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cleftcli.geometry import Zyx
from cleftcli.gunpowder_import import gp

Orientation = tuple[tuple[int, int, int], tuple[int, int, int]]
Places = Callable[[np.random.Generator, int], np.ndarray]
SIGMAS = 3  # no voxel is deformed by more standard deviations


class Orient(gp.SimpleAugment):
    """Mirrors axes and permutes them, with a probability, in one of several ways.

    Args:
        probability: of acting on a batch.
        ways: alike in probability: for z, y and x whether it is mirrored, and which axis then
            takes its place.
    """

    def __init__(self, probability: float, ways: Sequence[Orientation]) -> None:
        super().__init__(mirror_only=[0, 1, 2], transpose_only=[0, 1, 2])
        self.probability, self.ways = probability, ways

    def skip_node(self, request: Any) -> bool:
        """Draw whether, and how."""
        random = np.random.default_rng(request.random_seed)
        self.mirror_probs, axes = self.ways[int(random.integers(len(self.ways)))]
        self.permutation_dict = {axes: 1.0}
        return bool(random.random() >= self.probability)


class _Move(gp.BatchFilter, ABC):
    """Gives the arrays of `keys` from elsewhere in plane, with real voxels read for it.

    Args:
        keys: arrays that move, all the same way; the others stay.
        reach: voxels read beyond what is asked for, on either side.
        probability: of acting on a batch.
    """

    def __init__(self, keys: Sequence[Any], reach: Zyx, probability: float = 1.0) -> None:
        self.keys, self.reach, self.probability = keys, reach, probability

    def setup(self) -> None:
        self.enable_autoskip()
        for key in self.keys:
            self.updates(key, self.spec[key])

    def skip_node(self, request: Any) -> bool:
        self.random = np.random.default_rng(request.random_seed)
        return bool(self.random.random() >= self.probability)

    def prepare(self, request: Any) -> Any:
        self.roi = request.get_total_roi()
        self.draw(self.random)
        needed = gp.BatchRequest()
        for key in self._asked(request):
            needed[key] = request[key].copy()
            needed[key].roi = request[key].roi.grow(self.reach, self.reach)
        return needed

    def process(self, batch: Any, request: Any) -> Any:
        moved = gp.Batch()
        for key in self._asked(request):
            spec = batch[key].spec.copy()
            spec.roi = request[key].roi
            start = spec.roi.offset - self.roi.offset
            box = tuple(slice(a, a + n) for a, n in zip(start, spec.roi.shape, strict=True))
            moved[key] = gp.Array(self.move(batch[key].data, box), spec)
        return moved

    def _asked(self, request: Any) -> list[Any]:
        return [key for key in self.keys if key in request]

    @abstractmethod
    def draw(self, random: np.random.Generator) -> None:
        """Decide on everything within `roi`, which holds all arrays that are asked for."""

    @abstractmethod
    def move(self, data: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
        """What `box` of `roi` holds, from `data`, which reaches further in plane."""


class Displace(_Move):
    """Takes each section from elsewhere by whole voxels: no value is made up.

    Args:
        keys: see `_Move`.
        reach: the largest displacement, in voxels.
        places: generator and number of sections -> their displacements (n, 2), int.
    """

    def __init__(self, keys: Sequence[Any], reach: Zyx, places: Places) -> None:
        super().__init__(keys, reach)
        self.places = places

    def draw(self, random: np.random.Generator) -> None:
        """The displacement of each section."""
        self.offsets = self.places(random, self.roi.shape[0])

    def move(self, data: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
        """Each section, cut where it lies."""
        (height, width), (_, y, x) = (s.stop - s.start for s in box[1:]), self.reach
        corners = self.offsets[box[0]] + (y, x)
        cuts = [s[a : a + height, b : b + width] for s, (a, b) in zip(data, corners, strict=True)]
        return np.stack(cuts)


class Deform(_Move):
    """Displaces smoothly in plane, all sections by one field.

    Bicubic between control points, whose displacements are normal, and clipped at 3 sigma. Raw is
    interpolated linearly; ids are taken from the nearest voxel, by index, for no float holds
    them all.

    Args:
        keys: see `_Move`.
        reach: at least 3 sigma, in whole voxels.
        probability: see `_Move`.
        spacing: between control points in y and x, in voxels.
        sigma: standard deviation of their displacements in y and x, in voxels.
    """

    def __init__(
        self,
        keys: Sequence[Any],
        reach: Zyx,
        *,
        probability: float,
        spacing: Sequence[float],
        sigma: Sequence[float],
    ) -> None:
        super().__init__(keys, reach, probability)
        self.spacing, self.sigma = spacing, sigma

    def draw(self, random: np.random.Generator) -> None:
        """The field: displacements in y and x (2, y, x), float32, in voxels."""
        extent = self.roi.shape[1:]
        # one point before the first voxel and two behind the last: bicubic looks at four
        points = [math.ceil(n / s) + 3 for n, s in zip(extent, self.spacing, strict=True)]
        sigma = torch.tensor(self.sigma, dtype=torch.float32)[:, None, None]
        normal = torch.from_numpy(random.standard_normal((2, *points), np.float32))
        axes = [1 + torch.arange(n) / s for n, s in zip(extent, self.spacing, strict=True)]
        field = _sample(normal, *torch.meshgrid(*axes, indexing="ij"), mode="bicubic")
        self.field = field.clamp(-SIGMAS, SIGMAS) * sigma

    def move(self, data: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
        """The data where the field leads."""
        field = self.field[:, box[1], box[2]]
        y, x = (
            torch.arange(n).reshape(shape) + r + shift
            for n, shape, r, shift in zip(
                field.shape[1:], ((-1, 1), (1, -1)), self.reach[1:], field, strict=True
            )
        )
        if data.dtype.kind != "f":
            return data[:, y.round().long().numpy(), x.round().long().numpy()]
        straight = np.ascontiguousarray(data)  # a mirrored view has strides that torch refuses
        found = _sample(torch.from_numpy(straight), y, x, mode="bilinear").numpy()
        # weights that sum to nearly 1 must not give contrast to a section that has none
        low, high = (f(axis=(1, 2), keepdims=True) for f in (data.min, data.max))
        return found.clip(low, high)


def _sample(image: torch.Tensor, y: torch.Tensor, x: torch.Tensor, *, mode: str) -> torch.Tensor:
    """Each plane of image (n, h, w) at positions y and x, in its voxels: (n, *y.shape)."""
    height, width = image.shape[1:]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    return F.grid_sample(image[None], grid[None], mode, "border", align_corners=True)[0]


class Change(gp.BatchFilter):
    """Rewrites each section of an array with a probability; values are kept within [0, 1].

    A section without contrast is left alone: it is lost, and the network is to see it so.

    Args:
        key: of the array, float32 in [0, 1].
        probability: for each section.
        change: section and generator -> section.
    """

    def __init__(
        self,
        key: Any,
        probability: float,
        change: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    ) -> None:
        self.key, self.probability, self.change = key, probability, change

    def setup(self) -> None:
        """Only that array is touched."""
        self.enable_autoskip()
        self.updates(self.key, self.spec[self.key])

    def process(self, batch: Any, request: Any) -> None:
        """Each section has a generator of its own: what befalls one decides nothing for others."""
        sections = batch[self.key].data
        randoms = np.random.default_rng(request.random_seed).spawn(len(sections))
        for section, random in zip(sections, randoms, strict=True):
            if random.random() < self.probability and section.min() < section.max():
                section[:] = self.change(section, random).clip(0, 1)
