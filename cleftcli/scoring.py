"""Compare the foreground of a prediction with the truth, box by box.

Both `evaluate` and the choice of a threshold after training read volumes this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from cleftcli.comparison import Box, Comparison, compare
from cleftcli.foreground import Foreground
from cleftcli.geometry import BlockPlan, Roi, fit_block, zyx
from cleftcli.segmentation import Hysteresis, components
from cleftcli.volumes import Nm

BLOCK_VOXELS = 2**24
THRESHOLDS = (*(round(0.05 * n, 2) for n in range(1, 20)), 0.97, 0.98, 0.99)
CONTEXT = (1, 1, 1)  # a surface voxel is known by its neighbours


@dataclass(frozen=True)
class Pair:
    """A prediction and its truth over the same voxels."""

    prediction: Foreground
    truth: Foreground
    roi: Roi
    voxel_size: Nm
    min_voxels: int = 0

    def at(self, threshold: float) -> Pair:
        """The same pair at another threshold."""
        return replace(self, prediction=replace(self.prediction, threshold=threshold))

    def compare(self) -> Comparison:
        """All that the scores need, exactly, in memory that grows with the clefts."""
        if self.min_voxels > 1:
            return compare(lambda: self._boxes(self._large()), self.voxel_size)
        return compare(lambda: self._boxes(None), self.voxel_size)

    def _plan(self) -> BlockPlan:
        chunks = self.prediction.volume.chunks
        chunk = zyx([max(a, b) for a, b in zip(chunks, (1, 64, 64), strict=True)])
        return BlockPlan(self.roi, fit_block(self.roi.shape, chunk, BLOCK_VOXELS))

    def _boxes(self, large: Large | None) -> Iterator[Box]:
        for block in self._plan():
            inner = block.write
            outer = inner.grow(CONTEXT).intersect(self.roi)
            levels = self.prediction.levels(outer)
            scored = ~(self.prediction.ignored(outer) | self.truth.ignored(outer))
            predicted = self.prediction.mask(levels) if large is None else large.mask(outer)
            yield Box(
                inner=inner,
                outer=outer,
                predicted=predicted & scored,
                true=self.truth.mask(self.truth.levels(outer)) & scored,
                scored=scored,
                probability=levels if self.prediction.content == "probability" else None,
            )

    def _large(self) -> Large:
        level = self.prediction.full * (self.prediction.threshold or 1.0)
        rule = Hysteresis(threshold=level, low=level, min_voxels=self.min_voxels)
        found = components(
            self.prediction.levels,
            self._plan(),
            rule,
            voxel_size=None,
            offset=(0.0, 0.0, 0.0),
            full=self.prediction.full,
        )
        mask = np.zeros(self.roi.shape, bool)
        for block in found.plan:
            mask[block.write.within(self.roi)] = found.labels(block.index) > 0
        return Large(mask, self.roi)


@dataclass(frozen=True)
class Large:
    """The prediction less its small clefts, one byte a voxel."""

    voxels: np.ndarray
    roi: Roi

    def mask(self, roi: Roi) -> np.ndarray:
        """True in clefts that are large enough."""
        return np.asarray(self.voxels[roi.within(self.roi)])


def sweep(pair: Pair, thresholds: Iterable[float] = THRESHOLDS) -> list[tuple[float, Comparison]]:
    """The comparison at each threshold."""
    return [(t, pair.at(t).compare()) for t in thresholds]
