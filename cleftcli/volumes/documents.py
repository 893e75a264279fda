"""The JSON documents that make folders of chunks into zarr v2, zarr v3, N5 or precomputed.

Hierarchy and attributes are read through the same key-value store as the chunks, so this works
on disk, in zip files, over HTTP, S3 and GCS alike; zarr-python would do it for zarr alone.
Consolidated metadata are left aside: they may be older than the arrays.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleftcli.errors import InputError, UnsafeError
from cleftcli.volumes import stores
from cleftcli.volumes.writing import writing


@dataclass(frozen=True)
class Layout:
    """How one format names its documents, and the order of axes that do not name themselves.

    Containers to be written end in `suffix`.
    """

    driver: str
    array: str
    group: str
    attributes: str
    empty_group: dict[str, Any]
    axes: str = "zyx"
    suffix: str = ".zarr"


_ZARR3_GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
LAYOUTS = {
    "zarr2": Layout("zarr", ".zarray", ".zgroup", ".zattrs", {"zarr_format": 2}),
    "zarr3": Layout("zarr3", "zarr.json", "zarr.json", "zarr.json", _ZARR3_GROUP),
    "n5": Layout(
        "n5",
        "attributes.json",
        "attributes.json",
        "attributes.json",
        {"n5": "2.0.0"},
        "xyz",
        ".n5",
    ),
}


NAMES = {".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json", "attributes.json"}


def read_document(container: str, key: str) -> dict[str, Any] | None:
    """The JSON document at `key`, or None where there is none.

    Raises:
        InputError: it is not a JSON object, or the store does not answer.
    """
    found = stores.read(container, posixpath.normpath(key))
    if found is None:
        return None
    try:
        document = json.loads(found)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{container}/{key}: unreadable metadata ({len(found)} bytes): {error}; copy it again"
        ) from error
    if not isinstance(document, dict):
        raise InputError(f"{container}/{key}: expected a JSON object {{...}}, got {document!r:.40}")
    return document


def write_document(container: str, key: str, document: Mapping[str, Any]) -> None:
    """Write a JSON document; a reader finds the old one or the new one.

    Raises:
        ResourceError: the disk is full, or may not be written.
    """
    text = json.dumps(document, indent=1).encode()
    with writing(f"{container}/{key}"):
        stores.store(container).write(posixpath.normpath(key), text).result()


def is_array(container: str, dataset: str, layout: Layout) -> bool:
    """Whether the container holds an array (not a group, not nothing) at `dataset`."""
    document = read_document(container, posixpath.join(dataset, layout.array))
    if document is None:
        return False
    return layout.driver == "zarr" or "dimensions" in document or "shape" in document


def read_attributes(container: str, path: str, layout: Layout) -> dict[str, Any]:
    """The user attributes of a group or array, {} where it has none.

    Raises:
        InputError: they are no JSON object.
    """
    document = read_document(container, posixpath.join(path, layout.attributes)) or {}
    found = document.get("attributes", {}) if layout.driver == "zarr3" else document
    if not isinstance(found, dict):
        raise InputError(f"{container}/{path}: expected attributes {{...}}, got {found!r:.40}")
    return found


def merge_attributes(
    container: str, path: str, layout: Layout, attributes: Mapping[str, Any]
) -> None:
    """Add to the user attributes of a group or array.

    Raises:
        ResourceError: as `write_document`.
    """
    key = posixpath.join(path, layout.attributes)
    document = read_document(container, key) or {}
    if layout.driver == "zarr3":
        document["attributes"] = {**document.get("attributes", {}), **attributes}
    else:
        document.update(attributes)
    write_document(container, key, document)


def detect(container: str, dataset: str = "") -> str | None:
    """The format of the container at this address, by the documents in it or at the dataset.

    A container by suffix alone may lack documents of its own: then those of the dataset, and on
    disk of any array in it, tell.
    """
    for path in dict.fromkeys(("", dataset)):
        found = _detect(container, path)
        if found is not None:
            return found
    if container.endswith((".zarr", ".n5")) and Path(container).is_dir():
        for format, layout in LAYOUTS.items():
            if next(_folders(container, layout), None) is not None:
                return format
    return None


def _detect(container: str, path: str) -> str | None:
    def there(name: str) -> dict[str, Any] | None:
        return read_document(container, posixpath.join(path, name))

    if there("zarr.json") is not None:
        return "zarr3"
    if any(there(name) is not None for name in (".zgroup", ".zarray", ".zattrs")):
        return "zarr2"
    if there("attributes.json") is not None:
        return "n5"
    return "precomputed" if not path and "scales" in (there("info") or {}) else None


def list_arrays(container: str, format: str) -> list[str]:
    """Paths of the arrays in a container, sorted; "" is the container itself.

    Raises:
        InputError: the store cannot list (HTTP), so a dataset must be named.
    """
    layout = LAYOUTS[format]
    return sorted(p for p in _folders(container, layout) if _seems_array(container, p, layout))


def _seems_array(container: str, path: str, layout: Layout) -> bool:
    """Whether there is an array, or a document so torn that only opening it can say."""
    try:
        return is_array(container, path, layout)
    except InputError:
        return True


def _folders(container: str, layout: Layout) -> Iterator[str]:
    """Folders that hold an array's document; chunks of local stores are not visited."""
    if not Path(container).is_dir():
        found = stores.entries(container, "")
        if found is None:
            raise InputError(
                f"{container}: this server cannot list what it holds; name the dataset, "
                f"e.g. {container}/volumes/raw"
            )
        names = (entry.key for entry in found)
        yield from {posixpath.dirname(n) for n in names if posixpath.basename(n) == layout.array}
        return
    root = Path(container)
    for folder, below, files in os.walk(root):
        path = Path(folder).relative_to(root).as_posix()
        if layout.array in files:
            yield "" if path == "." else path
            below[:] = [] if _seems_array(container, path, layout) else below


def parents(dataset: str) -> list[str]:
    """Paths of the groups above an array, innermost first; the last is the container ("")."""
    parts = dataset.split("/") if dataset else []
    return ["/".join(parts[:n]) for n in range(len(parts) - 1, -1, -1)]


def inside(container: str, path: str) -> str:
    """A path that metadata name, if it stays in the container.

    Raises:
        UnsafeError: it does not.
    """
    found = posixpath.normpath(path)
    if found.startswith(("/", "..")):
        raise UnsafeError(f"{container}: its metadata lead out of it, to {path}")
    return found
