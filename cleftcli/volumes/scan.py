"""Holding the chunks that should be there against those that are: by listing, or by asking."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cleftcli.errors import InputError
from cleftcli.geometry import Roi
from cleftcli.volumes import stores
from cleftcli.volumes.axes import Axes, Slices
from cleftcli.volumes.chunks import (
    MOST_NAMED,
    Damage,
    Grid,
    Index,
    Scan,
    Stamp,
    blosc_damage,
    count,
    first_absent,
    inside,
)

MOST_ASKED = 4096  # chunks to ask a server for one by one
MOST_LISTED = 200_000  # chunks of an array that a server is made to list, some thousand at a time
MOST_FAILED = 16  # chunks a server may fail to tell of before it is the server that fails


@dataclass(frozen=True)
class Payload:
    """What can be known of a chunk's bytes without decoding them.

    `length` is that of every chunk where nothing is compressed; a Blosc header begins behind
    `header` bytes and speaks of all but the last `trailer` bytes. Chunks that share files by an
    index of their own (precomputed shards) are not `listed`.
    """

    listed: bool = True
    blosc: bool = False
    header: int = 0
    trailer: int = 0
    length: int | None = None

    def damage(self, path: Path, size: int) -> str | None:
        """What is visibly wrong with a chunk on disk: a reason, or None."""
        if size == 0:
            return "0 bytes"
        if self.length is not None and size != self.length:
            return f"{size} of {self.length} bytes"
        if not self.blosc:
            return None
        with path.open("rb") as file:
            file.seek(self.header)
            return blosc_damage(file.read(16), size - self.header - self.trailer)


@dataclass(frozen=True)
class Chunks:
    """The chunks of an array in a key-value store."""

    container: str
    dataset: str
    grid: Grid
    payload: Payload
    axes: Axes

    @property
    def address(self) -> str:
        """Of the array."""
        return posixpath.join(self.container, self.dataset) if self.dataset else self.container

    def within(self, slices: Slices) -> Iterator[tuple[str, Roi]]:
        """Key and voxels (zyx) of each chunk that a box touches."""
        for index in itertools.product(*self.grid.ranges(self.axes.stored(slices))):
            yield self.grid.keys.name(index), self.roi(index)

    def roi(self, index: Index) -> Roi:
        """The voxels of a chunk, zyx."""
        box = self.grid.box(index)
        return self.axes.roi([s.start for s in box], [s.stop - s.start for s in box])

    def bytes_in(self, slices: Slices) -> int:
        """How many bytes the chunks of a box take on disk; those that are not there take none."""
        folder = Path(self.container, self.dataset)
        paths = (folder / key for key, _ in self.within(slices))
        return sum(p.stat().st_size for p in paths if p.exists())

    def sizes(self) -> np.ndarray:
        """Bytes of every chunk on disk, by its place: (z, y, x) int64, 0 where there is none."""
        ranges = self.grid.ranges(slice(0, n) for n in self.grid.shape)
        found = np.zeros([len(r) for r in ranges], np.int64)
        for entry in stores.entries(self.container, self.dataset) or ():
            index = self.grid.keys.index(entry.key)
            if index is not None and inside(index, ranges):
                found[index] = entry.size or 0
        return found.transpose(self.axes.order)

    def scan(self, slices: Slices) -> Scan:
        """The chunks of a box, as the store tells of them.

        Raises:
            InputError: the store refuses.
        """
        ranges = self.grid.ranges(self.axes.stored(slices))
        total = count(ranges)
        if not self.payload.listed:
            return Scan(total, None)
        listed = stores.entries(self.container, self.dataset) if self._lists else None
        if listed is not None:
            return self._listed(listed, ranges)
        return Scan(total, None) if total > MOST_ASKED else self._asked(ranges)

    @property
    def _lists(self) -> bool:
        """Whether it is worth asking the store for a list, which is one of all chunks."""
        here = not stores.is_remote(self.container) or self.container.endswith(".zip")
        return here or count(self.grid.ranges(slice(0, n) for n in self.grid.shape)) <= MOST_LISTED

    def _listed(self, entries: Iterable[stores.Entry], ranges: list[range]) -> Scan:
        present: dict[Index, None] = {}
        damaged: list[Damage] = []
        stamp = Stamp()
        folder = Path(self.container, self.dataset)
        for entry in entries:
            index = self.grid.keys.index(entry.key)
            if index is None or not inside(index, ranges):
                continue
            present[index] = None
            stamp.add(entry.key, entry.size, entry.changed)
            reason = entry.size is not None and self.payload.damage(folder / entry.key, entry.size)
            if reason:
                damaged.append(Damage(entry.key, self.roi(index), reason))
        missing = count(ranges) - len(present)
        examples = first_absent(self.grid, ranges, present) if missing else ()
        damaged.sort(key=lambda d: d.roi)
        return Scan(count(ranges), missing, examples, tuple(damaged), str(stamp))

    def _asked(self, ranges: list[range]) -> Scan:
        """What a server says of each chunk."""
        name = self.grid.keys.name
        wanted = list(itertools.product(*ranges))
        keys = [posixpath.join(self.dataset, name(index)) for index in wanted]
        absent: list[str] = []
        damaged: list[Damage] = []
        stamp = Stamp()
        for index, answer in zip(wanted, stores.ask(self.container, keys), strict=True):
            if answer.trouble:
                damaged.append(Damage(name(index), self.roi(index), answer.trouble))
                if answer.refused:
                    raise InputError(f"{self.address}: chunk {damaged[-1]}")
            elif answer.there:
                stamp.add(name(index), answer.version)
            else:
                absent.append(name(index))
            if len(damaged) > MOST_FAILED:
                found = "; ".join(map(str, damaged[:3]))
                raise InputError(f"{self.address}: the server fails, for {found} and others")
        damaged.sort(key=lambda d: d.roi)
        first = tuple(absent[:MOST_NAMED])
        return Scan(len(wanted), len(absent), first, tuple(damaged), str(stamp))
