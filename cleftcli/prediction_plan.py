"""Everything about a prediction before the first voxel is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch

from cleftcli.blockwise import Workers, in_a_process
from cleftcli.errors import InputError, ResourceError, UsageError
from cleftcli.geometry import BlockPlan, fit_block, fit_chunk, parse_roi, tiles_of_blocks
from cleftcli.inspection import (
    BlockInput,
    Missing,
    doubts,
    intensity_doubts,
    look,
    scan_input,
    voxel_size_doubts,
)
from cleftcli.machine import cores, memory
from cleftcli.mask import open_mask
from cleftcli.model import checkpoint
from cleftcli.model.checkpoint import Checkpoint
from cleftcli.model.device import (
    PRECISIONS,
    choose_device,
    choose_precision,
    tiles_at_once,
    visible_gpus,
)
from cleftcli.model.inference import BLENDS, TTA
from cleftcli.model.objectives import NO_CLEFTS, check_maps
from cleftcli.outputs import BLOCK_VOXELS, CHUNK, Output, check_room
from cleftcli.prediction import DTYPES, VALUE_IS, PredictBlock, map_address, tiling_of
from cleftcli.prediction_settings import Settings
from cleftcli.volumes import Scan, Space, Volume, open_volume
from cleftcli.volumes.intensity import intensity_range


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
            format=self.settings.format,
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
            "mask": self.process.mask and self.process.mask.identity(),
            "output_dtype": self.settings.dtype,
        }

    @cached_property
    def further(self) -> list[Output]:
        """The volumes of the maps after the first: like it but for what they say."""
        value = VALUE_IS[self.settings.dtype]
        return [
            replace(
                self.output,
                address=map_address(self.output.address, name),
                attributes={
                    "content": name,
                    f"{name}_is": value,
                    "run": self.fingerprint,
                },
            )
            for name in self.process.maps[1:]
        ]

    @property
    def outside(self) -> Iterator[int]:
        """The blocks that the mask leaves out."""
        mask = self.process.mask
        return (b.index for b in self.blocks if mask is not None and not mask.covers(b.write))

    @property
    def workers(self) -> Workers:
        """Who does the blocks; on GPUs of this machine one for each, unless told how many."""
        asked = self.settings.workers
        if asked.elsewhere or not self.process.device.startswith("cuda"):
            return asked
        names = visible_gpus(self.settings.device)
        return replace(
            asked, gpus=tuple(names[n % len(names)] for n in range(asked.count or len(names)))
        )

    @property
    def memory(self) -> int:
        """Bytes that a worker may hold at most, beside the network and the libraries."""
        held = math.prod(self.blocks.block) * self.process.bytes_per_voxel
        return held * min(self.process.at_once, len(self.blocks))

    def summary(self) -> dict[str, Any]:
        """What the run will do and need, for a person or a script."""
        roi, outputs = self.blocks.roi, (self.output, *self.further)
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
            "tiles_computed": tiles_of_blocks(self.process.tiling.grid, self.blocks),
            "blocks": len(self.blocks),
            "block": list(self.blocks.block),
            "workers": "elsewhere" if self.workers.elsewhere else self.workers.processes,
            "memory_bytes_per_worker": self.memory,
            "output_bytes": sum(one.bytes for one in outputs),
            "output_files": sum(one.files for one in outputs),
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
    if settings.workers.elsewhere:
        settings = settings.absolute()
    path = settings.checkpoint or checkpoint.shipped()
    found, _ = checkpoint.load(path)
    _check(settings, found, path)
    volume = open_volume(settings.volume, reading=settings.reading)
    unlike = voxel_size_doubts(volume, found.voxel_size, any_size=settings.any_voxel_size)
    tiling = tiling_of(
        volume.shape,
        found.input_shape,
        settings.blend,
        overlap=settings.overlap,
        context=settings.context,
    )
    elsewhere = settings.workers.elsewhere
    roi = parse_roi(settings.roi, volume.shape) if settings.roi else volume.roi
    block = settings.block or fit_block(roi.shape, CHUNK, BLOCK_VOXELS)
    device, precision = _device(settings)
    output = settings.output_address()
    black_white = intensity_range(volume, settings.intensity_range)
    scan = scan_input(volume, settings.missing, roi)
    process = PredictBlock(
        raw=BlockInput(volume.address, settings.reading, settings.missing, scan.missing is None),
        checkpoint_path=path.resolve(),
        device=device.type,
        precision=precision,
        batch_size=settings.batch_size or tiles_at_once(device),
        threads=0 if elsewhere else max(cores() // settings.workers.processes, 1),
        tiling=tiling,
        tta=settings.tta,
        maps=settings.channels,
        black_white=black_white,
        output=output,
        origin=roi.offset,
        dtype=settings.dtype,
        threshold=0.5 if found.threshold is None else found.threshold,
        mask=None if settings.mask is None else open_mask(settings.mask, volume),
    )
    if device.type == "cuda" and not settings.batch_size and not elsewhere:
        process = replace(process, batch_size=in_a_process(process.fitting_batch))
    seen = intensity_doubts(look(volume, roi), black_white, list(found.intensities))
    warnings = [*doubts(volume), *unlike, *seen]
    planned = Plan(settings, volume, path, found, BlockPlan(roi, block), process, scan, warnings)
    check_room(planned.output, *planned.further)
    _check_memory(planned)
    return planned


def _check(settings: Settings, found: Checkpoint, path: Path) -> None:
    """Refuse what no volume can be predicted with.

    Raises:
        InputError: the checkpoint knows no clefts.
        UsageError: settings that cannot be meant.
    """
    if not found.new_objective().targets:
        raise InputError(f"{path}: {NO_CLEFTS}")
    named = {"dtype": DTYPES, "blend": BLENDS, "tta": TTA, "missing": get_args(Missing)}
    for name, among in named.items():
        if getattr(settings, name) not in among:
            raise UsageError(f"{name} {getattr(settings, name)!r}: {' or '.join(among)}")
    check_maps(found.objective, settings.channels)
    if settings.batch_size is not None and settings.batch_size < 1:
        raise UsageError(f"batch size {settings.batch_size}: one tile at least")
    if settings.block is not None and min(settings.block) < 1:
        raise UsageError(f"block {settings.block}: every edge takes a voxel at least")


def _device(settings: Settings) -> tuple[torch.device, str]:
    """Where to compute and how precisely; on other machines that is taken on trust.

    Raises:
        ResourceError: this machine has no such device.
        UsageError: other machines compute, and nobody says on what.
    """
    if not settings.workers.elsewhere:
        device = choose_device(settings.device)
        return device, choose_precision(settings.precision, device)
    if settings.device not in ("cpu", "cuda"):
        raise UsageError(
            "--scheduler and --cluster take --device cpu or cuda: other machines may be unlike this"
        )
    likely = {"cpu": "float32", "cuda": "bfloat16"}[settings.device]
    precision = likely if settings.precision == "auto" else settings.precision
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}: auto, {' or '.join(PRECISIONS)}")
    return torch.device(settings.device), precision


def _check_memory(planned: Plan) -> None:
    """Refuse blocks that the workers of this machine cannot hold.

    Raises:
        ResourceError: they cannot.
    """
    needed, free = planned.memory * planned.workers.processes, memory()
    if not planned.workers.elsewhere and needed > free:
        raise ResourceError(
            f"{planned.workers.processes} workers may hold {needed / 1e9:.3g} GB of blocks and "
            f"{free / 1e9:.3g} GB are free; a smaller --block or fewer --workers take less"
        )
