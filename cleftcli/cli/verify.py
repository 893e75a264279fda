"""`cleft verify`."""

from typing import Annotated

import typer

from cleftcli.cli import complete, report
from cleftcli.cli.options import JsonOption

OutputArg = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT", autocompletion=complete.datasets, help="Output that cleft made."
    ),
]
DeepOption = Annotated[bool, typer.Option("--deep", help="Read every voxel, hold checksums.")]


def main(output: OutputArg, deep: DeepOption = False, json: JsonOption = False) -> None:
    """Check that an output is whole: every block recorded, every chunk there as it was written.

    \b
    cleft verify volume.cleft.zarr
    cleft verify volume.cleft.zarr --deep
    cleft verify labels.n5/labels --json
    """
    with report.progress("blocks", "looking at chunks") as shown:
        from cleftcli.jobs.verify import verify

        found = verify(output, deep=deep, report=shown)
    report.result(found, as_json=json, text=f"{found['output']}: {found['blocks']} blocks, sound")
    report.hint("info", found["output"])
