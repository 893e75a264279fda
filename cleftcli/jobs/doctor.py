"""Is this machine able: checks, and what they mean for each command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cleftcli.checks import CHECKS, Finding
from cleftcli.checks.apart import examine
from cleftcli.errors import InputError

Report = Callable[[int, int], None]


def doctor(folder: Path, *, report: Report) -> dict[str, Any]:
    """Check this machine, and a folder for outputs, which is left as it was.

    Args:
        folder: where outputs could go.
        report: called with checks done and checks in all.

    Returns:
        {"folder", "checks": [{"name", "state", "fact", "advice", "numbers"}],
        "commands": [{"name", "limited_by"}]}; states are ok, note and problem, and what limits a
        command are checks that are not ok.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one that outputs could go to")
    found: dict[str, Finding] = {}
    for name, finding in examine(folder.absolute()):
        found[name] = finding
        report(len(found), len(CHECKS))
    return {
        "folder": str(folder.absolute()),
        "checks": [_told(name, finding) for name, finding in found.items()],
        "commands": [
            {"name": name, "limited_by": [n for n in (*ALL, *needs) if found[n].state != "ok"]}
            for name, needs in COMMANDS.items()
        ],
    }


def _told(name: str, finding: Finding) -> dict[str, Any]:
    return {
        "name": name,
        "state": finding.state,
        "fact": finding.fact,
        "advice": finding.advice,
        "numbers": dict(finding.numbers),
    }


ALL = ("python", "libraries", "limits")
_WRITES = ("file system", "space", "replacing", "locks", "speed")
_BLOCKS = (*_WRITES, "memory", "loopback")
COMMANDS: dict[str, tuple[str, ...]] = {  # by the checks that decide how far each can go
    "info": (),
    "convert": _BLOCKS,
    "make-labels": _BLOCKS,
    "train": ("extra train", "gpus", "memory", "shared memory", *_WRITES),
    "networks": ("gpus",),
    "predict": ("checkpoint", "precision", "gpus", *_BLOCKS),
    "status": (),
    "verify": ("memory",),
    "segment": ("memory", *_WRITES),
    "evaluate": ("memory",),
    "export-cremi": ("memory", *_WRITES),
    "view": ("memory", "extra view"),
    "demo": ("extra train", *_BLOCKS),
    "doctor": (),
}
