"""What a report looks at: an output, its raw and its truth, the ledgers and records beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli.errors import CleftError, InputError
from cleftcli.foreground import PREDICTION, TRUTH, Foreground, read_foreground
from cleftcli.geometry import Roi, fit_block
from cleftcli.inspection import look
from cleftcli.run_record import run_records
from cleftcli.scoring import Pair
from cleftcli.viewing.coverage import Coverage, Growing, read_coverage
from cleftcli.volumes import (
    Nm,
    Reading,
    Volume,
    crop,
    is_remote,
    open_volume,
    same_voxels,
    split_address,
)
from cleftcli.volumes.intensity import Range, intensity_range, unit

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

    `probability` is the output itself, or what its ids were made of; its `coverage`, `records` and
    `fingerprint` are those of the run that made it. What is not there is None, and `lacks` says
    why by its name.
    """

    output: Foreground
    probability: Foreground | None
    raw: Raw | None
    truth: Foreground | None
    coverage: Coverage | None
    records: list[dict[str, Any]]
    fingerprint: Mapping[str, Any]
    lacks: Mapping[str, str]

    @property
    def volume(self) -> Volume:
        """The output."""
        return self.output.volume

    @property
    def complete(self) -> bool:
        """Whether the output is finished, as far as it says."""
        return self.volume.attributes.get("complete") is not False

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
    coverage, records = read_coverage(made_by.address), run_records(made_by.address)
    fingerprint = _mapping(made_by.attributes.get("run"))
    if probability is not None and coverage is not None and not _is_complete(made_by):
        probability = Growing(made_by, "probability", probability.threshold, coverage)
        found = probability if found.volume is made_by else found
    true = None
    if subject.truth is not None:
        true = read_foreground(same_voxels(volume, subject.open(subject.truth, TRUTH)))
    try:
        raw = _stated(subject, volume) or _recorded(volume, coverage, records, fingerprint)
        seen = Raw(raw, _range(raw, fingerprint))
    except CleftError as error:
        if subject.raw is not None:
            raise
        seen, lacks["raw"] = None, str(error)
    return Scene(found, probability, seen, true, coverage, records, fingerprint, lacks)


def _is_complete(volume: Volume) -> bool:
    return volume.attributes.get("complete") is not False


def _made_of(output: Foreground, lacks: dict[str, str]) -> Foreground | None:
    """The probability that an output is or was made of."""
    if output.content == "probability":
        return output
    named = _mapping(output.volume.attributes.get("run")).get("prediction")
    if not isinstance(named, str):
        lacks["probability"] = f"{output.content} have none, and name no prediction"
        return None
    beside = Path(split_address(output.volume.address)[0]).parent
    try:
        volume = open_volume(_there(named, [Path(), beside]), prefer=PREDICTION)
        found = read_foreground(volume, unfinished=True)
    except CleftError as error:
        lacks["probability"] = str(error)
        return None
    if found.content != "probability" or volume.shape != output.volume.shape:
        lacks["probability"] = f"{volume.address}: not the probability these ids were made of"
        return None
    return found


def _stated(subject: Subject, volume: Volume) -> Volume | None:
    """The raw that was named, over an output.

    Raises:
        InputError: it cannot be read, or lies elsewhere.
    """
    if subject.raw is None:
        return None
    opened = subject.open(subject.raw)
    return opened if _alike(volume, opened) else same_voxels(volume, opened)


def _recorded(
    volume: Volume,
    coverage: Coverage | None,
    records: list[dict[str, Any]],
    fingerprint: Mapping[str, Any],
) -> Volume:
    """The volume that a run names, over its output.

    Raises:
        InputError: none is named, or it is not there any more.
    """
    named = fingerprint.get("volume")
    if not isinstance(named, str):
        raise InputError("the output does not name the volume it was made from; --raw names it")
    folders = [Path(r["folder"]) for r in records if isinstance(r.get("folder"), str)]
    opened = open_volume(_there(named, [*folders, Path()]), reading=_reading(records))
    if list(opened.shape) != fingerprint.get("shape"):
        raise InputError(
            f"{opened.address} is {opened.shape}, the run saw {fingerprint.get('shape')}; "
            "--raw names another"
        )
    return same_voxels(volume, opened) if coverage is None else crop(opened, coverage.roi)


def _alike(volume: Volume, other: Volume) -> bool:
    """Whether nothing but the shape says how two volumes lie, and it says that they coincide."""
    unknown = volume.space.voxel_size is None or other.space.voxel_size is None
    return unknown and volume.shape == other.shape


def _range(volume: Volume, fingerprint: Mapping[str, Any]) -> Range:
    """Black and white: of the run, else as the volume says, else from what is there."""
    stated = fingerprint.get("intensity_range")
    if fingerprint.get("dtype") == str(volume.dtype) and isinstance(stated, list):
        return float(stated[0]), float(stated[1])
    try:
        return intensity_range(volume)
    except InputError:
        values = look(volume).values
        low, high = (values.min(), values.max()) if values.size else (0, 1)
        return float(low), float(high if high > low else low + 1)


def _reading(records: Iterable[Mapping[str, Any]]) -> Reading:
    """How the run read its volume."""
    for record in records:
        known = _mapping(_mapping(record.get("settings")).get("reading"))
        size = known.get("voxel_size")
        z_y_x = None if size is None else tuple(size)
        return Reading(z_y_x, known.get("axes"), known.get("channel"))
    return Reading()


def _there(address: str, folders: Iterable[Path]) -> str:
    """An address that a run noted, from the first folder in which its container is."""
    if is_remote(address):
        return address
    here = Path.cwd()
    candidates = [address if folder == here else str(folder / address) for folder in folders]
    there = (c for c in candidates if Path(split_address(c)[0]).exists())
    return next(there, address)


def _mapping(value: Any) -> Mapping[str, Any]:
    """What attributes hold, where it is an object."""
    return value if isinstance(value, Mapping) else {}
