"""The pages of TIFF files as sections of a volume: where they lie, decoding, what is damaged."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from cleftcli.errors import InputError, UsageError
from cleftcli.geometry import Roi
from cleftcli.volumes.axes import Axes, Slices
from cleftcli.volumes.chunks import Damage, Grid, Keys, Scan, Stamp, count
from cleftcli.volumes.volume import Space

READING_ERRORS = (tifffile.TiffFileError, ValueError, OSError, LookupError, TypeError,
                   AttributeError, struct.error, zlib.error, ElementTree.ParseError)  # fmt: skip
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # of damaged files; it is told here


@dataclass(frozen=True)
class Section:
    """Where one page of voxels lies; `path` is None where its file is missing."""

    path: Path | None
    page: int = 0


@dataclass(frozen=True)
class Kind:
    """What all pages of a stack have in common."""

    page: tuple[int, ...]
    dtype: np.dtype
    white_is_zero: bool

    def __str__(self) -> str:
        return f"{self.dtype} {self.page}{', 0 is white' * self.white_is_zero}"


def kind_of(page: Any) -> Kind:
    """The kind of a page, or of one that stands for many, of tifffile."""
    white = page.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    return Kind(tuple(page.shape), np.dtype(page.dtype), bool(white))


@dataclass(frozen=True)
class Stack:
    """Sections in order: `leading` axes count them, the others are those of a page."""

    path: Path
    sections: Sequence[Section]
    leading: tuple[int, ...]
    kind: Kind
    names: str
    space: Space


@dataclass(frozen=True)
class Pages:
    """A stack as zyx boxes; `decode` gives the voxels of a section, and remembers some."""

    stack: Stack
    axes: Axes
    decode: Callable[[Section], np.ndarray] = field(repr=False, compare=False)

    @property
    def grid(self) -> Grid:
        """One chunk a section."""
        leading, page = self.stack.leading, self.stack.kind.page
        return Grid((*leading, *page), (*[1] * len(leading), *page), Keys(","))

    def read(self, slices: Slices) -> np.ndarray:
        """The voxels in a box; those of missing sections are 0.

        Raises:
            InputError: a section cannot be decoded, or is unlike the first.
        """
        stored = self.axes.stored(slices)
        leading = [range(s.start, s.stop) for s in stored[: self._leading]]
        inner = stored[self._leading :]
        pages = [self._section(index)[inner] for index in itertools.product(*leading)]
        shape = [s.stop - s.start for s in stored]
        return self.axes.zyx(np.stack(pages).reshape(shape))

    def write(self, slices: Slices, data: np.ndarray) -> None:  # noqa: ARG002
        """Refuse.

        Raises:
            UsageError: TIFF is not written.
        """
        raise UsageError(f"{self.stack.path}: TIFF is read only; output goes to a .zarr or .n5")

    def scan(self, slices: Slices) -> Scan:
        """Sections whose file is missing, cut short, or unlike the first."""
        ranges = self.grid.ranges(self.axes.stored(slices))
        indices = {self._number(i): i for i in itertools.product(*ranges[: self._leading])}
        stamp, missing, damaged = Stamp(), [], []
        sections = self.stack.sections
        for path, group in itertools.groupby(indices, lambda number: sections[number].path):
            numbers = list(group)
            if path is None:
                missing += [f"section {number}" for number in numbers]
                continue
            about = path.stat()
            stamp.add(str(path), about.st_size, about.st_mtime_ns)
            pages = {sections[number].page: number for number in numbers}
            for page, reason in _damage(path, pages, self.stack):
                roi = self._roi(indices[pages[page]])
                damaged.append(Damage(f"{path.name} page {page}", roi, reason))
        return Scan(count(ranges), len(missing), tuple(missing[:20]), tuple(damaged), str(stamp))

    @property
    def _leading(self) -> int:
        return len(self.stack.leading)

    def _roi(self, index: tuple[int, ...]) -> Roi:
        """The voxels of a section, zyx."""
        box = self.grid.box((*index, *[0] * len(self.stack.kind.page)))
        return self.axes.roi([s.start for s in box], [s.stop - s.start for s in box])

    def _number(self, index: tuple[int, ...]) -> int:
        return int(np.ravel_multi_index(index, self.stack.leading))

    def _section(self, index: tuple[int, ...]) -> np.ndarray:
        section = self.stack.sections[self._number(index)]
        if section.path is None:
            return np.zeros(self.stack.kind.page, self.stack.kind.dtype)
        return self.decode(section)


def opened(path: Path) -> tifffile.TiffFile:
    """A TIFF file, to be closed; what goes wrong with it is an input error."""
    with blamed(path):
        file = tifffile.TiffFile(path, _multifile=False)
        with contextlib.ExitStack() as closing:
            closing.callback(file.close)
            if not (file.is_shaped and len(file.series) > 1):
                closing.pop_all()
                return file
        return tifffile.TiffFile(path, is_shaped=False)  # written one page at a time


@contextlib.contextmanager
def blamed(path: Path) -> Iterator[None]:
    """What tifffile makes of a damaged file, as an input error that names it."""
    try:
        yield
    except READING_ERRORS as error:
        raise InputError(f"{path}: not readable as TIFF: {error}") from error


class _Last(threading.local):
    """The file a thread read from last: to find its pages anew for each would take long."""

    def __init__(self) -> None:
        self.key: tuple[Path, int] | None = None
        self.file: tifffile.TiffFile = None

    def opened(self, path: Path) -> tifffile.TiffFile:
        """The file, opened once for all its pages as long as nobody changes it."""
        key = (path, path.stat().st_mtime_ns)
        if self.key != key:
            if self.key is not None:
                self.file.close()
            self.key = None
            self.file = opened(path)
            self.key = key
        return self.file


_last = _Last()


def decode(section: Section, *, kind: Kind) -> np.ndarray:
    """The voxels of a section, as they are stored."""
    path = section.path
    assert path is not None
    file = _last.opened(path)
    try:
        data, found = _page(file, section.page)
    except READING_ERRORS as error:
        raise InputError(f"{path.name} page {section.page}: {_why(error)}") from error
    if found != kind:
        raise InputError(f"{path.name} is {found}, the first {kind}")
    return data


def _page(file: tifffile.TiffFile, number: int) -> tuple[np.ndarray, Kind]:
    """One page and its kind.

    Of a run of voxels it is found by its place: for a large one ImageJ has one page only.
    """
    series = file.series[0]
    if series.dataoffset is None:
        page = series.pages[number]
        data = np.asarray(page.asarray())
        return data, replace(kind_of(page), page=data.shape, dtype=data.dtype)
    keyframe = series.keyframe
    size = math.prod(keyframe.shape)
    dtype = keyframe.dtype.newbyteorder(file.byteorder)
    file.filehandle.seek(series.dataoffset + number * size * dtype.itemsize)
    found = np.fromfile(file.filehandle, dtype, size)
    return found.reshape(keyframe.shape).astype(keyframe.dtype), kind_of(keyframe)


def _why(error: Exception) -> str:
    if "imagecodecs" in str(error):
        return f"{error}; install it with: pip install 'cleft[tiff]'"
    return f"cannot be decoded: {error}"


def _damage(path: Path, pages: Iterable[int], stack: Stack) -> Iterator[tuple[int, str]]:
    """What is visibly wrong with pages of a file."""
    found = {}
    try:
        with opened(path) as file:
            found = {page: _unlike(file, page, stack) for page in pages}
    except InputError as error:
        found = dict.fromkeys(pages, str(error))
    return ((page, reason) for page, reason in found.items() if reason)


def _unlike(file: tifffile.TiffFile, number: int, stack: Stack) -> str | None:
    """What sets a page apart from the first, or from a whole one: a reason, or None."""
    try:
        series = file.series[0]
        contiguous = series.dataoffset is not None
        found = series.keyframe if contiguous else series.pages[number]
        kind = kind_of(found)
        if kind != stack.kind:
            return f"is {kind}, the first {stack.kind}"
        if contiguous:
            size = math.prod(kind.page) * kind.dtype.itemsize
            ends = [series.dataoffset + (number + 1) * size]
        else:
            ends = [a + b for a, b in zip(found.dataoffsets, found.databytecounts, strict=True)]
    except READING_ERRORS as error:
        return str(error)
    length = file.filehandle.size
    return f"truncated: {length} of {max(ends)} bytes" if max(ends) > length else None
