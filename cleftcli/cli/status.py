"""`cleft status`."""

from typing import Annotated

import typer

from cleftcli.cli import complete, report
from cleftcli.cli.options import JsonOption

OutputArg = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT", autocompletion=complete.datasets, help="Output that is being made."
    ),
]


def main(output: OutputArg, json: JsonOption = False) -> None:
    """Say how far an output is, also while others make it.

    \b
    cleft status volume.cleft.zarr
    cleft status prediction.n5/cleft
    cleft status volume.cleft.zarr --json | jq .seconds_left
    """
    from cleftcli.jobs.status import status

    found = status(output)
    rows = [(k, v) for k, v in found.items() if k not in ("failed", "runs")]
    rows += [("failed", f"{f['block']}: {f['error']}") for f in found["failed"]]
    report.result(found, as_json=json, text=report.table(rows))
    if found["blocks_done"] == found["blocks"]:
        report.hint("verify", found["output"])
