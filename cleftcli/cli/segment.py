"""`cleft segment`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cleftcli.cli import report
from cleftcli.cli.options import (
    FormatOption,
    JsonOption,
    MinVoxelsOption,
    OutputOption,
    OverwriteOption,
    PredictionArg,
    ThresholdOption,
    VoxelSizeOption,
    parse_voxel_size,
)

LowOption = Annotated[
    float | None,
    typer.Option(help="Probability down to which a cleft extends. Default: threshold."),
]
SectionsOption = Annotated[int, typer.Option(min=0, help="Drop clefts in fewer sections.")]
ConnectivityOption = Annotated[
    Literal[6, 26], typer.Option(help="Voxels touch by faces, or by edges and corners too.")
]
TableOption = Annotated[Path | None, typer.Option(help="Table of clefts to write, .csv or .json.")]


def main(
    prediction: PredictionArg,
    output: OutputOption,
    threshold: ThresholdOption = None,
    low: LowOption = None,
    min_voxels: MinVoxelsOption = 0,
    min_sections: SectionsOption = 0,
    connectivity: ConnectivityOption = 26,
    table: TableOption = None,
    voxel_size: VoxelSizeOption = None,
    format: FormatOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Label clefts: ids unique over the volume, and a table of them.

    \b
    cleft segment prediction.zarr -o clefts.zarr --table clefts.csv
    cleft segment prediction.zarr -o clefts.zarr --threshold 0.9 --low 0.5 --min-voxels 200
    cleft segment prediction.zarr/cleft -o clefts.n5 --connectivity 6 --json | jq .clefts
    """
    with report.progress("labelling"):
        from cleftcli.jobs.segment import Rule, segment

        found = segment(
            prediction,
            output,
            rule=Rule(threshold, low, min_voxels, min_sections, connectivity),
            table=table,
            voxel_size=parse_voxel_size(voxel_size),
            format=format,
            overwrite=overwrite,
        )
    report.result(found, as_json=json, text=f"{found['output']}\n{found['clefts']} clefts")
    report.hint("evaluate", found["output"], "TRUTH")
