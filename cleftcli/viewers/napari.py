"""Layers in napari, which need not be installed to be told what to type."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cleftcli.viewers.layer import Layer, Voxels
from cleftcli.volumes import absolute

LOOKS = {
    "raw": {"colormap": "gray"},
    "probability": {"colormap": "inferno", "blending": "additive"},
}


def napari_command(layers: Sequence[Layer]) -> list[str]:
    """The command line that opens layers in napari, from any folder.

    napari's own command takes one scale for all files, and few stores; this one reads whatever
    cleft reads, with a Python that has both.
    """
    named = [replace(layer, address=absolute(layer.address)) for layer in layers]
    code = (
        "from cleftcli.viewers import Layer; from cleftcli.volumes import Reading; "
        f"from cleftcli.viewers.napari import show; show({named})"
    )
    return [sys.executable, "-c", code]


def show(layers: Sequence[Layer]) -> None:
    """Open layers in napari, and wait until its window is closed."""
    import napari

    viewer = napari.Viewer(title="cleft")
    for layer in layers:
        add(viewer, layer)
    napari.run()


def add(viewer: Any, layer: Layer) -> None:
    """Add a layer to a viewer of napari, at its place in nm."""
    volume = layer.volume
    place = {"name": layer.name, "scale": volume.voxel_size, "translate": volume.space.offset}
    if layer.kind == "clefts":
        viewer.add_labels(Voxels(layer), **place)
        return
    limits = sorted(layer.black_white)
    viewer.add_image(Voxels(layer), contrast_limits=limits, **LOOKS[layer.kind], **place)
