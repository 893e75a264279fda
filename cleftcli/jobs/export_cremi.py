"""Predictions in, CREMI submissions out: written aside, read back, compared, then renamed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cleftcli import __version__, submission
from cleftcli.errors import CleftError, ConflictError, InputError, UsageError
from cleftcli.foreground import Foreground, read_foreground
from cleftcli.geometry import BlockPlan, Roi, fit_block
from cleftcli.labels import BACKGROUND
from cleftcli.segmentation import Components, Hysteresis, components
from cleftcli.submission import CROPPED, DATASET, PADDED_SHAPE, sample_name
from cleftcli.volumes import Nm, Reading, Volume, crop, open_volume, split_address
from cleftcli.volumes.hdf5 import create_array

log = logging.getLogger(__name__)

CHUNK = (8, 256, 256)
BLOCK_VOXELS = 2**24


@dataclass(frozen=True)
class Ids:
    """Ids as CREMI wants them, box by box: uint64, background 2^64-1, never 0."""

    found: Foreground
    clefts: Components | None  # None where the prediction holds ids already

    def read(self, roi: Roi, index: int) -> np.ndarray:
        """The ids in a block's write roi."""
        ids = self.found.ids(roi) if self.clefts is None else self.clefts.labels(index)
        return np.where(ids == 0, np.uint64(BACKGROUND), ids)


def export_cremi(
    predictions: Sequence[str],
    output: Path,
    *,
    threshold: float | None,
    padded: bool,
    voxel_size: Nm | None,
    allow_uniform: bool,
    overwrite: bool,
) -> list[dict[str, Any]]:
    """Write one submission for each prediction; returns what each holds.

    Args:
        predictions: containers or datasets: probability, mask or ids.
        output: a .hdf file for one prediction; a folder for several, whose files are named after
            the challenge's samples where the predictions are (A+, sample_B+), else after these.
        threshold: of probabilities; None takes each prediction's own, else 0.5.
        padded: cut the padded test frame down to the 125x1250x1250 voxels that are scored.
        voxel_size: nm, where the stores do not say.
        allow_uniform: write a prediction without any cleft, or of nothing but cleft.
        overwrite: replace existing files.

    Raises:
        ConflictError: a file exists.
        IncompleteError: a prediction is not finished.
        InputError: a voxel size is not known, the frame is not the padded one, or there is no
            cleft in it, or nothing else.
        UsageError: several predictions and one file, or two of one name.
    """
    targets = _targets(predictions, output)
    for path in targets:
        if path.exists() and not overwrite:
            raise ConflictError(f"{path} exists; choose another -o, or --overwrite it")
    sources = [_open(p, threshold, padded=padded, voxel_size=voxel_size) for p in predictions]
    return [
        _export(found, path, allow_uniform=allow_uniform)
        for found, path in zip(sources, targets, strict=True)
    ]


def check(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What CREMI's scorer would trip over in submissions, ours or not: see `submission.check`."""
    return [submission.check(path) for path in paths]


def _is_file(path: Path) -> bool:
    return path.suffix in (".hdf", ".h5", ".hdf5")


def _targets(predictions: Sequence[str], output: Path) -> list[Path]:
    if _is_file(output):
        if len(predictions) > 1:
            raise UsageError(f"{len(predictions)} predictions need a folder, not {output}")
        return [output]
    names = [sample_name(split_address(p)[0]) for p in predictions]
    if len(set(names)) < len(names):
        raise UsageError(f"two predictions would be one file in {output}: {', '.join(names)}")
    return [output / name for name in names]


def _open(
    prediction: str, threshold: float | None, *, padded: bool, voxel_size: Nm | None
) -> Foreground:
    volume = open_volume(prediction, prefer=("cleft", "clefts"), reading=Reading(voxel_size))
    _ = volume.voxel_size  # a submission without it cannot be scored
    if padded:
        if volume.shape != PADDED_SHAPE:
            raise InputError(
                f"{volume.address} has shape {volume.shape}, not {PADDED_SHAPE}; leave out --padded"
            )
        volume = crop(volume, CROPPED)
        log.info("%s: cut to %s, the voxels that are scored", volume.address, CROPPED)
    return read_foreground(volume, threshold)


def _export(found: Foreground, path: Path, *, allow_uniform: bool) -> dict[str, Any]:
    source = found.volume
    plan = BlockPlan(source.roi, fit_block(source.shape, CHUNK, BLOCK_VOXELS))
    ids = Ids(found, None if found.content == "ids" else _components(found, plan))
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(partial, ids, plan, source)
        voxels = _verify(partial, ids, plan, source)
        if voxels in (0, source.roi.size) and not allow_uniform:
            what = "no cleft" if voxels == 0 else "nothing but cleft"
            raise InputError(
                f"{source.address} holds {what} at threshold {found.threshold}; if that is meant, "
                "--allow-uniform"
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return {
        "prediction": source.address,
        "output": str(path),
        "shape": list(source.shape),
        "voxel_size": list(source.voxel_size),
        "offset": list(source.space.offset),
        "threshold": found.threshold,
        "cleft_voxels": voxels,
        "clefts": None if ids.clefts is None else len(ids.clefts.table),
    }


def _components(found: Foreground, plan: BlockPlan) -> Components:
    level = 1.0 if found.threshold is None else found.threshold * found.full
    return components(found.levels, plan, Hysteresis(level, level))


def _write(path: Path, ids: Ids, plan: BlockPlan, source: Volume) -> None:
    with h5py.File(path, "w") as file:
        target = create_array(
            file,
            DATASET,
            shape=source.shape,
            dtype=np.dtype(np.uint64),
            space=source.space,
            attributes={"comment": f"cleft {__version__}"},
        )
        for block in plan:
            target.write(block.write, ids.read(block.write, block.index))


def _verify(path: Path, ids: Ids, plan: BlockPlan, source: Volume) -> int:
    """Read the file back as a stranger would; returns its cleft voxels.

    Raises:
        CleftError: it does not hold what was written (a full disk, a failing one).
    """
    voxels = 0
    with h5py.File(path, "r") as file:
        dataset = file[DATASET]
        whole = dataset.shape == source.shape and dataset.dtype == np.uint64
        for block in plan:
            stored = dataset[block.write.within(source.roi)]
            whole = whole and np.array_equal(stored, ids.read(block.write, block.index))
            voxels += int((stored != BACKGROUND).sum())
    if not whole:
        raise CleftError(f"{path}: reads back other voxels than were written; nothing was exported")
    return voxels
