"""The regions of a training run: what trains, what chooses, and what is reported."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli.augment import reach
from cleftcli.config import Config, Region
from cleftcli.errors import InputError, ResourceError, UsageError
from cleftcli.foreground import read_annotation
from cleftcli.geometry import BlockPlan, Zyx, fit_block, zyx
from cleftcli.inspection import VOXEL_SIZE_TIMES, Missing, doubts, look, scan_input
from cleftcli.machine import memory
from cleftcli.model.objectives import objective
from cleftcli.replicas import Replica
from cleftcli.sampling import Batches, Source, open_source
from cleftcli.volumes import Nm, Reading, is_remote
from cleftcli.volumes.intensity import intensity_range

BLOCK_VOXELS = 2**24
BYTES_HELD_OUT = 40  # a voxel, at the height of predicting and scoring

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """What is trained on, chosen on, and reported on."""

    train: tuple[Source, ...]
    held_out: tuple[Source, ...]
    test: tuple[Source, ...]

    @property
    def voxel_size(self) -> Nm:
        """nm; that of the first training region."""
        return self.train[0].voxel_size

    def intensities(self) -> tuple[float, ...]:
        """Histogram of the training data, for later inputs to be held against."""
        seen = []
        for source in self.train:
            image = source.volumes()[0]
            seen.append(look(image, source.roi).histogram(intensity_range(image)))
        whole = [h for h in seen if h]
        return tuple(np.mean(whole, axis=0).round(6).tolist()) if whole else ()


def open_data(config: Config, base: Path) -> Data:
    """The regions, once they are seen to be usable and apart.

    Raises:
        InputError: one cannot be read as stated, there is no cleft to learn from or to validate
            on, or voxels are of unlike sizes.
        ResourceError: what is held out cannot be predicted in memory.
        UsageError: clefts are missing where they are learned, nothing can be validated, weights
            are given for some regions only, or what is held out is trained on.
    """
    learned = objective(config.objective.name, config.objective.options)
    regions, held_out = config.data.train, [*config.data.validate_on, *config.data.test]
    bare = [r.raw for r in (*regions, *held_out) if r.clefts is None]
    if learned.targets and bare:
        raise UsageError(f"objective {config.objective.name} needs clefts; {bare[0]} has none")
    if not learned.targets and held_out:
        raise UsageError("data.validate and data.test need clefts; reconstruction finds none")
    if len({r.weight is None for r in regions}) > 1:
        raise UsageError("data.train.weight: give it to all regions, or to none")
    data = Data(
        _sources(base, regions, zyx(config.network.input_shape)),
        _sources(base, config.data.validate_on, None),
        _sources(base, config.data.test, None),
    )
    _check_sizes(data)
    for source in data.train:
        around = reach(config.augment, source.voxel_size)
        for name, others in (("validate", data.held_out), ("test", data.test)):
            _refuse_overlap(source, others, f"data.{name}", around)
    for source in data.held_out:
        _refuse_overlap(source, data.test, "data.test", (0, 0, 0))
    if learned.targets:
        _check_clefts(data)
    return data


def _check_clefts(data: Data) -> None:
    """Refuse to train, or to choose, on nothing."""
    for name, sources in (("train", data.train), *(("validate", (s,)) for s in data.held_out)):
        if not any(map(_has_cleft, sources)):
            regions = ", ".join(f"{s.roi} of {s.clefts}" for s in sources)
            raise InputError(f"data.{name}: there is no cleft in {regions}")


def _has_cleft(source: Source) -> bool:
    """Stops at the first box with one."""
    ids = read_annotation(source.volumes()[1])
    plan = BlockPlan(source.roi, fit_block(source.roi.shape, ids.volume.chunks, BLOCK_VOXELS))
    return any(ids.mask(ids.levels(block.write)).any() for block in plan)


def _check_sizes(data: Data) -> None:
    """Refuse regions whose voxels are unlike, and held-out ones that memory cannot hold."""
    for source in (*data.train, *data.held_out, *data.test):
        pairs = zip(source.voxel_size, data.voxel_size, strict=True)
        if max(max(a / b, b / a) for a, b in pairs) > VOXEL_SIZE_TIMES:
            raise InputError(
                f"{source.raw} has voxels of {source.voxel_size} nm, {data.train[0].raw} of "
                f"{data.voxel_size}: one network sees one size"
            )
    free = memory()
    for sources in (data.held_out, data.test):
        needed = BYTES_HELD_OUT * sum(s.roi.size for s in sources)
        if needed > free:
            raise ResourceError(
                f"held-out regions are predicted in memory: these take {needed / 1e9:.0f} GB and "
                f"{free / 1e9:.0f} are free; give smaller boxes (roi)"
            )


def _refuse_overlap(ours: Source, others: tuple[Source, ...], name: str, around: Zyx) -> None:
    for other in others:
        if _place_of(ours) == _place_of(other) and ours.roi.grow(around).intersect(other.roi).size:
            raise UsageError(
                f"{name}: {other.roi} of {other.raw} overlaps {ours.roi}, which is used before"
                + (f", and out of which augmentation reaches by {around} voxels" * any(around))
            )


def _place_of(source: Source) -> str:
    """Where raw is, by whatever name it was given."""
    address = source.volumes()[0].address
    return address if is_remote(address) else os.path.realpath(address)


def _sources(base: Path, regions: list[Region], patch: Zyx | None) -> tuple[Source, ...]:
    def open_region(r: Region) -> Source:
        clefts = None if r.clefts is None else _place(base, r.clefts)
        reading = Reading(r.voxel_size, r.axes, r.channel)
        return open_source(_place(base, r.raw), clefts, r.roi, patch, reading, weight=r.weight)

    return tuple(open_region(r) for r in regions)


def start_of(config: Config, base: Path) -> Path | None:
    """The checkpoint whose weights a run starts from."""
    start = config.training.init_from
    return Path(_place(base, start)) if start else None


def _place(base: Path, address: str) -> str:
    """An address in a config starts at the config's folder."""
    return address if "://" in address else str(base / address)


def inspect(data: Data, missing: Missing) -> list[dict[str, Any]]:
    """What the volumes lack, said before the first step."""
    found = []
    sources = (*data.train, *data.held_out, *data.test)
    volumes = [v for s in sources for v in s.volumes()[: 1 if s.clefts is None else 2]]
    for volume in {v.address: v for v in volumes}.values():
        for doubt in doubts(volume):
            log.warning("%s: %s", volume.address, doubt)
        scan = scan_input(volume, missing)
        found.append({"address": volume.address, "stamp": scan.stamp, **scan.summary()})
    return found


def batches_of(config: Config, sources: tuple[Source, ...], replica: Replica) -> Batches:
    """The batches of a run, or one process's share of them."""
    learned = objective(config.objective.name, config.objective.options)
    return Batches(
        sources=sources,
        input_shape=zyx(config.network.input_shape),
        targets=learned.targets,
        batch_size=config.training.batch_size,
        seed=config.seed,
        min_cleft_voxels=config.training.min_cleft_voxels if learned.targets else 0,
        reject_probability=config.training.reject_probability,
        augment=config.augment,
        scale=config.objective.scale,
        unit=config.objective.unit,
        rank=replica.rank,
        count=replica.count,
    )
