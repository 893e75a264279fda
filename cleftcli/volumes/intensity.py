"""From stored intensities to what a network sees: one rule per dtype, never per block or tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from cleftcli.errors import InputError
from cleftcli.volumes.volume import Volume

Range = tuple[float, float]
Rule = Callable[[np.ndarray, Range], np.ndarray]
BY_DTYPE: dict[str, Range] = {"uint8": (0.0, 255.0), "bool": (0.0, 1.0)}
LEVELS = np.arange(256, dtype=np.uint8)
AT_ONCE = 1 << 14  # voxels to look up: numpy makes 8 bytes of each, which stay in the cache
# int8 is most often uint8 moved by half its range; which it is, nobody can tell from a dark crop
EXAMPLES = {"uint16": "0,65535", "int16": "-32768,32767", "int8": "-128,127"}


def intensity_range(volume: Volume, stated: Range | None = None) -> Range:
    """The intensities that mean black and white: as stated, by the attributes, or by the dtype.

    uint8 runs from 0 to 255 and bool from 0 to 1; white may be below black, where contrast is
    inverted.

    Raises:
        InputError: the dtype does not tell and nobody says what is black and white, or what is
            said is no range.
    """
    if stated is None:
        stated = _of_attributes(volume)
    if stated is None:
        stated = BY_DTYPE.get(volume.dtype.name)
    if stated is None:
        raise InputError(
            f"{volume.address} is {volume.dtype.name}; state which intensities are black and white,"
            f" e.g. --intensity-range {EXAMPLES.get(volume.dtype.name, '0,1')}"
        )
    if stated[0] == stated[1] or not math.isfinite(stated[1] - stated[0]):
        raise InputError(
            f"{volume.address}: intensity range {stated} is empty or endless; "
            "state another with --intensity-range"
        )
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
        raise InputError(
            f"{volume.address}: {stated!r} is no intensity range; state it with --intensity-range"
        ) from error


def unit(raw: np.ndarray, black_white: Range) -> np.ndarray:
    """Intensities as float32 in [0, 1], black to white, clipped; NaN and inf become 0.5 (grey)."""
    return _by_level(_unit, raw, black_white)


def centred(raw: np.ndarray, black_white: Range) -> np.ndarray:
    """As `unit`, in [-1, 1]: what a network sees; grey is 0."""
    return _by_level(_centred, raw, black_white)


def _by_level(rule: Rule, raw: np.ndarray, black_white: Range) -> np.ndarray:
    """A rule for single voxels; of uint8 it is asked for each level once, then looked up."""
    if raw.dtype != np.uint8 or raw.size <= LEVELS.size:
        return rule(raw, black_white)
    levels, found = rule(LEVELS, black_white), np.empty(raw.shape, np.float32)
    source, target = raw.reshape(-1), found.reshape(-1)
    for n in range(0, raw.size, AT_ONCE):
        part = slice(n, n + AT_ONCE)
        np.take(levels, source[part], out=target[part], mode="clip")
    return found


def _centred(raw: np.ndarray, black_white: Range) -> np.ndarray:
    return _unit(raw, black_white) * 2 - 1


def _unit(raw: np.ndarray, black_white: Range) -> np.ndarray:
    low, high = black_white
    # float32 holds 8 and 16 bits exactly; wider numbers could lose their levels in it
    exact: np.ndarray = raw.astype(np.float32 if raw.dtype.itemsize <= 2 else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is clipped, NaN is grey
        scaled: np.ndarray = np.clip((exact - low) / (high - low), 0, 1).astype(np.float32)
    if raw.dtype.kind == "f":
        scaled[~np.isfinite(raw)] = 0.5
    return scaled
