"""Which chunks a store holds, lacks, or holds damaged: seen without decoding any.

A truncated Blosc chunk can crash a process or decode to wrong voxels, so its header's `cbytes`
is held against the length of the file before anything reads it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cleftcli.geometry import Roi

Index = tuple[int, ...]
MOST_NAMED = 20  # examples in a report


@dataclass(frozen=True)
class Damage:
    """A chunk that cannot be what its writer wrote."""

    key: str
    roi: Roi
    reason: str

    def __str__(self) -> str:
        return f"{self.key} (voxels {self.roi}): {self.reason}"


@dataclass(frozen=True)
class Scan:
    """The chunks that a box of a volume touches.

    `missing` is None where the store can neither list nor be asked for so many; `stamp` changes
    when a chunk does, as far as the store tells.
    """

    chunks: int
    missing: int | None = 0
    first_missing: tuple[str, ...] = ()
    damaged: tuple[Damage, ...] = ()
    stamp: str = ""

    def summary(self) -> dict[str, object]:
        """For JSON."""
        return {
            "chunks": self.chunks,
            "missing": self.missing,
            "first_missing": list(self.first_missing),
            "damaged": len(self.damaged),
            "first_damaged": [str(d) for d in self.damaged[:MOST_NAMED]],
        }


class Naming(Protocol):
    """How a format names its chunks."""

    def name(self, index: Index) -> str:
        """The key of a chunk."""

    def index(self, key: str) -> Index | None:
        """The chunk of a key; None where the key is of something else."""


@dataclass(frozen=True)
class Keys:
    """Names made of a prefix and the indices joined by a separator."""

    separator: str
    prefix: str = ""

    def name(self, index: Index) -> str:
        """The key of a chunk."""
        return self.prefix + self.separator.join(map(str, index))

    def index(self, key: str) -> Index | None:
        """The chunk of a key; None where the key is of something else."""
        if not key.startswith(self.prefix):
            return None
        parts = key[len(self.prefix) :].split(self.separator)
        return tuple(map(int, parts)) if all(p.isdecimal() for p in parts) else None


@dataclass(frozen=True)
class Grid:
    """The chunks of an array in stored order: any number of axes, the first voxel at 0."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    keys: Naming

    def ranges(self, box: Iterable[slice]) -> list[range]:
        """Chunk positions along each axis that a box touches."""
        return [
            range(part.start // c, -(-part.stop // c))
            for part, c in zip(box, self.chunk, strict=True)
        ]

    def box(self, index: Index) -> tuple[slice, ...]:
        """The voxels of a chunk that lie in the array."""
        return tuple(
            slice(i * c, min((i + 1) * c, n))
            for i, c, n in zip(index, self.chunk, self.shape, strict=True)
        )


def count(ranges: list[range]) -> int:
    """How many chunks there are in these ranges."""
    return math.prod(len(r) for r in ranges)


def inside(index: Index | None, ranges: list[range]) -> bool:
    """Whether a chunk is one of those in these ranges."""
    return (
        index is not None
        and len(index) == len(ranges)
        and all(i in r for i, r in zip(index, ranges, strict=True))
    )


def indices(ranges: Sequence[range]) -> Iterator[Index]:
    """The chunks in these ranges, one after the other; itertools.product would hold the ranges."""
    if not ranges:
        yield ()
        return
    for first in ranges[0]:
        yield from ((first, *rest) for rest in indices(ranges[1:]))


def first_absent(
    grid: Grid, ranges: list[range], present: Mapping[Index, object]
) -> tuple[str, ...]:
    """Keys of the first few chunks in these ranges that are not present."""
    absent = (i for i in indices(ranges) if i not in present)
    return tuple(grid.keys.name(i) for i in itertools.islice(absent, MOST_NAMED))


@dataclass
class Stamp:
    """A digest of keys, sizes and times that does not depend on their order."""

    total: int = field(default=0)

    def add(self, *facts: object) -> None:
        """Take a chunk in."""
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=8).digest()
        self.total ^= int.from_bytes(digest)

    def __str__(self) -> str:
        return f"{self.total:016x}"


def blosc_damage(header: bytes, size: int) -> str | None:
    """What a Blosc chunk's header says against its length: a reason, or None."""
    if len(header) < 16:
        return f"{size} bytes, shorter than a Blosc header"
    stated = int.from_bytes(header[12:16], "little")
    return None if stated == size else f"truncated or overwritten: {size} of {stated} bytes"
