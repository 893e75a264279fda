"""From stored intensities to what a network sees: one rule per dtype, never per block or tile."""

from __future__ import annotations

import numpy as np

from cleftcli.errors import InputError
from cleftcli.volumes.volume import Volume

Range = tuple[float, float]


def intensity_range(volume: Volume, stated: Range | None = None) -> Range:
    """The intensities that mean black and white: as stated, by the attributes, or 0..255 for uint8.

    Raises:
        InputError: the volume is not uint8 and nobody says what its black and white are.
    """
    attributes = volume.attributes
    contrast = attributes.get("contrastAdjustment")
    if stated is None and contrast:
        stated = (float(contrast["min"]), float(contrast["max"]))
    if stated is None and "intensity_range" in attributes:
        low, high = attributes["intensity_range"]
        stated = (float(low), float(high))
    if stated is None and volume.dtype == np.uint8:
        stated = (0.0, 255.0)
    if stated is None:
        raise InputError(
            f"{volume.address} is {volume.dtype}; state which intensities are black and white, "
            "e.g. --intensity-range 0,65535"
        )
    if not stated[0] < stated[1]:
        raise InputError(f"{volume.address}: intensity range {stated} is empty")
    return stated


def unit(raw: np.ndarray, black_white: Range) -> np.ndarray:
    """Intensities as float32 in [0, 1], black to white, clipped; NaN and inf become 0.5 (grey)."""
    low, high = black_white
    scaled = (raw.astype(np.float32) - np.float32(low)) * np.float32(1 / (high - low))
    if raw.dtype.kind == "f":
        scaled = np.where(np.isfinite(scaled), scaled, np.float32(0.5))
    return np.clip(scaled, 0, 1, out=scaled)
