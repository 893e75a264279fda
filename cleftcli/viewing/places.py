"""Which windows of a volume are worth a look: the best, the worst, and some by lot.

A volume may be terabytes; only a sample of its blocks is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cleftcli.geometry import Block, BlockPlan, Roi, TileGrid, Zyx, fit_block, hull
from cleftcli.outputs import CHUNK
from cleftcli.viewing.scene import MOST_VOXELS, Scene

EDGE = 320  # voxels of a window in y and x
BLOCK_VOXELS = 2**22  # of the boxes to look at where no ledger tells of blocks
EACH = 3  # windows of a kind
FEWEST = 20  # cleft voxels of a window that is worth a judgement
APART = 3  # sections between windows of a kind at the same place
SECTIONS = 12  # of the montage over z
WIDEST = 1024  # voxels of the montage in y and x
SEED = 0


@dataclass(frozen=True)
class Window:
    """A box of one section, and what is predicted and true in it."""

    roi: Roi
    predicted: int
    true: int
    right: int
    certainty: float  # mean probability of the predicted voxels; 0 without any, 1 of a mask

    @property
    def clefts(self) -> int:
        """Voxels that are cleft on either side."""
        return self.predicted + self.true - self.right

    @property
    def f1(self) -> float:
        """How well both sides agree: 0 to 1."""
        return 2 * self.right / max(self.predicted + self.true, 1)


def places(scene: Scene) -> dict[str, Any]:
    """Windows to show, how they were chosen, and the sections of the montage."""
    blocks, how = _sample(scene)
    windows = _windows(scene, blocks)
    kinds = _kinds(scene)
    chosen: list[dict[str, Any]] = []
    taken: list[Window] = []
    for kind, order in kinds.items():
        worth = sorted((w for w in windows if w.clefts >= FEWEST), key=order)
        taken += (picked := _pick(worth, taken))
        chosen += [_told(scene, kind, window) for window in picked]
    lot = np.random.default_rng(SEED).permutation(len(windows))
    chosen += [_told(scene, "random", w) for w in _pick([windows[n] for n in lot], taken)]
    return {
        "how": how,
        "blocks_looked_at": len(blocks),
        "windows": len(windows),
        "window": list(_edges(scene)),
        "fewest_voxels": FEWEST,
        "seed": SEED,
        "places": chosen,
        "montage": _montage(scene, blocks),
    }


def _sample(scene: Scene) -> tuple[list[Block], str]:
    """The blocks to look at, and how they were chosen."""
    coverage, roi = scene.coverage, scene.volume.roi
    plan = coverage.plan if coverage else BlockPlan(roi, fit_block(roi.shape, CHUNK, BLOCK_VOXELS))
    there = coverage.there if coverage else np.arange(len(plan))
    count = max(MOST_VOXELS // plan[0].write.size, 2)
    if len(there) <= count:
        return [plan[n] for n in there.tolist()], f"all {len(there)} blocks that are there"
    richest = np.empty(0, np.int64)
    if coverage is not None:
        richest = there[np.argsort(-coverage.positive.ravel()[there], kind="stable")[: count // 2]]
    rest = np.setdiff1d(there, richest)
    lot = np.random.default_rng(SEED).choice(rest, count - len(richest), replace=False)
    how = f"{len(lot)} blocks by lot (seed {SEED})"
    if len(richest):
        how = f"the {len(richest)} blocks with most predicted voxels and {how}"
    chosen = np.concatenate([richest, lot]).tolist()
    return [plan[n] for n in chosen], f"{how}, of {len(there)}"


def _windows(scene: Scene, blocks: Sequence[Block]) -> list[Window]:
    """Every window that touches one of the blocks, once."""
    grid = TileGrid(scene.volume.shape, _edges(scene), _edges(scene))
    found: dict[Roi, Window] = {}
    for block in blocks:
        new = [roi for roi in grid.touching(block.write) if roi not in found]
        found |= {window.roi: window for window in _read(scene, new)}
    return list(found.values())


def _edges(scene: Scene) -> Zyx:
    """The shape of a window, voxels."""
    _, height, width = scene.volume.shape
    return 1, min(EDGE, height), min(EDGE, width)


def _read(scene: Scene, rois: Sequence[Roi]) -> Iterator[Window]:
    if not rois:
        return
    box = hull(rois)
    levels, unknown = scene.output.read(box)
    predicted = scene.output.mask(levels) & ~unknown
    source = scene.probability or scene.output
    probability = (levels if source is scene.output else source.levels(box)) / source.full
    true = np.zeros(box.shape, bool)
    if scene.truth is not None:
        marked, unannotated = scene.truth.read(box)
        true = scene.truth.mask(marked) & ~unannotated & ~unknown
        predicted &= ~unannotated
    for roi in rois:
        here = roi.within(box)
        ours, theirs = predicted[here], true[here]
        sure = float(probability[here][ours].mean()) if ours.any() else 0.0
        yield Window(roi, int(ours.sum()), int(theirs.sum()), int((ours & theirs).sum()), sure)


def _kinds(scene: Scene) -> dict[str, Callable[[Window], tuple[float, float]]]:
    """The kinds of windows and the order in which each is looked for."""
    if scene.truth is not None:
        return {"best": lambda w: (-w.f1, -w.clefts), "worst": lambda w: (w.f1, -w.clefts)}
    if scene.probability is None:
        return {"fullest": lambda w: (-w.clefts, 0), "emptiest": lambda w: (w.clefts, 0)}
    return {
        "most certain": lambda w: (-w.certainty, -w.clefts),
        "least certain": lambda w: (w.certainty, -w.clefts),
    }


def _pick(windows: Sequence[Window], taken: Sequence[Window]) -> list[Window]:
    """The first windows that do not show what others show already."""
    found: list[Window] = []
    for window in windows:
        if len(found) < EACH and not any(_same(window.roi, w.roi) for w in (*taken, *found)):
            found.append(window)
    return found


def _same(a: Roi, b: Roi) -> bool:
    """Whether two windows show the same: they overlap, in sections near each other."""
    return a.grow((APART - 1, 0, 0)).intersect(b).size > 0


def _told(scene: Scene, kind: str, window: Window) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": kind, "roi": str(window.roi), "z": window.roi.offset[0]}
    told["predicted_voxels"] = window.predicted
    if scene.truth is None:
        known = scene.probability is not None and window.predicted > 0
        return {**told, "mean_probability": round(window.certainty, 4) if known else None}
    return {
        **told,
        "right": window.right,
        "false": window.predicted - window.right,
        "missed": window.true - window.right,
        "f1": round(window.f1, 4) if window.clefts else None,
    }


def _montage(scene: Scene, blocks: Sequence[Block]) -> dict[str, Any] | None:
    """Sections over all of z at one place: around the first block that was looked at."""
    if not blocks:
        return None
    (depth, *plane), first = scene.volume.shape, blocks[0].write
    edges = [min(n, WIDEST) for n in plane]
    middle = [o + n // 2 for o, n in zip(first.offset[1:], first.shape[1:], strict=True)]
    y, x = (min(max(m - e // 2, 0), n - e) for m, e, n in zip(middle, edges, plane, strict=True))
    sections = np.unique(np.linspace(0, depth - 1, SECTIONS).round().astype(int))
    return {
        "roi": str(Roi((0, y, x), (depth, edges[0], edges[1]))),
        "sections": sections.tolist(),
    }
