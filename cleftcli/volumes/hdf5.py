"""CREMI-layout HDF5: read as it is, written only as one finished export.

A file that points at other files is refused: reading it could copy a stranger's bytes.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cleftcli.errors import InputError, UnsafeError
from cleftcli.geometry import Zyx, zyx
from cleftcli.volumes import metadata
from cleftcli.volumes.volume import Slices, Space, Volume

MOST_LINKS = 16  # a chain of soft links longer than this is a circle
FILE_FORMAT = "0.2"  # of the CREMI challenge
CACHE_BYTES = 100_000_000  # per dataset: h5py's own 1 MB decodes the same gzip chunks over and over


@functools.lru_cache(maxsize=16)
def _file(path: str, _changed: int) -> h5py.File:
    try:
        return h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES)
    except OSError as error:
        raise InputError(
            f"{path}: not readable as HDF5 (truncated, still open elsewhere, or another kind of "
            f"file): {error}"
        ) from error


def open_file(path: str) -> h5py.File:
    """The file, opened read-only, once per process and version of the file.

    Raises:
        InputError: it does not exist or is not HDF5.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    return _file(path, Path(path).stat().st_mtime_ns)


class Dataset:
    """An HDF5 dataset as zyx boxes."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset

    def read(self, slices: Slices) -> np.ndarray:
        """The voxels in a box."""
        return np.asarray(self.dataset[slices])

    def write(self, slices: Slices, data: np.ndarray) -> None:
        """Store a box; on disk once the file is closed."""
        self.dataset[slices] = data


def list_arrays(path: str) -> list[str]:
    """Paths of the three-dimensional datasets in the file."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 3:
            found.append(name)

    open_file(path).visititems(visit)
    return sorted(found)


def open_array(path: str, dataset: str) -> Volume:
    """The dataset at `dataset`.

    Raises:
        InputError: there is none, or it is not three-dimensional.
        UnsafeError: it, or a group above it, lives in another file.
    """
    item = find(path, dataset)
    if item is None:
        raise InputError(f"{path}/{dataset}: no such dataset")
    if item.external or item.is_virtual:
        raise UnsafeError(f"{path}/{dataset}: keeps its voxels in other files")
    if item.ndim != 3:
        raise InputError(f"{path}/{dataset}: expected axes z, y, x; got shape {item.shape}")
    attributes = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in item.attrs.items()}
    return _volume(path, item, metadata.read_space(attributes), attributes)


def find(path: str, dataset: str) -> h5py.Dataset | None:
    """The dataset of that name, by links within the file only; None where there is none.

    Raises:
        UnsafeError: the name leads to another file.
    """
    item = _follow(open_file(path), dataset, MOST_LINKS)
    return item if isinstance(item, h5py.Dataset) else None


def _follow(file: h5py.File, name: str, links: int) -> Any:
    item: Any = file
    for part in (p for p in name.split("/") if p):
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) and links else None
        if isinstance(link, h5py.ExternalLink):
            raise UnsafeError(f"{file.filename}/{name}: links to another file ({link.filename})")
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
    return _volume(file.filename, item, space, attributes)


def _volume(path: str, item: h5py.Dataset, space: Space, attributes: Mapping[str, Any]) -> Volume:
    return Volume(
        address=f"{path}{item.name}",
        format="hdf5",
        shape=zyx(item.shape),
        dtype=item.dtype,
        chunks=zyx(item.chunks or item.shape),
        space=space,
        array=Dataset(item),
        attributes=attributes,
        codec=item.compression or "none",
    )
