"""Options that several commands share: one name means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cleftcli.errors import UsageError

OutputOption = Annotated[str, typer.Option("-o", "--output", help="Store to write, .zarr or .n5.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output that cleft made.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Worker processes on this machine.")]
RoiOption = Annotated[
    str | None, typer.Option(help="Box of voxels z0:z1,y0:y1,x0:x1; an empty end means the face.")
]
VoxelSizeOption = Annotated[
    str | None, typer.Option(help="Voxel size z,y,x in nm, instead of what the store says.")
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(help="Probability from which a voxel is cleft. Default: the prediction's own."),
]
MinVoxelsOption = Annotated[int, typer.Option(min=0, help="Drop clefts with fewer voxels.")]
PredictionArg = Annotated[
    str,
    typer.Argument(metavar="PREDICTION", help="Container or dataset: probability, mask or ids."),
]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="safetensors checkpoint. Default: the one that ships.")
]


def numbers(text: str | None, count: int) -> tuple[float, ...] | None:
    """The comma-separated numbers of an option, None where it was not given.

    Raises:
        UsageError: another count, or no numbers.
    """
    if text is None:
        return None
    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise UsageError(f"{text!r}: expected {count} numbers separated by commas")
    return values


def parse_voxel_size(text: str | None) -> tuple[float, float, float] | None:
    """`--voxel-size` in nm, zyx.

    Raises:
        UsageError: it is not three positive numbers.
    """
    values = numbers(text, 3)
    if values is None:
        return None
    z, y, x = values
    if min(values) <= 0:
        raise UsageError(f"voxel size {text!r}: must be positive")
    return z, y, x
