"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)


class Stop:
    """Whether somebody asked to stop, and by which signal."""

    signal: int | None = None

    def exit(self) -> None:
        """End the program as the shell expects of that signal: 130 or 143."""
        if self.signal is not None:
            raise SystemExit(128 + self.signal)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM only sets `Stop.signal`; a second one ends at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.signal is not None:
            raise SystemExit(128 + number)
        stop.signal = number
        log.warning("stopping at the next safe point; once more to stop now")

    before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
