"""The command `cleft`: the only room that talks to a person.

Nothing heavy is imported here, so that help answers at once. Results go to stdout, all else to
stderr; an error a person can mend is one line and an exit code.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from cleftcli import __version__
from cleftcli.cli import (
    boundary,
    config,
    convert,
    demo,
    doctor,
    evaluate,
    export_cremi,
    info,
    make_labels,
    networks,
    predict,
    report,
    segment,
    settings,
    status,
    train,
    verify,
    view,
)
from cleftcli.interrupt import own_process

EVERYWHERE = "Options of cleft itself, such as -q and -v, may stand here too: cleft --help."

app = typer.Typer(
    name="cleft",
    cls=boundary.Boundary,
    rich_markup_mode=None,  # markup would eat the brackets of voxel ranges
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "auto_envvar_prefix": "CLEFT",
    },
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cleft {__version__}")
        raise typer.Exit


QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")]
VerboseOption = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        count=True,
        show_default=False,
        help="A line for each block; -vv: what libraries log, too.",
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show where errors come from.")]
ColorOption = Annotated[bool, typer.Option("--no-color", help="No colours, as with NO_COLOR=1.")]
ProgressOption = Annotated[
    Literal["auto", "json"],
    typer.Option(help="json: an object a line on stderr, each time something is done."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="TOML",
        envvar="CLEFT_CONFIG",
        allow_from_autoenv=False,
        callback=settings.use,
        is_eager=True,
        help="Values for options that are not typed.",
    ),
]
VersionOption = Annotated[
    bool,
    typer.Option(
        "--version",
        callback=_show_version,
        is_eager=True,
        allow_from_autoenv=False,
        help="Print the version.",
    ),
]


@app.callback()
def _cleft(
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
    debug: DebugOption = False,
    no_color: ColorOption = False,
    progress: ProgressOption = "auto",
    _config: ConfigOption = None,
    _version: VersionOption = False,
) -> None:
    """Find synaptic clefts in volume electron microscopy.

    \b
    cleft demo                              see the whole chain on a generated volume
    cleft predict volume.zarr               clefts in a volume of yours
    cleft evaluate prediction.zarr truth.hdf --json

    These options may stand before or behind the command. What is not typed comes from variables
    (CLEFT_PREDICT_WORKERS=2), then from the file of --config, then from yours, which is
    ~/.config/cleft/config.toml. `cleft config show` tells which.

    Exit codes: 0 done, 1 bug, 2 usage, 3 unusable input, 4 incomplete, 5 output belongs to
    something else, 6 resources, 7 refused as unsafe, 130/143 interrupted (work is kept).
    """
    form = "%(asctime)s %(name)s: %(message)s" if verbose > 1 else "%(message)s"
    below = logging.DEBUG if verbose > 1 else logging.WARNING
    logging.basicConfig(level=below, format=form, handlers=[report.Lines()], force=True)
    own = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("cleftcli").setLevel(own)
    report.style, boundary.debug = progress, debug
    if no_color:
        os.environ["NO_COLOR"] = "1"  # for libraries and the processes of workers


COMMANDS: dict[str, Callable[..., None]] = {
    "info": info.main,
    "convert": convert.main,
    "make-labels": make_labels.main,
    "train": train.main,
    "networks": networks.main,
    "predict": predict.main,
    "status": status.main,
    "verify": verify.main,
    "segment": segment.main,
    "evaluate": evaluate.main,
    "export-cremi": export_cremi.main,
    "view": view.main,
    "demo": demo.main,
    "doctor": doctor.main,
}
for name, command in COMMANDS.items():
    app.command(name, cls=boundary.Command, epilog=EVERYWHERE)(command)
app.add_typer(config.app, name="config")


def main() -> None:
    """The console script."""
    own_process()
    _open_streams()
    app()


def _open_streams() -> None:
    """Streams that were closed take nothing; those of few letters take the others by number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
