"""`cleft verify`."""

from typing import Annotated

import typer

from cleftcli.cli import report
from cleftcli.cli.options import JsonOption

OutputArg = Annotated[str, typer.Argument(metavar="OUTPUT", help="Output that cleft made.")]
DeepOption = Annotated[bool, typer.Option("--deep", help="Read every voxel, hold checksums.")]


def main(output: OutputArg, deep: DeepOption = False, json: JsonOption = False) -> None:
    """Check that an output is whole: every block recorded, every chunk there as it was written.

    \b
    cleft verify volume.cleft.zarr
    cleft verify volume.cleft.zarr --deep
    """
    from cleftcli.jobs.verify import verify

    with report.progress("blocks") as shown:
        found = verify(output, deep=deep, report=shown)
    report.result(found, as_json=json, text=f"{found['output']}: {found['blocks']} blocks, sound")
