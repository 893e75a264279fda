"""The JSON documents that make folders of chunks into zarr v2, zarr v3 or N5.

Hierarchy and attributes are read through the same key-value store as the chunks, so this works
on disk, HTTP, S3 and GCS alike; zarr-python would do it for zarr alone.
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

import tensorstore as ts

from cleftcli.errors import InputError


@dataclass(frozen=True)
class Layout:
    """How one format names its documents, and whether it keeps vectors in xyz."""

    driver: str
    array: str
    group: str
    attributes: str
    empty_group: dict[str, Any]
    xyz: bool = False


_ZARR3_GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
LAYOUTS = {
    "zarr2": Layout("zarr", ".zarray", ".zgroup", ".zattrs", {"zarr_format": 2}),
    "zarr3": Layout("zarr3", "zarr.json", "zarr.json", "zarr.json", _ZARR3_GROUP),
    "n5": Layout(
        "n5", "attributes.json", "attributes.json", "attributes.json", {"n5": "2.0.0"}, xyz=True
    ),
}


def url(container: str) -> str:
    """Tensorstore's address of a container: a URL as it is, a path as file://."""
    return container if "://" in container else "file://" + os.path.realpath(container)


@functools.lru_cache(maxsize=64)
def _opened(address: str) -> ts.KvStore:
    return ts.KvStore.open(address).result()


def _store(container: str) -> ts.KvStore:
    address = url(container)
    return _opened(address if address.endswith("/") else address + "/")


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


def write_document(container: str, key: str, document: Mapping[str, Any]) -> None:
    """Write a JSON document; a reader finds the old one or the new one."""
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


def merge_attributes(
    container: str, path: str, layout: Layout, attributes: Mapping[str, Any]
) -> None:
    """Add to the user attributes of a group or array."""
    key = posixpath.join(path, layout.attributes)
    document = read_document(container, key) or {}
    if layout.driver == "zarr3":
        document["attributes"] = {**document.get("attributes", {}), **attributes}
    else:
        document.update(attributes)
    write_document(container, key, document)


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


def parents(dataset: str) -> list[str]:
    """Paths of the groups above an array, innermost first; the last is the container ("")."""
    parts = dataset.split("/") if dataset else []
    return ["/".join(parts[:n]) for n in range(len(parts) - 1, -1, -1)]
