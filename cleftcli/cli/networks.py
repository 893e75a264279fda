"""`cleft networks`."""

from pathlib import Path
from typing import Annotated

import typer

from cleftcli.cli import report
from cleftcli.cli.options import DeviceOption, JsonOption

MeasureOption = Annotated[
    bool, typer.Option("--measure", help="Run a tile of each: its time and memory here (minutes).")
]

OfOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="Only its network, and how far training moved its learned queries."
    ),
]


def main(
    checkpoint: OfOption = None,
    measure: MeasureOption = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """The networks that a config can name, with their sizes and costs for one tile.

    \b
    cleft networks
    cleft networks --measure --device cpu
    cleft networks --checkpoint run/checkpoint.safetensors
    """
    from cleftcli.jobs.networks import networks

    found = networks(measured=measure, device=device, checkpoint=checkpoint)
    report.result({"networks": found}, as_json=json, text=report.columns(found))
