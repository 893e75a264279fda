"""The commands as functions, for notebooks and scripts: Python values in, what `--json` prints out.

An option of a command is an argument of the same name. Nothing is printed: what happens is logged
under `cleftcli`, and errors that a person can mend are `CleftError`s. Ctrl-C is KeyboardInterrupt,
and what is finished by then is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli import volumes
from cleftcli.blockwise import Workers
from cleftcli.geometry import Roi, Zyx
from cleftcli.inspection import Missing
from cleftcli.prediction_settings import Settings
from cleftcli.resumable import Report
from cleftcli.volumes import Nm, Reading, Volume
from cleftcli.volumes.intensity import Range

__all__ = ["Roi", "Volume", "Workers", "evaluate", "open_volume", "predict", "segment"]

Address = str | PathLike[str]
ANY = ("volumes/raw", "cleft", "clefts")  # datasets of a container that is named alone


def open_volume(
    address: Address,
    *,
    voxel_size: Nm | None = None,
    axes: str | None = None,
    channel: int | None = None,
) -> Volume:
    """The volume at an address: `volume[z0:z1, y0:y1, x0:x1]` and `volume.read(roi)` are numpy.

    Args:
        address: container and dataset, e.g. `a.zarr/volumes/raw`, or a container alone: then its
            raw, the probability or ids that cleft made, its image or its only array.
        voxel_size: zyx, nm, instead of what the store says.
        axes: stored axes in their order, e.g. `xyz`, instead of the store's.
        channel: to read, of several.

    Raises:
        InputError: nothing usable is there; the message lists what is.
        UnsafeError: it points out of its container.
        UsageError: the axes or the channel do not fit the array.
    """
    return volumes.open_volume(str(address), prefer=ANY, reading=Reading(voxel_size, axes, channel))


def predict(
    volume: Address,
    output: Address | None = None,
    *,
    checkpoint: Address | None = None,
    roi: Roi | str | None = None,
    overlap: Zyx | None = None,
    context: Zyx = (0, 0, 0),
    blend: str = "bump",
    tta: str = "none",
    channels: Sequence[str] = ("cleft",),
    block: Zyx | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int | Workers | None = None,
    dtype: str = "uint8",
    format: str | None = None,
    intensity_range: Range | None = None,
    voxel_size: Nm | None = None,
    allow_voxel_size_mismatch: bool = False,
    axes: str | None = None,
    channel: int | None = None,
    missing: Missing = "fill",
    mask: Address | None = None,
    pyramid: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:
    """Predict cleft probability block by block; interrupted at any time, the same call continues.

    Args:
        volume: raw volume, uint8, or of a dtype whose `intensity_range` is known.
        output: .zarr or .n5 to write; by default NAME.cleft.zarr in the current folder.
        checkpoint: by default the one that ships.
        roi: box to predict, as `Roi` or "z0:z1,y0:y1,x0:x1"; by default everything.
        overlap: voxels that tiles share with the next.
        context: voxels at a tile's faces that it leaves to the tile next to it.
        blend: "bump", or "none": tiles stacked as in the paper.
        tta: "none", or "flips": the mean over 8 flips of each tile.
        channels: maps to write: "cleft" first, then what else the network says.
        block: voxels of a unit of work.
        batch_size: tiles at once.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "auto", "float32" or "bfloat16".
        workers: processes on this machine, or `Workers` for schedulers, clusters and parts.
        dtype: "uint8" (0..255 is 0..1) or "float32" (0..1).
        format: "zarr2", "zarr3" or "n5"; by default what the output's name says.
        intensity_range: intensities of black and white.
        voxel_size: zyx, nm, instead of what the store says.
        allow_voxel_size_mismatch: predict voxels unlike those that were trained on.
        axes: stored axes in their order, instead of the store's.
        channel: to read, of several.
        missing: input chunks that are not stored read as 0 ("fill") or are refused ("error").
        mask: predict where this volume is not 0.
        pyramid: also write coarser levels, for viewers.
        dry_run: plan only, and time a few tiles; nothing is written.
        overwrite: replace an output of cleft made with other settings.
        report: called with blocks done, blocks in all, and the speed and failures so far.

    Returns:
        The plan and what came of it: `output` is the address of the probability, `warnings` what
        is doubtful about the input, `input` what was met in it.

    Raises:
        ConflictError: another run's output is there.
        IncompleteError: blocks failed; the same call tries them again.
        InputError: the volume or checkpoint cannot be used.
        ResourceError: disk, memory or device do not suffice; finished blocks are kept.
        UnsafeError: the checkpoint could run code.
        UsageError: settings that cannot be meant.
    """
    from cleftcli.jobs import predict as job

    settings = Settings(
        volume=str(volume),
        output=_text(output),
        checkpoint=_path(checkpoint),
        roi=_text(roi),
        overlap=overlap,
        context=context,
        blend=blend,
        tta=tta,
        channels=tuple(channels),
        block=block,
        batch_size=batch_size,
        device=device,
        precision=precision,
        workers=workers if isinstance(workers, Workers) else Workers(workers),
        dtype=dtype,
        format=format,
        intensity_range=intensity_range,
        reading=Reading(voxel_size, axes, channel),
        missing=missing,
        mask=_text(mask),
        any_voxel_size=allow_voxel_size_mismatch,
    )
    if dry_run:
        return job.dry_run(settings)
    return job.predict(settings, overwrite=overwrite, report=report or _quiet, pyramid=pyramid)


def segment(
    prediction: Address,
    output: Address,
    *,
    threshold: float | None = None,
    low: float | None = None,
    min_voxels: int = 0,
    min_sections: int = 0,
    connectivity: int = 26,
    table: Address | None = None,
    voxel_size: Nm | None = None,
    format: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Label clefts: a volume of ids, unique and counted from 1, and a table of them.

    Args:
        prediction: container or dataset: probability, mask or ids.
        output: .zarr or .n5 to write: uint64, background 0.
        threshold: probability from which a voxel is cleft; by default the prediction's own.
        low: probability down to which a cleft extends; by default `threshold`.
        min_voxels: drop clefts with fewer voxels.
        min_sections: drop clefts in fewer sections.
        connectivity: 6 (faces) or 26 (corners too).
        table: .csv or .json to write, a row for each cleft.
        voxel_size: zyx, nm, instead of what the store says.
        format: "zarr2", "zarr3" or "n5"; by default what the output's name says.
        overwrite: replace a finished output of cleft.

    Returns:
        `output`, the address of the ids; `clefts`, how many; and the rule.

    Raises:
        ConflictError: the output exists, or is not cleft's.
        IncompleteError: the prediction is not finished.
        InputError: there is no usable prediction.
        ResourceError: the disk does not suffice.
        UsageError: the rule cannot be meant.
    """
    from cleftcli.jobs import segment as job

    return job.segment(
        str(prediction),
        str(output),
        rule=job.Rule(threshold, low, min_voxels, min_sections, connectivity),
        table=_path(table),
        voxel_size=voxel_size,
        format=format,
        overwrite=overwrite,
    )


def evaluate(
    prediction: Address,
    truth: Address,
    *more: tuple[Address, Address],
    threshold: float | None = None,
    sweep: bool = False,
    min_voxels: int | Sequence[int] = 0,
    roi: Roi | str | None = None,
    voxel_size: Nm | None = None,
    table: Address | None = None,
    save_to: Address | None = None,
) -> dict[str, Any]:
    """Score a prediction: CREMI-score, ADGT and ADF in nm, F1, AUC and more.

    Args:
        prediction: container or dataset: probability, mask or ids.
        truth: ids or mask; it may reach beyond the prediction.
        more: further predictions, each with its truth.
        threshold: probability from which a voxel is cleft; by default the prediction's own.
        sweep: find the best threshold.
        min_voxels: drop predicted clefts with fewer voxels; several to sweep over.
        roi: box of the prediction to score, as `Roi` or "z0:z1,y0:y1,x0:x1".
        voxel_size: zyx, nm, instead of what the stores say.
        table: .csv or .json to write, a row for each true and predicted cleft.
        save_to: checkpoint to store the threshold in that a sweep finds best.

    Returns:
        Each score by its name, None where it is not defined, with the reason beside it.

    Raises:
        IncompleteError: a prediction is not finished.
        InputError: prediction and truth do not match, or voxel sizes are not known.
        UsageError: arguments that exclude each other.
    """
    from cleftcli.jobs import evaluate as job

    return job.evaluate(
        [(str(p), str(t)) for p, t in [(prediction, truth), *more]],
        threshold=threshold,
        sweeping=sweep,
        min_voxels=np.atleast_1d(min_voxels).tolist(),
        roi=_text(roi),
        voxel_size=voxel_size,
        table=_path(table),
        save_to=_path(save_to),
    )


def _text(value: Address | Roi | None) -> str | None:
    return None if value is None else str(value)


def _path(value: Address | None) -> Path | None:
    return None if value is None else Path(value)


def _quiet(_done: int, _total: int, _facts: dict[str, float]) -> None:
    """Report to nobody."""
