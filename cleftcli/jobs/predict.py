"""A raw volume in, cleft probability out: OME-NGFF zarr or N5, block by block, resumable."""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli.errors import InputError, ResourceError, UsageError
from cleftcli.geometry import Block, BlockPlan, Zyx, fit_block, fit_chunk, parse_roi, zyx
from cleftcli.model import checkpoint
from cleftcli.model.checkpoint import Checkpoint
from cleftcli.model.device import choose_device, choose_precision, cores
from cleftcli.model.inference import BLENDS, load_predictor
from cleftcli.prediction import Tiling, predict_roi, quantise, tile_grid
from cleftcli.resumable import BLOCK_VOXELS, CHUNK, Output, Report, check_output, make
from cleftcli.volumes import Nm, Space, Volume, open_volume, split_address
from cleftcli.volumes.intensity import Range, intensity_range

log = logging.getLogger(__name__)

DTYPES: dict[str, type] = {"uint8": np.uint8, "float32": np.float32}
PROBABILITY_IS = {"uint8": "value / 255", "float32": "value"}
VOXEL_SIZE_TOLERANCE = 1.5  # a network sees other tissue beyond this ratio
BYTES_PER_VOXEL = 17  # raw uint8 and float32, sum, weights, result


@dataclass(frozen=True)
class Settings:
    """What `predict` was asked for; None means the default of the checkpoint or the device."""

    volume: str
    output: str | None = None
    checkpoint: Path | None = None
    roi: str | None = None
    overlap: Zyx | None = None
    blend: str = "bump"
    block: Zyx | None = None
    batch_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    workers: int = 1
    dtype: str = "uint8"
    intensity_range: Range | None = None
    voxel_size: Nm | None = None


@dataclass(frozen=True)
class PredictBlock:
    """Predict one block and write it: addresses and numbers, for any worker process."""

    settings: Settings
    checkpoint_path: Path
    device: str
    precision: str
    batch_size: int
    tiling: Tiling
    black_white: Range
    output: str
    origin: Zyx  # of the output in the volume, voxels

    def __call__(self, block: Block) -> dict[str, Any]:
        """Write the block; counts of sections without contrast."""
        predictor = load_predictor(
            self.checkpoint_path,
            device=choose_device(self.device),
            precision=self.precision,
            batch_size=self.batch_size,
            threads=max(cores() // self.settings.workers, 1),
        )
        volume = open_volume(self.settings.volume)
        found = predict_roi(predictor, volume, self.black_white, self.tiling, block.write)
        if not np.isfinite(found.probability).all():
            raise InputError(f"the network gave NaN or inf in block {block.write}")
        here = block.write.shift(zyx([-o for o in self.origin]))
        as_uint8 = self.settings.dtype == "uint8"
        open_volume(self.output).write(
            here, quantise(found.probability) if as_uint8 else found.probability
        )
        return {"constant_sections": found.constant_sections}


@dataclass(frozen=True)
class Plan:
    """Everything about a prediction before the first voxel is computed."""

    settings: Settings
    volume: Volume
    checkpoint_path: Path
    checkpoint: Checkpoint
    blocks: BlockPlan
    process: PredictBlock

    @cached_property
    def output(self) -> Output:
        """The volume to make."""
        space = self.volume.space
        size = space.voxel_size or (0.0, 0.0, 0.0)
        roi = self.blocks.roi
        z, y, x = (o + n * v for o, n, v in zip(space.offset, roi.offset, size, strict=True))
        attributes: dict[str, Any] = {"content": "probability", "run": self.fingerprint}
        attributes["probability_is"] = PROBABILITY_IS[self.settings.dtype]
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
            "intensity_range": list(self.process.black_white),
            "checkpoint": checkpoint.digest(self.checkpoint_path),
            "tile": list(self.process.tiling.grid.tile),
            "stride": list(self.process.tiling.grid.stride),
            "blend": self.settings.blend,
            "output_dtype": self.settings.dtype,
            "device": self.process.device.split(":")[0],
            "precision": self.process.precision,
            "batch_size": self.process.batch_size,
        }

    def summary(self) -> dict[str, Any]:
        """What the run will do and need, for a person or a script."""
        grid, roi = self.process.tiling.grid, self.blocks.roi
        tiles = math.prod(len(grid.starts(a, roi.offset[a], roi.end[a])) for a in range(3))
        itemsize = np.dtype(self.output.dtype).itemsize
        files = math.prod(-(-n // c) for n, c in zip(roi.shape, self.output.chunks, strict=True))
        return {
            "volume": self.volume.address,
            "shape": list(self.volume.shape),
            "voxel_size": self.volume.space.voxel_size,
            "intensity_range": list(self.process.black_white),
            "roi": str(roi),
            "output": self.output.address,
            "checkpoint": str(self.checkpoint_path),
            "network": self.checkpoint.network,
            "tile": list(grid.tile),
            "stride": list(grid.stride),
            "tiles": tiles,
            "blocks": len(self.blocks),
            "block": list(self.blocks.block),
            "device": self.process.device,
            "precision": self.process.precision,
            "memory_bytes_per_worker": math.prod(self.blocks.block) * BYTES_PER_VOXEL,
            "output_bytes": roi.size * itemsize,
            "output_files": files,
        }


def default_checkpoint() -> Path:
    """The checkpoint that ships with cleft."""
    return Path(str(resources.files("cleftcli") / "checkpoints" / "default.safetensors"))


def plan(settings: Settings) -> Plan:
    """Look at everything, compute nothing.

    Raises:
        InputError: the volume or checkpoint cannot be used, or their voxel sizes do not fit.
        ResourceError: the disk does not suffice.
        UsageError: settings that cannot be meant.
    """
    path = settings.checkpoint or default_checkpoint()
    found, _ = checkpoint.load(path)
    volume = open_volume(settings.volume, voxel_size=settings.voxel_size)
    _compare_voxel_sizes(volume, found)
    if settings.dtype not in DTYPES:
        raise UsageError(f"dtype {settings.dtype!r}: {' or '.join(DTYPES)}")
    if settings.blend not in BLENDS:
        raise UsageError(f"blend {settings.blend!r}: {' or '.join(BLENDS)}")
    overlap = settings.overlap or ((0, 0, 0) if settings.blend == "none" else None)
    tiling = Tiling(tile_grid(volume.shape, found.input_shape, overlap), settings.blend)
    roi = parse_roi(settings.roi, volume.shape) if settings.roi else volume.roi
    block = settings.block or fit_block(roi.shape, CHUNK, BLOCK_VOXELS)
    device = choose_device(settings.device)
    output = _output_address(settings)
    process = PredictBlock(
        settings=settings,
        checkpoint_path=path.resolve(),
        device=str(device),
        precision=choose_precision(settings.precision, device),
        batch_size=settings.batch_size or (1 if device.type == "cpu" else 8),
        tiling=tiling,
        black_white=intensity_range(volume, settings.intensity_range),
        output=output,
        origin=roi.offset,
    )
    planned = Plan(settings, volume, path, found, BlockPlan(roi, block), process)
    _check_disk(planned)
    return planned


def predict(settings: Settings, *, overwrite: bool, report: Report) -> dict[str, Any]:
    """Predict a volume; returns the plan's summary and what came of it.

    Raises:
        ConflictError: another run's output is there.
        IncompleteError: blocks failed; the same call continues.
    """
    planned = plan(settings)
    log.info("%s", describe(planned))
    outcome = make(
        planned.output,
        planned.process,
        planned.fingerprint,
        workers=settings.workers,
        overwrite=overwrite,
        report=report,
    )
    constant = outcome.total("constant_sections")
    if constant:
        log.warning("%d block sections of the input have no contrast; taken as grey", constant)
    return {
        **planned.summary(),
        "blocks_done": len(outcome.records),
        "blocks_resumed": outcome.resumed,
        "constant_sections": constant,
        "threshold": planned.checkpoint.threshold,
    }


def describe(planned: Plan) -> str:
    """The plan in two lines."""
    s = planned.summary()
    low, high = s["intensity_range"]
    return (
        f"{s['volume']}: {'x'.join(map(str, s['shape']))} {planned.volume.dtype}, voxel size "
        f"{s['voxel_size'] or 'not stated'} nm, intensities {low:g}..{high:g} are black..white\n"
        f"{s['network']} on {s['device']} in {s['precision']}: {s['tiles']} tiles of "
        f"{'x'.join(map(str, s['tile']))} in {s['blocks']} blocks -> {s['output']}"
    )


def _output_address(settings: Settings) -> str:
    """`-o`, or the volume's name with .cleft.zarr in the current folder; the dataset is `cleft`."""
    if settings.output is None:
        stem = Path(split_address(settings.volume)[0]).name.rsplit(".", 1)[0]
        return f"{stem}.cleft.zarr/cleft"
    check_output(settings.output)
    container, dataset = split_address(settings.output)
    source = split_address(settings.volume)[0]
    if Path(container).resolve() == Path(source).resolve():
        raise UsageError(f"{container}: the output would be written into the input")
    return f"{container}/{dataset or 'cleft'}"


def _compare_voxel_sizes(volume: Volume, found: Checkpoint) -> None:
    size = volume.space.voxel_size
    if size is None:
        log.warning(
            "%s does not state its voxel size; the checkpoint was trained at %s nm",
            volume.address,
            found.voxel_size,
        )
        return
    ratios = [max(a / b, b / a) for a, b in zip(size, found.voxel_size, strict=True)]
    if max(ratios) > VOXEL_SIZE_TOLERANCE:
        log.warning(
            "%s has voxels of %s nm, the checkpoint was trained at %s nm: expect little",
            volume.address,
            size,
            found.voxel_size,
        )


def _check_disk(planned: Plan) -> None:
    folder = planned.output.container.parent
    while not folder.exists():
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, planned.summary()["output_bytes"]
    if needed > free and not planned.output.container.exists():
        raise ResourceError(
            f"the output may need {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free; "
            "nothing was written"
        )
