"""A raw volume in, cleft probability out: OME-NGFF zarr or N5, block by block, resumable."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli import maps
from cleftcli.errors import InputError, UsageError
from cleftcli.geometry import BlockPlan, Zyx, fit_block, fit_chunk, parse_roi, zyx
from cleftcli.inspection import (
    Missing,
    check_voxel_size,
    doubts,
    intensity_doubts,
    look,
    scan_input,
    still_the_same,
)
from cleftcli.model import checkpoint
from cleftcli.model.checkpoint import Checkpoint
from cleftcli.model.device import choose_device, choose_precision, cores, tiles_at_once
from cleftcli.model.inference import BLENDS, TTA
from cleftcli.model.objectives import NO_CLEFTS, check_maps
from cleftcli.prediction import DTYPES, VALUE_IS, PredictBlock, Tiling, tile_grid
from cleftcli.resumable import (
    BLOCK_VOXELS,
    CHUNK,
    Outcome,
    Output,
    Report,
    check_disk,
    check_output,
    make,
)
from cleftcli.volumes import (
    AS_STORED,
    Reading,
    Scan,
    Space,
    Volume,
    open_volume,
    split_address,
    write_attributes,
)
from cleftcli.volumes.intensity import Range, intensity_range

log = logging.getLogger(__name__)

MOST_IN_BLACK = 0.01  # share of positives where there is no tissue, before it is worth a word


@dataclass(frozen=True)
class Settings:
    """What `predict` was asked for; None means the default of the checkpoint or the device."""

    volume: str
    output: str | None = None
    checkpoint: Path | None = None
    roi: str | None = None
    overlap: Zyx | None = None
    context: Zyx = (0, 0, 0)
    blend: str = "bump"
    tta: str = "none"
    channels: tuple[str, ...] = ("cleft",)
    block: Zyx | None = None
    batch_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    workers: int = 1
    dtype: str = "uint8"
    intensity_range: Range | None = None
    reading: Reading = AS_STORED
    missing: Missing = "fill"
    any_voxel_size: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything about a prediction before the first voxel is computed."""

    settings: Settings
    volume: Volume
    checkpoint_path: Path
    checkpoint: Checkpoint
    blocks: BlockPlan
    process: PredictBlock
    scan: Scan
    warnings: list[str]

    @cached_property
    def output(self) -> Output:
        """The volume to make."""
        space = self.volume.space
        size = space.voxel_size or (0.0, 0.0, 0.0)
        roi = self.blocks.roi
        z, y, x = (o + n * v for o, n, v in zip(space.offset, roi.offset, size, strict=True))
        attributes: dict[str, Any] = {"content": "probability", "run": self.fingerprint}
        attributes["probability_is"] = VALUE_IS[self.settings.dtype]
        if self.checkpoint.threshold is not None:
            attributes["threshold"] = self.checkpoint.threshold
        return Output(
            address=self.process.output,
            plan=self.blocks,
            dtype=DTYPES[self.settings.dtype],
            chunks=fit_chunk(self.blocks.block, CHUNK),
            space=Space(space.voxel_size, (z, y, x)),
            attributes=attributes,
        )

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Every setting that changes a voxel."""
        return {
            "volume": self.volume.address,
            "shape": list(self.volume.shape),
            "dtype": str(self.volume.dtype),
            "axes": self.volume.axes,
            "checkpoint": checkpoint.digest(self.checkpoint_path),
            **self.process.decides,
            "device": self.process.device.split(":")[0],
            "output_dtype": self.settings.dtype,
        }

    @cached_property
    def further(self) -> list[Output]:
        """The volumes of the maps after the first."""
        known = self.checkpoint.new_objective().maps
        chosen = {name: known[name] for name in self.process.maps[1:]}
        return maps.beside(self.output, chosen, VALUE_IS[self.settings.dtype])

    def summary(self) -> dict[str, Any]:
        """What the run will do and need, for a person or a script."""
        roi, count = self.blocks.roi, len(self.process.maps)
        files = math.prod(-(-n // c) for n, c in zip(roi.shape, self.output.chunks, strict=True))
        return {
            "volume": self.volume.address,
            "shape": list(self.volume.shape),
            "axes": self.volume.axes,
            "voxel_size": self.volume.space.voxel_size,
            "roi": str(roi),
            "output": self.output.address,
            "further_outputs": [one.address for one in self.further],
            "checkpoint": str(self.checkpoint_path),
            "network": self.checkpoint.network,
            **self.process.decides,
            "tiles": self.process.tiling.grid.count(roi),
            "blocks": len(self.blocks),
            "block": list(self.blocks.block),
            "memory_bytes_per_worker": math.prod(self.blocks.block) * self.process.bytes_per_voxel,
            "output_bytes": roi.size * np.dtype(self.output.dtype).itemsize * count,
            "output_files": files * count,
            "input": self.scan.summary(),
            "warnings": self.warnings,
        }


def plan(settings: Settings) -> Plan:
    """Look at everything, compute nothing.

    Raises:
        InputError: the volume or checkpoint cannot be used, or their voxel sizes do not fit.
        ResourceError: the disk does not suffice.
        UsageError: settings that cannot be meant.
    """
    path = settings.checkpoint or checkpoint.shipped()
    found, _ = checkpoint.load(path)
    if not found.new_objective().targets:
        raise InputError(f"{path}: {NO_CLEFTS}")
    volume = open_volume(settings.volume, reading=settings.reading)
    check_voxel_size(volume, found.voxel_size, any_size=settings.any_voxel_size)
    for name, among in (("dtype", DTYPES), ("blend", BLENDS), ("tta", TTA)):
        if getattr(settings, name) not in among:
            raise UsageError(f"{name} {getattr(settings, name)!r}: {' or '.join(among)}")
    check_maps(found.objective, settings.channels)
    if settings.block is not None and min(settings.block) < 1:
        raise UsageError(f"block {settings.block}: every edge takes a voxel at least")
    least = zyx([2 * c for c in settings.context]) if settings.blend == "none" else None
    grid = tile_grid(volume.shape, found.input_shape, settings.overlap or least, settings.context)
    roi = parse_roi(settings.roi, volume.shape) if settings.roi else volume.roi
    block = settings.block or fit_block(roi.shape, CHUNK, BLOCK_VOXELS)
    device = choose_device(settings.device)
    output = _output_address(settings)
    black_white = intensity_range(volume, settings.intensity_range)
    scan = scan_input(volume, settings.missing, roi)
    process = PredictBlock(
        volume=volume.address,
        reading=settings.reading,
        missing=settings.missing,
        checkpoint_path=path.resolve(),
        device=str(device),
        precision=choose_precision(settings.precision, device),
        batch_size=settings.batch_size or tiles_at_once(device),
        threads=max(cores() // settings.workers, 1),
        tiling=Tiling(grid, settings.blend),
        tta=settings.tta,
        maps=settings.channels,
        black_white=black_white,
        output=output,
        origin=roi.offset,
        dtype=settings.dtype,
        threshold=0.5 if found.threshold is None else found.threshold,
        ask=scan.missing is None,
    )
    process = process if settings.batch_size else process.fitted()
    seen = intensity_doubts(look(volume, roi), black_white, list(found.intensities))
    warnings = [*doubts(volume), *seen]
    planned = Plan(settings, volume, path, found, BlockPlan(roi, block), process, scan, warnings)
    check_disk(planned.output)
    return planned


def predict(settings: Settings, *, overwrite: bool, report: Report) -> dict[str, Any]:
    """Predict a volume; returns the plan's summary and what came of it.

    Raises:
        ConflictError: another run's output is there.
        IncompleteError: blocks failed; the same call continues.
    """
    planned = plan(settings)
    log.info("%s", describe(planned))
    for warning in planned.warnings:
        log.warning("%s: %s", planned.volume.address, warning)
    maps.begin(planned.output, planned.further, overwrite=overwrite)
    outcome = make(
        planned.output,
        planned.process,
        planned.fingerprint,
        workers=settings.workers,
        overwrite=overwrite,
        report=report,
    )
    maps.finish(planned.further)
    seen = _what_was_seen(planned, outcome)
    write_attributes(outcome.volume, {"input": seen})
    return {
        **planned.summary(),
        "blocks_done": len(outcome.records),
        "blocks_resumed": outcome.resumed,
        "input": seen,
        "threshold": planned.checkpoint.threshold,
    }


def _what_was_seen(planned: Plan, outcome: Outcome) -> dict[str, Any]:
    """What the blocks met in the input; the troubles are said aloud."""
    _, rows, columns = planned.blocks.counts
    constant = Counter(z for record in outcome.records for z in record["constant_sections"])
    empty = sorted(z for z, n in constant.items() if n == rows * columns)
    positive, black = outcome.total("positive"), outcome.total("positive_in_black")
    seen = {
        **planned.scan.summary(),
        "changed_while_read": not still_the_same(planned.volume, planned.scan, planned.blocks.roi),
        "blocks_with_missing_chunks": outcome.total("blocks_with_missing_chunks"),
        "blocks_without_contrast": outcome.total("empty"),
        "sections_without_contrast": empty,
        "nan_or_inf_voxels": outcome.total("strange"),
        "positive_voxels": positive,
        "positive_voxels_without_tissue": black,
    }
    if empty:
        log.warning("sections without contrast, taken as grey: z %s", ", ".join(map(str, empty)))
    if seen["nan_or_inf_voxels"]:
        log.warning("%d voxels were NaN or inf, taken as grey", seen["nan_or_inf_voxels"])
    if seen["blocks_with_missing_chunks"]:
        log.warning("%d blocks met missing chunks", seen["blocks_with_missing_chunks"])
    if black > positive * MOST_IN_BLACK:
        share = 100 * black / positive
        log.warning("%.1f %% of the positive voxels lie in black squares of the input", share)
    return seen


def describe(planned: Plan) -> str:
    """The plan in two lines."""
    s = planned.summary()
    low, high = s["intensity_range"]
    return (
        f"{s['volume']}: {'x'.join(map(str, s['shape']))} {planned.volume.dtype}, "
        f"axes {s['axes']}, voxel size {s['voxel_size'] or 'not known'} nm, "
        f"{low:g} is black and {high:g} white\n"
        f"{s['network']} on {s['device']} in {s['precision']}: {s['tiles']} tiles of "
        f"{'x'.join(map(str, s['tile']))} in {s['blocks']} blocks -> {s['output']}"
    )


def _output_address(settings: Settings) -> str:
    """`-o`, or the volume's name with .cleft.zarr in the current folder; the dataset is `cleft`."""
    if settings.output is None:
        stem = Path(split_address(settings.volume)[0]).name.rsplit(".", 1)[0]
        return f"{stem}.cleft.zarr/cleft"
    check_output(settings.output, settings.volume)
    container, dataset = split_address(settings.output)
    return f"{container}/{dataset or 'cleft'}"
