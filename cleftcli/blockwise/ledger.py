"""Which blocks are done: one line for each, appended after its voxels are durable.

The first line is the run's fingerprint, everything that decides a voxel of the output; a line
`run` says who writes from there on. A line torn by a crash is a block not done. A part of a job
array has a ledger of its own beside the others'; what is done is what any of them says.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from cleftcli.errors import ConflictError
from cleftcli.machine import now

log = logging.getLogger(__name__)

TAIL = 2**16  # bytes to look through at once for the last line
HELD = (errno.EWOULDBLOCK, errno.EACCES)


def ledgers(path: Path) -> list[Path]:
    """The ledgers of an output that are there: that of the whole, and those of parts."""
    parts = sorted(path.parent.glob(f"{path.name}.*of*"))
    return [p for p in (path, *parts) if p.exists()]


class Ledger:
    """The ledger file of an output, or of a part of it, locked while open.

    `input` is what this run's input is known by: another word is another state of it.

    Raises:
        ConflictError: another process holds it, or one of the output's ledgers belongs to a run
            with another fingerprint; the message says which settings differ.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: Mapping[str, Any],
        part: tuple[int, int] | None = None,
        *,
        input: str = "",
    ) -> None:
        self.whole = path
        self.path = path.with_name("{}.{}of{}".format(path.name, *part)) if part else path
        for other in ledgers(path) if part is None else [path]:
            if other != self.path and other.exists():
                refuse_if_held(other)
        self._file = _locked(self.path)
        try:
            self._begin(json.loads(json.dumps(fingerprint)), input)
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

    def standing(self) -> Standing:
        """What all ledgers of the output say by now."""
        return standing(ledgers(self.whole))

    def record(self, index: int, facts: Mapping[str, Any]) -> None:
        """Note that a block is durable on disk; so is the note when this returns."""
        self._append([{"block": index, "at": now(), **facts}])

    def skip(self, indices: Iterable[int], facts: Mapping[str, Any]) -> None:
        """Note blocks that need nothing, with the same facts for each."""
        self._append({"block": index, **facts} for index in indices)

    def fail(self, index: int, error: BaseException) -> None:
        """Note why a block could not be done."""
        self._append([{"failed": index, "at": now(), "error": f"{type(error).__name__}: {error}"}])

    def _begin(self, fingerprint: dict[str, Any], input: str) -> None:
        """Say whose blocks follow, made of what; cut off a line that a crash has torn."""
        for path in {*ledgers(self.whole), self.path}:
            found = _first(path)
            if found is not None and found != fingerprint:
                raise ConflictError(_difference(self.whole, found, fingerprint))
        _cut_torn_line(self.path)
        begun = _first(self.path) is not None
        run = {"pid": os.getpid(), "host": socket.gethostname(), "started": now(), "input": input}
        self._append([*([] if begun else [{"fingerprint": fingerprint}]), {"run": run}])

    def _append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.writelines(json.dumps(entry) + "\n" for entry in entries)
        self._file.flush()
        os.fsync(self._file.fileno())


@dataclass
class Standing:
    """What ledgers say: the last record of each block that is done, and how the runs went.

    Records are read again from the files where they are asked for: a million take no memory.
    """

    paths: Sequence[Path]
    fingerprint: dict[str, Any] = field(default_factory=dict)
    done: dict[int, int] = field(default_factory=dict)  # block -> number of its last line
    failed: dict[int, str] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each block that is done with its last record, in no order."""
        for number, entry in enumerate(_entries(self.paths)):
            if entry.get("block") is not None and self.done.get(entry["block"]) == number:
                yield entry.pop("block"), entry


def standing(paths: Sequence[Path]) -> Standing:
    """Read ledgers, which may grow meanwhile; torn lines count for nothing."""
    found = Standing(paths)
    for number, entry in enumerate(_entries(paths)):
        if "fingerprint" in entry:
            found.fingerprint = entry["fingerprint"]
        elif "run" in entry:
            found.runs.append({**entry["run"], "blocks": 0})
        elif "block" in entry:
            found.done[entry["block"]] = number
            found.failed.pop(entry["block"], None)
            if "at" in entry and found.runs:
                found.runs[-1]["blocks"] += 1
                found.runs[-1]["last"] = entry["at"]
        elif "failed" in entry:
            found.failed[entry["failed"]] = entry["error"]
    return found


def refuse_if_held(path: Path) -> None:
    """Refuse an output that a process is writing.

    Raises:
        ConflictError: its ledger is locked.
    """
    if is_held(path):
        raise _conflict(path)


def is_held(path: Path) -> bool:
    """Whether a process writes this ledger, as far as this machine can see.

    It takes the right to read, and those who ask do not stand in each other's way.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in HELD
    return False


def _locked(path: Path) -> TextIO:
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD:  # some network file systems have no locks
            log.warning("%s: no lock (%s): let no other run write this output", path, error)
            return file
        file.close()
        raise _conflict(path) from None
    return file


def _conflict(path: Path) -> ConflictError:
    """Who writes, as the ledger has it."""
    run = next(iter(standing([path]).runs[-1:]), {})
    who = "process {pid} on {host} since {started}".format(**run) if run else "another process"
    return ConflictError(f"{path}: {who} is writing this output; wait for it, or end it")


def _entries(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The objects of all lines; one that is torn, or no object, is empty."""
    for path in paths:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from map(_parsed, file)


def _parsed(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line) if line.endswith("\n") else {}
    except ValueError:
        entry = {}
    return entry if isinstance(entry, dict) else {}


def _cut_torn_line(path: Path) -> None:
    """Cut a file off behind its last line that is whole."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - TAIL, 0)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)


def _first(path: Path) -> dict[str, Any] | None:
    """The fingerprint of a ledger; None where not even that was written.

    Raises:
        ConflictError: the file is something else.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline()
    if not line.endswith("\n"):
        return None
    found = _parsed(line).get("fingerprint")
    if not isinstance(found, dict):
        raise ConflictError(f"{path} is no ledger of cleft; choose another -o")
    return found


def _difference(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    both = found.keys() & wanted.keys()
    keys = [k for k in {**found, **wanted} if k not in both or found[k] != wanted[k]]
    changes = "; ".join(f"{k}: {found.get(k)!r} -> {wanted.get(k)!r}" for k in keys)
    return (
        f"{path.with_suffix('')} was made with other settings ({changes}). "
        "Choose another -o, or --overwrite to replace it"
    )
