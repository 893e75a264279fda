"""This machine: what it grants a process, why it does not, and what repeats a run on another.

Control groups count: they are how containers and batch systems set limits.
"""

from __future__ import annotations

import errno
import math
import os
import platform
import resource
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cleftcli import __version__
from cleftcli.errors import ResourceError

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Processor cores this process may use: those it may run on, or its CPU quota rounded up."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = map(_quota, _groups("cpu", proc, cgroups))
    return max(1, math.ceil(min([own, *quotas])))


def memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes this process may still take, within the machine and its control groups.

    File cache counts as free, for the system gives it up. Where the system tells nothing, all
    memory that is built in.
    """
    available = _field(proc / "meminfo", "MemAvailable:") * 1024  # said in kB
    free = min([available, *map(_left, _groups("memory", proc, cgroups))])
    return built_in_memory() if math.isinf(free) else max(0, int(free))


def built_in_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_limit(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that the tightest control group grants its processes; None of no group's limit."""
    stated = (
        _number(_text(group / name).strip())
        for group in _groups("memory", proc, cgroups)
        for name in ("memory.max", "memory.limit_in_bytes")
    )
    least = min(stated, default=math.inf)
    return int(least) if least < built_in_memory() else None


def _groups(controller: str, proc: Path, cgroups: Path) -> Iterator[Path]:
    """Folders of this process's control groups that may limit a resource, up to the root.

    Version 2 has one tree; version 1 has one for each controller, or for some together.
    """
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # a container sees its own group as the root, by whatever path the host knows it
        parts = [p for p in path.split("/") if p not in ("", "..")]
        roots = {cgroups / controllers, cgroups / controller} if controllers else {cgroups}
        for root in roots:
            yield from (root.joinpath(*parts[:n]) for n in range(len(parts), -1, -1))


def _quota(group: Path) -> float:
    """Cores that a control group may use, inf where it does not say."""
    stated = _text(group / "cpu.max").split() or [
        _text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    quota, period = map(_number, stated)
    return math.inf if math.isinf(quota) else quota / period


def _left(group: Path) -> float:
    """Bytes that a control group may still take, inf where it does not say."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most = _number(_text(group / limit).strip())
        if not math.isinf(most):
            taken = _number(_text(group / used).strip(), 0)
            return most - taken + _field(group / "memory.stat", cache, 0)
    return math.inf


def _text(path: Path) -> str:
    """What a file says, "" where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(text: str, otherwise: float = math.inf) -> float:
    """A number from 0; "max", -1 and silence are none."""
    return int(text) if text.isdecimal() else otherwise


def _field(path: Path, name: str, otherwise: float = math.inf) -> float:
    """The number behind a name, in a file with a name and a number a line."""
    rows = (line.split() for line in _text(path).splitlines())
    return next((_number(row[1]) for row in rows if row[:1] == [name]), otherwise)


def about(libraries: Iterable[str]) -> dict[str, Any]:
    """Versions of cleft, Python and these libraries, and which machine this is."""
    return {
        "cleft": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "machine": platform.platform(),
        "host": socket.gethostname(),
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def free_space(path: Path) -> tuple[int, int | None]:
    """Bytes and inodes (one a file or folder) free where a path is, or would be.

    None stands for a file system that does not count inodes.
    """
    found = os.statvfs(nearest(path))
    return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None


def nearest(path: Path) -> Path:
    """The path, or the first folder above it that is there."""
    whole = path.absolute()
    return next(p for p in (whole, *whole.parents) if os.path.exists(p))  # noqa: PTH110 no errors


def try_writing(folder: Path) -> None:
    """Write a file, rename and remove it, as chunks are written: what fails, fails here.

    Raises:
        ResourceError: the system refuses.
    """
    with writing(folder), tempfile.TemporaryDirectory(prefix=".cleft-", dir=folder) as made:
        path = Path(made, "a")
        with path.open("wb") as file:
            file.write(bytes(4096))  # a full disk may still take the name of a file
            file.flush()
            os.fsync(file.fileno())
        path.rename(path.with_name("b"))


@contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """Say why the system refuses to write at a place, and what a person can do.

    Raises:
        ResourceError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{place}: {_refusal(error, Path(place))}") from error


def _refusal(error: OSError, place: Path) -> str:
    """What is wrong and what helps, in one line."""
    free, files = free_space(place)
    room = f"{free / 1e9:.1f} GB" + ("" if files is None else f" and {files} inodes")
    again = "then the same command continues"
    said = {
        errno.ENOSPC: f"the disk is full, with {room} left; make room, {again}",
        errno.EDQUOT: f"your quota is used up; remove files of yours, {again}",
        errno.EFBIG: f"files may not be that large ({_file_limit()}); allow more, {again}",
        errno.EROFS: "the file system is read-only; write elsewhere",
        errno.EACCES: "you may not write there; write elsewhere",
        errno.EPERM: "you may not write there; write elsewhere",
    }
    if error.errno == errno.ENOSPC and files == 0:
        return (
            f"the disk has {free / 1e9:.1f} GB but no inodes left: larger chunks make fewer "
            f"files; remove some, {again}"
        )
    return said.get(error.errno or 0, f"cannot be written: {error.strerror or error}")


def _file_limit() -> str:
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most == resource.RLIM_INFINITY:
        return "as the file system has it"
    return f"ulimit -f: {most} bytes"
