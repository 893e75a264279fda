"""`cleft doctor`."""

import textwrap
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cleftcli.cli import report
from cleftcli.cli.options import JsonOption
from cleftcli.errors import ResourceError

FolderArg = Annotated[
    Path, typer.Argument(metavar="[FOLDER]", help="Folder that outputs would go to.")
]
WIDTH = 100


def main(folder: FolderArg = Path(), json: JsonOption = False) -> None:
    """Say whether this machine is able, and what to do where it is not.

    Exit code 6 where something will fail; notes are no failures. Nothing is left in the folder.

    \b
    cleft doctor
    cleft doctor /scratch/me
    cleft doctor /scratch/me --json | jq '.checks[] | select(.state != "ok")'
    """
    with report.progress("checks") as shown:
        from cleftcli.jobs.doctor import doctor

        found = doctor(folder, report=shown)
    report.result(found, as_json=json, text=_text(found))
    problems = [check["name"] for check in found["checks"] if check["state"] == "problem"]
    if problems:
        report.say(f"cleft: this machine is not able: {', '.join(problems)}")
        raise typer.Exit(ResourceError.exit_code)
    report.hint("demo")


def _text(found: dict[str, Any]) -> str:
    marks = dict(zip(("ok", "note", "problem"), report.drawn("✓!✗", "+!x"), strict=True))
    width = max(len(check["name"]) for check in found["checks"])
    checks = [
        _row(marks[c["state"]], c["name"], width, c["fact"], c["advice"]) for c in found["checks"]
    ]
    able = [c["name"] for c in found["commands"] if not c["limited_by"]]
    commands = [_row(marks["ok"], "able", width, ", ".join(able))] if able else []
    commands += [
        _row(marks["note"], c["name"], width, f"limited by {', '.join(c['limited_by'])}")
        for c in found["commands"]
        if c["limited_by"]
    ]
    return "\n".join([*checks, "", *commands, "", _summary(found)])


def _row(mark: str, name: str, width: int, fact: str, advice: str = "") -> str:
    """A mark, a name and a fact, and below it what to do."""
    indent = " " * (width + 4)
    wrap = partial(
        textwrap.wrap,
        width=WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    head, arrow = f"{mark} {name.ljust(width)}  ", f"{indent}{report.drawn('→', '->')} "
    lines = wrap(fact, initial_indent=head) + wrap(advice, initial_indent=arrow)
    return "\n".join(lines)


def _summary(found: dict[str, Any]) -> str:
    states = Counter(check["state"] for check in found["checks"])
    said = [f"{states[s]} {s}{'s' * (states[s] != 1)}" for s in ("problem", "note")]
    return f"{len(found['checks'])} checks, {' and '.join(said)}"
