"""Layers in neuroglancer, served by this process to browsers on this machine.

Importing this raises UsageError where neuroglancer is not installed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from cleftcli.errors import ResourceError, UsageError
from cleftcli.geometry import Zyx, zyx
from cleftcli.viewers.layer import Layer, Voxels
from cleftcli.volumes import AS_STORED, Nm, Volume, coarser_levels

try:
    import neuroglancer as ng
except ImportError as missing:
    raise UsageError(
        f"neuroglancer needs its extra: pip install 'cleft[view]' ({missing})"
    ) from missing

LOOPBACK = "127.0.0.1"
SHADERS = {
    "raw": """
#uicontrol invlerp contrast(range=[{low:g}, {high:g}])
void main() {{ emitGrayscale(contrast()); }}
""",
    "probability": """
#uicontrol invlerp probability(range=[{low:g}, {high:g}])
#uicontrol float threshold slider(min=0, max=1, default={threshold:g})
#uicontrol vec3 color color(default="#ff8c00")
void main() {{
  float p = probability();
  emitRGBA(vec4(color, p < threshold ? 0.4 * p : 0.8));
}}
""",
}


@contextmanager
def served(layers: Sequence[Layer], *, port: int = 0) -> Iterator[str]:
    """The link that shows layers in a browser of this machine, as long as this context lasts.

    Served on loopback only, at a path that nobody guesses.

    Args:
        layers: from the back to the front.
        port: where to listen; 0 takes a free one.

    Raises:
        InputError: a volume cannot be opened, or its voxel size is not known.
        ResourceError: nothing can listen there.
    """
    state = _state(layers)
    ng.stop()  # another server of this process might listen elsewhere
    ng.set_server_bind_address(LOOPBACK, port)
    try:
        # no page should be able to ask for this user's keys of cloud storage
        viewer = ng.Viewer(allow_credentials=False)
    except OSError as error:
        raise ResourceError(
            f"{LOOPBACK}:{port} cannot be listened on: {error}; --napari needs no port"
        ) from error
    try:
        viewer.set_state(state)
        yield viewer.get_viewer_url()
    finally:
        ng.stop()


def _state(layers: Sequence[Layer]) -> Any:
    """What the page shows: the layers in x, y and z, and the middle of the one in front."""
    size = layers[0].volume.voxel_size
    front = layers[-1].volume
    middle = [
        (c + n / 2 * own) / v
        for c, n, own, v in zip(
            _corner(front, size), front.shape, front.voxel_size, size, strict=True
        )
    ]
    state = ng.ViewerState()
    state.dimensions = ng.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=size[::-1])
    state.position = middle[::-1]
    for layer in layers:
        state.layers[layer.name] = _shown(layer, size)
    return state


def _shown(layer: Layer, size: Nm) -> Any:
    """A layer with its looks, its voxels at their place."""
    voxels = Pyramid(layer)
    own = layer.volume.voxel_size
    moved = [c / v for c, v in zip(_corner(layer.volume, size), own, strict=True)]
    place = ng.CoordinateSpaceTransform(
        output_dimensions=voxels.dimensions, matrix=np.c_[np.eye(3), moved]
    )
    # no meshes: they would take the whole volume into memory
    source = ng.LayerDataSource(
        url=voxels, transform=place, subsources={"default": True}, enable_default_subsources=False
    )
    if layer.kind == "clefts":
        return ng.SegmentationLayer(source=source)
    low, high = layer.black_white
    shader = SHADERS[layer.kind].format(low=low, high=high, threshold=layer.threshold)
    return ng.ImageLayer(source=source, shader=shader, opacity=1.0)


def _corner(volume: Volume, size: Nm) -> Nm:
    """Where a volume begins in nm, when a voxel of `size` whose centre is at 0 does so at 0."""
    offset, own = volume.space.offset, volume.voxel_size
    z, y, x = (o - (v - s) / 2 for o, v, s in zip(offset, own, size, strict=True))
    return z, y, x


class Pyramid(ng.LocalVolume):
    """The voxels of a layer at any scale, made of the coarsest level of its volume that divides it.

    For one voxel at most 64 are read, as neuroglancer has it for volumes without levels.
    """

    def __init__(self, layer: Layer) -> None:
        coarser = coarser_levels(layer.volume) if layer.reading == AS_STORED else []
        self.levels = {(1, 1, 1): ng.LocalVolume(Voxels(layer), **_stated(layer))}
        for volume in coarser:
            level = replace(layer, address=volume.address)
            self.levels[_factor(volume, layer.volume)] = ng.LocalVolume(
                Voxels(level), **_stated(level)
            )
        most = self.levels[1, 1, 1].max_downsampling * max(map(math.prod, self.levels))
        super().__init__(Voxels(layer), **_stated(layer), max_downsampling=most)

    def get_encoded_subvolume(
        self, data_format: str, start: np.ndarray, end: np.ndarray, scale_key: str
    ) -> tuple[bytes, str]:
        """A box of voxels of a scale, and what kind of bytes they are."""
        scale = zyx([int(n) for n in scale_key.split(",")])
        whole = [f for f in self.levels if not any(map(operator.mod, scale, f))]
        chosen = max(whole, key=math.prod)
        rest = ",".join(map(str, map(operator.floordiv, scale, chosen)))
        level = self.levels[chosen]
        found: tuple[bytes, str] = level.get_encoded_subvolume(data_format, start, end, rest)
        return found


def _stated(layer: Layer) -> dict[str, Any]:
    """What neuroglancer has to be told of an array."""
    size = layer.volume.voxel_size
    return {
        "dimensions": ng.CoordinateSpace(names=["z", "y", "x"], units="nm", scales=size),
        "volume_type": "segmentation" if layer.kind == "clefts" else "image",
    }


def _factor(level: Volume, finest: Volume) -> Zyx:
    """How many voxels of the finest volume one of a level stands for."""
    return zyx([round(a / b) for a, b in zip(level.voxel_size, finest.voxel_size, strict=True)])
