"""Where errors become a line on stderr, an object on stdout for scripts, and an exit code."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from cleftcli import __version__, interrupt
from cleftcli.cli import report
from cleftcli.errors import CleftError, ResourceError, UsageError

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
KINDS = {
    1: "bug",
    2: "usage",
    3: "input",
    4: "incomplete",
    5: "conflict",
    6: "resources",
    7: "unsafe",
    130: "interrupted",
    143: "terminated",
}
SIGNALLED = (130, 143)
INTERRUPTED = "interrupted; what is finished is kept"

debug = False  # whether errors show where they come from, as --debug says


class Command(TyperCommand):
    """A command; called without what it needs, it says in short how it is used."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """As Typer does."""
        _name_no_variables(self.params)
        super().format_options(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer does."""
        if args or ctx.resilient_parsing or not any(p.required for p in self.params):
            return super().parse_args(ctx, args)
        formatter = ctx.make_formatter()
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        report.say(f"{formatter.getvalue()}\nIts options: {ctx.command_path} --help")
        raise typer.Exit(UsageError.exit_code)


class Boundary(TyperGroup):
    """The commands. Options of the group may stand behind the command's name; errors end here."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """As Typer does."""
        _name_no_variables(self.params)
        super().format_options(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer does."""
        if not args and not ctx.resilient_parsing:
            report.say(ctx.get_help())
            raise typer.Exit(UsageError.exit_code)
        return super().parse_args(ctx, self._own_first(args))

    def _own_first(self, args: Sequence[str]) -> list[str]:
        """The words of a command line, with the options of the group before all others."""
        options = [p for p in self.params if isinstance(p, TyperOption)]
        flags = {o for p in options if p.is_flag or p.count for o in p.opts}
        valued = {o for p in options for o in p.opts} - flags
        first: list[str] = []
        others: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                others += [word, *words]
            elif word in valued:
                value = next(words, None)
                if value is None:  # the parser says so where nothing follows
                    return [*first, word]
                first += [word, value]
            else:
                own = word.split("=")[0] in valued or _letters(word) <= flags
                (first if own else others).append(word)
        return first + others

    def main(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> NoReturn:
        """Run a command line and exit."""
        words = sys.argv[1:] if args is None else list(args)
        interrupt.last_words = lambda code: _tell(INTERRUPTED, code, words)
        try:
            code = super().main(words, *rest, **{**settings, "standalone_mode": False})
        except (Exception, SystemExit) as error:
            code = _answer(error, words)
        if code in SIGNALLED:
            interrupt.last_words(code)
        sys.exit(code)


def _name_no_variables(params: Sequence[Any]) -> None:
    """Every option has a variable, by one rule; that is said once, not in each line of help."""
    for param in params:
        param.show_envvar = False


def _letters(word: str) -> set[str]:
    """The options that a word is: `-qv` are two, as `--quiet` is one."""
    single = word.startswith("-") and not word.startswith("--") and len(word) > 1
    return {f"-{letter}" for letter in word[1:]} if single else {word}


def _answer(error: BaseException, words: Sequence[str]) -> Any:
    """Say what went wrong; returns the exit code."""
    if isinstance(error, SystemExit):
        return 0 if isinstance(error.__context__, BrokenPipeError) else error.code
    if debug:
        report.say("".join(traceback.format_exception(error)))
    message, code = _explain(error, words)
    _tell(message, code, words)
    return code


def _explain(error: BaseException, words: Sequence[str]) -> tuple[str, int]:
    """What to say of an error, and its exit code."""
    if isinstance(error, CleftError):
        return str(error), error.exit_code
    if isinstance(error, typer.TyperException):
        return _misused(error), error.exit_code
    if isinstance(error, MemoryError):
        return f"memory does not suffice: {error}; what is finished is kept", 6
    if isinstance(error, OSError) and (error.filename or error.errno in OUT_OF_SPACE):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; what is finished is kept", ResourceError.exit_code
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return f"{what}. This is a bug of ours: please report it with {_note(error, words)}", 1


def _misused(error: typer.TyperException) -> str:
    """What is wrong with a command line, in one line, and where it is explained."""
    text = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "cleft"
    return f"{text}{'' if text.endswith('?') else '.'} Try: {path} --help"


def _tell(message: str, code: int, words: Sequence[str]) -> None:
    report.say(f"cleft: {message}")
    if "--json" in words:
        error = {"kind": KINDS[code], "message": message, "exit_code": code}
        with contextlib.suppress(OSError):
            typer.echo(
                json.dumps({"schema_version": report.SCHEMA_VERSION, "error": error}, indent=2)
            )


def _note(error: BaseException, words: Sequence[str]) -> str:
    """Keep a traceback for the report of a bug; returns the file it is in."""
    about = f"cleft {__version__}, Python {platform.python_version()}, {platform.platform()}"
    trace = "".join(traceback.format_exception(error))
    text = f"{about}\n{shlex.join(['cleft', *words])}\n\n{trace}"
    for folder in _folders():
        path = folder / time.strftime(f"bug-%Y%m%d-%H%M%S-{os.getpid()}.log")
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return str(path)
    return f"this:\n{text}"


def _folders() -> Iterator[Path]:
    """Where to keep what is of use after the program has ended."""
    with contextlib.suppress(RuntimeError):  # no home
        state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
        yield state.expanduser() / "cleft"
    yield Path(tempfile.gettempdir()) / f"cleft-{os.getuid()}"
