"""New arrays in zarr v2, zarr v3 and N5, with metadata that others read too."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from cleftcli.errors import UsageError
from cleftcli.geometry import Zyx
from cleftcli.volumes import metadata, stores
from cleftcli.volumes.address import split_address
from cleftcli.volumes.axes import AS_STORED, arrange
from cleftcli.volumes.chunked import WRITE_ZEROS, Chunked, chunks_of, volume_of
from cleftcli.volumes.documents import (
    LAYOUTS,
    NAMES,
    detect,
    is_array,
    list_arrays,
    merge_attributes,
    parents,
    read_attributes,
    read_document,
    write_document,
)
from cleftcli.volumes.images import levels, write_image
from cleftcli.volumes.scan import Chunks
from cleftcli.volumes.volume import Space, Volume
from cleftcli.volumes.writing import writing

LACKS = {"n5": ("bool", "float16")}  # dtypes that a format has no name for


def choose_format(address: str, asked: str | None, dtype: np.dtype) -> str:
    """The format to write an array in: as asked, else its container's, else by the suffix.

    That is zarr2 for .zarr.

    Raises:
        UsageError: there is no such format, the container's name is of another, the format cannot
            hold the dtype, or the container holds other arrays in another format, which nobody
            would see any more.
    """
    container, dataset = split_address(address)
    if asked is not None and asked not in LAYOUTS:
        raise UsageError(f"format {asked!r}: {', '.join(LAYOUTS)}")
    known = [name for name, layout in LAYOUTS.items() if container.endswith(layout.suffix)]
    if not known:
        raise UsageError(f"{container}: blockwise output goes to a .zarr or .n5 container")
    there = detect(container) if Path(container).is_dir() else None
    chosen = asked or (there if there in known else known[0])
    if chosen not in known:
        raise UsageError(f"{container}: {chosen} goes to {LAYOUTS[chosen].suffix}")
    if dtype.name in LACKS.get(chosen, ()):
        raise UsageError(f"{container}: {chosen} has no {dtype.name}; a .zarr has")
    if there in LAYOUTS and there != chosen:
        others = [name for name in list_arrays(container, there) if name != dataset]
        if others:
            raise UsageError(f"{container} holds {there}: {others[0]}; {chosen} goes elsewhere")
    return chosen


def create_array(
    container: str,
    dataset: str,
    format: str,
    *,
    shape: Zyx,
    dtype: np.dtype,
    chunks: Zyx,
    space: Space,
    attributes: Mapping[str, Any],
    image: bool = True,
) -> Volume:
    """An array of zeros, with the groups above it and, for an `image`, OME-NGFF metadata.

    One that is there already with the same shape, dtype and chunks is kept.

    Raises:
        ResourceError: the disk is full, or may not be written.
        UsageError: the format has no such dtype, or another array is there.
    """
    layout = LAYOUTS[format]
    _check_place(container, dataset, format)
    there = is_array(container, dataset, layout)
    spec = {
        "driver": layout.driver,
        "kvstore": stores.spec(container, dataset),
        "metadata": _METADATA[format](shape, dtype, chunks),
        **WRITE_ZEROS,
    }
    try:
        # opened where a killed run has left it already
        with writing(f"{container}/{dataset}"):
            stored = ts.open(spec, context=stores.context(), create=True, open=True).result()
    except ValueError as error:
        raise UsageError(f"{container}/{dataset}: {format} cannot hold it: {error}") from error
    for parent in parents(dataset):
        if read_document(container, posixpath.join(parent, layout.group)) is None:
            write_document(container, posixpath.join(parent, layout.group), layout.empty_group)
    if image and format != "n5" and dataset:
        scales = {posixpath.basename(dataset): space}
        write_image(container, dataset, format, scales, keep=there)
    attributes = {**metadata.cremi(space, order=layout.axes), **attributes}
    merge_attributes(container, dataset, layout, attributes)
    axes = arrange(stored.shape, layout.axes, "as written", AS_STORED, container)
    found = chunks_of(stored, container, dataset, format, axes)
    return volume_of(stored, found, format=format, space=space, attributes=attributes)


def _check_place(container: str, dataset: str, format: str) -> None:
    """Refuse an array within another, or over one of another format: readers would see one only.

    Raises:
        UsageError: there is one above, below or in its place.
    """
    layout = LAYOUTS[format]
    if not Path(container).is_dir():
        return
    there = detect(container, dataset)
    if there in LAYOUTS and there != format and is_array(container, dataset, LAYOUTS[there]):
        raise UsageError(f"{container}/{dataset} is {there}, not {format}; --overwrite replaces it")
    above = [p for p in parents(dataset) if is_array(container, p, layout)]
    below = [p for p in list_arrays(container, format) if p.startswith(f"{dataset}/")]
    if above or below:
        raise UsageError(
            f"{container}/{dataset}: {(above + below)[0] or container} is an array; "
            "choose another dataset in -o"
        )


def write_levels(volume: Volume, levels: Sequence[Volume]) -> None:
    """Declare an array of ours and coarser ones of the same group, from fine to coarse, one image.

    OME-NGFF in zarr, COSEM's attributes in N5. Without levels, an image that has some keeps them.

    Raises:
        ResourceError: the disk is full, or may not be written.
    """
    chunks = [chunks_behind(v) for v in (volume, *levels)]
    spaces = [v.space for v in (volume, *levels)]
    names = [posixpath.basename(c.dataset) for c in chunks]
    scales = dict(zip(names, spaces, strict=True))
    at = (chunks[0].container, chunks[0].dataset, volume.format)
    write_image(*at, scales, keep=not levels)


def _zarr2(shape: Zyx, dtype: np.dtype, chunks: Zyx) -> dict[str, Any]:
    return {
        "shape": list(shape),
        "chunks": list(chunks),
        "dtype": dtype.newbyteorder("<").str,
        "fill_value": False if dtype.kind == "b" else 0,
        "dimension_separator": "/",
        "compressor": {"id": "zstd", "level": 3},
    }


def _zarr3(shape: Zyx, dtype: np.dtype, chunks: Zyx) -> dict[str, Any]:
    return {
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "codecs": [{"name": "zstd", "configuration": {"level": 3}}, {"name": "crc32c"}],
        "dimension_names": ["z", "y", "x"],
    }


def _n5(shape: Zyx, dtype: np.dtype, chunks: Zyx) -> dict[str, Any]:
    return {
        "dimensions": list(shape)[::-1],
        "blockSize": list(chunks)[::-1],
        "dataType": dtype.name,
        "compression": {"type": "gzip"},  # the codec that every N5 reader has
    }


_METADATA = {"zarr2": _zarr2, "zarr3": _zarr3, "n5": _n5}


def write_attributes(volume: Volume, attributes: Mapping[str, Any]) -> None:
    """Add to the attributes of an array of ours."""
    chunks = chunks_behind(volume)
    merge_attributes(chunks.container, chunks.dataset, LAYOUTS[volume.format], attributes)


def chunks_behind(volume: Volume) -> Chunks:
    """The chunks on disk of an array of ours."""
    assert isinstance(volume.array, Chunked)
    return volume.array.chunks


def remove_array(address: str) -> None:
    """Delete a local array of ours and the levels made of it; its container too where empty then.

    Raises:
        UnsafeError: levels are named that are not in the container.
    """
    container, dataset = split_address(address)
    format = detect(container, dataset) or ""
    coarser = levels(container, dataset, format)
    if dataset:
        write_image(container, dataset, format, {})
    for path in coarser:
        made_by = read_attributes(container, path, LAYOUTS[format]).get("made_by", "")
        if str(made_by).startswith("cleft"):
            shutil.rmtree(Path(container, path))
    shutil.rmtree(Path(container, dataset))
    left = (p for p in Path(container).rglob("*") if not p.is_dir())
    if dataset and all(p.name in NAMES for p in left):
        shutil.rmtree(container)
