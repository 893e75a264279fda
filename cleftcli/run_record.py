"""What repeats a run: command, settings, versions, machine and result, beside the output."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cleftcli.machine import about, now
from cleftcli.stored import beside

LIBRARIES = ("torch", "numpy", "tensorstore", "dask", "distributed")


class RunRecord:
    """The file `OUT.zarr.DATASET.run.json` of the last run that wrote an output, or a part."""

    def __init__(self, address: str, part: tuple[int, int] | None) -> None:
        which = "{}of{}.".format(*part) if part else ""
        self.path = beside(address, f"run.{which}json")
        self._facts: dict[str, Any] = {}

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write down what is about to be done."""
        self._facts = {
            "command": sys.orig_argv,
            "folder": str(Path.cwd()),
            **about(LIBRARIES),
            "started": now(),
            **facts,
        }
        self._write()

    def end(self, result: Mapping[str, Any]) -> None:
        """Add what came of it."""
        self._facts |= {"ended": now(), "result": dict(result)}
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        half = self.path.with_suffix(f".{os.getpid()}.json")
        half.write_text(json.dumps(self._facts, indent=1, default=str), encoding="utf-8")
        half.replace(self.path)


def run_records(address: str) -> list[dict[str, Any]]:
    """What the records of an output say, that of the whole first; unreadable ones are left out."""
    whole = beside(address, "run.json")
    parts = whole.parent.glob(f"{glob.escape(whole.stem)}.*of*.json")
    found = [_parsed(path) for path in (whole, *sorted(parts))]
    return [record for record in found if record]


def _parsed(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
