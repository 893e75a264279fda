"""`cleft info`."""

import math
from typing import Annotated, Any

import typer

from cleftcli.cli import complete, report
from cleftcli.cli.options import (
    AxesOption,
    ChannelOption,
    JsonOption,
    VoxelSizeOption,
    parse_reading,
)

PathArg = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        autocompletion=complete.datasets,
        help="Store, array, checkpoint or run folder.",
    ),
]


def main(
    path: PathArg,
    voxel_size: VoxelSizeOption = None,
    axes: AxesOption = None,
    channel: ChannelOption = None,
    json: JsonOption = False,
) -> None:
    """What is in a store, a checkpoint or a run folder.

    \b
    cleft info volume.zarr
    cleft info sample_A.hdf --json
    cleft info run/checkpoint.safetensors
    """
    from cleftcli.jobs.info import info

    found = info(path, parse_reading(voxel_size, axes, channel))
    report.result(found, as_json=json, text=_text(found))
    report.hint(*_next(found))


def _next(found: dict[str, Any]) -> list[str]:
    """What to do with a checkpoint, a prediction, clefts, or raw."""
    path = found["path"]
    contents = [part.get("content") for part in found.get("arrays", [])]
    if found["kind"] == "checkpoint":
        return ["predict", "VOLUME", "--checkpoint", path]
    if "probability" in contents:
        return ["segment", path, "-o", "clefts.zarr", "--table", "clefts.csv"]
    if "ids" in contents or "mask" in contents:
        return ["evaluate", path, "TRUTH"]
    return ["predict", path]


def _text(found: dict[str, Any]) -> str:
    parts = [_shown(part) for part in found.get("arrays", [found])]
    return "\n\n".join(report.table(part) for part in parts)


def _shown(part: dict[str, Any]) -> list[tuple[str, object]]:
    """The facts for a person: histograms as bars, lists of nothing left out."""
    bars = {k: _bars(part[k]) for k in ("histogram", "intensities") if part.get(k)}
    warnings = [("warning", w) for w in part.get("warnings", [])]
    facts = [(k, bars.get(k, v)) for k, v in part.items() if k != "warnings" and v != []]
    return [*facts, *warnings]


def _bars(shares: list[float]) -> str:
    """A histogram in one line."""
    ramp = report.drawn(" ▁▂▃▄▅▆▇█", " .:-=+*#")
    highest = max(shares) or 1.0
    return "".join(ramp[math.ceil(s / highest * (len(ramp) - 1))] for s in shares)
