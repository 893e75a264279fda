"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


class Stop:
    """Whether somebody asked to stop, and by which signal."""

    signal: int | None = None
    asked: float = math.inf  # when, on the monotonic clock

    def exit(self) -> None:
        """End the program as the shell expects of that signal: 130 or 143."""
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def leave(self) -> NoReturn:
        """End the process now, whatever its threads are at; what is on disk stays whole."""
        sys.stdout.flush()
        if sys.stderr.isatty():
            sys.stderr.write(SHOW_CURSOR)
        sys.stderr.flush()
        os._exit(128 + (self.signal or signal.SIGTERM))


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM only sets `Stop.signal`; a second one ends at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.signal is not None:
            stop.leave()
        stop.signal, stop.asked = number, time.monotonic()
        log.warning("stopping at the next safe point; once more to stop now")

    before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
