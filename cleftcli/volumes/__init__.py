"""Volumes in every store a lab has, addressed by one string.

`sample_A.hdf/volumes/raw`, `fafb.n5/volumes/raw/s0`, `s3://bucket/a.zarr/raw`, or a container
alone. Voxels and metadata leave this room as zyx and nm, whoever wrote them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cleftcli.errors import CleftError, InputError
from cleftcli.geometry import Zyx
from cleftcli.volumes import chunked, creation, documents, hdf5, images, precomputed, tiff
from cleftcli.volumes.address import HDF5, TIFF, absolute, check_exists, split_address
from cleftcli.volumes.alignment import same_voxels
from cleftcli.volumes.axes import AS_STORED, Nm, Reading
from cleftcli.volumes.chunks import Scan
from cleftcli.volumes.metadata import scales
from cleftcli.volumes.stores import is_remote
from cleftcli.volumes.volume import Space, Volume, crop, in_memory, pad

__all__ = [
    "AS_STORED",
    "FORMATS",
    "Nm",
    "Reading",
    "Scan",
    "Space",
    "Volume",
    "absolute",
    "choose_format",
    "chunks_behind",
    "coarser_levels",
    "create_volume",
    "crop",
    "has_array",
    "in_memory",
    "is_ours",
    "is_remote",
    "list_volumes",
    "open_volume",
    "pad",
    "remove_array",
    "same_voxels",
    "split_address",
    "write_attributes",
    "write_levels",
]

MOST_LISTED = 12  # arrays to name in a message
choose_format = creation.choose_format
remove_array = creation.remove_array
write_attributes = creation.write_attributes
chunks_behind = creation.chunks_behind
write_levels = creation.write_levels


@dataclass(frozen=True)
class Format:
    """A kind of store.

    `holds` tells whether there is an array at a dataset of a container, `images` which arrays a
    group offers to be opened by its own name. Formats with suffixes can be written block by block.
    """

    list_arrays: Callable[[str], list[str]]
    open_array: Callable[[str, str, Reading], Volume]
    holds: Callable[[str, str], bool]
    images: Callable[[str, str], list[str]] = lambda _container, _group: []
    suffixes: tuple[str, ...] = ()


def _chunked(name: str) -> Format:
    layout = documents.LAYOUTS[name]

    def images(container: str, group: str) -> list[str]:
        found = scales(documents.read_attributes(container, group, layout))
        return [documents.inside(container, posixpath.join(group, path)) for path in found]

    return Format(
        list_arrays=partial(documents.list_arrays, format=name),
        open_array=lambda c, d, reading: chunked.open_array(c, d, name, reading),
        holds=lambda c, d: documents.is_array(c, d, layout),
        images=images,
        suffixes=(layout.suffix,),
    )


FORMATS: dict[str, Format] = {
    "zarr2": _chunked("zarr2"),
    "zarr3": _chunked("zarr3"),
    "n5": _chunked("n5"),
    "precomputed": Format(
        list_arrays=precomputed.list_arrays,
        open_array=precomputed.open_array,
        holds=lambda c, d: d in precomputed.list_arrays(c),
        images=lambda c, d: precomputed.list_arrays(c)[: not d],
    ),
    "hdf5": Format(
        list_arrays=hdf5.list_arrays,
        open_array=hdf5.open_array,
        holds=lambda c, d: hdf5.find(c, d) is not None,
    ),
    "tiff": Format(
        list_arrays=tiff.list_arrays,
        open_array=tiff.open_array,
        holds=lambda _, d: not d,
    ),
}


def open_volume(
    address: str, *, prefer: Sequence[str] = ("volumes/raw",), reading: Reading = AS_STORED
) -> Volume:
    """The volume at an address; its voxels are read when asked for, never changed.

    Args:
        address: container and dataset in one string, or a container alone: then the first of
            `prefer` that is there, else the finest scale of an OME-NGFF image or of a
            precomputed volume, else the only array.
        prefer: datasets to look for in a container.
        reading: voxel size in nm, axes and channel, where the store does not say or is wrong.

    Raises:
        InputError: nothing usable is there; the message lists what is.
        UnsafeError: an HDF5 file that points at other files, metadata that leave the container.
        UsageError: the reading does not fit the array.
    """
    container, dataset = split_address(address)
    format = _format_of(container, dataset)
    dataset = _resolve(container, dataset, format, prefer)
    with _named(posixpath.join(container, dataset)):
        volume = FORMATS[format].open_array(container, dataset, reading)
    if 0 in volume.shape:
        raise InputError(f"{volume.address}: the volume is empty, shape {volume.shape}")
    if volume.dtype.kind not in "biuf":
        raise InputError(f"{volume.address}: {volume.dtype} are no voxels")
    if reading.voxel_size is None:
        return volume
    stated = replace(volume.space, voxel_size=reading.voxel_size, source="--voxel-size")
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
    image: bool = True,
) -> Volume:
    """A new volume of zeros in a zarr or N5 container, made if it is not there.

    Args:
        address: container and dataset, e.g. `out.zarr/cleft`.
        shape: voxels.
        dtype: as stored.
        chunks: voxels.
        space: voxel size and offset, nm.
        attributes: stored with the array.
        format: see `choose_format`.
        image: whether the group above declares it as an image of its own (OME-NGFF, not N5).

    Raises:
        ResourceError: the disk is full, or may not be written.
        UsageError: as `choose_format`, or another array is in the way.
    """
    container, dataset = split_address(address)
    return creation.create_array(
        container,
        dataset,
        choose_format(address, format, np.dtype(dtype)),
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=chunks,
        space=space,
        attributes=attributes or {},
        image=image,
    )


def list_volumes(address: str) -> list[str]:
    """Addresses of the arrays in the container, or below the group, at an address."""
    container, group = split_address(address)
    format = FORMATS[_format_of(container, group)]
    if group and format.holds(container, group):
        return [address]  # a server that cannot list may still be asked
    found = format.list_arrays(container)
    inside = [d for d in found if not group or d == group or d.startswith(group + "/")]
    return [posixpath.join(container, d) if d else container for d in inside]


def coarser_levels(volume: Volume) -> list[Volume]:
    """The coarser scales of the image that a volume is the finest of, from fine to coarse.

    Raises:
        InputError: one that is named is not there.
        UnsafeError: metadata that leave the container.
    """
    if volume.format not in documents.LAYOUTS:
        return []
    container, dataset = split_address(volume.address)
    return [
        open_volume(posixpath.join(container, path))
        for path in images.levels(container, dataset, volume.format)
    ]


def has_array(address: str) -> bool:
    """Whether a local container holds an array at an address."""
    container, dataset = split_address(address)
    if not Path(container).exists():
        return False
    try:
        return FORMATS[_format_of(container, dataset)].holds(container, dataset)
    except InputError:
        return False


def is_ours(address: str) -> bool:
    """Whether the array at an address says that cleft made it."""
    try:
        made_by = open_volume(address).attributes.get("made_by", "")
    except InputError:
        return False
    return str(made_by).startswith("cleft")


def _format_of(container: str, dataset: str) -> str:
    check_exists(container)
    if container.endswith((*HDF5, *TIFF)):
        if is_remote(container):
            raise InputError(f"{container}: HDF5 and TIFF are read from disk; fetch the file first")
        return "hdf5" if container.endswith(HDF5) else "tiff"
    path = Path(container)
    if not is_remote(container) and path.is_file() and not container.endswith(".zip"):
        if h5py.is_hdf5(container):
            return "hdf5"
        raise InputError(f"{container}: not a zarr, N5, precomputed, HDF5 or TIFF store")
    found = documents.detect(container, dataset)
    if found is None and not is_remote(container) and tiff.detect(container):
        return "tiff"
    if found is None:
        raise InputError(f"{container}: not a zarr, N5, precomputed, HDF5 or TIFF store")
    return found


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Errors of what is read on the way say of which volume."""
    try:
        yield
    except InputError as error:
        known = split_address(address)[0] in str(error)
        raise error if known else InputError(f"{address}: {error}") from error


def _resolve(container: str, dataset: str, format: str, prefer: Sequence[str]) -> str:
    """The dataset to open: the one named, or the one meant where a group is named."""
    known = FORMATS[format]
    for wanted in (dataset, *(posixpath.join(dataset, p) for p in prefer)):
        if known.holds(container, wanted):
            return wanted
    images = known.images(container, dataset)
    if len(images) == 1:
        return images[0]
    arrays = known.list_arrays(container)
    below = [a for a in arrays if not dataset or a.startswith(dataset + "/")]
    if len(below) == 1:
        return below[0]
    raise InputError(_choices(container, dataset, format, images or below or arrays))


def _choices(container: str, dataset: str, format: str, arrays: list[str]) -> str:
    address = posixpath.join(container, dataset) if dataset else container
    if not arrays:
        return f"{address}: holds no three-dimensional array"
    what = "no such dataset" if dataset and dataset not in arrays else "several arrays"
    if dataset and any(a.startswith(dataset + "/") for a in arrays):
        what = "a group, not an array"
    shown = ", ".join(_describe(container, a, format) for a in arrays[:MOST_LISTED])
    more = f" and {len(arrays) - MOST_LISTED} more" if len(arrays) > MOST_LISTED else ""
    return f"{address}: {what}; {container} has {shown}{more}. Try: {container}/{arrays[0]}"


def _describe(container: str, dataset: str, format: str) -> str:
    try:
        found = FORMATS[format].open_array(container, dataset, AS_STORED)
    except CleftError:
        return dataset
    return f"{dataset} ({'x'.join(map(str, found.shape))} {found.dtype})"
