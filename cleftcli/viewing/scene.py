"""What a report looks at: an output, its raw and its truth, the ledgers and records beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cleftcli.errors import CleftError, InputError
from cleftcli.foreground import PREDICTION, TRUTH, Foreground, read_foreground
from cleftcli.geometry import Roi, fit_block
from cleftcli.scoring import Pair
from cleftcli.viewing.coverage import Coverage, Growing
from cleftcli.viewing.run import Run, as_mapping, read_run, there
from cleftcli.volumes import (
    Nm,
    Reading,
    Volume,
    open_volume,
    same_voxels,
    split_address,
)
from cleftcli.volumes.intensity import Range, unit

MOST_VOXELS = 2**26  # to look at one by one; of more, a part


@dataclass(frozen=True)
class Subject:
    """What a report is about: addresses, and what the stores do not say.

    `output` is what cleft made: probability, mask or ids; `truth` is ids or a mask; without a
    `raw` the volume that the run names is looked for. `threshold` is of probabilities, None takes
    the output's own, else 0.5; `voxel_size` is in nm.
    """

    output: str
    truth: str | None = None
    raw: str | None = None
    threshold: float | None = None
    voxel_size: Nm | None = None

    def open(self, address: str, prefer: tuple[str, ...] = ("volumes/raw",)) -> Volume:
        """A volume, with the voxel size that was stated."""
        return open_volume(address, prefer=prefer, reading=Reading(self.voxel_size))


@dataclass(frozen=True)
class Raw:
    """Raw over the voxels of an output, and which intensities are black and white."""

    volume: Volume
    black_white: Range


@dataclass(frozen=True)
class Scene:
    """An output of cleft and what belongs to it.

    `probability` is the output itself, or what its ids were made of, and `run` what made that.
    What is not there is None, and `lacks` says why by its name.
    """

    output: Foreground
    probability: Foreground | None
    raw: Raw | None
    truth: Foreground | None
    run: Run
    lacks: Mapping[str, str]

    @property
    def volume(self) -> Volume:
        """The output."""
        return self.output.volume

    @property
    def coverage(self) -> Coverage | None:
        """Its blocks, where a ledger tells of them."""
        return self.run.coverage

    @property
    def complete(self) -> bool:
        """Whether the output is finished, as far as it says."""
        return _is_complete(self.volume)

    @cached_property
    def part(self) -> Roi:
        """The box that is compared voxel by voxel: all, or so much of the middle."""
        if self.volume.roi.size <= MOST_VOXELS:
            return self.volume.roi
        return self.volume.roi.middle(fit_block(self.volume.shape, (1, 64, 64), MOST_VOXELS))

    @property
    def pair(self) -> Pair | None:
        """Output and truth over that part."""
        if self.truth is None:
            return None
        return Pair(self.output, self.truth, self.part, self.volume.voxel_size)

    def grey(self, roi: Roi) -> np.ndarray:
        """Raw as uint8, black to white; even grey where it is not there or cannot be read."""
        try:
            if self.raw is not None:
                scaled = unit(self.raw.volume.read(roi), self.raw.black_white)
                return np.asarray(np.rint(scaled * 255).astype(np.uint8))
        except InputError:
            pass
        return np.full(roi.shape, 128, np.uint8)


def open_scene(subject: Subject) -> Scene:
    """Open an output, finished or not, and what belongs to it.

    Raises:
        InputError: it cannot be read, or what was named cannot be laid over it.
        UsageError: the threshold is not in (0, 1].
    """
    volume = subject.open(subject.output, PREDICTION)
    found = read_foreground(volume, subject.threshold, unfinished=True)
    lacks: dict[str, str] = {}
    probability = _made_of(found, lacks)
    made_by = volume if probability is None else probability.volume
    run = read_run(made_by)
    if probability is not None and run.coverage is not None and not _is_complete(made_by):
        probability = Growing(made_by, "probability", probability.threshold, run.coverage)
        found = probability if found.volume is made_by else found
    true = None
    if subject.truth is not None:
        true = read_foreground(same_voxels(volume, subject.open(subject.truth, TRUTH)))
    try:
        raw: Raw | None = _raw(subject, volume, run)
    except CleftError as error:
        if subject.raw is not None:
            raise
        raw, lacks["raw"] = None, str(error)
    return Scene(found, probability, raw, true, run, lacks)


def _is_complete(volume: Volume) -> bool:
    return volume.attributes.get("complete") is not False


def _made_of(output: Foreground, lacks: dict[str, str]) -> Foreground | None:
    """The probability that an output is or was made of."""
    if output.content == "probability":
        return output
    named = as_mapping(output.volume.attributes.get("run")).get("prediction")
    if not isinstance(named, str):
        lacks["probability"] = f"{output.content} have none, and name no prediction"
        return None
    beside = Path(split_address(output.volume.address)[0]).parent
    try:
        volume = open_volume(there(named, [Path(), beside]), prefer=PREDICTION)
        found = read_foreground(volume, unfinished=True)
    except CleftError as error:
        lacks["probability"] = str(error)
        return None
    if found.content != "probability" or volume.shape != output.volume.shape:
        lacks["probability"] = f"{volume.address}: not the probability these ids were made of"
        return None
    return found


def _raw(subject: Subject, volume: Volume, run: Run) -> Raw:
    """Raw over an output: as named, else the volume that was predicted.

    Raises:
        InputError: it cannot be read, or lies elsewhere.
    """
    if subject.raw is None:
        found = run.raw_under(volume)
    else:
        opened = subject.open(subject.raw)
        found = opened if _alike(volume, opened) else same_voxels(volume, opened)
    return Raw(found, run.black_white(found))


def _alike(volume: Volume, other: Volume) -> bool:
    """Whether nothing but the shape says how two volumes lie, and it says that they coincide."""
    unknown = volume.space.voxel_size is None or other.space.voxel_size is None
    return unknown and volume.shape == other.shape
