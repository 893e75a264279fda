"""`cleft export-cremi`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cleftcli.cli import complete, report
from cleftcli.cli.options import (
    JsonOption,
    OverwriteOption,
    ThresholdOption,
    VoxelSizeOption,
    parse_voxel_size,
)
from cleftcli.errors import InputError, UsageError

PredictionsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="PREDICTION",
        autocompletion=complete.datasets,
        help="Containers or datasets: probability, mask or ids; with --check, submissions.",
    ),
]
FileOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="A .hdf file, or a folder for several.")
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Write nothing: say what the scorer would trip over.")
]
UniformOption = Annotated[
    bool, typer.Option("--allow-uniform", help="Export even without any cleft, or all cleft.")
]
PaddedOption = Annotated[
    bool, typer.Option("--padded", help="Cut the padded CREMI test frame to 125x1250x1250.")
]


def main(
    predictions: PredictionsArg,
    output: FileOption = None,
    threshold: ThresholdOption = None,
    padded: PaddedOption = False,
    voxel_size: VoxelSizeOption = None,
    allow_uniform: UniformOption = False,
    check: CheckOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write CREMI submissions: HDF5, checked voxel by voxel before they appear.

    \b
    cleft export-cremi prediction.zarr -o sample_A+.hdf
    cleft export-cremi A+.zarr B+.zarr C+.zarr -o submissions --padded
    cleft export-cremi --check sample_A+.hdf
    """
    if check:
        from cleftcli.jobs.export_cremi import check as check_files

        checked = check_files([Path(p) for p in predictions])
        report.result({"submissions": checked}, as_json=json, text=_text(checked))
        raise typer.Exit(InputError.exit_code if any(c["problems"] for c in checked) else 0)
    if output is None:
        raise UsageError("-o is missing: a .hdf file, or a folder for several predictions")
    with report.progress("exporting"):
        from cleftcli.jobs.export_cremi import export_cremi

        found = export_cremi(
            predictions,
            output,
            threshold=threshold,
            padded=padded,
            voxel_size=parse_voxel_size(voxel_size),
            allow_uniform=allow_uniform,
            overwrite=overwrite,
        )
    files = [f["output"] for f in found]
    report.result({"submissions": found}, as_json=json, text="\n".join(files))
    report.hint("export-cremi", "--check", *files)


def _text(checked: list[dict[str, Any]]) -> str:
    """For each file its facts, then what is wrong with it."""
    said = []
    for each in checked:
        facts = [(k, v) for k, v in each.items() if k not in ("problems", "remarks")]
        notes = [("problem", p) for p in each["problems"]] + [
            ("remark", r) for r in each["remarks"]
        ]
        said.append(report.table([*facts, *(notes or [("problems", "none")])]))
    return "\n\n".join(said)
