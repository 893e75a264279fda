"""Arrays of a group that are scales of one image: OME-NGFF in zarr, COSEM's attributes in N5."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from cleftcli.volumes.documents import LAYOUTS, inside, merge_attributes, read_attributes
from cleftcli.volumes.metadata import coarser
from cleftcli.volumes.volume import Space


def write_image(
    container: str, dataset: str, format: str, scales: Mapping[str, Space], *, keep: bool = False
) -> None:
    """Declare an image of scales in the group above an array, in place of what it was, if any.

    It is none where there are no scales, or a voxel size is not known. With `keep`, one that
    begins alike stays as it is.
    """
    parent, name = posixpath.split(dataset)
    layout, nested = LAYOUTS[format], format == "zarr3"  # 0.5 nests the attribute under "ome"
    group = read_attributes(container, parent, layout)
    stated = (group.get("ome", {}) if nested else group).get("multiscales", [])
    image = _cosem(name, scales) if format == "n5" else _ngff(name, scales)
    images = [m for m in stated if m.get("name") != name]
    if scales and all(space.voxel_size for space in scales.values()):
        alike = [m for m in stated if m.get("datasets", [])[: len(scales)] == image["datasets"]]
        images += alike if keep and alike else [image]
    if nested:  # the version of 0.5 stands beside the images
        images = [{k: v for k, v in m.items() if k != "version"} for m in images]
    if images != stated:
        found = {"multiscales": images}
        added = {"ome": {"version": "0.5", **found}} if nested else found
        merge_attributes(container, parent, layout, added)


def levels(container: str, dataset: str, format: str) -> list[str]:
    """The coarser scales of an array, as the group above it names them.

    Raises:
        UnsafeError: a name leads out of the container.
    """
    parent, name = posixpath.split(dataset)
    found = coarser(read_attributes(container, parent, LAYOUTS[format]), name) if name else []
    return [inside(container, posixpath.join(parent, path)) for path in found]


def _ngff(name: str, scales: Mapping[str, Space]) -> dict[str, Any]:
    """An OME-NGFF image: the space of each scale by its path in the group, from fine to coarse."""
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": list(space.voxel_size or ())},
                {"type": "translation", "translation": list(space.offset)},
            ],
        }
        for path, space in scales.items()
    ]
    return {"version": "0.4", "name": name, "axes": axes, "datasets": datasets}


def _cosem(name: str, scales: Mapping[str, Space]) -> dict[str, Any]:
    """The same as COSEM writes it to the groups of N5."""
    named = {"axes": list("zyx"), "units": ["nm"] * 3}
    datasets = [
        {
            "path": path,
            "transform": {
                **named,
                "scale": list(space.voxel_size or ()),
                "translate": list(space.offset),
            },
        }
        for path, space in scales.items()
    ]
    return {"name": name, "datasets": datasets}
