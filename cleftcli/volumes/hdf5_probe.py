"""Opens HDF5 files on behalf of another process, so that a malformed one crashes nothing else.

`Probe` is the side that asks. Run as a script, this answers: each line of stdin is a path in JSON,
and "ok" follows once everything that a reader will ask of the file has been asked, whatever it
said. A crash, or a file that takes longer than it may, is an end of output.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import h5py

EXPECTED = contextlib.suppress(Exception)  # the reader will meet it and say so
MOST_SECONDS = 60
MOST_BYTES = 4 * 2**30  # of address space: a bomb ends this process alone
MOST_VOXEL_BYTES = 2**24  # datasets up to this size are decoded, of larger ones two chunks
MOST_CHUNK_BYTES = 2**28  # chunks up to this size
# deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf; others would be loaded as plugins
BUILT_IN_FILTERS = (1, 2, 3, 4, 5, 6, 32000)


class Probe:
    """The process that opens files first; started when needed, and again after a crash."""

    def __init__(self, seconds: int = MOST_SECONDS) -> None:
        self.seconds = seconds
        # -P: the folder of the script holds modules of ours that shall shadow nothing
        self.command = [sys.executable, "-P", __file__]
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()
        atexit.register(self.stop)
        os.register_at_fork(after_in_child=self._forget)

    def survives(self, path: str) -> bool:
        """Whether the file can be opened without harm; what it says is the reader's to find.

        One that has opened others may be ill of them, so only a fresh process has the last word.
        """
        with self.lock:
            try:
                used = self.process is not None
                answer = self._ask(path)
                return bool(self._ask(path) if answer is False and used else answer)
            except BaseException:
                self.stop()  # its answer would be taken for that of the next file
                raise

    def _ask(self, path: str) -> bool | None:
        """Whether the process survives a file; None where it takes too long."""
        process = self.process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(str(Path(path).absolute())).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            self.stop()
            return False
        pipe = select.poll()
        pipe.register(process.stdout, select.POLLIN)
        answered = pipe.poll(self.seconds * 1000)
        if answered and process.stdout.readline() == b"ok\n":
            return True
        self.stop()
        return False if answered else None

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.command, str(self.seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HDF5_PLUGIN_PRELOAD": "::"},  # no plugin is ever loaded
            start_new_session=True,  # Ctrl-C asks cleft to stop, not this process to die
        )

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _forget(self) -> None:
        """In a fork, the process is still that of the parent: two would mix up its answers."""
        self.lock = threading.Lock()
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                pipe.close()
            self.process.returncode = 0  # not ours to wait for
            self.process = None


def most_stored(item: h5py.Dataset) -> int:
    """Bytes that a chunk takes at most on disk: its voxels, and what filters may add.

    HDF5 inflates a chunk to whatever its stream says, gigabytes from a few megabytes.
    """
    voxels: int = math.prod(item.chunks) * item.dtype.itemsize
    return voxels + voxels // 100 + 4096


def touch(path: str) -> None:
    """Read every name, shape, attribute and chunk index of a file, and some voxels.

    What is broken hides nothing else, as it does from h5py's own visitors.
    """
    with EXPECTED, h5py.File(path, "r") as file:
        seen = set()
        waiting: list[h5py.Group | h5py.Dataset | h5py.Datatype] = [file]
        while waiting:
            item = waiting.pop()
            with EXPECTED:
                place = h5py.h5o.get_info(item.id).addr
                if place in seen:
                    continue
                seen.add(place)
            _touch_attributes(item)
            if isinstance(item, h5py.Dataset):
                _touch_dataset(item)
            elif isinstance(item, h5py.Group):
                waiting.extend(_children(item))


def _children(group: h5py.Group) -> list[h5py.Group | h5py.Dataset | h5py.Datatype]:
    """What lies in a group itself; links by name lead to the same, or to other files."""
    found = []
    with EXPECTED:
        for name in group:
            with EXPECTED:
                if isinstance(group.get(name, getlink=True), h5py.HardLink):
                    found.append(group[name])
    return found


def _touch_attributes(item: h5py.Group | h5py.Dataset | h5py.Datatype) -> None:
    with EXPECTED:
        for name in item.attrs:
            with EXPECTED:
                _ = item.attrs[name]


def _touch_dataset(item: h5py.Dataset) -> None:
    with EXPECTED:
        _ = [d.label for d in item.dims]
    with EXPECTED:
        item.id.get_offset()
        item.id.get_storage_size()
    sizes = [0]
    with EXPECTED:
        item.id.chunk_iter(lambda chunk: sizes.append(chunk.size))
    with EXPECTED:
        if item.chunks and max(sizes) > most_stored(item):
            return
        created = item.id.get_create_plist()
        codes = [created.get_filter(n)[0] for n in range(created.get_nfilters())]
        if item.external or item.is_virtual or not set(codes) <= set(BUILT_IN_FILTERS):
            return
        if item.size * item.dtype.itemsize <= MOST_VOXEL_BYTES:
            _ = item[...]
        elif item.chunks and math.prod(item.chunks) * item.dtype.itemsize <= MOST_CHUNK_BYTES:
            both = list(zip(item.shape, item.chunks, strict=True))
            _ = item[tuple(slice(0, c) for _, c in both)]
            _ = item[tuple(slice((n - 1) // c * c, n) for n, c in both)]


def main() -> None:
    """Answer until stdin ends."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = MOST_BYTES if hard == resource.RLIM_INFINITY else min(MOST_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = int(sys.argv[1])
    for line in sys.stdin:
        signal.alarm(seconds)  # also where nobody is left to wait for the answer
        touch(json.loads(line))
        signal.alarm(0)
        sys.stdout.write("ok\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
