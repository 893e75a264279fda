"""Checks in another process: one that hangs, or ends its process, is a finding like any other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from cleftcli.checks import CHECKS, check
from cleftcli.checks.finding import Finding, problem

PATIENCE = 60.0  # seconds for one check
GRACE = 2.0  # seconds to clean up


def examine(folder: Path) -> Iterator[tuple[str, Finding]]:
    """Every check by its name with what it finds, in their order."""
    helper = _Helper()
    try:
        for name in CHECKS:
            if not helper.process.is_alive():
                helper = _Helper()
            yield name, helper.ask(name, folder)
    finally:
        helper.stop()


class _Helper:
    """The process that checks."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # as clean as a command of its own
        self.ours, theirs = context.Pipe()
        self.process = context.Process(target=_answer, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, name: str, folder: Path) -> Finding:
        """What a check finds there; after a problem of the process itself it has ended."""
        self.ours.send((name, folder))
        try:
            if self.ours.poll(PATIENCE):
                found: Finding = self.ours.recv()
                return found
            fact = f"no answer in {PATIENCE:.0f} s"
        except EOFError:
            self.process.join(GRACE)
            fact = f"ended the process that tried (exit code {self.process.exitcode})"
        self.stop()
        return problem(fact, "what it uses does not work on this machine as it is")

    def stop(self) -> None:
        """End it, with a moment to remove what it made."""
        self.process.terminate()
        self.process.join(GRACE)
        self.process.kill()
        self.process.join(GRACE)


def _answer(pipe: Connection) -> None:
    """Check what is asked for until nobody asks."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print, results may not mix
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the other one decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with suppress(EOFError):
        while True:
            pipe.send(check(*pipe.recv()))
