"""Voxel size and offset in nm, zyx, from every dialect that stores of this field speak.

N5 keeps vectors in x, y, z and no library turns them: that happens here, once.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from cleftcli.errors import InputError
from cleftcli.volumes.volume import Nm, Space

NM_PER_UNIT = {
    "nm": 1.0, "nanometer": 1.0, "nanometers": 1.0, "nanometre": 1.0,
    "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "micrometer": 1e3, "micrometers": 1e3,
    "micrometre": 1e3, "angstrom": 0.1, "mm": 1e6, "millimeter": 1e6, "m": 1e9, "meter": 1e9,
}  # fmt: skip

Attributes = Mapping[str, Any]


def read_space(
    attributes: Attributes, *, parents: Sequence[tuple[str, Attributes]] = (), xyz: bool = False
) -> Space:
    """The space that an array's attributes, or those of the groups above it, state.

    Args:
        attributes: of the array itself.
        parents: (path of the array in the group, attributes of the group), innermost first.
        xyz: vectors without named axes are in x, y, z (N5).

    Raises:
        InputError: a stated voxel size is not three positive numbers, or its unit is unknown.
    """
    try:
        found = _first(attributes, parents, xyz=xyz)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"unreadable voxel size or offset: {error}") from error
    if found is None:
        return Space()
    if found.voxel_size is None or not all(0 < v < math.inf for v in found.voxel_size):
        raise InputError(f"voxel size {found.voxel_size} in {found.source} is not positive")
    return found


def _first(
    attributes: Attributes, parents: Sequence[tuple[str, Attributes]], *, xyz: bool
) -> Space | None:
    """What the first dialect that is spoken says."""
    found = _named_axes(attributes) or _pixel_resolution(attributes) or _cremi(attributes, xyz=xyz)
    for path, group in parents:
        found = found or _ngff(group, path)
    return found


def ngff(name: str, dataset: str, space: Space) -> list[dict[str, Any]]:
    """OME-NGFF `multiscales` with one scale at `dataset`; none where no voxel size is known."""
    if space.voxel_size is None:
        return []
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    transforms = [
        {"type": "scale", "scale": list(space.voxel_size)},
        {"type": "translation", "translation": list(space.offset)},
    ]
    datasets = [{"path": dataset, "coordinateTransformations": transforms}]
    return [{"version": "0.4", "name": name, "axes": axes, "datasets": datasets}]


def cremi(space: Space, *, xyz: bool = False) -> dict[str, Any]:
    """The CREMI attributes `resolution` and, where it is not zero, `offset`."""
    if space.voxel_size is None:
        return {}
    turn = -1 if xyz else 1
    offset = {"offset": list(space.offset)[::turn]} if any(space.offset) else {}
    return {"resolution": list(space.voxel_size)[::turn], **offset}


def scales(attributes: Attributes) -> list[dict[str, Any]]:
    """The datasets of the first OME-NGFF multiscale (0.4 or 0.5), finest first."""
    multiscales = attributes.get("ome", attributes).get("multiscales") or [{}]
    return list(multiscales[0].get("datasets", []))


def _vector(values: Any, source: str, *, xyz: bool = False, factor: float = 1.0) -> Nm:
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        raise InputError(f"{source} is {values!r}; expected three numbers")
    z, y, x = (float(v) * factor for v in (values[::-1] if xyz else values))
    return z, y, x


def _factor(unit: str, source: str) -> float:
    if unit.lower() not in NM_PER_UNIT:
        raise InputError(f"{source} is in {unit!r}; known are {', '.join(NM_PER_UNIT)}")
    return NM_PER_UNIT[unit.lower()]


def _cremi(attributes: Attributes, *, xyz: bool) -> Space | None:
    if "resolution" not in attributes:
        return None
    size = _vector(list(attributes["resolution"]), "resolution", xyz=xyz)
    offset = _vector(list(attributes.get("offset", [0, 0, 0])), "offset", xyz=xyz)
    return Space(size, offset, "resolution" + (" (xyz, turned)" if xyz else ""))


def _pixel_resolution(attributes: Attributes) -> Space | None:
    """N5 viewers: {dimensions, unit} or a bare list, always xyz."""
    stated = attributes.get("pixelResolution")
    if stated is None:
        return None
    stated = stated if isinstance(stated, Mapping) else {"dimensions": stated}
    factor = _factor(stated.get("unit", "nm"), "pixelResolution")
    size = _vector(stated["dimensions"], "pixelResolution", xyz=True, factor=factor)
    offset = _vector(attributes.get("offset", [0, 0, 0]), "offset", xyz=True)
    return Space(size, offset, "pixelResolution (xyz, turned)")


def _named_axes(attributes: Attributes) -> Space | None:
    """COSEM's `transform`: axes, units, scale, translate in one order."""
    stated = attributes.get("transform")
    if not isinstance(stated, Mapping) or not {"axes", "scale"} <= stated.keys():
        return None
    order = [list(stated["axes"]).index(a) for a in "zyx"]
    factors = [_factor(u, "transform") for u in stated.get("units", ["nm"] * 3)]

    def turned(values: Sequence[float]) -> Nm:
        z, y, x = (float(values[i]) * factors[i] for i in order)
        return z, y, x

    return Space(turned(stated["scale"]), turned(stated.get("translate", [0] * 3)), "transform")


def _ngff(group: Attributes, path: str) -> Space | None:
    """OME-NGFF 0.4 and 0.5: transformations of the dataset, then of the whole multiscale."""
    for multiscale in group.get("ome", group).get("multiscales") or []:
        for dataset in multiscale.get("datasets", []):
            if posixpath.normpath(dataset["path"]) == path:
                return _ngff_space(multiscale, dataset)
    return None


def _ngff_space(multiscale: Attributes, dataset: Attributes) -> Space | None:
    axes = [a["name"] for a in multiscale["axes"]]
    scale, translation = [1.0] * len(axes), [0.0] * len(axes)
    steps = [
        *dataset.get("coordinateTransformations", []),
        *multiscale.get("coordinateTransformations", []),
    ]
    if not any(step["type"] == "scale" for step in steps):
        return None
    for step in steps:
        if step["type"] == "scale":
            scale = [a * b for a, b in zip(scale, step["scale"], strict=True)]
            translation = [a * b for a, b in zip(translation, step["scale"], strict=True)]
        elif step["type"] == "translation":
            translation = [a + b for a, b in zip(translation, step["translation"], strict=True)]
    order = [axes.index(a) for a in "zyx"]
    units = [_factor(multiscale["axes"][i].get("unit", "nm"), "multiscales") for i in order]
    z, y, x = (scale[i] * u for i, u in zip(order, units, strict=True))
    tz, ty, tx = (translation[i] * u for i, u in zip(order, units, strict=True))
    return Space((z, y, x), (tz, ty, tx), "OME-NGFF multiscales")
