"""What is in a store, a checkpoint or a run folder: facts, and problems that can be seen."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli.errors import CleftError
from cleftcli.inspection import Sample, doubts, look
from cleftcli.volumes import Reading, Volume, list_volumes, open_volume
from cleftcli.volumes.intensity import intensity_range


def info(path: str, reading: Reading) -> dict[str, Any]:
    """Describe what is at an address: {"kind", ...}, ready for JSON.

    A store lists its arrays: shape, dtype, chunks, codec, axes, voxel size and offset in nm and
    where they are stated, chunks that are missing or damaged (none is decoded), intensities of a
    few sections with their histogram, and warnings. A checkpoint tells its network, training data
    and held-out scores.

    Raises:
        InputError: nothing there can be read.
    """
    local, inside = Path(path), Path(path, "checkpoint.safetensors")
    local = inside if os.path.isfile(inside) else local  # noqa: PTH113 - names may be too long
    if local.suffix == ".safetensors":
        return {"kind": "checkpoint", "path": str(local), **_checkpoint(local)}
    addresses = list_volumes(path) or [path]
    found = [_array(a, reading) for a in addresses]
    if all(isinstance(each, CleftError) for each in found):
        raise found[0]  # type: ignore[misc]
    told = [_told(a, each) for a, each in zip(addresses, found, strict=True)]
    return {"kind": "store", "path": path, "arrays": told}


def _told(address: str, found: dict[str, Any] | CleftError) -> dict[str, Any]:
    return {"address": address, "error": str(found)} if isinstance(found, CleftError) else found


def _checkpoint(path: Path) -> dict[str, Any]:
    from cleftcli.model import checkpoint

    found, weights = checkpoint.load(path)
    return {
        "network": found.network,
        "options": dict(found.options),
        "input_shape": list(found.input_shape),
        "objective": found.objective,
        "voxel_size": list(found.voxel_size),
        "step": found.step,
        "threshold": found.threshold,
        "intensities": list(found.intensities),
        "parameters": sum(w.numel() for w in weights.values()),
        "query_correlation": found.query_correlation,
        "licence": found.training.get("licence", ""),
        "held_out": found.training.get("held_out", {}),
        "version": found.version,
    }


def _array(address: str, reading: Reading) -> dict[str, Any] | CleftError:
    """The facts of an array, or why there are none."""
    try:
        volume = open_volume(address, reading=reading)
        scan = volume.scan()
    except CleftError as error:
        return error
    size = volume.space.voxel_size
    facts: dict[str, Any] = {
        "address": address,
        "format": volume.format,
        "shape": list(volume.shape),
        "axes": volume.axes,
        "dtype": str(volume.dtype),
        "chunks": list(volume.chunks),
        "codec": volume.codec,
        "voxel_size": None if size is None else list(size),
        "offset": list(volume.space.offset),
        "space_from": volume.space.source,
    }
    for name in ("content", "threshold", "complete"):
        if name in volume.attributes:
            facts[name] = volume.attributes[name]
    sample = look(volume)
    counted = scan.summary()
    facts |= {
        "stored_chunks": counted["chunks"],
        "missing_chunks": counted["missing"],
        "first_missing": counted["first_missing"],
        "damaged_chunks": counted["damaged"],
        "first_damaged": counted["first_damaged"],
    }
    return {**facts, **_intensities(volume, sample), "warnings": _warnings(volume, sample, facts)}


def _intensities(volume: Volume, sample: Sample) -> dict[str, Any]:
    """Range of the sections looked at, and their histogram; of ids, how many and the commonest."""
    values = sample.values
    facts: dict[str, Any] = {"sampled_sections": sample.sections}
    if not values.size:
        return {**facts, "min": None, "max": None, "histogram": []}
    low, high = values.min().item(), values.max().item()
    facts |= {"min": low, "max": high}
    if _are_ids(volume):
        found, counts = np.unique(values, return_counts=True)
        commonest, share = found[counts.argmax()].item(), counts.max().item() / values.size
        return {**facts, "ids": len(found), "commonest_id": commonest, "its_share": share}
    try:
        black_white = intensity_range(volume)
    except CleftError:
        black_white = (float(low), float(high))
    if not math.isfinite(black_white[1] - black_white[0]):
        return {**facts, "histogram": []}
    histogram = sample.histogram(black_white)
    return {**facts, "histogram_range": list(black_white), "histogram": histogram}


def _are_ids(volume: Volume) -> bool:
    return volume.dtype.kind in "iu" and volume.dtype.itemsize >= 4


def _warnings(volume: Volume, sample: Sample, facts: dict[str, Any]) -> list[str]:
    found = doubts(volume)
    for what, count, named in (
        ("missing, read as 0", facts["missing_chunks"], facts["first_missing"]),
        ("damaged", facts["damaged_chunks"], facts["first_damaged"]),
    ):
        if count:
            found.append(f"{count} of {facts['stored_chunks']} chunks {what}: {named[0]}")
    if facts["missing_chunks"] is None:
        found.append("the store cannot list its chunks: missing ones are not counted")
    image = "content" not in volume.attributes and not _are_ids(volume)
    for what, sections in (
        ("without contrast", sample.constant if image else []),
        ("with NaN or inf", sample.strange),
        ("that cannot be read", sample.unreadable),
    ):
        if sections:
            found.append(f"sections {what}, of {len(sample.sections)} looked at: {sections}")
    return found
