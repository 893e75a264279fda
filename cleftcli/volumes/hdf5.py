"""CREMI-layout and plain HDF5: read as it is, written only as one finished export.

A file that points at other files is refused: reading it could copy a stranger's bytes. Malformed
files have crashed the HDF5 library, so each is opened first by a process that may die of it.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from cleftcli.errors import InputError, UnsafeError
from cleftcli.geometry import Zyx, zyx
from cleftcli.volumes import metadata
from cleftcli.volumes.axes import Axes, Reading, arrange
from cleftcli.volumes.hdf5_chunks import Dataset
from cleftcli.volumes.hdf5_file import malformed, open_file
from cleftcli.volumes.hdf5_probe import BUILT_IN_FILTERS
from cleftcli.volumes.volume import Space, Volume, check_chunk

MOST_LINKS = 16  # a chain of soft links longer than this is a circle
FILE_FORMAT = "0.2"  # of the CREMI challenge


def list_arrays(path: str) -> list[str]:
    """Paths of the datasets with three axes or more in the file.

    Raises:
        InputError: they cannot be listed.
    """
    found: list[str] = []

    def visit(name: str | bytes, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 3 and isinstance(name, str):
            found.append(name)

    file = open_file(path)
    with malformed(path):
        file.visititems(visit)
    return sorted(found)


def open_array(path: str, dataset: str, reading: Reading) -> Volume:
    """The dataset at `dataset`.

    Raises:
        InputError: there is none, or its axes cannot be read as z, y, x.
        UnsafeError: it, or a group above it, lives in another file, or it needs a plugin.
    """
    address = f"{path}/{dataset}"
    item = find(path, dataset)
    if item is None:
        raise InputError(f"{address}: no such dataset")
    with malformed(address):
        if item.shape is None:
            raise InputError(f"{address}: holds no voxels")
        if item.external or item.is_virtual:
            raise UnsafeError(
                f"{address}: keeps its voxels in other files, and cleft follows no file elsewhere; "
                "copy them into one with h5repack"
            )
        _refuse_plugins(item, address)
        attributes = _attributes(item)
        names, source = _axis_names(item, attributes)
        _ = item.dtype, item.chunks
    axes = arrange(item.shape, names, source, reading, address)
    overruled = reading.voxel_size is not None
    space = metadata.read_space(attributes, order=axes.spatial, overruled=overruled)
    return _volume(path, item, axes, space, attributes)


def _attributes(item: h5py.Dataset) -> dict[str, Any]:
    """The attributes as JSON could hold them; those of types that numpy lacks are left out."""
    found = {}
    for name in item.attrs:
        try:
            found[str(name)] = _plain(item.attrs[name])
        except TypeError:
            continue
    return found


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, bool, int, float)) else None


def _refuse_plugins(item: h5py.Dataset, address: str) -> None:
    created = item.id.get_create_plist()
    for number in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(number)
        if code not in BUILT_IN_FILTERS:
            raise UnsafeError(
                f"{address}: is compressed by the plugin {name.decode(errors='replace') or code}, "
                "and cleft loads no code for data; rewrite it with `h5repack -f GZIP=4`"
            )


def _axis_names(item: h5py.Dataset, attributes: Mapping[str, Any]) -> tuple[Any, str]:
    """Ilastik's axistags, or HDF5's own labels."""
    if "axistags" in attributes:
        try:
            return [a["key"] for a in json.loads(attributes["axistags"])["axes"]], "axistags"
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"{item.name}: unreadable axistags: {error}") from error
    labels = [d.label for d in item.dims]
    return (labels, "labels") if all(labels) and labels else (None, "")


def find(path: str, dataset: str) -> h5py.Dataset | None:
    """The dataset of that name, by links within the file only; None where there is none.

    Raises:
        InputError: the groups on the way cannot be read.
        UnsafeError: the name leads to another file.
    """
    file = open_file(path)
    with malformed(f"{path}/{dataset}"):
        item = _follow(file, dataset, MOST_LINKS)
    return item if isinstance(item, h5py.Dataset) else None


def _follow(file: h5py.File, name: str, links: int) -> Any:
    item: Any = file
    for part in (p for p in name.split("/") if p):
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) and links else None
        if isinstance(link, h5py.ExternalLink):
            raise UnsafeError(
                f"{file.filename}/{name.lstrip('/')}: links to another file ({link.filename}); "
                "open that one instead"
            )
        if isinstance(link, h5py.SoftLink):
            item = _follow(file, posixpath.join(item.name, link.path), links - 1)
        else:
            item = item[part] if link is not None else None
    return item


def create_array(
    file: h5py.File,
    dataset: str,
    *,
    shape: Zyx,
    dtype: np.dtype,
    space: Space,
    attributes: Mapping[str, Any],
) -> Volume:
    """A new gzip dataset with the CREMI attributes in a file that is open for writing."""
    chunks = zyx([min(n, c) for n, c in zip(shape, (8, 256, 256), strict=True)])
    item = file.create_dataset(dataset, shape, dtype, chunks=chunks, compression="gzip")
    for name, value in {**metadata.cremi(space), **attributes}.items():
        item.attrs[name] = value
    file.attrs["file_format"] = FILE_FORMAT
    axes = arrange(shape, None, "as written", Reading(), file.filename)
    return _volume(file.filename, item, axes, space, attributes)


def _volume(
    path: str, item: h5py.Dataset, axes: Axes, space: Space, attributes: Mapping[str, Any]
) -> Volume:
    address = f"{path}{item.name}"
    chunks = item.chunks or item.shape
    if item.chunks:
        check_chunk(address, int(np.prod(item.chunks, dtype=object)), item.dtype)
    return Volume(
        address=address,
        format="hdf5",
        shape=axes.roi([0] * item.ndim, item.shape).shape,
        dtype=item.dtype.newbyteorder("="),
        chunks=axes.roi([0] * item.ndim, chunks).shape,
        space=space,
        array=Dataset(item, axes),
        attributes=attributes,
        codec=item.compression or "none",
        axes=str(axes),
    )
