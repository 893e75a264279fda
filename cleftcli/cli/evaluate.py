"""`cleft evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cleftcli.cli import complete, report
from cleftcli.cli.options import (
    JsonOption,
    RoiOption,
    ThresholdOption,
    VoxelSizeOption,
    counts,
    pairs,
    parse_voxel_size,
)

PairsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="PREDICTION TRUTH",
        autocompletion=complete.datasets,
        help="Probability, mask or ids, and the ids or mask to hold it against; one or more pairs.",
    ),
]
LeastOption = Annotated[
    str, typer.Option(help="Drop predicted clefts with fewer voxels; several for --sweep: 0,100.")
]
TableOption = Annotated[
    Path | None, typer.Option(help="Table of true and predicted clefts to write, .csv or .json.")
]
SaveOption = Annotated[
    Path | None, typer.Option(help="Checkpoint to store the threshold in that --sweep finds best.")
]
SweepOption = Annotated[bool, typer.Option("--sweep", help="Find the best threshold.")]


def main(
    volumes: PairsArg,
    threshold: ThresholdOption = None,
    sweep: SweepOption = False,
    min_voxels: LeastOption = "0",
    roi: RoiOption = None,
    voxel_size: VoxelSizeOption = None,
    table: TableOption = None,
    save_to: SaveOption = None,
    json: JsonOption = False,
) -> None:
    """Score a prediction: CREMI-score, ADGT, ADF (nm), F1, AUC and more.

    \b
    cleft evaluate prediction.zarr sample_A.hdf
    cleft evaluate prediction.zarr sample_A.hdf --json | jq .cremi_score
    cleft evaluate prediction.zarr sample_A.hdf --sweep --min-voxels 0,100,200
    cleft evaluate A.zarr sample_A.hdf B.zarr sample_B.hdf C.zarr sample_C.hdf
    """
    with report.progress("scoring"):
        from cleftcli.jobs.evaluate import evaluate

        found = evaluate(
            pairs(volumes),
            threshold=threshold,
            sweeping=sweep,
            min_voxels=counts(min_voxels),
            roi=roi,
            voxel_size=parse_voxel_size(voxel_size),
            table=table,
            save_to=save_to,
        )
    report.result(found, as_json=json, text=_text(found))
    _suggest(volumes[::2], found)


def _suggest(predictions: list[str], found: dict[str, Any]) -> None:
    chosen = (found.get("best_by_cremi_score") or found).get("threshold")
    options = ["--threshold", f"{chosen:g}"] if chosen is not None else []
    target = "submission.hdf" if len(predictions) == 1 else "submissions"
    report.hint("export-cremi", *predictions, "-o", target, *options)


def _text(found: dict[str, Any]) -> str:
    """Scores for a person: a table for each volume, their mean, and the sweep."""
    parts = [*found.get("volumes", [found]), *([found["mean"]] if "mean" in found else [])]
    hidden = ("sweep", "best_by_cremi_score", "best_by_f1", "distances")
    shown = [report.table([(k, v) for k, v in p.items() if k not in hidden]) for p in parts]
    rows = [r for r in found.get("sweep", []) if r["f1"] is not None]
    columns = ("threshold", "min_voxels", "cremi_score", "f1")
    lines = ["".join(f"{_cell(r[c]):>13}" for c in columns) for r in rows]
    head = ["".join(f"{c:>13}" for c in columns)] if lines else []
    return "\n\n".join([*shown, *(["\n".join([*head, *lines])] if lines else [])])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
