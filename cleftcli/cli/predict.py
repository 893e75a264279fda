"""`cleft predict`."""

from typing import Annotated, Literal

import typer

from cleftcli.cli import complete, report
from cleftcli.cli.options import (
    AxesOption,
    ChannelOption,
    CheckpointOption,
    ClusterOption,
    DeviceOption,
    FormatOption,
    JsonOption,
    MissingOption,
    OverwriteOption,
    PartOption,
    PatienceOption,
    RoiOption,
    SchedulerOption,
    VoxelSizeOption,
    WorkersOption,
    edges,
    numbers,
    parse_reading,
    parse_workers,
)

VolumeArg = Annotated[
    str,
    typer.Argument(
        metavar="VOLUME",
        autocompletion=complete.datasets,
        help="Raw volume: container or dataset.",
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option("-o", "--output", help="Store to write, .zarr or .n5. Default: NAME.cleft.zarr"),
]
OverlapOption = Annotated[
    str | None,
    typer.Option(
        help="Voxels z,y,x that tiles share with the next. Default: a quarter of a tile, or twice "
        "the context."
    ),
]
ContextOption = Annotated[
    str,
    typer.Option(help="Voxels z,y,x at a tile's faces that it leaves to the tile next to it."),
]
BlendOption = Annotated[
    Literal["bump", "none"], typer.Option(help="none: tiles stacked as in the paper.")
]
TtaOption = Annotated[
    Literal["none", "flips"],
    typer.Option(help="flips: the mean over the 8 flips of z, y and x of each tile."),
]
ChannelsOption = Annotated[
    str,
    typer.Option(
        help="cleft, or cleft,boundary: also write what else the network says, beside the output."
    ),
]
BlockOption = Annotated[str | None, typer.Option(help="Voxels z,y,x of a unit of work.")]
BatchOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tiles at once. Default: 2; on a GPU the power of two that fits, which is measured: "
        "state it to continue on another card.",
    ),
]
PrecisionOption = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="In which the network computes.")
]
DtypeOption = Annotated[
    Literal["uint8", "float32"], typer.Option(help="Of the output; in uint8, 0..255 is 0..1.")
]
RangeOption = Annotated[
    str | None, typer.Option(help="Intensities of black and white. Default for uint8: 0,255.")
]
MismatchOption = Annotated[
    bool,
    typer.Option(
        "--allow-voxel-size-mismatch", help="Predict voxels unlike those that were trained on."
    ),
]
MaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        autocompletion=complete.datasets,
        help="Predict where this volume is not 0; it may be coarser.",
    ),
]
PyramidOption = Annotated[
    bool, typer.Option("--pyramid", help="Also write coarser levels, for viewers.")
]
DryRunOption = Annotated[bool, typer.Option("-n", "--dry-run", help="Plan, compute nothing.")]


def main(
    volume: VolumeArg,
    output: OutputOption = None,
    checkpoint: CheckpointOption = None,
    roi: RoiOption = None,
    overlap: OverlapOption = None,
    context: ContextOption = "0",
    blend: BlendOption = "bump",
    tta: TtaOption = "none",
    channels: ChannelsOption = "cleft",
    block: BlockOption = None,
    batch_size: BatchOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    cluster: ClusterOption = None,
    part: PartOption = None,
    patience: PatienceOption = None,
    dtype: DtypeOption = "uint8",
    format: FormatOption = None,
    intensity_range: RangeOption = None,
    voxel_size: VoxelSizeOption = None,
    allow_voxel_size_mismatch: MismatchOption = False,
    axes: AxesOption = None,
    channel: ChannelOption = None,
    missing: MissingOption = "fill",
    mask: MaskOption = None,
    pyramid: PyramidOption = False,
    dry_run: DryRunOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Predict cleft probability; killed at any time, the same command continues.

    \b
    cleft predict volume.zarr
    cleft predict sample_A.hdf/volumes/raw -o prediction.zarr --roi 0:40,:,:1024
    cleft predict volume.zarr --dry-run
    """
    low_high = numbers("--intensity-range", intensity_range, 2)
    with report.progress("blocks", "loading torch") as shown:
        from cleftcli.jobs import predict as job
        from cleftcli.prediction_settings import Settings

        settings = Settings(
            volume=volume,
            output=output,
            checkpoint=checkpoint,
            roi=roi,
            overlap=edges("--overlap", overlap),
            context=edges("--context", context) or (0, 0, 0),
            blend=blend,
            tta=tta,
            channels=tuple(channels.split(",")),
            block=edges("--block", block),
            batch_size=batch_size,
            device=device,
            precision=precision,
            workers=parse_workers(workers, scheduler, cluster, part, patience),
            dtype=dtype,
            format=format,
            intensity_range=None if low_high is None else (low_high[0], low_high[1]),
            reading=parse_reading(voxel_size, axes, channel),
            missing=missing,
            mask=mask,
            any_voxel_size=allow_voxel_size_mismatch,
        )
        if dry_run:
            found = job.dry_run(settings)
        else:
            found = job.predict(settings, overwrite=overwrite, report=shown, pyramid=pyramid)
    if dry_run:
        report.result(found, as_json=json, text=report.table(list(found.items())))
        return
    report.result(found, as_json=json, text=found["output"])
    if found["complete"]:
        report.hint("view", found["output"])
    else:
        report.hint("status", found["output"])
