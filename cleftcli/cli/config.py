"""`cleft config`."""

from typing import Annotated, Any

import typer

from cleftcli.cli import report, settings
from cleftcli.cli.boundary import Command
from cleftcli.cli.options import JsonOption
from cleftcli.errors import UsageError

app = typer.Typer(help="What the options are where they are not typed.")

CommandArg = Annotated[
    str, typer.Argument(metavar="COMMAND", help="A command of cleft.", show_default="all")
]


@app.command("show", cls=Command)
def show(ctx: typer.Context, command: CommandArg = "", json: JsonOption = False) -> None:
    """Print the value of each option, and what it comes from.

    \b
    cleft config show
    cleft config show predict --json
    cleft config show predict --config lab.toml
    """
    contexts = _contexts(ctx.find_root())
    if command and command not in contexts:
        raise UsageError(
            f"{command}: no command with options to set; there are {', '.join(contexts)}"
        )
    rows = [
        row for name in contexts if command in ("", name) for row in _rows(name, contexts[name])
    ]
    report.result({"options": rows}, as_json=json, text=report.columns(rows))


def _contexts(root: Any) -> dict[str, Any]:
    """Each command as if it were called without a word behind it."""
    commands = {n: c for n, c in root.command.commands.items() if settings.settable(c)}
    made = {
        name: command.make_context(name, [], parent=root, resilient_parsing=True)
        for name, command in commands.items()
    }
    return {"cleft": root, **made}


def _rows(command: str, of: Any) -> list[dict[str, Any]]:
    return [
        {
            "command": command,
            "option": max(option.opts, key=len),
            "value": _plain(of.params[name]),
            "from": settings.source(of, name),
        }
        for name, option in settings.settable(of.command).items()
    ]


def _plain(value: object) -> object:
    """A value as JSON has it."""
    return value if isinstance(value, (int, float, str, type(None))) else str(value)
