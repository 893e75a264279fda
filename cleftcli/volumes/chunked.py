"""Arrays of zarr v2, zarr v3 and N5 through tensorstore: one engine for all of them."""

from __future__ import annotations

import functools
import json
import posixpath
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from cleftcli.errors import InputError
from cleftcli.geometry import Zyx, zyx
from cleftcli.volumes import metadata
from cleftcli.volumes.documents import (
    LAYOUTS,
    Layout,
    merge_attributes,
    parents,
    read_attributes,
    read_document,
    url,
    write_document,
)
from cleftcli.volumes.volume import Slices, Space, Volume

CACHE_BYTES = 300_000_000  # neighbouring blocks share chunks: decoding each once is 7x faster
_N5_KNOWN = {"raw": (), "gzip": ("level", "useZlib"), "bzip2": ("blockSize",), "xz": ("preset",),
             "zstd": ("level",), "blosc": ("cname", "clevel", "shuffle", "blocksize")}  # fmt: skip


@functools.cache
def _context() -> ts.Context:
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})


class Chunked:
    """A tensorstore array as zyx boxes."""

    def __init__(self, store: ts.TensorStore, place: tuple[str, str]) -> None:
        self.store = store
        self.place = place

    def read(self, slices: Slices) -> np.ndarray:
        """The voxels in a box."""
        return np.asarray(self.store[slices].read().result())

    def write(self, slices: Slices, data: np.ndarray) -> None:
        """Store a box; durable (written, synced, renamed) when it returns."""
        self.store[slices].write(data).result()


def open_array(container: str, dataset: str, format: str) -> Volume:
    """The array at `dataset`.

    Raises:
        InputError: it is not three-dimensional, or its metadata are unusable.
    """
    layout = LAYOUTS[format]
    address = posixpath.join(container, dataset)
    try:
        store = ts.open(_spec(container, dataset, layout), context=_context()).result()
    except ValueError as error:
        raise InputError(f"{address}: cannot be opened: {error}") from error
    if store.rank != 3:
        raise InputError(f"{address}: expected axes z, y, x; got an array of shape {store.shape}")
    attributes = read_attributes(container, dataset, layout)
    above = [
        (posixpath.relpath(dataset, parent) if parent else dataset, group)
        for parent in parents(dataset)
        if (group := read_attributes(container, parent, layout))
    ]
    space = metadata.read_space(attributes, parents=above, xyz=layout.xyz)
    return _volume(store, container, dataset, format, space=space, attributes=attributes)


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
) -> Volume:
    """An array of zeros, with the groups above it and OME-NGFF metadata.

    One that is there already with the same shape, dtype and chunks is kept.
    """
    layout = LAYOUTS[format]
    spec = {
        "driver": layout.driver,
        "kvstore": f"{url(container).rstrip('/')}/{dataset}/",
        "metadata": _METADATA[format](shape, dtype, chunks),
    }
    # opened where a killed run has left it already
    store = ts.open(spec, context=_context(), create=True, open=True).result()
    for parent in parents(dataset):
        if read_document(container, posixpath.join(parent, layout.group)) is None:
            write_document(container, posixpath.join(parent, layout.group), layout.empty_group)
    if format != "n5" and dataset:
        _add_image(container, dataset, layout, space)
    attributes = {**metadata.cremi(space, xyz=layout.xyz), **attributes}
    merge_attributes(container, dataset, layout, attributes)
    return _volume(store, container, dataset, format, space=space, attributes=attributes)


def _add_image(container: str, dataset: str, layout: Layout, space: Space) -> None:
    """Declare an array as an OME-NGFF image in the group above it, beside others there."""
    parent, name = posixpath.split(dataset)
    group = read_attributes(container, parent, layout)
    nested = layout.driver == "zarr3"  # 0.5 nests the attribute under "ome"
    others = (group.get("ome", {}) if nested else group).get("multiscales", [])
    images = [m for m in others if m.get("name") != name] + metadata.ngff(name, name, space)
    added = {"version": "0.5", "multiscales": images}
    merge_attributes(
        container, parent, layout, {"ome": added} if nested else {"multiscales": images}
    )


def _volume(
    store: ts.TensorStore,
    container: str,
    dataset: str,
    format: str,
    *,
    space: Space,
    attributes: Mapping[str, Any],
) -> Volume:
    store = store.T if LAYOUTS[format].xyz else store
    return Volume(
        address=posixpath.join(container, dataset) if dataset else container,
        format=format,
        shape=zyx(store.shape),
        dtype=np.dtype(store.dtype.numpy_dtype),
        chunks=zyx(np.asarray(store.chunk_layout.read_chunk.shape).tolist()),
        space=space,
        array=Chunked(store, (container, dataset)),
        attributes=attributes,
        codec=_codec(store),
    )


def _codec(store: ts.TensorStore) -> str:
    spec = store.spec().to_json()["metadata"]
    found = spec.get("compressor") or spec.get("compression") or spec.get("codecs")
    return "none" if found is None else json.dumps(found, separators=(",", ":"))


def _spec(container: str, dataset: str, layout: Layout) -> dict[str, Any]:
    base = f"{url(container).rstrip('/')}/{dataset}".rstrip("/") + "/"
    # An output may grow while this process looks at it: trust the cache only within one opening.
    spec = {"driver": layout.driver, "kvstore": base, "recheck_cached_data": "open"}
    if layout.driver == "n5":
        spec["kvstore"] = _tolerant(container, dataset, base)
    return spec


def _tolerant(container: str, dataset: str, base: str) -> Any:
    """The store with its codec description reduced to what tensorstore accepts.

    Java and z5 writers add fields (`nthreads`, `checksum`), and N5 1.x wrote `compressionType`.
    """
    document = read_document(container, posixpath.join(dataset, "attributes.json")) or {}
    codec = document.get("compression") or {"type": document.get("compressionType", "raw")}
    known = _N5_KNOWN.get(str(codec.get("type")))
    if known is None:
        raise InputError(f"{container}/{dataset}: N5 codec {codec.get('type')!r} is not supported")
    codec = {k: v for k, v in codec.items() if k == "type" or k in known}
    kept = ("dimensions", "blockSize", "dataType")
    clean = {**{k: document[k] for k in kept if k in document}, "compression": codec}
    if clean == {k: document.get(k) for k in clean}:
        return base
    memory = ts.KvStore.open("memory://", context=_context()).result()
    key = f"{base}attributes.json"
    memory.write(key, json.dumps(clean).encode()).result()
    overlay = {"base": {"driver": "memory", "path": key}, "exact": "attributes.json"}
    return {"driver": "kvstack", "layers": [{"base": base}, overlay]}


def _zarr2(shape: Zyx, dtype: np.dtype, chunks: Zyx) -> dict[str, Any]:
    return {
        "shape": list(shape),
        "chunks": list(chunks),
        "dtype": dtype.newbyteorder("<").str,
        "fill_value": 0,
        "dimension_separator": "/",
        "compressor": {"id": "zstd", "level": 3},
    }


def _zarr3(shape: Zyx, dtype: np.dtype, chunks: Zyx) -> dict[str, Any]:
    return {
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "codecs": [{"name": "zstd", "configuration": {"level": 3}}],
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
    container, dataset = volume.array.place  # type: ignore[attr-defined]
    merge_attributes(container, dataset, LAYOUTS[volume.format], attributes)
