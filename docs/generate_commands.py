"""Write docs/commands.md from the help of each command; `--check` only compares."""

import sys
from pathlib import Path

from typer.testing import CliRunner

from cleftcli.cli import app

PAGE = Path(__file__).with_name("commands.md")
HEAD = "# Commands\n\nGenerated from the commands' own help by `make docs`.\n"


def page() -> str:
    """The whole page."""
    names = [command.name for command in app.registered_commands]
    runner, parts = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}), [HEAD]
    for arguments in ([], *([str(name)] for name in names)):
        title = " ".join(["cleft", *arguments])
        shown = runner.invoke(app, [*arguments, "--help"], prog_name="cleft").stdout
        parts.append(f"\n## {title}\n\n```text\n{shown.strip()}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    if "--check" in sys.argv:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        sys.exit(None if current else f"{PAGE} is not current; run: make docs")
    PAGE.write_text(page(), encoding="utf-8")
