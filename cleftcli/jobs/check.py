"""What `train` would do, looked at beforehand: the data, two steps, a picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from cleftcli.config import load
from cleftcli.errors import UsageError
from cleftcli.foreground import read_annotation
from cleftcli.geometry import BlockPlan, Roi, fit_block, zyx
from cleftcli.pictures import overlay
from cleftcli.replicas import joined
from cleftcli.sampling import Source
from cleftcli.training import new_run, resolved, update
from cleftcli.training_data import batches_of, inspect, open_data, start_of
from cleftcli.volumes.intensity import intensity_range, unit

BLOCK_VOXELS = 2**24
MOST_CLEFTS = 0.2  # share of a volume; annotated tissue has well below 0.05
STEPS = 2
SHOWN_SECTIONS, SHOWN_EDGE = 3, 768
RING = 3  # voxels in plane around a cleft that are held against it


def check(config_path: Path, picture: Path, *, device: str) -> dict[str, Any]:
    """Regions, doubts, the loss of two steps and how long all would take; writes a PNG.

    Args:
        config_path: TOML.
        picture: PNG of the sections of the first region that have most clefts.
        device: see `choose_device`.

    Raises:
        CleftError: as `train` would.
    """
    if picture.suffix != ".png":
        raise UsageError(f"{picture}: the picture is a .png")
    config, base = resolved(load(config_path)), config_path.parent
    with joined() as replica:
        if not replica.first:
            return {}
        data = open_data(config, base)
        inspect(data, config.data.missing)
        run = new_run(config, base, device, init_from=start_of(config, base))
        batches = batches_of(config, data.train, run.replica)
        uses = {"train": data.train, "validate": data.held_out, "test": data.test}
        looked = [(use, _look(source)) for use, sources in uses.items() for source in sources]
        _draw(picture, data.train[0], looked[0][1].clefts)
        each, losses, seconds = config.training.accumulate, [], 0.0
        for step in range(STEPS):
            made = [batches[step * each + n] for n in range(each)]
            started = time.monotonic()
            losses.append(update(run, made)["loss"])
            seconds = time.monotonic() - started
    return {
        "regions": [{"for": use, **about.summary()} for use, about in looked],
        "loss": losses,
        "seconds_a_step": seconds,
        "hours": seconds * config.training.steps / 3600,
        "picture": str(picture),
    }


@dataclass(frozen=True)
class Look:
    """What a region holds: counts, and the brightness of clefts and of what is beside them."""

    source: Source
    clefts: np.ndarray  # cleft voxels in each section
    unknown: int
    ids: int
    inside: float
    beside: float

    def summary(self) -> dict[str, Any]:
        """The facts, and what looks wrong about them."""
        size = self.source.roi.size
        return {
            "raw": self.source.raw,
            "clefts": self.source.clefts,
            "roi": str(self.source.roi),
            "voxel_size": list(self.source.voxel_size),
            "ids": self.ids,
            "cleft_percent": 100 * float(self.clefts.sum()) / size,
            "unknown_percent": 100 * self.unknown / size,
            "brightness_of_clefts": self.inside,
            "brightness_beside": self.beside,
            "doubts": self.doubts(),
        }

    def doubts(self) -> list[str]:
        """In words."""
        if self.source.clefts is None:
            return []
        share = self.clefts.sum() / self.source.roi.size
        found = []
        if not share:
            found.append("there is no cleft in it")
        elif share > MOST_CLEFTS:
            found.append("so much cleft is rare: are clefts and background swapped?")
        if share and self.inside >= self.beside:
            found.append("clefts are no darker than what is beside them: are raw and ids aligned?")
        return found


def _look(source: Source) -> Look:
    """Read a region, block by block."""
    image, labels = source.volumes()
    truth = read_annotation(labels)
    clefts, unknown = np.zeros(source.roi.shape[0], np.int64), 0
    ids: set[int] = set()
    levels = np.zeros((2, 2))  # inside and beside: sum, count
    block = fit_block(source.roi.shape, labels.chunks, BLOCK_VOXELS)
    for part in BlockPlan(source.roi, zyx(block)):
        found, ignored = truth.read(part.write)
        mask = truth.mask(found) & ~ignored
        clefts[_sections(part.write, source.roi)] += mask.sum(axis=(1, 2))
        unknown += int(ignored.sum())
        if truth.content == "ids":
            ids.update(np.unique(truth.ids(part.write)).tolist())
        raw = unit(image.read(part.write), intensity_range(image))
        around = ndimage.binary_dilation(mask, np.ones((1, 2 * RING + 1, 2 * RING + 1))) & ~mask
        levels += [[raw[m].sum(dtype=float), m.sum()] for m in (mask, around & ~ignored)]
    inside, beside = levels[:, 0] / np.maximum(levels[:, 1], 1)
    return Look(source, clefts, unknown, len(ids - {0}), float(inside), float(beside))


def _sections(part: Roi, whole: Roi) -> slice:
    return part.within(whole)[0]


def _draw(path: Path, source: Source, clefts: np.ndarray) -> None:
    """The sections with most clefts, cut around the middle."""
    image, labels = source.volumes()
    truth = read_annotation(labels)
    shown = sorted(np.argsort(-clefts, kind="stable")[:SHOWN_SECTIONS].tolist())
    part = source.roi.middle((source.roi.shape[0], SHOWN_EDGE, SHOWN_EDGE))
    places = [Roi((part.offset[0] + z, *part.offset[1:]), (1, *part.shape[1:])) for z in shown]
    raw = [unit(image.read(p), intensity_range(image))[0] for p in places]
    true = [truth.mask(truth.levels(p))[0] for p in places]
    names = [p.offset[0] for p in places]
    overlay(path, raw, true, sections=names, nm_per_voxel=source.voxel_size[2])
