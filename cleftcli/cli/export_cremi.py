"""`cleft export-cremi`."""

from pathlib import Path
from typing import Annotated

import typer

from cleftcli.cli import report
from cleftcli.cli.options import (
    JsonOption,
    OverwriteOption,
    ThresholdOption,
    VoxelSizeOption,
    parse_voxel_size,
)

PredictionsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="PREDICTION...", help="Containers or datasets: probability, mask or ids."
    ),
]
FileOption = Annotated[
    Path, typer.Option("-o", "--output", help="A .hdf file, or a folder for several.")
]
PaddedOption = Annotated[
    bool, typer.Option("--padded", help="Cut the padded CREMI test frame to 125x1250x1250.")
]


def main(
    predictions: PredictionsArg,
    output: FileOption,
    threshold: ThresholdOption = None,
    padded: PaddedOption = False,
    voxel_size: VoxelSizeOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write CREMI submissions: HDF5, checked voxel by voxel before they appear.

    \b
    cleft export-cremi prediction.zarr -o sample_A+.hdf
    cleft export-cremi A+.zarr B+.zarr C+.zarr -o submissions --padded
    """
    from cleftcli.jobs.export_cremi import export_cremi

    found = export_cremi(
        predictions,
        output,
        threshold=threshold,
        padded=padded,
        voxel_size=parse_voxel_size(voxel_size),
        overwrite=overwrite,
    )
    text = "\n".join(f["output"] for f in found)
    report.result({"submissions": found}, as_json=json, text=text)
