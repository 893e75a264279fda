"""What is in a store, a checkpoint or a run folder: facts, and problems that can be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cleftcli.errors import CleftError
from cleftcli.geometry import Roi, zyx
from cleftcli.volumes import Volume, list_volumes, open_volume

SAMPLED_SECTIONS = 8


def info(path: str) -> dict[str, Any]:
    """Describe what is at an address: {"kind", ...}, ready for JSON.

    A store lists its arrays: shape, dtype, chunks, codec, voxel size and offset in nm and where
    they are stated, intensities of a few sections, and warnings. A checkpoint tells its network,
    training data and held-out scores.

    Raises:
        InputError: nothing there can be read.
    """
    local = Path(path)
    if local.is_dir() and (local / "checkpoint.safetensors").is_file():
        local = local / "checkpoint.safetensors"
    if local.suffix == ".safetensors":
        return {"kind": "checkpoint", "path": str(local), **_checkpoint(local)}
    addresses = list_volumes(path)
    return {"kind": "store", "path": path, "arrays": [_array(a) for a in addresses]}


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
        "parameters": sum(w.numel() for w in weights.values()),
        "licence": found.training.get("licence", ""),
        "held_out": found.training.get("held_out", {}),
        "version": found.version,
    }


def _array(address: str) -> dict[str, Any]:
    try:
        volume = open_volume(address)
    except CleftError as error:
        return {"address": address, "error": str(error)}
    facts: dict[str, Any] = {
        "address": address,
        "format": volume.format,
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "chunks": list(volume.chunks),
        "codec": volume.codec,
        "voxel_size": None if volume.space.voxel_size is None else list(volume.space.voxel_size),
        "offset": list(volume.space.offset),
        "space_from": volume.space.source,
    }
    for name in ("content", "threshold", "complete"):
        if name in volume.attributes:
            facts[name] = volume.attributes[name]
    return {**facts, **_sample(volume)}


def _sample(volume: Volume) -> dict[str, Any]:
    """Range of a few sections, and what looks wrong."""
    depth, height, width = volume.shape
    chosen = np.unique(np.linspace(0, depth - 1, SAMPLED_SECTIONS).astype(int)).tolist()
    side = zyx([1, min(height, 1024), min(width, 1024)])
    corner = ((height - side[1]) // 2, (width - side[2]) // 2)
    low, high, constant, strange = [], [], [], []
    for z in chosen:
        section = volume.read(Roi((z, *corner), side))
        finite = section[np.isfinite(section)]
        strange += [z] if finite.size < section.size else []
        constant += [z] if finite.size and finite.min() == finite.max() else []
        low += [finite.min()] if finite.size else []
        high += [finite.max()] if finite.size else []
    warnings = [] if volume.space.voxel_size else ["the voxel size is not stated"]
    size = volume.space.voxel_size
    if size is not None and size[0] < max(size):
        warnings.append("z is not the coarsest axis: are the axes z, y, x?")
    if constant and len(constant) < len(chosen):
        warnings.append(f"sections without contrast: {constant}")
    if volume.attributes.get("complete") is False:
        warnings.append("not finished")
    if strange:
        warnings.append(f"sections with NaN or inf: {strange}")
    return {
        "sampled_sections": chosen,
        "min": min(low).item() if low else None,
        "max": max(high).item() if high else None,
        "warnings": warnings,
    }
