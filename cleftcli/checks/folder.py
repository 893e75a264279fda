"""What a folder can be trusted with: outputs are many files, each of them synced and renamed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from cleftcli.checks.finding import Finding, note, ok, problem
from cleftcli.machine import free_space, try_writing, writing

MOUNTS = Path("/proc/self/mountinfo")
ENOUGH_BYTES, ENOUGH_FILES = 10e9, 100_000
PIECE, PIECES = 2**22, 16  # of a large file
CHUNK, CHUNKS = 2**16, 100  # files as small as compressed chunks are
MOST_SECONDS = 5.0  # for each speed
ENOUGH_MB, ENOUGH_CHUNKS = 50.0, 50.0  # a second

ONE_RUN = "let one run at a time write an output, or mount with locks (Lustre: flock)"


def space(folder: Path) -> Finding:
    """Room for outputs, in bytes and in inodes."""
    free, files = free_space(folder)
    if files is None:
        fact, numbers = f"{free / 1e9:.1f} GB free, inodes are not counted", {"free_bytes": free}
    else:
        fact = f"{free / 1e9:.1f} GB and {files} inodes free"
        numbers = {"free_bytes": free, "free_inodes": files}
    if files is not None and files < ENOUGH_FILES:
        return note(
            fact, "a chunk is a file: larger ones, or shards of zarr3, are fewer", **numbers
        )
    if free < ENOUGH_BYTES:
        return note(fact, "--dry-run tells what an output may need; make room", **numbers)
    return ok(fact, **numbers)


def file_system(folder: Path) -> Finding:
    """What kind of file system it is, and the catches of that kind and its mount options."""
    place, kind, options = _mount(folder)
    catches = [CATCHES[name] for name in (kind.partition(".")[0], *options) if name in CATCHES]
    fact = f"{kind} at {place}"
    if not catches:
        return ok(fact)
    return note(
        "; ".join([fact, *(what for what, _ in catches)]), "; ".join(help for _, help in catches)
    )


def replacing(folder: Path) -> Finding:
    """A file is synced and renamed over another; who reads the old one keeps it."""
    try_writing(folder)
    with _scratch(folder) as made:
        old, new = made / "old", made / "new"
        old.write_bytes(b"old")
        new.write_bytes(b"new")
        with old.open("rb") as reader:
            new.replace(old)
            seen = reader.read(), old.read_bytes(), new.exists()
    if seen == (b"old", b"new", False):
        return ok("files are written, synced, and replaced while they are read")
    return problem(f"replacing a file under its reader gives {seen}", "write outputs elsewhere")


def locks(folder: Path) -> Finding:
    """A run that writes an output is seen by others."""
    from cleftcli.blockwise import Ledger, is_held

    with _scratch(folder) as made, Ledger(made / "ledger", {}) as ledger:
        held = is_held(ledger.path)
    if held:
        return ok("a ledger that is written is locked (flock)")
    return note("locks do not work here (flock): two runs may write the same output", ONE_RUN)


def speed(folder: Path) -> Finding:
    """How fast a large file is written and read, and how fast chunks; all are synced."""
    free = free_space(folder)[0]
    if free < 4 * PIECE * PIECES:
        return note(f"not measured: {free / 1e6:.0f} MB are free", "make room")
    with _scratch(folder) as made:
        written, read = _large(made / "large")
        stored, loaded = _small(made)
    fact = (
        f"a large file {written:.0f} MB/s written and {read:.0f} read, "
        f"chunks of {CHUNK // 1024} kB {stored:.0f}/s written and {loaded:.0f} read"
    )
    numbers = {
        "written_mb_per_second": written,
        "read_mb_per_second": read,
        "chunks_written_per_second": stored,
        "chunks_read_per_second": loaded,
    }
    if min(written, read) < ENOUGH_MB or min(stored, loaded) < ENOUGH_CHUNKS:
        advice = "GPUs would wait: use a faster disk, larger chunks, or more workers at a time"
        return note(fact, advice, **numbers)
    return ok(fact, **numbers)


def _large(path: Path) -> tuple[float, float]:
    """MB a second that a file is written with, and read."""
    data = os.urandom(PIECE)
    with path.open("wb+", buffering=0) as file:
        written = _a_second(PIECES, lambda _: _sync(file, data))
        _forget(file)
        pieces = file.tell() // PIECE
        file.seek(0)
        read = _a_second(pieces, lambda _: file.read(PIECE))
    return written * PIECE / 1e6, read * PIECE / 1e6


def _small(folder: Path) -> tuple[float, float]:
    """Chunks a second that are written as stores do, and read."""
    data = os.urandom(CHUNK)

    def write(number: int) -> None:
        partial = folder / "partial"
        with partial.open("wb", buffering=0) as file:
            _sync(file, data)
            _forget(file)
        partial.rename(folder / f"{number}.chunk")

    written = _a_second(CHUNKS, write)
    chunks = sorted(folder.glob("*.chunk"))
    return written, _a_second(len(chunks), lambda n: chunks[n].read_bytes())


def _a_second(times: int, work: Callable[[int], object]) -> float:
    """How often a second something is done, tried `times` times or for MOST_SECONDS."""
    begun = time.perf_counter()
    done = passed = 0.0
    while done < times and passed < MOST_SECONDS:
        work(int(done))
        done, passed = done + 1, time.perf_counter() - begun
    return done / passed


def _sync(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    os.fsync(file.fileno())


def _forget(file: IO[bytes]) -> None:
    """Let reading come from the disk, not from memory, where the system can be told so."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder to try things in, gone afterwards, also when something fails."""
    with writing(folder), TemporaryDirectory(prefix=".cleft-", dir=folder) as made:
        yield Path(made)


def _mount(folder: Path) -> tuple[str, str, list[str]]:
    """Where the file system of a folder is mounted, its kind, and its options."""
    found = "/", "unknown", list[str]()
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:  # not on every system
        lines = []
    for line in lines:
        fields, _, system = line.partition(" - ")
        place = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields.split()[4])
        kind, _, options = system.split()
        if folder.resolve().is_relative_to(place) and len(place) >= len(found[0]):
            found = place, kind, [*fields.split()[5].split(","), *options.split(",")]
    return found


_LATE = ("other machines see new files some seconds late", "wait before another one reads outputs")
_MANY = ("slow with many small files", "use larger chunks, or shards of zarr3")
_LOCAL = ("locks are not seen by other machines", ONE_RUN)
CATCHES = {  # kinds of file systems, and mount options
    "nfs": _LATE,
    "nfs4": _LATE,
    "cifs": _LATE,
    "lustre": _MANY,
    "gpfs": _MANY,
    "beegfs": _MANY,
    "ceph": _MANY,
    "9p": _MANY,
    "fuse": ("another program decides how fast and safe it is", "see the checks below"),
    "tmpfs": ("it is memory, counts as such, and ends with the machine", "keep results elsewhere"),
    "overlay": ("a layer of this container, gone with it", "mount a folder of the host"),
    "vfat": ("files of at most 4 GB", "keep exports elsewhere"),
    "nolock": _LOCAL,
    "local_lock=all": _LOCAL,
    "local_lock=flock": _LOCAL,
    "localflock": _LOCAL,
    "soft": ("an answer that comes late is a failed write", "mount with hard"),
}
