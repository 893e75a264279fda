"""Volumes in every store a lab has, addressed by one string.

`sample_A.hdf/volumes/raw`, `fafb.n5/volumes/raw/s0`, `s3://bucket/a.zarr/raw`, or a container
alone. Voxels and metadata leave this room as zyx and nm, whoever wrote them.
"""

from __future__ import annotations

import difflib
import posixpath
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli.errors import InputError, UsageError
from cleftcli.geometry import Zyx
from cleftcli.volumes import chunked, documents, hdf5
from cleftcli.volumes.metadata import scales
from cleftcli.volumes.volume import Nm, Space, Volume, crop, in_memory

__all__ = [
    "FORMATS",
    "Nm",
    "Space",
    "Volume",
    "create_volume",
    "crop",
    "in_memory",
    "is_ours",
    "is_remote",
    "list_volumes",
    "open_volume",
    "remove_container",
    "split_address",
    "write_attributes",
]

write_attributes = chunked.write_attributes


@dataclass(frozen=True)
class Format:
    """A kind of store: how its containers are named, listed and opened."""

    suffixes: tuple[str, ...]
    list_arrays: Callable[[str], list[str]]
    open_array: Callable[[str, str], Volume]
    writable: bool = True


def _chunked(name: str, *suffixes: str) -> Format:
    return Format(
        suffixes,
        partial(documents.list_arrays, format=name),
        partial(chunked.open_array, format=name),
    )


FORMATS: dict[str, Format] = {
    "zarr2": _chunked("zarr2", ".zarr"),
    "zarr3": _chunked("zarr3", ".zarr"),
    "n5": _chunked("n5", ".n5"),
    "hdf5": Format((".hdf", ".h5", ".hdf5"), hdf5.list_arrays, hdf5.open_array, writable=False),
}


def open_volume(
    address: str, *, prefer: Sequence[str] = ("volumes/raw",), voxel_size: Nm | None = None
) -> Volume:
    """The volume at an address; its voxels are read when asked for, never changed.

    Args:
        address: container and dataset in one string, or a container alone: then the first of
            `prefer` that is there, else the finest scale of an OME-NGFF image, else the only array.
        prefer: datasets to look for in a container.
        voxel_size: nm, zyx; used instead of what the store says.

    Raises:
        InputError: nothing usable is there; the message lists what is.
        UnsafeError: an HDF5 file that points at other files.
    """
    container, dataset = split_address(address)
    format = _format_of(container)
    dataset = _resolve(container, dataset, format, prefer)
    volume = FORMATS[format].open_array(container, dataset)
    if 0 in volume.shape:
        raise InputError(f"{volume.address}: the volume is empty, shape {volume.shape}")
    if voxel_size is None:
        return volume
    stated = replace(volume.space, voxel_size=voxel_size, source="--voxel-size")
    return replace(volume, space=stated)


def create_volume(
    address: str,
    *,
    shape: Zyx,
    dtype: np.dtype | type,
    chunks: Zyx,
    space: Space,
    attributes: Mapping[str, Any] | None = None,
    format: str | None = None,
) -> Volume:
    """A new volume of zeros in a zarr or N5 container, made if it is not there.

    Args:
        address: container and dataset, e.g. `out.zarr/cleft`.
        shape: voxels.
        dtype: as stored.
        chunks: voxels.
        space: voxel size and offset, nm.
        attributes: stored with the array.
        format: a writable one of FORMATS; by default zarr v2, or N5 by the container's suffix.

    Raises:
        UsageError: no such format can be written block by block.
    """
    container, dataset = split_address(address)
    known = [n for n, f in FORMATS.items() if f.writable and container.endswith(f.suffixes)]
    if not known or (format or known[0]) not in known:
        raise UsageError(f"{container}: blockwise output goes to a .zarr or .n5 container")
    return chunked.create_array(
        container,
        dataset,
        format or known[0],
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=chunks,
        space=space,
        attributes=attributes or {},
    )


def list_volumes(address: str) -> list[str]:
    """Addresses of the arrays in the container, or below the group, at an address."""
    container, group = split_address(address)
    found = FORMATS[_format_of(container)].list_arrays(container)
    inside = [d for d in found if not group or d == group or d.startswith(group + "/")]
    return [posixpath.join(container, d) if d else container for d in inside]


def split_address(address: str) -> tuple[str, str]:
    """Container and dataset of an address; the dataset is "" where it names a container alone.

    The container ends at the last path component with a known suffix; without one, it is the
    outermost folder of the path that holds a store's documents.

    Raises:
        UsageError: the dataset climbs out of its container.
    """
    text = address.rstrip("/") if "://" in address else str(Path(address).expanduser())
    parts = text.split("/")
    suffixes = tuple(s for f in FORMATS.values() for s in f.suffixes)
    ends = [n for n, part in enumerate(parts, 1) if part.endswith(suffixes)]
    ends = (
        ends
        or [
            n
            for n in range(1, len(parts) + 1)
            if not is_remote(text) and documents.detect("/".join(parts[:n]) or "/")
        ][:1]
    )
    container, dataset = (
        "/".join(parts[: ends[-1]] if ends else parts),
        parts[ends[-1] :] if ends else [],
    )
    if ".." in dataset:
        raise UsageError(f"{address}: a dataset may not contain '..'")
    return container, "/".join(p for p in dataset if p)


def is_remote(address: str) -> bool:
    """Whether an address is a URL rather than a path."""
    return "://" in address


def is_ours(address: str) -> bool:
    """Whether the array at an address says that cleft made it."""
    try:
        made_by = open_volume(address).attributes.get("made_by", "")
    except InputError:
        return False
    return str(made_by).startswith("cleft")


def remove_container(address: str) -> None:
    """Delete a local container of ours with all that is in it."""
    shutil.rmtree(split_address(address)[0])


def _format_of(container: str) -> str:
    if not is_remote(container) and not Path(container).exists():
        raise InputError(f"{container}: no such file or folder{_siblings(Path(container))}")
    if container.endswith(FORMATS["hdf5"].suffixes):
        return "hdf5"
    found = documents.detect(container)
    if found is None:
        raise InputError(f"{container}: not a zarr, N5 or HDF5 store")
    return found


def _siblings(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _resolve(container: str, dataset: str, format: str, prefer: Sequence[str]) -> str:
    """The dataset to open: the one named, or the one meant where a group is named."""
    wanted = [dataset, *(posixpath.join(dataset, p) for p in prefer)]
    if format == "hdf5":
        arrays = hdf5.list_arrays(container)
        found = [d for d in wanted if hdf5.find(container, d) is not None]
    else:
        layout = documents.LAYOUTS[format]
        found = [d for d in wanted if documents.is_array(container, d, layout)]
        multiscale = scales(documents.read_attributes(container, dataset, layout))
        found += [posixpath.normpath(posixpath.join(dataset, s["path"])) for s in multiscale[:1]]
        arrays = [] if found else documents.list_arrays(container, format)
    if found:
        return found[0]
    below = [a for a in arrays if not dataset or a.startswith(dataset + "/")]
    if len(below) == 1:
        return below[0]
    raise InputError(_choices(container, dataset, below or arrays))


def _choices(container: str, dataset: str, arrays: list[str]) -> str:
    address = posixpath.join(container, dataset) if dataset else container
    if not arrays:
        return f"{address}: holds no three-dimensional array"
    what = "no such dataset" if dataset else "several arrays"
    shown = ", ".join(arrays[:12])
    return f"{address}: {what}; {container} has {shown}. Try: {container}/{arrays[0]}"
