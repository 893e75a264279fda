"""Which blocks of an output are there, from its ledgers, and what became of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cleftcli.blockwise import Standing, is_held, ledgers, standing
from cleftcli.foreground import Foreground
from cleftcli.geometry import BlockPlan, Roi, whole
from cleftcli.stored import ledger_of, plan_of
from cleftcli.volumes import is_remote

STATES = ("done", "masked", "missing input", "not done", "failed")  # the worst last
DONE, MASKED, MISSING_INPUT, NOT_DONE, FAILED = range(len(STATES))
MARKS = ".m?-x"  # a letter for each state, in `--json`
MOST_FAILED = 20  # blocks to name


@dataclass(frozen=True)
class Coverage:
    """The blocks of an output and what the ledgers say of them.

    `roi` is the output in voxels of its input, `plan` its blocks in its own voxels. `states` and
    `positive`, cleft voxels as far as they were counted, are (z, y, x) arrays of blocks.
    """

    roi: Roi
    plan: BlockPlan
    states: np.ndarray
    positive: np.ndarray
    standing: Standing

    @property
    def running(self) -> bool:
        """Whether a process of this machine writes the output now."""
        return any(map(is_held, self.standing.paths))

    @property
    def there(self) -> np.ndarray:
        """Indices of the blocks that can be read, ascending."""
        return np.flatnonzero(self.states.ravel() < NOT_DONE)

    def unknown(self, roi: Roi) -> np.ndarray:
        """True where a voxel's block is not there: bool, of the shape of the box."""
        axes = zip(roi.offset, roi.end, self.plan.block, self.states.shape, strict=True)
        at = [np.minimum(np.arange(a, b) // n, count - 1) for a, b, n, count in axes]
        return np.asarray(self.states[np.ix_(*at)] >= NOT_DONE)

    def seen_from(self, axis: int) -> np.ndarray:
        """The worst state of the blocks behind each other along an axis: (rows, columns)."""
        return np.asarray(self.states.max(axis=axis))

    def numbers(self) -> dict[str, Any]:
        """Counts of blocks by state, and the map along z and along y, a letter a block."""
        counts = np.bincount(self.states.ravel(), minlength=len(STATES)).tolist()
        failed = sorted(self.standing.failed.items())[:MOST_FAILED]
        return {
            "blocks": len(self.plan),
            "block": list(self.plan.block),
            "counts": dict(zip(STATES, counts, strict=True)),
            "running": self.running,
            "marks": dict(zip(MARKS, STATES, strict=True)),
            "yx": _letters(self.seen_from(0)),
            "zx": _letters(self.seen_from(1)),
            "failed": [{"block": str(self.plan[n].write), "error": why} for n, why in failed],
        }


def _letters(states: np.ndarray) -> list[str]:
    return ["".join(MARKS[state] for state in row) for row in states]


def read_coverage(address: str) -> Coverage | None:
    """What the ledgers beside an output say; None where there are none.

    Raises:
        InputError: a ledger does not say which blocks there are.
    """
    paths = [] if is_remote(address) else ledgers(ledger_of(address))
    if not paths:
        return None
    found = standing(paths)
    asked = plan_of(found, ledger_of(address))
    states = np.full(len(asked), NOT_DONE, np.uint8)
    positive = np.zeros(len(asked), np.int64)
    for index, record in found.records():
        gaps = record.get("blocks_with_missing_chunks")
        states[index] = MASKED if record.get("skipped") else MISSING_INPUT if gaps else DONE
        positive[index] = record.get("positive", 0)
    states[list(found.failed)] = FAILED
    counts, plan = asked.counts, BlockPlan(whole(asked.roi.shape), asked.block)
    return Coverage(asked.roi, plan, states.reshape(counts), positive.reshape(counts), found)


@dataclass(frozen=True)
class Growing(Foreground):
    """The foreground of an output that is not finished: of missing blocks nobody knows."""

    coverage: Coverage

    def read(self, roi: Roi) -> tuple[np.ndarray, np.ndarray]:
        """Levels, and where nobody knows."""
        levels, unknown = super().read(roi)
        return levels, unknown | self.coverage.unknown(roi)
