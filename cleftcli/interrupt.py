"""Ctrl-C and SIGTERM as a request to stop at the next safe point.

The command's own process may be ended with threads at work. Another's (a notebook) goes on: there,
Ctrl-C is KeyboardInterrupt, and threads finish their blocks behind it.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import ClassVar

log = logging.getLogger(__name__)

STOPPING = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


def _nothing(_code: int) -> None:
    pass


last_words: Callable[[int], object] = _nothing  # called where a process ends without unwinding


class Asked(BaseException):
    """Ends what `Stop.interruptible` does."""


class Stop:
    """Whether somebody asked to stop, and by which signal."""

    ends_process: ClassVar[bool] = False  # true in the command's own
    signal: int | None = None
    asked: float = math.inf  # when, on the monotonic clock
    _at_once = False

    def interruptible(self, work: Callable[[], object]) -> None:
        """Do what may be left half done: the signal ends it at once, or has come before it."""
        try:
            try:
                self._at_once = True
                if self.signal is None:
                    work()
            finally:
                self._at_once = False
        except Asked:
            pass

    def ask(self, number: int, _frame: FrameType | None) -> None:
        """A signal handler."""
        if self.signal is not None:
            self.leave()
        self.signal, self.asked = number, time.monotonic()
        log.warning("stopping at the next safe point; once more to stop now")
        if self._at_once:
            raise Asked

    def exit(self) -> None:
        """End the program as is expected of that signal: KeyboardInterrupt (130), or 143.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: after SIGTERM.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def leave(self) -> None:
        """Stop now, whatever the threads are at; what is on disk stays whole.

        Raises:
            KeyboardInterrupt: as `exit`, where the process is not the command's.
            SystemExit: likewise.
        """
        if not self.ends_process:
            self.exit()
        code = 128 + (self.signal or signal.SIGTERM)
        try:
            if sys.stderr.isatty():
                sys.stderr.write(SHOW_CURSOR)
            last_words(code)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def own_process() -> None:
    """Say that this process is the command's: SIGTERM is an exit, and threads end with it."""

    def terminated(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminated)
    Stop.ends_process = True


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM only sets `Stop.signal`; a second one ends at once.

    Python hands signals to the main thread: in another, nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    before = {n: signal.signal(n, stop.ask) for n in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that start inside do not hear SIGINT and SIGTERM, from their first moment on.

    Ctrl-C, and what a batch system sends, reach a whole group of processes; this one decides when
    its children end.
    """
    resource_tracker.ensure_running()  # where it starts later, it lets the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
