"""Tables of clefts as files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from cleftcli.errors import UsageError

SUFFIXES = (".csv", ".json")


def check_table(path: Path | None) -> None:
    """Refuse a name that says neither CSV nor JSON, or is in no folder, before any work.

    Raises:
        UsageError: it is such a name.
    """
    if path is not None and path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: a table is a .csv or a .json")
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows as CSV (lists joined by spaces) or JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            _write(file, path.suffix, rows)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write(file: TextIO, suffix: str, rows: Sequence[dict[str, Any]]) -> None:
    if suffix == ".json":
        json.dump(rows, file, indent=1)
        return
    writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["id", "voxels"])
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
