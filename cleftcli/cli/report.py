"""What a person or a script sees: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import typer

SECONDS_BETWEEN_LINES = 30.0  # at most
SHARE_BETWEEN_LINES = 0.05  # of all, though not sooner than in a second
LETTERS = {1e9: "G", 1e6: "M", 1e3: "k"}

log = logging.getLogger("cleftcli")
style: Literal["auto", "json"] = "auto"  # of progress, as --progress says
SCHEMA_VERSION = 1  # of what --json prints; raised when a key goes or means something else


class Report(Protocol):
    """Called with what is done, of how much, and numbers worth seeing."""

    def __call__(self, done: int, total: int, facts: dict[str, float] | None = None, /) -> None:
        """Show it."""


def say(text: str) -> None:
    """A line on stderr; where it cannot be written, the work is still worth doing."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


@dataclass(frozen=True)
class _Course:
    """How far something is, and how long it takes; `left` seconds by the speed of this run."""

    what: str
    done: int
    total: int
    seconds: float
    left: float | None
    facts: Mapping[str, float]

    def as_line(self) -> str:
        """For a log that a person reads."""
        ahead = f", {self.left:.0f} s to go" if self.left else ""
        facts = f", {_say(self.facts)}" if self.facts else ""
        return f"{self.what} {self.done}/{self.total}, {self.seconds:.0f} s{ahead}{facts}"

    def as_json(self) -> str:
        """For a program that shows it in its own way."""
        course = {"progress": self.what, "done": self.done, "total": self.total}
        times = {"seconds": self.seconds, "seconds_left": self.left}
        return json.dumps({**course, **times, **self.facts})


class Lines(logging.Handler):
    """Log records as lines on stderr, above a bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        say(self.format(record))


@contextmanager
def progress(what: str, at_first: str = "") -> Iterator[Report]:
    """Progress on stderr: a bar on a terminal, else a line now and then and the last.

    Args:
        what: is counted, e.g. "blocks".
        at_first: what is done before the first is.
    """
    verbose = log.isEnabledFor(logging.DEBUG)
    if not log.isEnabledFor(logging.INFO):
        yield _silent
    elif style == "json":
        yield _lines(what, _Course.as_json, each=True)
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not verbose:
        with _bar(what, at_first) as shown:
            yield shown
    else:
        yield _lines(what, _Course.as_line, each=verbose)


def _silent(_done: int, _total: int, _facts: dict[str, float] | None = None) -> None:
    pass


@contextmanager
def _bar(what: str, at_first: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    first, last = TextColumn("{task.description}"), TextColumn("{task.fields[facts]}")
    counted = TextColumn("{task.fields[counted]}")
    with Progress(
        *(first, BarColumn(20), counted, Remaining(), last), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task(at_first or what, total=None, counted="", facts="")

        def show(done: int, total: int, facts: dict[str, float] | None = None) -> None:
            course, said = f"{done}/{total}", _say(facts or {})
            bar.update(
                task, description=what, completed=done, total=total, counted=course, facts=said
            )

        try:
            yield show
        finally:  # where nothing was counted nothing is left
            bar.update(task, visible=bar.tasks[0].total is not None)


def _lines(what: str, written: Callable[[_Course], str], *, each: bool) -> Report:
    """Lines as `written`: each time something is done, or at the pace above."""
    started = said = time.monotonic()
    first: int | None = None  # what an earlier run had done says nothing of this one's speed
    last = 0

    def show(done: int, total: int, facts: dict[str, float] | None = None) -> None:
        nonlocal said, first, last
        now = time.monotonic()
        first = done if first is None else first
        much = done - last >= SHARE_BETWEEN_LINES * total and now - said >= 1
        if not (each or much or done == total or now - said >= SECONDS_BETWEEN_LINES):
            return
        said, last, seconds = now, done, now - started
        left = seconds / (done - first) * (total - done) if done > first else None
        say(written(_Course(what, done, total, seconds, left, facts or {})))

    return show


def _say(facts: Mapping[str, float]) -> str:
    named = ((k.replace("_per_second", "/s").replace("_", " "), v) for k, v in facts.items())
    return ", ".join(f"{name} {_short(value)}" for name, value in named)


def _short(value: float) -> str:
    """Three digits, and a letter for the zeros behind them."""
    scale = next((s for s in LETTERS if abs(value) >= s), 1.0)
    return f"{value / scale:.3g}{LETTERS.get(scale, '')}"


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


def hint(*words: object) -> None:
    """The command that is useful next, on stderr, as it can be typed."""
    if log.isEnabledFor(logging.INFO):
        say(f"Next: cleft {shlex.join(map(str, words))}")


def table(rows: list[tuple[str, object]]) -> str:
    """Names and values in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {_value(value)}" for name, value in rows)


def columns(rows: list[dict[str, Any]]) -> str:
    """Rows under their names; numbers to the right."""
    cells = [list(rows[0])] + [[_value(v) for v in row.values()] for row in rows]
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    right = [isinstance(v, (int, float)) and v is not bool(v) for v in rows[0].values()]
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
        return ", ".join(str(v) for v in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_value(each)}" for name, each in value.items())
    return "-" if value is None else str(value)
