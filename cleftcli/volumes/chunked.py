"""Arrays of zarr v2, zarr v3, N5 and precomputed through tensorstore: one engine for all."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts

from cleftcli.errors import InputError
from cleftcli.geometry import whole, zyx
from cleftcli.volumes import lenient, metadata, stores
from cleftcli.volumes.axes import Axes, Reading, Slices, arrange
from cleftcli.volumes.chunks import Damage, Grid, Keys, Naming, Scan
from cleftcli.volumes.documents import (
    LAYOUTS,
    Layout,
    parents,
    read_attributes,
    read_document,
)
from cleftcli.volumes.scan import Chunks, Payload
from cleftcli.volumes.volume import Space, Volume, check_chunk
from cleftcli.volumes.writing import writing

# else a chunk of zeros is not stored, and nobody could tell it from one that was never written
WRITE_ZEROS = {"store_data_equal_to_fill_value": True}
_descriptions: dict[str, Any] = {}
_STATUS = re.compile(r'^[A-Z_]+: (Error reading local file "[^"]*": )?')


@dataclass(frozen=True)
class Chunked:
    """A tensorstore array as zyx boxes, and the chunks behind it."""

    view: ts.TensorStore
    chunks: Chunks

    def read(self, slices: Slices) -> np.ndarray:
        """The voxels in a box; those of chunks that are not stored have the fill value.

        Raises:
            InputError: a chunk is damaged or does not come; it is named.
        """
        try:
            return np.asarray(self.view[slices].read().result())
        except stores.FAILURES as error:
            raise InputError(self._blame(slices) or _reason(error)) from error

    def write(self, slices: Slices, data: np.ndarray) -> None:
        """Store a box; durable (written, synced, renamed) when it returns.

        Raises:
            ResourceError: the disk is full, or may not be written.
        """
        with writing(self.chunks.address):
            self.view[slices].write(data).result()

    def scan(self, slices: Slices) -> Scan:
        """Its chunks that are missing or visibly damaged."""
        return self.chunks.scan(slices)

    def _blame(self, slices: Slices) -> str:
        """Which chunks of a box cannot be read, found by reading each; all are asked at once."""
        asked = [
            (key, roi, self.view[roi.within(whole(roi.end))].read())
            for key, roi in self.chunks.within(slices)
        ]
        found = []
        for key, roi, answer in asked:
            try:
                answer.result()
            except stores.FAILURES as error:
                found.append(f"chunk {Damage(key, roi, _reason(error))}")
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return "; ".join(found[:3]) + more


def _reason(error: Exception) -> str:
    """Tensorstore's words without its status code and the path, which the caller names."""
    return _STATUS.sub("", stores.words(error)).split(" [tensorstore_spec", 1)[0]


def open_array(container: str, dataset: str, format: str, reading: Reading) -> Volume:
    """The array at `dataset`.

    Raises:
        InputError: its axes cannot be read as z, y, x, or its metadata are unusable.
    """
    layout = LAYOUTS[format]
    address = posixpath.join(container, dataset)
    stored = opened(_spec(container, dataset, format), address)
    attributes = read_attributes(container, dataset, layout)
    above = [
        (posixpath.relpath(dataset, parent) if parent else dataset, group)
        for parent in parents(dataset)
        if (group := read_attributes(container, parent, layout))
    ]
    names, source = _axis_names(stored, attributes, above, layout)
    axes = arrange(stored.shape, names, source, reading, address)
    overruled = reading.voxel_size is not None
    space = metadata.read_space(attributes, parents=above, order=axes.spatial, overruled=overruled)
    found = chunks_of(stored, container, dataset, format, axes)
    return volume_of(stored, found, format=format, space=space, attributes=attributes)


def opened(spec: Mapping[str, Any], address: str) -> ts.TensorStore:
    """An array that is there, opened for reading.

    Raises:
        InputError: tensorstore cannot.
    """
    try:
        return ts.open(dict(spec), context=stores.context(), open=True).result()
    except stores.FAILURES as error:
        raise InputError(f"{address}: cannot be opened: {_reason(error)}") from error


def volume_of(
    stored: ts.TensorStore,
    chunks: Chunks,
    *,
    format: str,
    space: Space,
    attributes: Mapping[str, Any],
) -> Volume:
    """A tensorstore array, its first voxel at 0, as a volume.

    Raises:
        InputError: its chunks are too large to be read.
    """
    axes, dtype = chunks.axes, np.dtype(stored.dtype.numpy_dtype)
    view = stored[tuple(_positions(axes, stored.rank))].transpose(_turned(axes))
    check_chunk(chunks.address, math.prod(extent(stored.chunk_layout.read_chunk)), dtype)
    return Volume(
        address=chunks.address,
        format=format,
        shape=zyx(view.shape),
        dtype=dtype,
        chunks=zyx(extent(view.chunk_layout.read_chunk)),
        space=space,
        array=Chunked(view, chunks),
        attributes=attributes,
        codec=_codec(stored),
        axes=str(axes),
    )


def extent(part: Any) -> tuple[int, ...]:
    """The shape of a part of a chunk layout, in voxels."""
    return tuple(int(n) for n in part.shape)


def _positions(axes: Axes, rank: int) -> list[Any]:
    taken = dict(axes.fixed)
    return [taken.get(axis, slice(None)) for axis in range(rank)]


def _turned(axes: Axes) -> list[int]:
    """Where z, y and x are once the other axes are gone."""
    left = sorted(axes.order)
    return [left.index(axis) for axis in axes.order]


def _axis_names(
    stored: ts.TensorStore,
    attributes: Mapping[str, Any],
    above: list[tuple[str, dict[str, Any]]],
    layout: Layout,
) -> tuple[Any, str]:
    """The names of the stored axes, and who says so."""
    named = metadata.ngff_axes(above)
    if named is not None:
        return named, "OME-NGFF"
    labels = stored.domain.labels
    if all(labels):
        return labels, "named by the array"
    if "_ARRAY_DIMENSIONS" in attributes:
        return attributes["_ARRAY_DIMENSIONS"], "_ARRAY_DIMENSIONS"
    if layout.axes == "zyx":
        return None, ""
    return layout.axes if stored.rank == 3 else None, "N5"


def chunks_of(
    stored: ts.TensorStore, container: str, dataset: str, format: str, axes: Axes
) -> Chunks:
    """The chunks behind an array of zarr or N5."""
    naming = _naming(container, dataset, format)
    grid = Grid(tuple(stored.shape), extent(stored.chunk_layout.write_chunk), naming)
    return Chunks(container, dataset, grid, _payload(stored, format), axes)


def _naming(container: str, dataset: str, format: str) -> Naming:
    """How the chunks of an array are named."""
    layout = LAYOUTS[format]
    document = read_document(container, posixpath.join(dataset, layout.array)) or {}
    if format == "zarr2":
        return Keys(str(document.get("dimension_separator", ".")))
    if format == "zarr3":
        encoding = document.get("chunk_key_encoding", {"name": "default"})
        default = encoding.get("name") == "default"
        separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
        return Keys(separator, f"c{separator}" if default else "")
    return Keys("/")


def _described(stored: ts.TensorStore) -> Any:
    """What tensorstore says of an array, asked once.

    Its `to_json` (0.1.86) keeps some kB at each call, and workers open an output for each block.
    """
    spec = stored.spec()
    if (name := repr(spec)) not in _descriptions:
        _descriptions[name] = spec.to_json()
    return _descriptions[name]


def _codec(stored: ts.TensorStore) -> str:
    spec = _described(stored)
    about = {**spec.get("metadata", {}), **spec.get("scale_metadata", {})}
    found = next(
        (about[k] for k in ("compressor", "compression", "codecs", "encoding") if about.get(k)),
        None,
    )
    return "none" if found is None else json.dumps(found, separators=(",", ":"))


def _payload(stored: ts.TensorStore, format: str) -> Payload:
    """What can be known of a chunk's bytes without decoding them."""
    about = _described(stored).get("metadata", {})
    nbytes = math.prod(extent(stored.chunk_layout.write_chunk)) * stored.dtype.numpy_dtype.itemsize
    if format == "n5":
        blosc = about["compression"]["type"] == "blosc"
        return Payload(blosc=blosc, header=4 + 4 * stored.rank)
    if format == "zarr2":
        compressor = about.get("compressor")
        return Payload(
            blosc=(compressor or {}).get("id") == "blosc",
            length=nbytes if compressor is None else None,
        )
    names = [c["name"] for c in about.get("codecs", [])]
    trailer = 4 if names[-1:] == ["crc32c"] else 0
    last = (names[:-1] if trailer else names)[-1:]
    plain = set(names) <= {"bytes", "transpose", "crc32c"}
    return Payload(
        blosc=last == ["blosc"],
        trailer=trailer,
        length=nbytes + trailer if names and plain else None,
    )


def _spec(container: str, dataset: str, format: str) -> dict[str, Any]:
    return {
        "driver": LAYOUTS[format].driver,
        "kvstore": lenient.kvstore(container, dataset, format),
        # an output may grow while this process looks at it: the cache is good for one opening
        "recheck_cached_data": "open",
        **WRITE_ZEROS,
    }
