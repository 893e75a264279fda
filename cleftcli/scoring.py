"""Compare the foreground of a prediction with the truth, box by box.

Both `evaluate` and the choice of a threshold after training read volumes this way.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cleftcli.comparison import Box, Comparison, Truth, compare
from cleftcli.foreground import Foreground
from cleftcli.geometry import Block, BlockPlan, Roi, fit_block, zyx
from cleftcli.metrics import Undefined
from cleftcli.segmentation import Components, Hysteresis, components_of_each
from cleftcli.volumes import Nm

BLOCK_VOXELS = 2**22  # ids take 8 bytes a voxel
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

    def compare(self) -> Comparison:
        """All that the scores need, exactly, in memory that grows with the clefts."""
        return sweep(self, [self.prediction.threshold], [self.min_voxels])[0].comparison

    @property
    def plan(self) -> BlockPlan:
        """The boxes to read."""
        chunks = self.prediction.volume.chunks
        chunk = zyx([max(a, b) for a, b in zip(chunks, (1, 64, 64), strict=True)])
        return BlockPlan(self.roi, fit_block(self.roi.shape, chunk, BLOCK_VOXELS))


class Candidate(NamedTuple):
    """What a threshold (None for masks and ids) and a least size come to."""

    threshold: float | None
    min_voxels: int
    comparison: Comparison


def sweep(
    pair: Pair,
    thresholds: Sequence[float | None] = THRESHOLDS,
    min_voxels: Sequence[int] | None = None,
) -> list[Candidate]:
    """The comparison at each threshold and least size, thresholds ascending for each size.

    The volume is read twice, and once more where small clefts are dropped, however many
    candidates there are.
    """
    sizes = sorted({pair.min_voxels} if min_voxels is None else set(min_voxels))
    chosen = sorted(thresholds, key=lambda t: 1.0 if t is None else t)
    levels = [pair.prediction.full * (1.0 if t is None else t) for t in chosen]
    reading = _Reading(pair, levels, sizes)
    found = compare(
        reading.truths, reading.boxes, pair.voxel_size, cuts=len(levels), rules=len(sizes)
    )
    return [
        Candidate(threshold, size, comparison)
        for size, row in zip(sizes, found, strict=True)
        for threshold, comparison in zip(chosen, row, strict=True)
    ]


def best_candidate(
    volumes: Sequence[Sequence[Candidate]],
    metric: Callable[[Comparison], float],
    *,
    highest: bool = False,
) -> int | None:
    """Which candidate has the best mean of a metric over volumes; None where none is defined."""
    means: dict[int, float] = {}
    for n, row in enumerate(zip(*volumes, strict=True)):
        with contextlib.suppress(Undefined):
            means[n] = float(np.mean([metric(c.comparison) for c in row]))
    chosen = max if highest else min
    return chosen(means, key=means.__getitem__) if means else None


@dataclass(frozen=True)
class _Reading:
    """A pair as boxes for `compare`."""

    pair: Pair
    levels: Sequence[float]  # thresholds, ascending, in the prediction's unit
    sizes: Sequence[int]

    def truths(self) -> Iterator[Truth]:
        """The truth, with the prediction where its values count."""
        return (truth for truth, _ in self._read_all())

    def boxes(self) -> Iterator[Box]:
        """Truth and prediction."""
        found = self._components() if max(self.sizes) > 1 else []
        for block, (truth, levels) in zip(self.pair.plan, self._read_all(), strict=True):
            passed = self._passed(levels)
            passed[~truth.scored] = 0
            inner = truth.within(levels)
            kept = [self._kept(n, found, block, inner, truth.within(passed)) for n in self.sizes]
            yield Box(truth, passed, kept)

    def _read_all(self) -> Iterator[tuple[Truth, np.ndarray]]:
        """What `_read` gives for each block, the next one being read meanwhile."""
        with ThreadPoolExecutor(1) as reader:
            ahead = deque[Future[tuple[Truth, np.ndarray]]]()
            for block in self.pair.plan:
                ahead.append(reader.submit(self._read, block))
                if len(ahead) > 1:
                    yield ahead.popleft().result()
            for last in ahead:
                yield last.result()

    def _read(self, block: Block) -> tuple[Truth, np.ndarray]:
        """The truth, and the levels of the prediction over the same voxels."""
        pair, inner = self.pair, block.write
        outer = inner.grow(CONTEXT).intersect(pair.roi)
        levels, unknown = pair.prediction.read(outer)
        true, unannotated = pair.truth.read(outer)
        scored = ~(unknown | unannotated)
        values = levels if pair.prediction.content == "probability" else None
        return Truth(inner, outer, pair.truth.mask(true) & scored, scored, values), levels

    def _passed(self, levels: np.ndarray) -> np.ndarray:
        """How many thresholds each voxel reaches, as `levels >= threshold` has it."""
        if levels.dtype == np.uint8:
            table = np.searchsorted(self.levels, np.arange(256), side="right")
            return np.asarray(table.astype(np.uint8)[levels])
        passed = np.zeros(levels.shape, np.uint8)
        for level in self.levels:
            passed += levels >= level
        return passed

    def _components(self) -> list[Components]:
        pair = self.pair
        rules = [Hysteresis(level, level) for level in self.levels]
        return components_of_each(pair.prediction.levels, pair.plan, rules)

    def _kept(
        self,
        size: int,
        found: Sequence[Components],
        block: Block,
        levels: np.ndarray,
        passed: np.ndarray,
    ) -> np.ndarray:
        """How many thresholds each voxel reaches in a cleft that is large enough.

        A cleft at a higher threshold lies in one at a lower, which is no smaller: what is kept
        there is kept here.
        """
        if size <= 1:
            return passed
        kept = np.zeros(passed.shape, np.uint8)
        for each in found:
            kept += (each.voxels >= size)[each.labels(block.index, levels)]
        return np.asarray(np.minimum(kept, passed))
