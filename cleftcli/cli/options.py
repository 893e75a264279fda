"""Options that several commands share: one name means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cleftcli.cli import complete
from cleftcli.errors import UsageError
from cleftcli.geometry import Zyx, parse_zyx

if TYPE_CHECKING:
    from cleftcli.blockwise import Workers
    from cleftcli.volumes import Reading

OutputOption = Annotated[str, typer.Option("-o", "--output", help="Store to write, .zarr or .n5.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output that cleft made.")
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", allow_from_autoenv=False, help="Print the result, or the error, as JSON."
    ),
]
FormatOption = Annotated[
    Literal["zarr2", "zarr3", "n5"] | None,
    typer.Option(help="Default: by the name, zarr2 for .zarr."),
]
DeviceOption = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:1.", autocompletion=complete.devices)
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on this machine. Default: 1, or one for each GPU."),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS|FILE", help="Use the workers of a running dask scheduler."),
]
ClusterOption = Annotated[
    Path | None,
    typer.Option(metavar="TOML", help="Start workers as jobs of SLURM, LSF, PBS, SGE, ..."),
]
PartOption = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Do every N-th block from the I-th on: for job arrays."),
]
PatienceOption = Annotated[
    float | None,
    typer.Option(
        min=1, help="Seconds without a finished block before giving up. Default: 20x the slowest."
    ),
]
RoiOption = Annotated[
    str | None, typer.Option(help="Box of voxels z0:z1,y0:y1,x0:x1; an empty end means the face.")
]
VoxelSizeOption = Annotated[
    str | None, typer.Option(help="Voxel size z,y,x in nm, instead of what the store says.")
]
AxesOption = Annotated[
    str | None, typer.Option(help="Stored axes in their order, e.g. xyz, instead of the store's.")
]
ChannelOption = Annotated[int | None, typer.Option(min=0, help="Channel to read, of several.")]
MissingOption = Annotated[
    Literal["fill", "error"], typer.Option(help="Missing input chunks: read as 0, or refuse.")
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(help="Probability from which a voxel is cleft. Default: the prediction's own."),
]
MinVoxelsOption = Annotated[int, typer.Option(min=0, help="Drop clefts with fewer voxels.")]
PredictionArg = Annotated[
    str,
    typer.Argument(
        metavar="PREDICTION",
        autocompletion=complete.datasets,
        help="Container or dataset: probability, mask or ids.",
    ),
]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="safetensors checkpoint. Default: the one that ships.")
]


def edges(option: str, text: str | None) -> Zyx | None:
    """The voxels z,y,x of an option, None where it was not given.

    Raises:
        UsageError: anything else; it names the option.
    """
    try:
        return None if text is None else parse_zyx(text)
    except UsageError as error:
        raise UsageError(f"{option} {text}: {error}") from error


def numbers(option: str, text: str | None, count: int) -> tuple[float, ...] | None:
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
        raise UsageError(f"{option} {text}: expected {count} numbers separated by commas")
    return values


def counts(text: str) -> list[int]:
    """The sizes of --min-voxels: whole numbers from 0, separated by commas.

    Raises:
        UsageError: anything else.
    """
    parts = text.split(",")
    if not all(p.strip().isdecimal() for p in parts):
        raise UsageError(f"--min-voxels {text}: expected whole numbers separated by commas")
    return [int(p) for p in parts]


def pairs(addresses: list[str]) -> list[tuple[str, str]]:
    """Predictions and truths as they were typed, two by two.

    Raises:
        UsageError: one is left over.
    """
    if len(addresses) % 2:
        raise UsageError(
            f"{addresses[-1]}: each prediction needs a truth behind it: cleft evaluate "
            f"{addresses[-1]} TRUTH"
        )
    return list(zip(addresses[::2], addresses[1::2], strict=True))


def parse_workers(
    workers: int | None,
    scheduler: str | None,
    cluster: Path | None,
    part: str | None,
    patience: float | None,
) -> Workers:
    """Who does the blocks, from the five options that say so.

    Raises:
        UsageError: options that exclude each other, or a part that is not i/n.
    """
    from cleftcli.blockwise import Workers

    if workers is not None and (scheduler or cluster):
        raise UsageError("--workers is for this machine; --scheduler and --cluster bring their own")
    numbers = part.split("/") if part else []
    if part and not (len(numbers) == 2 and all(n.isdecimal() for n in numbers)):
        raise UsageError(f"--part {part}: expected i/n, such as 3/16")
    chosen = (int(numbers[0]), int(numbers[1])) if part else None
    return Workers(workers, (), scheduler, cluster, chosen, patience)


def parse_voxel_size(text: str | None) -> tuple[float, float, float] | None:
    """`--voxel-size` in nm, zyx.

    Raises:
        UsageError: it is not three numbers.
    """
    values = numbers("--voxel-size", text, 3)
    return None if values is None else (values[0], values[1], values[2])


def parse_reading(voxel_size: str | None, axes: str | None, channel: int | None) -> Reading:
    """`--voxel-size`, `--axes` and `--channel` together.

    Raises:
        UsageError: as `parse_voxel_size`.
    """
    from cleftcli.volumes import Reading

    return Reading(parse_voxel_size(voxel_size), axes, channel)
