"""`cleft networks`."""

from typing import Annotated

import typer

from cleftcli.cli import report
from cleftcli.cli.options import DeviceOption, JsonOption

MeasureOption = Annotated[
    bool, typer.Option("--measure", help="Run a tile of each: its time and memory here (minutes).")
]


def main(
    measure: MeasureOption = False, device: DeviceOption = "auto", json: JsonOption = False
) -> None:
    """The networks that a config can name, with their sizes and costs for one tile.

    \b
    cleft networks
    cleft networks --measure --device cpu
    cleft networks --json
    """
    from cleftcli.jobs.networks import networks

    found = networks(measured=measure, device=device)
    report.result({"networks": found}, as_json=json, text=report.columns(found))
