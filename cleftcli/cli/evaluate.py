"""`cleft evaluate`."""

from typing import Annotated, Any

import typer

from cleftcli.cli import report
from cleftcli.cli.options import (
    JsonOption,
    MinVoxelsOption,
    PredictionArg,
    RoiOption,
    ThresholdOption,
    VoxelSizeOption,
    parse_voxel_size,
)

TruthArg = Annotated[
    str, typer.Argument(metavar="TRUTH", help="Cleft ids or mask: container or dataset.")
]
SweepOption = Annotated[bool, typer.Option("--sweep", help="Find the best threshold.")]


def main(
    prediction: PredictionArg,
    truth: TruthArg,
    threshold: ThresholdOption = None,
    sweep: SweepOption = False,
    min_voxels: MinVoxelsOption = 0,
    roi: RoiOption = None,
    voxel_size: VoxelSizeOption = None,
    json: JsonOption = False,
) -> None:
    """Score a prediction: CREMI-score, ADGT, ADF (nm), F1, AUC and more.

    \b
    cleft evaluate prediction.zarr sample_A.hdf
    cleft evaluate prediction.zarr sample_A.hdf --json | jq .cremi_score
    cleft evaluate prediction.zarr sample_A.hdf --sweep
    """
    from cleftcli.jobs.evaluate import evaluate

    found = evaluate(
        prediction,
        truth,
        threshold=threshold,
        sweeping=sweep,
        min_voxels=min_voxels,
        roi=roi,
        voxel_size=parse_voxel_size(voxel_size),
    )
    report.result(found, as_json=json, text=_text(found))


def _text(found: dict[str, Any]) -> str:
    rows = [(k, v) for k, v in found.items() if k != "sweep"]
    lines = [
        f"{r['threshold']:9}  {report.table([('', r['cremi_score'])]).strip():>11}  {r['f1']:.4f}"
        for r in found.get("sweep", [])
        if r["f1"] is not None
    ]
    head = ["", "threshold  cremi_score  f1"] if lines else []
    return "\n".join([report.table(rows), *head, *lines])
