"""`cleft convert`."""

from typing import Annotated

import typer

from cleftcli.cli import complete, report
from cleftcli.cli.options import (
    AxesOption,
    ChannelOption,
    ClusterOption,
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
    parse_reading,
    parse_workers,
)

SourceArg = Annotated[
    str,
    typer.Argument(metavar="SRC", autocompletion=complete.datasets, help="Any readable volume."),
]
TargetArg = Annotated[str, typer.Argument(metavar="DST", help="Store to write, .zarr or .n5.")]
ChunksOption = Annotated[
    str | None, typer.Option(help="Voxels z,y,x of a chunk. Default: 16,128,128.")
]


def main(
    source: SourceArg,
    target: TargetArg,
    format: FormatOption = None,
    chunks: ChunksOption = None,
    roi: RoiOption = None,
    voxel_size: VoxelSizeOption = None,
    axes: AxesOption = None,
    channel: ChannelOption = None,
    missing: MissingOption = "fill",
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    cluster: ClusterOption = None,
    part: PartOption = None,
    patience: PatienceOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Copy any readable volume to zarr or N5, block by block; run again to continue.

    \b
    cleft convert sample_A.hdf sample_A.zarr
    cleft convert sections/ stack.zarr --voxel-size 40,4,4
    cleft convert stack.tif stack.n5 --channel 0 --chunks 32,256,256
    """
    with report.progress("blocks", "looking at the source") as shown:
        from cleftcli.jobs.convert import convert

        found = convert(
            source,
            target,
            format=format,
            chunks=edges("--chunks", chunks),
            roi=roi,
            reading=parse_reading(voxel_size, axes, channel),
            missing=missing,
            workers=parse_workers(workers, scheduler, cluster, part, patience),
            overwrite=overwrite,
            report=shown,
        )
    report.result(found, as_json=json, text=found["output"])
    report.hint("info", found["output"])
