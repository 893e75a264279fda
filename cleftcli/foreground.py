"""What a volume says of each voxel: cleft or not, how sure, or unknown.

Predictions and truths come as probabilities, masks or ids, with different backgrounds; the jobs
that read them share this one reading, and state its rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cleftcli.errors import IncompleteError, InputError, UsageError
from cleftcli.geometry import BlockPlan, Roi, fit_block
from cleftcli.labels import cleft_mask, ignore_mask
from cleftcli.volumes import Volume

SCAN_VOXELS = 2**24
PREDICTION = ("cleft", "clefts")  # datasets to look for in a container
TRUTH = ("volumes/labels/clefts", "clefts", "mask")
ID_OF_ZERO = 2**64 - 3  # a cleft with id 0, where 0 shall mean background
Content = Literal["probability", "mask", "ids"]

RULES = {
    "probability": "cleft where the probability reaches the threshold",
    "mask": "cleft where not 0; 255 is ignored",
    "ids": "ids: 0 and 2^64-1 are background, 2^64-2 is ignored",
    "cremi ids": "CREMI ids: 2^64-1 is background, 2^64-2 is ignored, 0 is a cleft",
}


@dataclass(frozen=True)
class Foreground:
    """The cleft voxels of a volume.

    `threshold` is a probability, 0..1; masks and ids have none. `full` is the level that means
    probability 1.
    """

    volume: Volume
    content: Content
    threshold: float | None

    @property
    def rule(self) -> str:
        """Which voxels count as cleft, in words."""
        return RULES["cremi ids" if self._zero_is_cleft else self.content]

    @property
    def full(self) -> float:
        """The level that means probability 1."""
        return 255.0 if self.content == "probability" and self.volume.dtype == np.uint8 else 1.0

    def read(self, roi: Roi) -> tuple[np.ndarray, np.ndarray]:
        """Levels, and where the volume says that nobody knows.

        Levels are the probability in units of 1 / `full`: uint8 or float; masks and ids as 0 and 1.
        """
        data = self._read(roi)
        if self.content == "probability":
            unknown = np.isnan(data) if data.dtype.kind == "f" else np.zeros(data.shape, bool)
            return np.nan_to_num(data) if unknown.any() else data, unknown
        return self._mask(data).astype(np.uint8), ignore_mask(data)

    def levels(self, roi: Roi) -> np.ndarray:
        """The levels alone."""
        return self.read(roi)[0]

    def mask(self, levels: np.ndarray) -> np.ndarray:
        """True where these levels mean cleft."""
        threshold = 1.0 if self.threshold is None else self.threshold * self.full
        return np.asarray(levels >= threshold)

    def ids(self, roi: Roi) -> np.ndarray:
        """The ids of a volume that holds ids: uint64, 0 outside clefts, an id 0 as ID_OF_ZERO."""
        data = self._read(roi)
        cleft = self._mask(data)
        return np.where(cleft, np.where(data == 0, np.uint64(ID_OF_ZERO), data), np.uint64(0))

    def ignored(self, roi: Roi) -> np.ndarray:
        """True where the volume says that nobody knows."""
        return self.read(roi)[1]

    @property
    def _zero_is_cleft(self) -> bool:
        return self.content == "ids" and self.volume.zero_is_cleft

    def _read(self, roi: Roi) -> np.ndarray:
        """The voxels; ids as uint64, where -1 and -2 of signed ones are CREMI's special ids."""
        data = self.volume.read(roi)
        return data.astype(np.uint64, copy=False) if self.content == "ids" else data

    def _mask(self, data: np.ndarray) -> np.ndarray:
        return cleft_mask(data, zero_is_cleft=self._zero_is_cleft)


def read_foreground(
    volume: Volume, threshold: float | None = None, *, unfinished: bool = False
) -> Foreground:
    """The foreground of a prediction or truth, by what its attributes or its dtype say it holds.

    Attribute `content` of our own outputs decides; else bool is a mask, as is uint8 without a
    voxel above 1; other uint8 and floats are probabilities, other integers ids. A probability
    without a threshold takes the one its attributes carry, else 0.5.

    Raises:
        IncompleteError: it is an output of ours that was not finished, unless it may be
            `unfinished`.
        InputError: its dtype holds neither.
        UsageError: the threshold is not in (0, 1].
    """
    if volume.attributes.get("complete") is False and not unfinished:
        raise IncompleteError(
            f"{volume.address}: not finished; run the command that makes it again, it continues"
        )
    stated = volume.attributes.get("content")
    if stated not in (None, "probability", "mask", "ids"):
        raise InputError(f"{volume.address}: holds {stated}, not probability, mask or ids")
    content: Content = stated or _by_dtype(volume)
    if content != "probability":
        return Foreground(volume, content, None)
    chosen = threshold if threshold is not None else volume.attributes.get("threshold", 0.5)
    if not 0 < chosen <= 1:
        raise UsageError(f"threshold {chosen} is not in (0, 1]")
    return Foreground(volume, "probability", float(chosen))


def read_annotation(volume: Volume) -> Foreground:
    """The clefts that training learns from: uint8 and bool are masks, all others ids."""
    return Foreground(volume, "mask" if volume.dtype in (bool, np.uint8) else "ids", None)


def _by_dtype(volume: Volume) -> Content:
    if volume.dtype == bool:
        return "mask"
    if volume.dtype == np.uint8:
        return "probability" if _exceeds_one(volume) else "mask"
    if volume.dtype.kind == "f":
        return "probability"
    if volume.dtype.kind in "iu":
        return "ids"
    raise InputError(f"{volume.address}: {volume.dtype} holds neither probability, mask nor ids")


def _exceeds_one(volume: Volume) -> bool:
    """Whether any voxel is more than 1; stops at the first box that has one."""
    plan = BlockPlan(volume.roi, fit_block(volume.shape, volume.chunks, SCAN_VOXELS))
    return any(volume.read(block.write).max() > 1 for block in plan)
