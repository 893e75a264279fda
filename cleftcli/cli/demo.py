"""`cleft demo`."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from cleftcli.cli import report

FolderOption = Annotated[Path, typer.Option("-o", "--output", help="Folder to work in.")]


def main(output: FolderOption = Path("cleft-demo")) -> None:
    """Run the whole chain on a generated volume, printing each command.

    \b
    cleft demo
    cleft demo -o /tmp/demo
    cleft demo --output ~/cleft-demo
    """
    from cleftcli.jobs.demo import finish, prepare

    demo = prepare(output)
    report.say(f"A volume like serial-section EM: {demo.volume}")
    scores = ""
    for command in demo.commands:
        report.say(f"\n$ cleft {shlex.join(command)}")
        printed = _run(command)
        scores = printed if command[0] == "evaluate" else scores
    picture, auc = finish(demo, scores)
    report.say(f"\nAUC {auc:.4f} on the part that was not trained on. Raw, truth, prediction:")
    typer.echo(picture)
    report.say("Scores, places, clefts and provenance, in a page for any browser:")
    typer.echo(demo.report)
    report.hint("predict", "VOLUME")


def _run(command: list[str]) -> str:
    """Run a command of cleft as a user would; what it printed is shown and returned."""
    done = subprocess.run(
        [sys.executable, "-m", "cleftcli", *command], stdout=subprocess.PIPE, text=True, check=False
    )
    report.say(done.stdout.rstrip())
    if done.returncode:
        raise typer.Exit(done.returncode)
    return done.stdout
