"""Which stored axes are z, y and x, and what happens to the others: decided once, said aloud."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cleftcli.errors import InputError, UsageError
from cleftcli.geometry import Roi, Zyx, zyx

Nm = tuple[float, float, float]
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Reading:
    """How to read what a store does not say, or says wrongly; None follows the store.

    `voxel_size` is in nm, zyx; `axes` names the stored axes in their order, e.g. `xyz` or `czyx`;
    `channel` is the one to read of several.
    """

    voxel_size: Nm | None = None
    axes: str | None = None
    channel: int | None = None

    def __post_init__(self) -> None:
        size = self.voxel_size
        if size is not None and not (len(size) == 3 and all(0 < v < math.inf for v in size)):
            raise UsageError(f"voxel size {size}: three positive numbers z, y, x in nm")


AS_STORED = Reading()


@dataclass(frozen=True)
class Axes:
    """Where z, y and x are among the stored axes, and the position taken on each other axis."""

    names: str
    order: Zyx
    fixed: tuple[tuple[int, int], ...]
    source: str

    @property
    def turned(self) -> bool:
        """Whether reading is more than taking the array as it is."""
        return self.order != (0, 1, 2) or bool(self.fixed)

    @property
    def spatial(self) -> str:
        """The order of z, y and x on disk."""
        return "".join(n for n in self.names if n in "zyx")

    def stored(self, slices: Slices) -> tuple[slice, ...]:
        """A box of z, y, x as slices of the stored axes."""
        found = [slice(0, 1)] * len(self.names)
        for axis, index in self.fixed:
            found[axis] = slice(index, index + 1)
        for axis, part in zip(self.order, slices, strict=True):
            found[axis] = part
        return tuple(found)

    def zyx(self, data: np.ndarray) -> np.ndarray:
        """An array read with `stored` slices as (z, y, x)."""
        others = [axis for axis, _ in self.fixed]
        found = data.transpose(*self.order, *others)
        return found.reshape(found.shape[:3])

    def roi(self, offset: Sequence[int], shape: Sequence[int]) -> Roi:
        """A box of stored axes as one of z, y, x."""
        return Roi(zyx([offset[a] for a in self.order]), zyx([shape[a] for a in self.order]))

    def __str__(self) -> str:
        """What is done, for a person."""
        done = [] if self.spatial == "zyx" else [f"turned to zyx from {self.spatial}"]
        done += [f"{self.names[axis]} {index} taken" for axis, index in self.fixed]
        return f"{self.names} ({', '.join([self.source, *done])})"


def arrange(
    shape: Sequence[int], names: Sequence[str] | None, source: str, reading: Reading, address: str
) -> Axes:
    """The axes of an array.

    Args:
        shape: as stored.
        names: of the stored axes where the store tells them.
        source: where the names come from; "N5" without names is stored as x, y, z.
        reading: what the user says of axes and channel.
        address: for messages.

    Raises:
        InputError: the array has no z, y, x, or more axes than can be read without a word.
        UsageError: the words given do not fit the array.
    """
    if reading.axes is not None:
        names, source = reading.axes.lower(), "--axes"
        if not _fits(names, shape):
            raise UsageError(
                f"--axes {reading.axes}: {address} has {len(shape)} axes, shape {tuple(shape)}; "
                "give one letter for each, z, y and x among them"
            )
    if len(shape) < 3 or (names is None and len(shape) > 3):
        raise InputError(_unnamed(address, shape, source))
    letters = "".join(str(n)[:1].lower() for n in names or "zyx")
    if not _fits(letters, shape):
        raise InputError(
            f"{address}: expected axes z, y, x; got {letters} ({source}), shape {tuple(shape)}; "
            "name them with --axes"
        )
    fixed = []
    for axis, name in enumerate(letters):
        if name not in "zyx":
            fixed.append((axis, _taken(name, shape[axis], reading, address)))
    if reading.channel is not None and "c" not in letters:
        raise UsageError(f"--channel {reading.channel}: {address} has axes {letters}, no channel")
    order = zyx([letters.index(a) for a in "zyx"])
    return Axes(letters, order, tuple(fixed), source if names else "as stored")


def _fits(letters: str, shape: Sequence[int]) -> bool:
    """Whether letters name every axis, each once, and all of space."""
    return set("zyx") <= set(letters) and len(letters) == len(shape) == len(set(letters))


def _taken(name: str, length: int, reading: Reading, address: str) -> int:
    """The position read on an axis that is not of space."""
    if name == "c" and reading.channel is not None:
        if not 0 <= reading.channel < length:
            raise UsageError(f"--channel {reading.channel}: {address} has {length} channels")
        return reading.channel
    if length == 1:
        return 0
    if name == "c":
        raise InputError(f"{address}: has {length} channels; choose one with --channel 0")
    raise InputError(f"{address}: has {length} positions on axis {name}; one volume was expected")


def _unnamed(address: str, shape: Sequence[int], source: str) -> str:
    if len(shape) < 3:
        return f"{address}: expected axes z, y, x; got {len(shape)} axes, shape {tuple(shape)}"
    space, others = "xyz" if source == "N5" else "zyx", "c" + "t" * (len(shape) - 4)
    last = source == "N5" or shape[-1] <= 4 < math.prod(shape)
    likely = space + others if last else others[::-1] + space
    return (
        f"{address}: expected axes z, y, x; got shape {tuple(shape)} without names. "
        f"Name them and choose a channel, e.g. --axes {likely} --channel 0"
    )
