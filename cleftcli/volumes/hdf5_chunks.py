"""HDF5 datasets chunk by chunk: reading boxes, and which chunks are missing or damaged."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cleftcli.errors import InputError
from cleftcli.volumes.axes import Axes, Slices
from cleftcli.volumes.chunks import Damage, Grid, Keys, Scan, Stamp, count, first_absent, inside
from cleftcli.volumes.hdf5_file import ERRORS, file_at, malformed, words
from cleftcli.volumes.hdf5_probe import most_stored


@dataclass(frozen=True)
class Dataset:
    """An HDF5 dataset as zyx boxes."""

    dataset: h5py.Dataset
    axes: Axes

    def read(self, slices: Slices) -> np.ndarray:
        """The voxels in a box.

        Raises:
            InputError: a chunk cannot be decoded; it is named.
        """
        self._refuse_bombs(slices)
        try:
            data = np.asarray(self.dataset[self.axes.stored(slices)])
        except ERRORS as error:
            raise InputError(self._blame(slices) or words(error)) from error
        return self.axes.zyx(data.astype(data.dtype.newbyteorder("="), copy=False))

    def _refuse_bombs(self, slices: Slices) -> None:
        """Look at the sizes of chunks before they are inflated.

        Raises:
            InputError: more is stored of a chunk than its voxels would take uncompressed.
        """
        item = self.dataset
        if item.chunks is None:
            return
        path = item.file.filename
        bombs = _bombs(path, Path(path).stat().st_mtime_ns, item.name)
        ranges = _grid(item).ranges(self.axes.stored(slices)) if bombs else []
        for index, reason in bombs.items():
            if inside(index, ranges):
                raise InputError(f"chunk {_damage(_grid(item), self.axes, index, reason)}")

    def _blame(self, slices: Slices) -> str:
        """Which chunk of a box cannot be read, found by reading each."""
        if self.dataset.chunks is None:
            return ""
        grid = _grid(self.dataset)
        for index in itertools.product(*grid.ranges(self.axes.stored(slices))):
            try:
                _ = self.dataset[grid.box(index)]
            except ERRORS as error:
                return f"chunk {_damage(grid, self.axes, index, words(error))}"
        return ""

    def write(self, slices: Slices, data: np.ndarray) -> None:
        """Store a box; on disk once the file is closed."""
        self.dataset[slices] = data

    def scan(self, slices: Slices) -> Scan:
        """Its chunks that were never written, or lie beyond the end of the file.

        Raises:
            InputError: the index of its chunks cannot be read.
        """
        with malformed(f"{self.dataset.file.filename}{self.dataset.name}"):
            return _scan(self.dataset, self.axes, slices)


def _grid(item: h5py.Dataset) -> Grid:
    return Grid(item.shape, item.chunks, Keys(",", f"{item.name}:"))


def _too_large(item: h5py.Dataset, stored: int) -> str | None:
    """What is wrong with a chunk that takes more bytes than its voxels would: a reason, or None."""
    if stored <= most_stored(item):
        return None
    voxels = math.prod(item.chunks) * item.dtype.itemsize
    return f"{stored} bytes are stored for {voxels} bytes of voxels"


@functools.lru_cache(maxsize=16)
def _bombs(path: str, changed: int, dataset: str) -> dict[tuple[int, ...], str]:
    """The chunks of a dataset that are too large, and why; one walk through its index."""
    item = file_at(path, changed)[dataset]
    found = {}

    def visit(chunk: Any) -> None:
        reason = _too_large(item, chunk.size)
        if reason:
            found[_index(item, chunk)] = reason

    with malformed(f"{path}{dataset}"):
        item.id.chunk_iter(visit)
    return found


def _index(item: h5py.Dataset, chunk: Any) -> tuple[int, ...]:
    return tuple(o // c for o, c in zip(chunk.chunk_offset, item.chunks, strict=True))


def _damage(grid: Grid, axes: Axes, index: tuple[int, ...], reason: str) -> Damage:
    box = grid.box(index)
    roi = axes.roi([s.start for s in box], [s.stop - s.start for s in box])
    return Damage(grid.keys.name(index), roi, reason)


def _scan(item: h5py.Dataset, axes: Axes, slices: Slices) -> Scan:
    file = Path(item.file.filename).stat()
    stamp = Stamp()
    stamp.add(file.st_size, file.st_mtime_ns)
    if item.chunks is None:
        stored = item.id.get_offset() is not None or item.id.get_storage_size() > 0
        missing = () if stored or 0 in item.shape else (item.name,)
        return Scan(1, len(missing), missing, stamp=str(stamp))
    grid = _grid(item)
    ranges = grid.ranges(axes.stored(slices))
    present: dict[tuple[int, ...], None] = {}
    damaged: list[Damage] = []

    def visit(chunk: Any) -> None:
        index = _index(item, chunk)
        if not inside(index, ranges):
            return
        present[index] = None
        stamp.add(index, chunk.byte_offset, chunk.size)
        reason = _too_large(item, chunk.size)
        if chunk.byte_offset + chunk.size > file.st_size:
            reason = "beyond the end of the file"
        if reason:
            damaged.append(_damage(grid, axes, index, reason))

    item.id.chunk_iter(visit)
    total = count(ranges)
    examples = first_absent(grid, ranges, present) if len(present) < total else ()
    return Scan(total, total - len(present), examples, tuple(damaged), str(stamp))
