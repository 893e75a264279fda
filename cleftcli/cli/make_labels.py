"""`cleft make-labels`."""

from typing import Annotated, Literal

import typer

from cleftcli.cli import complete, report
from cleftcli.cli.options import (
    ClusterOption,
    FormatOption,
    JsonOption,
    MissingOption,
    OutputOption,
    OverwriteOption,
    PartOption,
    PatienceOption,
    SchedulerOption,
    VoxelSizeOption,
    WorkersOption,
    parse_voxel_size,
    parse_workers,
)

CleftsArg = Annotated[
    str,
    typer.Argument(metavar="CLEFTS", autocompletion=complete.datasets, help="Cleft ids or mask."),
]
TargetOption = Annotated[
    Literal["mask", "tanh-distance", "signed-distance"], typer.Option(help="What to make of them.")
]
ScaleOption = Annotated[
    float | None, typer.Option(help="Distance at which tanh has the argument 1, in --unit.")
]
UnitOption = Annotated[
    Literal["nm", "voxel"] | None,
    typer.Option(help="voxel: edges of the finest voxel. Default: the target's."),
]


def main(
    clefts: CleftsArg,
    output: OutputOption,
    target: TargetOption = "tanh-distance",
    scale: ScaleOption = None,
    unit: UnitOption = None,
    voxel_size: VoxelSizeOption = None,
    format: FormatOption = None,
    missing: MissingOption = "fill",
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    cluster: ClusterOption = None,
    part: PartOption = None,
    patience: PatienceOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Turn cleft ids into training targets, block by block; run again to continue.

    \b
    cleft make-labels sample_A.hdf -o labels.zarr
    cleft make-labels clefts.n5/ids -o labels.n5 --target signed-distance
    cleft make-labels sample_A.hdf -o labels.zarr --scale 50 --unit nm --workers 4
    """
    with report.progress("blocks", "looking at the clefts") as shown:
        from cleftcli.jobs.make_labels import make_labels

        found = make_labels(
            clefts,
            output,
            target=target,
            scale=scale,
            unit=unit,
            voxel_size=parse_voxel_size(voxel_size),
            format=format,
            missing=missing,
            workers=parse_workers(workers, scheduler, cluster, part, patience),
            overwrite=overwrite,
            report=shown,
        )
    report.result(found, as_json=json, text=found["output"])
    report.hint("info", found["output"])
