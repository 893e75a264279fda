"""A volume: an array on disk with the place it takes in the tissue.

Knows how to read any box, real voxels inside and reflections outside; not how any store works.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from cleftcli.errors import InputError, UsageError
from cleftcli.geometry import Roi, Zyx, between, whole, zyx
from cleftcli.volumes.axes import Nm, Slices
from cleftcli.volumes.chunks import Scan

MOST_CHUNK_BYTES = 2**32  # to be read at once; CLEFT_MAX_CHUNK_BYTES says otherwise


class Array(Protocol):
    """What a store offers: boxes of voxels, zyx, in and out."""

    def read(self, slices: Slices) -> np.ndarray:
        """The voxels in a box inside the array."""

    def write(self, slices: Slices, data: np.ndarray) -> None:
        """Store a box of voxels; durable when it returns."""

    def scan(self, slices: Slices) -> Scan:
        """The chunks a box touches: how many, missing, visibly damaged."""


@dataclass(frozen=True)
class Space:
    """Where a volume lies: edge lengths of a voxel and the centre of the first one, nm, zyx.

    The centre, as in OME-NGFF: a volume of means of n voxels begins (n - 1) / 2 voxels later.

    `voxel_size` is None where the store does not say; `source` names the metadata it came from.
    """

    voxel_size: Nm | None = None
    offset: Nm = (0.0, 0.0, 0.0)
    source: str = "not stated"


@dataclass(frozen=True)
class Volume:
    """An array of voxels (z, y, x) on disk, its space, and the attributes stored with it.

    `chunks` is the unit of storage in voxels (the shape where the store has none); `axes` tells
    which stored axes became z, y and x, and why.
    """

    address: str
    format: str
    shape: Zyx
    dtype: np.dtype
    chunks: Zyx
    space: Space
    array: Array = field(repr=False)
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    codec: str = "none"
    axes: str = "zyx"

    @property
    def roi(self) -> Roi:
        """The box of all its voxels."""
        return whole(self.shape)

    @property
    def voxel_size(self) -> Nm:
        """Edge lengths of a voxel in nm.

        Raises:
            InputError: the store does not say.
        """
        if self.space.voxel_size is None:
            raise InputError(
                f"{self.address}: the voxel size is not known ({self.space.source}); "
                "give it in nm with --voxel-size z,y,x"
            )
        return self.space.voxel_size

    @property
    def zero_is_cleft(self) -> bool:
        """Whether id 0 is a cleft, as in CREMI files, rather than background."""
        cremi = self.format == "hdf5" and self.dtype == np.uint64
        return bool(self.attributes.get("zero_is_cleft", cremi))

    def read(self, roi: Roi) -> np.ndarray:
        """The voxels of `roi`; outside the volume, those mirrored at its faces (edge not repeated).

        Raises:
            InputError: a chunk cannot be read.
        """
        if not roi.size:
            return np.zeros(roi.shape, self.dtype)
        indices = [
            _reflect(np.arange(a, b), n)
            for a, b, n in zip(roi.offset, roi.end, self.shape, strict=True)
        ]
        source = between(
            zyx([int(i.min()) for i in indices]), zyx([int(i.max()) + 1 for i in indices])
        )
        try:
            data = self.array.read(source.within(self.roi))
        except (InputError, ValueError, OSError, RuntimeError) as error:
            raise InputError(f"{self.address}: cannot read voxels {source}: {error}") from error
        if self.roi.holds(roi):
            return data
        at = [i - o for i, o in zip(indices, source.offset, strict=True)]
        return np.asarray(data[np.ix_(*at)])

    def __getitem__(self, box: Slices) -> np.ndarray:
        """The voxels of `volume[z0:z1, y0:y1, x0:x1]`: what numpy gives, read from disk.

        Raises:
            InputError: a chunk cannot be read.
            UsageError: anything but three slices without steps.
        """
        if not (isinstance(box, tuple) and [_step(s) for s in box] == [1, 1, 1]):
            raise UsageError(f"{self.address}[{box}]: a volume takes [z0:z1, y0:y1, x0:x1]")
        spans = [s.indices(n) for s, n in zip(box, self.shape, strict=True)]
        starts, stops, _ = zip(*spans, strict=True)
        return self.read(between(zyx(starts), zyx(stops)))

    def write(self, roi: Roi, data: np.ndarray) -> None:
        """Store the voxels of `roi`; they are durable when it returns.

        Raises:
            ResourceError: the disk is full, or may not be written.
        """
        self.array.write(roi.within(self.roi), data)

    def scan(self, roi: Roi | None = None) -> Scan:
        """The stored chunks that `roi`, or everything, touches; none is decoded.

        Raises:
            InputError: the store refuses to tell.
        """
        box = self.roi if roi is None else roi.intersect(self.roi)
        return self.array.scan(box.within(self.roi))


@dataclass(frozen=True)
class InMemory:
    """An array that is no store."""

    data: np.ndarray

    def read(self, slices: Slices) -> np.ndarray:
        """The voxels in a box."""
        return self.data[slices]

    def write(self, slices: Slices, data: np.ndarray) -> None:
        """Set a box."""
        self.data[slices] = data

    def scan(self, slices: Slices) -> Scan:  # noqa: ARG002
        """Memory has no chunks to lose."""
        return Scan(1)


def in_memory(data: np.ndarray, *, like: Volume) -> Volume:
    """Voxels (z, y, x) in memory as a volume, to be read as those of `like` are."""
    shape = zyx(data.shape)
    return replace(like, shape=shape, dtype=data.dtype, chunks=shape, array=InMemory(data))


@dataclass(frozen=True)
class Window:
    """A box of another array."""

    array: Array
    offset: Zyx

    def read(self, slices: Slices) -> np.ndarray:
        """The voxels in a box of the window."""
        return self.array.read(self._within(slices))

    def write(self, slices: Slices, data: np.ndarray) -> None:
        """Store a box of the window."""
        self.array.write(self._within(slices), data)

    def scan(self, slices: Slices) -> Scan:
        """The chunks a box of the window touches."""
        return self.array.scan(self._within(slices))

    def _within(self, slices: Slices) -> Slices:
        z, y, x = (slice(s.start + o, s.stop + o) for s, o in zip(slices, self.offset, strict=True))
        return z, y, x


@dataclass(frozen=True)
class Padded:
    """An array within a larger box; outside of it there is `fill`."""

    array: Array
    offset: Zyx
    shape: Zyx
    dtype: np.dtype
    fill: int

    def read(self, slices: Slices) -> np.ndarray:
        """The voxels in a box of the larger one."""
        asked = between(zyx([s.start for s in slices]), zyx([s.stop for s in slices]))
        inner = asked.intersect(Roi(self.offset, self.shape))
        found = np.full(asked.shape, self.fill, self.dtype)
        if inner.size:
            found[inner.within(asked)] = self.array.read(self._of_array(inner))
        return found

    def write(self, slices: Slices, data: np.ndarray) -> None:  # noqa: ARG002
        """What lies around an array cannot be written.

        Raises:
            InputError: always.
        """
        raise InputError("a padded volume is for reading")

    def scan(self, slices: Slices) -> Scan:
        """The chunks that a box of the larger one touches."""
        asked = between(zyx([s.start for s in slices]), zyx([s.stop for s in slices]))
        return self.array.scan(self._of_array(asked.intersect(Roi(self.offset, self.shape))))

    def _of_array(self, roi: Roi) -> Slices:
        return roi.within(Roi(self.offset, self.shape))


def pad(volume: Volume, shape: Zyx, offset: Zyx, fill: int) -> Volume:
    """A volume as part of a larger one of `shape`, its first voxel at `offset`; `fill` around it.

    Raises:
        InputError: it does not lie within.
    """
    if not whole(shape).holds(Roi(offset, volume.shape)):
        raise InputError(f"{volume.address}: {Roi(offset, volume.shape)} leaves {whole(shape)}")
    array = Padded(volume.array, offset, volume.shape, volume.dtype, fill)
    size = volume.space.voxel_size or (0.0, 0.0, 0.0)
    z, y, x = (o - n * v for o, n, v in zip(volume.space.offset, offset, size, strict=True))
    space = replace(volume.space, offset=(z, y, x))
    return replace(volume, shape=shape, space=space, array=array)


def crop(volume: Volume, roi: Roi) -> Volume:
    """The voxels in `roi` as a volume of their own, at their place in the tissue.

    Raises:
        InputError: the box leaves the volume.
    """
    if not volume.roi.holds(roi):
        raise InputError(f"{volume.address}: {roi} leaves the volume {volume.roi}")
    size = volume.space.voxel_size or (0.0, 0.0, 0.0)
    z, y, x = (o + n * v for o, n, v in zip(volume.space.offset, roi.offset, size, strict=True))
    space = replace(volume.space, offset=(z, y, x))
    return replace(volume, shape=roi.shape, space=space, array=Window(volume.array, roi.offset))


def _step(part: object) -> int | None:
    """The step of a slice; None of what is none."""
    return (part.step or 1) if isinstance(part, slice) else None


def _reflect(positions: np.ndarray, length: int) -> np.ndarray:
    """Positions folded back into 0..length-1 by mirrors at the first and the last voxel."""
    period = max(2 * (length - 1), 1)
    folded = positions % period
    return np.asarray(np.minimum(folded, period - folded) if length > 1 else folded * 0)


def check_chunk(address: str, voxels: int, dtype: np.dtype) -> None:
    """Refuse chunks that no machine should allocate because some metadata say so.

    Raises:
        InputError: one chunk is larger than MOST_CHUNK_BYTES.
        UsageError: the environment states another number, which is none.
    """
    stated = os.environ.get("CLEFT_MAX_CHUNK_BYTES", str(MOST_CHUNK_BYTES))
    if not stated.isdecimal():
        raise UsageError(f"CLEFT_MAX_CHUNK_BYTES={stated}: expected a whole number of bytes")
    most = int(stated)
    if voxels * dtype.itemsize > most:
        raise InputError(
            f"{address}: one chunk would take {voxels * dtype.itemsize / 1e9:.3g} GB, more than "
            f"{most / 1e9:.3g} GB; if that is meant, set CLEFT_MAX_CHUNK_BYTES"
        )
