"""Which blocks are done: one line for each, appended after its voxels are durable.

The first line is the run's fingerprint, everything that decides a voxel of the output. A line
torn by a crash is a block not done. One process writes at a time, held by a lock.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from cleftcli.errors import ConflictError


class Ledger:
    """The ledger file of an output, locked while open.

    Raises:
        ConflictError: another process holds it, or it belongs to a run with another fingerprint;
            the message says which settings differ.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = path
        self.records: dict[int, dict[str, Any]] = {}
        self._file = _locked(path)
        try:
            self._read(json.loads(json.dumps(fingerprint)))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def done(self) -> set[int]:
        """Indices of the blocks that are written."""
        return set(self.records)

    def record(self, index: int, facts: Mapping[str, Any]) -> None:
        """Note that a block is durable on disk; so is the note when this returns."""
        self.records[index] = dict(facts)
        self._append({"block": index, **facts})

    def forget(self) -> None:
        """No block is done: the output they were written to is gone."""
        self._file.seek(0)
        self._file.truncate(len(self._file.readline().encode()))
        self.records.clear()

    def _read(self, fingerprint: dict[str, Any]) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if not whole:
            self._file.seek(0)
            self._file.truncate()
            self._append({"fingerprint": fingerprint})
            return
        found = _parsed(whole[0], "fingerprint")
        if found is None:
            raise ConflictError(f"{self.path} is no ledger of cleft; choose another -o")
        found = found["fingerprint"]
        if found != fingerprint:
            raise ConflictError(_difference(self.path, found, fingerprint))
        for line in whole[1:]:
            record = _parsed(line, "block")
            if record is not None:
                self.records[record.pop("block")] = record
        self._file.seek(len("".join(whole).encode()))
        self._file.truncate()

    def _append(self, entry: Mapping[str, Any]) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _locked(path: Path) -> TextIO:
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConflictError(f"{path}: another process is writing this output") from None
    return file


def refuse_if_held(path: Path) -> None:
    """Refuse an output that a process is writing.

    Raises:
        ConflictError: its ledger is locked.
    """
    _locked(path).close()


def _parsed(line: str, key: str) -> dict[str, Any] | None:
    """The object on a line, if it is one with that key."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and key in record else None


def _difference(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    both = found.keys() & wanted.keys()
    keys = [k for k in {**found, **wanted} if k not in both or found[k] != wanted[k]]
    changes = "; ".join(f"{k}: {found.get(k)!r} -> {wanted.get(k)!r}" for k in keys)
    return (
        f"{path.with_suffix('')} was made with other settings ({changes}). "
        "Choose another -o, or --overwrite to replace it"
    )
