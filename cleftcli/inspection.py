"""What can be seen of an input before anyone works on it, so that nothing is silently wrong.

Chunks are counted without decoding; intensities are looked at in a few sections.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from cleftcli.errors import InputError
from cleftcli.geometry import Roi
from cleftcli.volumes import Nm, Reading, Scan, Volume, open_volume
from cleftcli.volumes.intensity import Range, unit

log = logging.getLogger(__name__)

Missing = Literal["fill", "error"]
VOXEL_SIZE_TIMES = 1.5  # a network sees other tissue beyond this ratio
SAMPLED_SECTIONS = 8
SAMPLED_EDGE = 1024  # voxels in y and x, around the middle
BINS = 64
# Distances of histograms that are worth a word, in units of black to white. Other tissue and
# microscopes measured 0.04 to 0.07 from the default checkpoint's data, an inverted section 0.05.
FAR = 0.15
SWAPPED, SWAPPED_TIMES = 0.03, 3.0


@dataclass(frozen=True)
class Sample:
    """A few sections of a volume, cut around the middle: the finite intensities of each by its z.

    Those in `strange` hold NaN or inf too, those in `unreadable` could not be decoded.
    """

    read: Mapping[int, np.ndarray]
    strange: list[int]
    unreadable: list[int]

    @property
    def sections(self) -> list[int]:
        """Where was looked."""
        return sorted([*self.read, *self.unreadable])

    @cached_property
    def constant(self) -> list[int]:
        """Sections of one intensity only."""
        return [z for z, v in self.read.items() if v.size and v.min() == v.max()]

    @property
    def values(self) -> np.ndarray:
        """All finite intensities."""
        return np.concatenate(list(self.read.values())) if self.read else np.zeros(0)

    def histogram(self, black_white: Range) -> list[float]:
        """Share of the voxels in each of BINS equal bins from black to white; [] of nothing.

        Sections of one intensity say nothing of the tissue and are left out.
        """
        varied = [v for z, v in self.read.items() if z not in self.constant]
        scaled = unit(np.concatenate(varied), black_white) if varied else np.zeros(0)
        counts = np.histogram(scaled, BINS, (0.0, 1.0))[0]
        return [round(float(n), 6) for n in counts / counts.sum()] if counts.sum() else []


def look(volume: Volume, roi: Roi | None = None) -> Sample:
    """Read a few sections of a volume, or of a box of it."""
    box = roi or volume.roi
    depth = box.shape[0]
    chosen = np.unique(np.linspace(0, depth - 1, SAMPLED_SECTIONS).astype(int)).tolist()
    shown = box.middle((depth, SAMPLED_EDGE, SAMPLED_EDGE))
    read: dict[int, np.ndarray] = {}
    strange: list[int] = []
    unreadable: list[int] = []
    for z in (box.offset[0] + n for n in chosen):
        middle = Roi((z, *shown.offset[1:]), (1, *shown.shape[1:]))
        try:
            section = volume.read(middle)
        except InputError:
            unreadable.append(z)
            continue
        read[z] = section[np.isfinite(section)]
        if read[z].size < section.size:
            strange.append(z)
    return Sample(read, strange, unreadable)


@dataclass(frozen=True)
class BlockInput:
    """An input as the blocks of a run read it, in any process.

    `ask` has each block look for missing chunks, where nobody could list them beforehand.
    """

    address: str
    reading: Reading
    missing: Missing
    ask: bool

    def opened(self, write: Roi) -> tuple[Volume, dict[str, int]]:
        """The volume, and what the record of a block notes of the chunks that it writes from.

        Raises:
            InputError: one is missing where it may not be.
        """
        volume = open_input(self.address, self.reading)
        gaps = (_scan(volume, self.missing, write).missing or 0) if self.ask else 0
        return volume, {"blocks_with_missing_chunks": int(gaps > 0)}


@functools.lru_cache(maxsize=4)
def open_input(address: str, reading: Reading) -> Volume:
    """An input by its address, opened once per process however many blocks there are."""
    return open_volume(address, reading=reading)


def scan_input(volume: Volume, missing: Missing, roi: Roi | None = None) -> Scan:
    """Count the chunks of an input that are missing or damaged, and say so in a line each.

    Raises:
        InputError: chunks are missing and `missing` is "error".
    """
    open_input.cache_clear()  # a run sees its input as it is now
    scan = _scan(volume, missing, roi)
    if scan.missing is None:
        log.info(
            "%s: %d chunks, too many to look for one by one; missing ones read as 0",
            volume.address,
            scan.chunks,
        )
    if scan.missing:
        log.warning(
            "%s: %d of %d chunks are missing and read as 0: %s",
            volume.address,
            scan.missing,
            scan.chunks,
            ", ".join(scan.first_missing[:3]),
        )
    if scan.damaged:
        log.warning(
            "%s: %d of %d chunks are damaged, and their blocks will fail: %s",
            volume.address,
            len(scan.damaged),
            scan.chunks,
            scan.damaged[0],
        )
    return scan


def _scan(volume: Volume, missing: Missing, roi: Roi | None) -> Scan:
    scan = volume.scan(roi)
    if scan.missing and missing == "error":
        named = ", ".join(scan.first_missing[:3])
        raise InputError(
            f"{volume.address}: {scan.missing} of {scan.chunks} chunks are missing ({named}); "
            "--missing fill reads them as 0"
        )
    return scan


def what_was_read(
    volume: Volume, before: Scan, roi: Roi | None, inputs: Set[str], totals: Mapping[str, int]
) -> dict[str, Any]:
    """What an output notes of its input: chunks, and whether they changed; says what is wrong.

    Args:
        volume: the input.
        before: its scan, before it was read.
        roi: what was scanned; None is everything.
        inputs: the stamps under which blocks were made, by earlier runs and parts too.
        totals: what the blocks noted, added up.
    """
    changed = volume.scan(roi).stamp != before.stamp or len(inputs) > 1
    if changed:
        log.warning("%s changed while it was read: the output may mix two versions", volume.address)
    gaps = totals.get("blocks_with_missing_chunks", 0)
    if gaps:
        log.warning("%d blocks met missing chunks, read as 0", gaps)
    return {
        **before.summary(),
        "changed_while_read": changed,
        "blocks_with_missing_chunks": gaps,
    }


def voxel_size_doubts(volume: Volume, trained_at: Nm, *, any_size: bool) -> list[str]:
    """Where voxels are, or may be, unlike those that a network was trained at, in words.

    Raises:
        InputError: an edge differs by more than VOXEL_SIZE_TIMES, unless `any_size`.
    """
    size = volume.space.voxel_size
    if size is None:
        return [f"the checkpoint was trained at {trained_at} nm"]
    times = max(max(a / b, b / a) for a, b in zip(size, trained_at, strict=True))
    if times <= VOXEL_SIZE_TIMES:
        return []
    text = (
        f"voxels of {size} nm, the checkpoint was trained at {trained_at} nm: "
        f"{times:.1f} times apart"
    )
    if not any_size:
        raise InputError(
            f"{volume.address}: {text}; resample, or --allow-voxel-size-mismatch and expect little"
        )
    return [f"{text}; expect little"]


def doubts(volume: Volume) -> list[str]:
    """What in the metadata of a volume looks wrong, in words."""
    found = []
    size = volume.space.voxel_size
    if size is None:
        found.append(f"the voxel size is not known: {volume.space.source}")
    elif size[0] < max(size):
        found.append(
            f"z is not the coarsest axis of {size} nm: are the axes {volume.axes}? See --axes"
        )
    if volume.attributes.get("complete") is False:
        found.append("not finished: the command that makes it has to run again")
    return found


def intensity_doubts(sample: Sample, black_white: Range, trained_on: list[float]) -> list[str]:
    """Where intensities look unlike those that a checkpoint was trained on, in words.

    Compared by the distance of histograms (Wasserstein-1) in units of black to white.
    """
    found = [
        f"{what}: z {', '.join(map(str, sections))} of {len(sample.sections)} sections looked at"
        for what, sections in (
            ("sections without contrast, taken as grey", sample.constant),
            ("sections with NaN or inf, taken as grey", sample.strange),
        )
        if sections
    ]
    ours = sample.histogram(black_white)
    if not ours or not trained_on:
        return found
    apart, inverted = distance(ours, trained_on), distance(ours[::-1], trained_on)
    if apart > max(SWAPPED, SWAPPED_TIMES * inverted):
        found.append(
            "dark and bright look swapped against the checkpoint's training data; "
            f"--intensity-range {black_white[1]:.12g},{black_white[0]:.12g} swaps them back"
        )
    elif apart > FAR:
        found.append(
            f"intensities are far from the checkpoint's training data ({apart:.2f} of the range "
            "apart): expect little, or state another --intensity-range"
        )
    return found


def distance(a: list[float], b: list[float]) -> float:
    """Wasserstein-1 distance of two histograms over the same bins of [0, 1]."""
    return float(np.abs(np.cumsum(a) - np.cumsum(b)).mean())
