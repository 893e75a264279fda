"""From stored intensities to what a network sees: one rule per dtype, never per block or tile."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from cleftcli.errors import InputError
from cleftcli.volumes.volume import Volume

Range = tuple[float, float]


def intensity_range(volume: Volume, stated: Range | None = None) -> Range:
    """The intensities that mean black and white: as stated, by the attributes, or 0..255 for uint8.

    Raises:
        InputError: the volume is not uint8 and nobody says what its black and white are, or what
            is said is no range.
    """
    if stated is None:
        stated = _of_attributes(volume)
    if stated is None and volume.dtype == np.uint8:
        stated = (0.0, 255.0)
    if stated is None:
        raise InputError(
            f"{volume.address} is {volume.dtype}; state which intensities are black and white, "
            "e.g. --intensity-range 0,65535"
        )
    if not -math.inf < stated[0] < stated[1] < math.inf:
        raise InputError(f"{volume.address}: intensity range {stated} is empty or endless")
    return stated


def _of_attributes(volume: Volume) -> Range | None:
    """Paintera's contrastAdjustment, or intensity_range."""
    stated = volume.attributes.get("contrastAdjustment", volume.attributes.get("intensity_range"))
    if stated is None:
        return None
    try:
        low, high = (stated["min"], stated["max"]) if isinstance(stated, Mapping) else stated
        return float(low), float(high)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{volume.address}: {stated!r} is no intensity range") from error


def unit(raw: np.ndarray, black_white: Range) -> np.ndarray:
    """Intensities as float32 in [0, 1], black to white, clipped; NaN and inf become 0.5 (grey)."""
    low, high = black_white
    # float32 holds 8 and 16 bits exactly; wider numbers could lose their levels in it
    exact: np.ndarray = raw.astype(np.float32 if raw.dtype.itemsize <= 2 else np.float64)
    scaled: np.ndarray = np.clip((exact - low) / (high - low), 0, 1).astype(np.float32)
    if raw.dtype.kind == "f":
        scaled[~np.isfinite(raw)] = 0.5
    return scaled
