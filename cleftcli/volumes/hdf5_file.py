"""HDF5 files opened with care: a process that may die of them goes first.

What h5py makes of those that crash nothing is an input error, whatever class it has.
"""

from __future__ import annotations

import errno
import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from cleftcli.errors import InputError
from cleftcli.volumes.hdf5_probe import Probe

CACHE_BYTES = 100_000_000  # per dataset: h5py's own 1 MB decodes the same gzip chunks over and over
# what h5py raises of malformed files; which one follows no rule
ERRORS = (OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)

_probe = Probe()


@functools.lru_cache(maxsize=16)
def file_at(path: str, _changed: int) -> h5py.File:
    """The file as it was at a time of change (ns), opened read-only once.

    Raises:
        InputError: it cannot be opened, or a process died of it.
    """
    if not _probe.survives(path):
        raise InputError(
            f"{path}: opening it crashed or stalled the HDF5 library; the file is malformed: "
            "copy it again, or have it written anew"
        )
    try:
        return h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES)
    except ERRORS as error:
        raise InputError(f"{path}: {_why(error)}") from error


@contextmanager
def malformed(address: str) -> Iterator[None]:
    """Whatever h5py raises inside is the input's fault."""
    try:
        yield
    except ERRORS as error:
        raise InputError(f"{address}: the HDF5 file is malformed: {words(error)}") from error


def words(error: Exception) -> str:
    """An error's words on one line, without the status in front."""
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = " ".join(str(said).split()) or type(error).__name__
    inner = re.fullmatch(r"[^'\"(]*\((.*)\)", line)
    return inner[1] if inner else line


def _why(error: Exception) -> str:
    """What keeps an HDF5 file from opening, and what to do."""
    text, number = str(error), getattr(error, "errno", None)
    if number in (errno.EAGAIN, errno.EACCES, errno.ENOLCK) or "unable to lock" in text:
        return (
            "another process has it open for writing. Wait for it; if nobody writes and the file "
            "system has no locks, set HDF5_USE_FILE_LOCKING=FALSE"
        )
    if "already open for write" in text:
        return "was not closed by its writer; if nobody writes to it now, `h5clear -s` mends it"
    if "truncated file" in text:
        eof = text[text.find("truncated file") :].rstrip(")'\" ")
        return f"is cut short or was not closed by its writer ({eof}); copy or write it again"
    if "signature not found" in text:
        return "is no HDF5 file"
    return (
        f"not readable as HDF5 ({words(error)}): damaged or not closed by its writer; "
        "copy or write it again"
    )


def open_file(path: str) -> h5py.File:
    """The file, opened read-only, once per process and version of the file.

    Raises:
        InputError: it does not exist, is not HDF5, or is malformed.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    return file_at(path, Path(path).stat().st_mtime_ns)
