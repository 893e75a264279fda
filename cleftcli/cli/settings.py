"""Defaults of options from files: the one that `--config` names, before the user's own.

Both are TOML with a table for each command, keyed as its options are; options of `cleft` itself
stand above the tables. What is typed counts before the environment (CLEFT_PREDICT_WORKERS=2), and
the environment before the files.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup, TyperOption

from cleftcli.errors import UsageError
from cleftcli.toml_file import read_toml

Table = dict[str, Any]  # values by the names of options, and such tables by the names of commands
FILES = "cleft.settings"  # under which a context keeps the table of each file


def use(ctx: typer.Context, path: Path | None) -> Path | None:
    """Callback of `--config`: take defaults from that file and from the user's.

    Raises:
        InputError: a file cannot be read.
        UsageError: it is not TOML, has an unknown command or key, or a value of another type.
    """
    own = Path(typer.get_app_dir("cleft"), "config.toml")
    paths = [*([path] if path else []), *([own] if os.access(own, os.R_OK) else [])]
    files = {p: _checked(read_toml(p), ctx, p) for p in paths}
    ctx.meta[FILES] = files
    ctx.default_map = {}
    for table in reversed(files.values()):
        for key, value in table.items():
            below = {**ctx.default_map.get(key, {}), **value} if isinstance(value, dict) else value
            ctx.default_map[key] = below
    return path


def settable(command: Any) -> dict[str, TyperOption]:
    """The options of a command that files and the environment may set, by name."""
    options = (p for p in command.params if isinstance(p, TyperOption))
    return {p.name: p for p in options if p.allow_from_autoenv and p.expose_value}


def source(ctx: typer.Context, name: str) -> str:
    """Where the value of an option of a command comes from."""
    kind = getattr(ctx.get_parameter_source(name), "name", "")
    if kind == "DEFAULT_MAP":
        tables: Mapping[Path, Table] = ctx.meta[FILES]
        mine = {p: t.get(ctx.info_name or "", {}) if ctx.parent else t for p, t in tables.items()}
        return next(str(path) for path, table in mine.items() if name in table)
    variable = f"{ctx.auto_envvar_prefix}_{name.upper()}"
    return {"COMMANDLINE": "command line", "ENVIRONMENT": variable}.get(kind, "default")


def _checked(table: Table, ctx: Any, path: Path) -> Table:
    """The table of a file with the names of options for keys."""
    commands = {n: c for n, c in ctx.command.commands.items() if not isinstance(c, TyperGroup)}
    above = {key: value for key, value in table.items() if not isinstance(value, dict)}
    found = _values(above, ctx.command, ctx, f"{path}: ")
    for name in table.keys() - above.keys():
        if name not in commands:
            raise UsageError(f"{path}: [{name}] is no command{_near(name, commands)}")
        found[name] = _values(table[name], commands[name], ctx, f"{path}: [{name}] ")
    return found


def _values(table: Table, command: Any, ctx: Any, where: str) -> Table:
    """The values of a command's options.

    Raises:
        UsageError: there is no such option, or the value is not one of its values.
    """
    options = settable(command)
    found = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in options:
            dashed = [n.replace("_", "-") for n in options]
            raise UsageError(f"{where}{key}: unknown key{_near(key, dashed)}")
        is_flag = options[name].is_flag
        if isinstance(value, (dict, list)) or isinstance(value, bool) != is_flag:
            wanted = "true or false" if is_flag else 'one value as it is typed, e.g. "40,4,4"'
            raise UsageError(f"{where}{key}: expected {wanted}, got {value!r}")
        try:
            options[name].process_value(ctx, value)
        except typer.BadParameter as error:
            said = error.message.removeprefix("Value error, ").rstrip(".")
            raise UsageError(f"{where}{key}: {said}, got {value!r}") from error
        found[name] = value
    return found


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
