"""Write docs/commands.md from the help of each command; `--check` only compares."""

import sys
from pathlib import Path

from typer.testing import CliRunner

from cleftcli.cli import app

PAGE = Path(__file__).with_name("commands.md")
NO_SETTINGS = {"XDG_CONFIG_HOME": "/dev/null", "CLEFT_CONFIG": None}
HEAD = """# Commands

Generated from the commands' own help by `make docs`; what they have in common is
[another page](command-line.md).
"""


def names() -> list[str]:
    """Every command, as it is typed."""
    groups = {g.name: g.typer_instance.registered_commands for g in app.registered_groups}
    below = [f"{group} {c.name}" for group, commands in groups.items() for c in commands or []]
    return [*(str(c.name) for c in app.registered_commands), *below]


def page() -> str:
    """The whole page."""
    runner, parts = CliRunner(env={"COLUMNS": "100", "TERM": "dumb", **NO_SETTINGS}), [HEAD]
    for arguments in ([], *(name.split() for name in names())):
        title = " ".join(["cleft", *arguments])
        shown = runner.invoke(app, [*arguments, "--help"], prog_name="cleft").stdout
        parts.append(f"\n## {title}\n\n```text\n{shown.strip()}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    if "--check" in sys.argv:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        sys.exit(None if current else f"{PAGE} is not current; run: make docs")
    PAGE.write_text(page(), encoding="utf-8")
