"""The command `cleft`: the only room that talks to a person.

Nothing heavy is imported here, so that help answers at once. Results go to stdout, all else to
stderr; an error a person can mend is one line and an exit code.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cleftcli import __version__
from cleftcli.cli import (
    convert,
    demo,
    doctor,
    evaluate,
    export_cremi,
    info,
    make_labels,
    networks,
    predict,
    segment,
    status,
    train,
    verify,
)
from cleftcli.errors import CleftError, ResourceError
from cleftcli.interrupt import own_process

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Boundary(TyperGroup):
    """Where errors become a line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except CleftError as error:
            typer.echo(f"cleft: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            typer.echo(f"cleft: {error}; what is finished is kept", err=True)
            raise typer.Exit(ResourceError.exit_code) from error


app = typer.Typer(
    name="cleft",
    cls=Boundary,
    no_args_is_help=True,
    rich_markup_mode=None,  # markup would eat the brackets of voxel ranges
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cleft {__version__}")
        raise typer.Exit


@app.callback()
def _cleft(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Find synaptic clefts in volume electron microscopy.

    \b
    cleft demo                              see the whole chain on a generated volume
    cleft predict volume.zarr               clefts in a volume of yours
    cleft evaluate prediction.zarr truth.hdf --json

    Exit codes: 0 done, 1 bug, 2 usage, 3 unusable input, 4 incomplete, 5 output belongs to
    something else, 6 resources, 7 refused as unsafe, 130/143 interrupted (work is kept).
    """
    level = logging.ERROR if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("cleftcli").setLevel(level)


app.command("info")(info.main)
app.command("convert")(convert.main)
app.command("make-labels")(make_labels.main)
app.command("train")(train.main)
app.command("networks")(networks.main)
app.command("predict")(predict.main)
app.command("status")(status.main)
app.command("verify")(verify.main)
app.command("segment")(segment.main)
app.command("evaluate")(evaluate.main)
app.command("export-cremi")(export_cremi.main)
app.command("demo")(demo.main)
app.command("doctor")(doctor.main)


def main() -> None:
    """The console script."""
    own_process()
    app()
