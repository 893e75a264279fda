"""What a person or a script sees: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import typer

SECONDS_BETWEEN_LINES = 30.0
SCHEMA_VERSION = 1  # of what --json prints; raised when a key goes or means something else


class Report(Protocol):
    """Called with what is done, of how much, and numbers worth seeing."""

    def __call__(self, done: int, total: int, facts: dict[str, float] | None = None, /) -> None:
        """Show it."""


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """Progress on stderr: a bar on a terminal, else a line every half minute and the last."""
    if not logging.getLogger("cleftcli").isEnabledFor(logging.INFO):
        yield _silent
    elif sys.stderr.isatty():
        with _bar(what) as shown:
            yield shown
    else:
        yield _lines(what)


def _silent(_done: int, _total: int, _facts: dict[str, float] | None = None) -> None:
    pass


@contextmanager
def _bar(what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(
        *columns, TextColumn("{task.fields[facts]}"), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task(what, total=None, facts="")

        def show(done: int, total: int, facts: dict[str, float] | None = None) -> None:
            bar.update(task, completed=done, total=total, facts=_say(facts))

        yield show


def _lines(what: str) -> Report:
    last = started = time.monotonic()
    first: int | None = None  # what an earlier run had done says nothing of this one's speed

    def show(done: int, total: int, facts: dict[str, float] | None = None) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if done == total or now - last >= SECONDS_BETWEEN_LINES:
            last, passed = now, now - started
            left = passed / (done - first) * (total - done) if done > first else 0.0
            ahead = f", {left:.0f} s to go" if left else ""
            text = f"{what} {done}/{total}, {passed:.0f} s{ahead} {_say(facts)}"
            typer.echo(text.rstrip(), err=True)

    return show


def _say(facts: dict[str, float] | None) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in (facts or {}).items())


def result(found: Mapping[str, Any], *, as_json: bool, text: str) -> None:
    """The result on stdout: one JSON object for scripts, or text for a person."""
    versioned = {"schema_version": SCHEMA_VERSION, **found}
    typer.echo(json.dumps(_finite(versioned), indent=2, allow_nan=False) if as_json else text)


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor Infinity: what a store or checkpoint says of that kind is null."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def drawn(text: str, plain: str) -> str:
    """The text where stdout can show it, else a plain one."""
    return text if "utf" in (sys.stdout.encoding or "").lower() else plain


def hint(text: str) -> None:
    """The next useful command, on stderr."""
    if logging.getLogger("cleftcli").isEnabledFor(logging.INFO):
        typer.echo(f"Next: {text}", err=True)


def table(rows: list[tuple[str, object]]) -> str:
    """Names and values in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {_value(value)}" for name, value in rows)


def columns(rows: list[dict[str, Any]]) -> str:
    """Rows under their names; numbers to the right."""
    cells = [list(rows[0])] + [[_value(v) for v in row.values()] for row in rows]
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    right = [isinstance(v, (int, float)) for v in rows[0].values()]
    lines = (
        "  ".join(
            text.rjust(width) if side else text.ljust(width)
            for text, width, side in zip(row, widths, right, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, (list, tuple)) and not any(isinstance(v, (list, dict)) for v in value):
        return ", ".join(str(v) for v in value)
    return "-" if value is None else str(value)
