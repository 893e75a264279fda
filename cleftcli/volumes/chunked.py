"""zarr v2, zarr v3 and N5 through tensorstore: one engine, on disk, HTTP, S3 and GCS.

Hierarchy and attributes are JSON documents beside the chunks, read through the same key-value
store; this file knows under which names.
"""

from __future__ import annotations

import functools
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from cleftcli.errors import InputError
from cleftcli.geometry import Zyx, zyx
from cleftcli.volumes import metadata
from cleftcli.volumes.volume import Slices, Space, Volume

CACHE_BYTES = 300_000_000  # neighbouring blocks share chunks: decoding each once is 7x faster


@dataclass(frozen=True)
class Layout:
    """How one format names its documents, and whether it keeps vectors in xyz."""

    driver: str
    array: str
    group: str
    attributes: str
    xyz: bool = False


LAYOUTS = {
    "zarr2": Layout("zarr", ".zarray", ".zgroup", ".zattrs"),
    "zarr3": Layout("zarr3", "zarr.json", "zarr.json", "zarr.json"),
    "n5": Layout("n5", "attributes.json", "attributes.json", "attributes.json", xyz=True),
}
_N5_KNOWN = {"raw": (), "gzip": ("level", "useZlib"), "bzip2": ("blockSize",), "xz": ("preset",),
             "zstd": ("level",), "blosc": ("cname", "clevel", "shuffle", "blocksize")}  # fmt: skip


@functools.cache
def _context() -> ts.Context:
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})


def _url(container: str) -> str:
    """Tensorstore's address of a container: a URL as it is, a path as file://."""
    return container if "://" in container else "file://" + os.path.realpath(container)


@functools.lru_cache(maxsize=64)
def _store(container: str) -> ts.KvStore:
    return ts.KvStore.open(_url(container).rstrip("/") + "/").result()


def read_document(container: str, key: str) -> dict[str, Any] | None:
    """The JSON document at `key`, or None where there is none.

    Raises:
        InputError: it is not JSON, or the store does not answer.
    """
    try:
        found = _store(container).read(posixpath.normpath(key)).result()
        return dict(json.loads(found.value)) if found.state == "value" else None
    except (ValueError, TypeError) as error:
        raise InputError(f"{container}/{key}: unreadable metadata: {error}") from error


def _write_document(container: str, key: str, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=1).encode()
    _store(container).write(posixpath.normpath(key), text).result()


def is_array(container: str, dataset: str, layout: Layout) -> bool:
    """Whether the container holds an array (not a group, not nothing) at `dataset`."""
    document = read_document(container, posixpath.join(dataset, layout.array))
    if document is None:
        return False
    return layout.driver == "zarr" or "dimensions" in document or "shape" in document


def read_attributes(container: str, path: str, layout: Layout) -> dict[str, Any]:
    """The user attributes of a group or array, {} where it has none."""
    document = read_document(container, posixpath.join(path, layout.attributes)) or {}
    return dict(document.get("attributes", {})) if layout.driver == "zarr3" else document


def write_attributes(volume: Volume, attributes: Mapping[str, Any]) -> None:
    """Add to the attributes of an array of ours."""
    container, dataset = volume.array.place  # type: ignore[attr-defined]
    _merge_attributes(container, dataset, LAYOUTS[volume.format], attributes)


def _merge_attributes(
    container: str, path: str, layout: Layout, attributes: Mapping[str, Any]
) -> None:
    key = posixpath.join(path, layout.attributes)
    document = read_document(container, key) or {}
    if layout.driver == "zarr3":
        document["attributes"] = {**document.get("attributes", {}), **attributes}
    else:
        document.update(attributes)
    _write_document(container, key, document)


def detect(container: str) -> str | None:
    """The format of the container (or array) at this address, by the documents in it."""
    if read_document(container, "zarr.json") is not None:
        return "zarr3"
    if any(read_document(container, k) is not None for k in (".zgroup", ".zarray", ".zattrs")):
        return "zarr2"
    return "n5" if read_document(container, "attributes.json") is not None else None


def list_arrays(container: str, format: str) -> list[str]:
    """Paths of the arrays in a container, sorted; "" is the container itself."""
    layout = LAYOUTS[format]
    return sorted(p for p in _folders(container, layout) if is_array(container, p, layout))


def _folders(container: str, layout: Layout) -> Iterator[str]:
    """Folders that hold an array's document; chunks of local stores are not visited."""
    if "://" in container:
        keys = _store(container).list().result()
        yield from {
            posixpath.dirname(k.decode()) for k in keys if k.decode().endswith(layout.array)
        }
        return
    root = Path(container)
    for folder, below, files in os.walk(root):
        path = Path(folder).relative_to(root).as_posix()
        if layout.array in files:
            yield "" if path == "." else path
            below[:] = [] if is_array(container, path, layout) else below


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
    parents = [
        (posixpath.relpath(dataset, parent) if parent else dataset, group)
        for parent in _parents(dataset)
        if (group := read_attributes(container, parent, layout))
    ]
    space = metadata.read_space(attributes, parents=parents, xyz=layout.xyz)
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
        "kvstore": f"{_url(container).rstrip('/')}/{dataset}/",
        "metadata": _METADATA[format](shape, dtype, chunks),
    }
    # opened where a killed run has left it already
    store = ts.open(spec, context=_context(), create=True, open=True).result()
    for parent in _parents(dataset):
        if read_document(container, posixpath.join(parent, layout.group)) is None:
            _write_document(container, posixpath.join(parent, layout.group), _GROUPS[format])
    if format != "n5" and dataset:
        _add_image(container, dataset, layout, space)
    attributes = {**metadata.cremi(space, xyz=layout.xyz), **attributes}
    _merge_attributes(container, dataset, layout, attributes)
    return _volume(store, container, dataset, format, space=space, attributes=attributes)


def _add_image(container: str, dataset: str, layout: Layout, space: Space) -> None:
    """Declare an array as an OME-NGFF image in the group above it, beside others there."""
    parent, name = posixpath.split(dataset)
    group = read_attributes(container, parent, layout)
    nested = layout.driver == "zarr3"  # 0.5 nests the attribute under "ome"
    others = (group.get("ome", {}) if nested else group).get("multiscales", [])
    images = [m for m in others if m.get("name") != name] + metadata.ngff(name, name, space)
    added = {"version": "0.5", "multiscales": images}
    _merge_attributes(
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


def _parents(dataset: str) -> list[str]:
    """Paths of the groups above an array, innermost first; the last is the container ("")."""
    parts = dataset.split("/") if dataset else []
    return ["/".join(parts[:n]) for n in range(len(parts) - 1, -1, -1)]


def _spec(container: str, dataset: str, layout: Layout) -> dict[str, Any]:
    base = f"{_url(container).rstrip('/')}/{dataset}".rstrip("/") + "/"
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
_GROUPS: dict[str, dict[str, Any]] = {
    "zarr2": {"zarr_format": 2},
    "zarr3": {"zarr_format": 3, "node_type": "group", "attributes": {}},
    "n5": {"n5": "2.0.0"},
}
