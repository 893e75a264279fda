"""What CREMI's scorer expects of a submission, and what it would trip over in a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli.geometry import BlockPlan, Roi, fit_block
from cleftcli.labels import BACKGROUND, IGNORE
from cleftcli.volumes import Volume, open_volume

DATASET = "volumes/labels/clefts"
PADDED_SHAPE = (200, 3072, 3072)
CROPPED = Roi((37, 911, 911), (125, 1250, 1250))  # of the padded test volumes
VOXEL_SIZE = (40.0, 4.0, 4.0)
BLOCK_VOXELS = 2**24
_SAMPLE = re.compile(r"(?:^|[^A-Za-z])([ABC]\+?)(?:[^A-Za-z+]|$)")


def sample_name(address: str) -> str:
    """A file name after the challenge's sample that a prediction is named after, else its own."""
    stem = Path(address).name.split(".")[0]
    found = _SAMPLE.search(stem)
    return f"sample_{found[1]}.hdf" if found else f"{stem}.hdf"


def check(path: Path) -> dict[str, Any]:
    """Read a submission as a stranger would; returns its facts, `problems` and `remarks`.

    A problem is what the scorer would fail on or count wrongly; a remark is what only differs
    from the challenge's own files.

    Raises:
        InputError: no readable HDF5 file, or no such dataset in it.
        UnsafeError: it points at other files.
    """
    volume = open_volume(f"{path}/{DATASET}")
    counts = _counts(volume)
    total = volume.roi.size
    clefts = total - counts["background"]
    facts = {
        "file": str(path),
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "voxel_size": volume.space.voxel_size and list(volume.space.voxel_size),
        "offset": list(volume.space.offset),
        "cleft_voxels": clefts,
    }
    return {**facts, "problems": _problems(volume, counts, clefts), "remarks": _remarks(volume)}


def _counts(volume: Volume) -> dict[str, int]:
    """Voxels of the background, ignored ones, and zeros."""
    found = {"background": 0, "ignored": 0, "zero": 0}
    plan = BlockPlan(volume.roi, fit_block(volume.shape, volume.chunks, BLOCK_VOXELS))
    for block in plan:
        ids = volume.read(block.write)
        if ids.dtype == np.uint64:
            found["background"] += int((ids == BACKGROUND).sum())
            found["ignored"] += int((ids == IGNORE).sum())
        found["zero"] += int((ids == 0).sum())
    return found


def _problems(volume: Volume, counts: dict[str, int], clefts: int) -> list[str]:
    """What is counted wrongly or not at all."""
    total, size = volume.roi.size, volume.space.voxel_size
    zero, ignored = counts["zero"], counts["ignored"]
    found = {
        f"ids are {volume.dtype}, not uint64: nothing equals the background 2^64-1": (
            volume.dtype != np.uint64
        ),
        f"{zero} voxels ({100 * zero / total:.1f} %) are 0, which counts as a cleft": zero > 0,
        f"{ignored} voxels are 2^64-2, which counts as a cleft in a submission": ignored > 0,
        "no cleft at all: the distances are not defined": clefts == 0,
        "every voxel is cleft: the background should be 2^64-1": clefts == total,
        "attribute `resolution` is missing: the scorer measures with it": size is None,
        f"resolution {size} looks like x, y, z: the scorer takes z, y, x": (
            size is not None and size[0] < size[2]
        ),
        f"padded frame {PADDED_SHAPE}: cut it to {CROPPED.shape} with --padded": (
            volume.shape == PADDED_SHAPE
        ),
    }
    return [text for text, holds in found.items() if holds]


def _remarks(volume: Volume) -> list[str]:
    """What differs from the challenge's own files."""
    size, offset = volume.space.voxel_size, volume.space.offset
    found = {
        f"shape {volume.shape} is not that of the challenge, {CROPPED.shape}": (
            volume.shape not in (CROPPED.shape, PADDED_SHAPE)
        ),
        f"resolution {size} is not that of the challenge, {VOXEL_SIZE} nm": (
            size is not None and size != VOXEL_SIZE
        ),
        f"offset {offset} nm is not zero": any(offset),
    }
    return [text for text, holds in found.items() if holds]
