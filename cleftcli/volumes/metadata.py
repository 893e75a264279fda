"""Voxel size and offset in nm, zyx, from every dialect that stores of this field speak.

N5 keeps vectors in x, y, z and no library turns them: that happens here, once.
"""

from __future__ import annotations

import logging
import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cleftcli.errors import InputError
from cleftcli.volumes.axes import Nm
from cleftcli.volumes.volume import Space

log = logging.getLogger(__name__)

NM_PER_UNIT = {
    "nm": 1.0, "nanometer": 1.0, "nanometers": 1.0, "nanometre": 1.0,
    "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "microns": 1e3, "micrometer": 1e3,
    "micrometers": 1e3, "micrometre": 1e3, "angstrom": 0.1, "ångström": 0.1, "å": 0.1,
    "pm": 1e-3, "picometer": 1e-3, "mm": 1e6, "millimeter": 1e6, "m": 1e9, "meter": 1e9,
}  # fmt: skip

NO_UNIT = (None, "", "pixel", "pixels", "px")  # what viewers write where nobody calibrated

Attributes = Mapping[str, Any]


def read_space(
    attributes: Attributes,
    *,
    parents: Sequence[tuple[str, Attributes]] = (),
    order: str = "zyx",
    overruled: bool = False,
) -> Space:
    """The space that an array's attributes, or those of the groups above it, state.

    Args:
        attributes: of the array itself.
        parents: (path of the array in the group, attributes of the group), innermost first.
        order: of vectors without named axes: that of z, y and x on disk (N5: xyz).
        overruled: somebody says what the voxel size is; what cannot be read is then left out.

    Raises:
        InputError: a stated voxel size is not three positive numbers, or its unit is unknown.
    """
    try:
        return _stated(attributes, parents, order)
    except InputError as error:
        if not overruled:
            raise
        log.warning("%s; until then neither it nor an offset counts", error)
        return Space()


def _stated(attributes: Attributes, parents: Sequence[tuple[str, Attributes]], order: str) -> Space:
    try:
        found = _first(attributes, parents, order)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"unreadable voxel size or offset: {error}; correct it in the store"
        ) from error
    if found is None:
        return Space()
    if found.voxel_size is not None and not all(0 < v < math.inf for v in found.voxel_size):
        raise InputError(
            f"voxel size {found.voxel_size} in {found.source} is not positive; "
            "correct it in the store"
        )
    if not all(map(math.isfinite, found.offset)):
        raise InputError(
            f"offset {found.offset} in {found.source} is not finite; correct it in the store"
        )
    return found


def _first(
    attributes: Attributes, parents: Sequence[tuple[str, Attributes]], order: str
) -> Space | None:
    """What the first dialect that knows the voxel size says, else why the first does not."""
    said = [
        _named_axes(attributes),
        _pixel_resolution(attributes),
        _canonical(attributes),
        _cremi(attributes, order),
    ]
    said += [_paintera(attributes, group, path, order) for path, group in parents[:1]]
    said += [_ngff(group, path) for path, group in parents]
    found = [space for space in said if space is not None]
    return next((space for space in found if space.voxel_size), found[0] if found else None)


def cremi(space: Space, *, order: str = "zyx") -> dict[str, Any]:
    """The CREMI attributes `resolution` and, where it is not zero, `offset`."""
    if space.voxel_size is None:
        return {}
    places = ["zyx".index(a) for a in order]
    offset = {"offset": [space.offset[i] for i in places]} if any(space.offset) else {}
    return {"resolution": [space.voxel_size[i] for i in places], **offset}


def scales(attributes: Attributes) -> list[str]:
    """Paths of the finest scales of the OME-NGFF images (0.4 or 0.5) of a group."""
    return [paths[0] for paths in _paths(attributes)]


def coarser(attributes: Attributes, path: str) -> list[str]:
    """Paths of the other scales of the images whose finest is at a path of a group."""
    return [p for paths in _paths(attributes) if paths[0] == path for p in paths[1:]]


def ngff_axes(parents: Sequence[tuple[str, Attributes]]) -> list[str] | None:
    """The axes of an array that an OME-NGFF image above it lists, in stored order."""
    for path, group in parents:
        for multiscale, _ in _listing(group, path):
            if isinstance(multiscale.get("axes"), list):
                return [name for name, _ in _axes(multiscale)]
    return None


def _vector(values: Any, source: str, order: str, *, factor: float = 1.0) -> Nm:
    """Three numbers in `order` as nm, zyx."""
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        raise InputError(f"{source} is {values!r}; expected three numbers; correct it in the store")
    z, y, x = (float(values[order.index(a)]) * factor for a in "zyx")
    return z, y, x


def _factor(unit: str, source: str) -> float:
    if unit.lower() not in NM_PER_UNIT:
        raise InputError(f"{source} is in {unit!r}; known are {', '.join(NM_PER_UNIT)}")
    return NM_PER_UNIT[unit.lower()]


def _turned(order: str) -> str:
    return "" if order == "zyx" else f" ({order}, turned)"


def _cremi(attributes: Attributes, order: str) -> Space | None:
    if "resolution" not in attributes:
        return None
    size = _vector(list(attributes["resolution"]), "resolution", order)
    offset = _vector(list(attributes.get("offset", [0, 0, 0])), "offset", order)
    return Space(size, offset, f"resolution{_turned(order)}")


def _pixel_resolution(attributes: Attributes) -> Space | None:
    """N5 viewers: {dimensions, unit} or a bare list, always xyz; without a unit it says nothing.

    It is that of the finest scale; `downsamplingFactors` tell how many of its voxels were averaged.
    """
    stated = attributes.get("pixelResolution")
    if stated is None:
        return None
    stated = stated if isinstance(stated, Mapping) else {"dimensions": stated}
    if stated.get("unit") in NO_UNIT:
        return Space(source=f"pixelResolution {stated['dimensions']} has no unit")
    factor = _factor(stated["unit"], "pixelResolution")
    finest = _vector(stated["dimensions"], "pixelResolution", "xyz", factor=factor)
    source = "downsamplingFactors"
    averaged = _vector(attributes.get(source, [1, 1, 1]), source, "xyz")
    z, y, x = (v * n for v, n in zip(finest, averaged, strict=True))
    oz, oy, ox = (v * (n - 1) / 2 for v, n in zip(finest, averaged, strict=True))
    offset = _vector(attributes.get("offset", [ox, oy, oz]), "offset", "xyz")
    times = f" x {source}" if source in attributes else ""
    return Space((z, y, x), offset, f"pixelResolution{times} (xyz, turned)")


def _paintera(attributes: Attributes, group: Attributes, path: str, order: str) -> Space | None:
    """Scales s0, s1, ... below a group whose `resolution` is that of the finest."""
    if "resolution" not in group or re.fullmatch(r"s\d+", path) is None:
        return None
    source = "downsamplingFactors"
    if path != "s0" and source not in attributes:
        return Space(source=f"the group's resolution is that of s0, and {path} has no {source}")
    finest = _vector(list(group["resolution"]), "resolution", order)
    averaged = _vector(list(attributes.get(source, [1, 1, 1])), source, order)
    z, y, x = (v * n for v, n in zip(finest, averaged, strict=True))
    moved = [v * (n - 1) / 2 for v, n in zip(finest, averaged, strict=True)]
    origin = _vector(list(group.get("offset", [0, 0, 0])), "offset", order)
    oz, oy, ox = (a + b for a, b in zip(origin, moved, strict=True))
    return Space((z, y, x), (oz, oy, ox), f"the group's resolution{_turned(order)}")


def _named_axes(attributes: Attributes) -> Space | None:
    """COSEM's `transform`: axes, units, scale, translate in one order."""
    stated = attributes.get("transform")
    if not isinstance(stated, Mapping) or not {"axes", "scale"} <= stated.keys():
        return None
    order = [list(stated["axes"]).index(a) for a in "zyx"]
    if "units" not in stated:
        return Space(source=f"transform {stated['scale']} has no units")
    factors = [_factor(u, "transform") for u in stated["units"]]

    def turned(values: Sequence[float]) -> Nm:
        z, y, x = (float(values[i]) * factors[i] for i in order)
        return z, y, x

    return Space(turned(stated["scale"]), turned(stated.get("translate", [0] * 3)), "transform")


def _canonical(attributes: Attributes) -> Space | None:
    """n5-universe's `spatialTransform`: a scale or an affine matrix of x, y, z in one unit."""
    stated = attributes.get("spatialTransform")
    if not isinstance(stated, Mapping):
        return None
    transform, unit = stated["transform"], stated.get("unit")
    if unit in NO_UNIT:
        return Space(source="spatialTransform has no unit")
    matrix = transform.get(transform["type"])
    if transform["type"] == "scale":
        rows = [[v if i == j else 0.0 for j in range(3)] + [0.0] for i, v in enumerate(matrix)]
    else:
        rows = [list(matrix or [])[n : n + 4] for n in (0, 4, 8)]
    turns = any(v for i, row in enumerate(rows) for j, v in enumerate(row[:3]) if i != j)
    if transform["type"] not in ("scale", "affine") or "axes" in stated or turns:
        return Space(source="spatialTransform is more than a scale of x, y, z")
    factor = _factor(unit, "spatialTransform")
    size = _vector([row[i] for i, row in enumerate(rows)], "scale", "xyz", factor=factor)
    offset = _vector([row[3] for row in rows], "translation", "xyz", factor=factor)
    return Space(size, offset, "spatialTransform (xyz, turned)")


def _images(group: Attributes) -> list[Attributes]:
    """The images that a group declares: OME-NGFF 0.4 and 0.5, and a single one of n5-universe."""
    ome = group.get("ome")
    stated = (ome if isinstance(ome, Mapping) else group).get("multiscales")
    images = stated if isinstance(stated, list) else [stated]
    return [image for image in images if isinstance(image, Mapping)]


def _datasets(image: Attributes) -> list[Attributes]:
    """The arrays of an image that are named."""
    stated = image.get("datasets")
    found = stated if isinstance(stated, list) else []
    return [d for d in found if isinstance(d, Mapping) and isinstance(d.get("path"), str)]


def _paths(group: Attributes) -> list[list[str]]:
    """Where the scales of each image of a group are, the finest first."""
    listed = [[d["path"] for d in _datasets(image)] for image in _images(group)]
    return [paths for paths in listed if paths]


def _axes(image: Attributes) -> list[tuple[str, Any]]:
    """Name and unit of each axis of an image; before OME-NGFF 0.4 they had no units."""
    axes = [a if isinstance(a, Mapping) else {"name": a} for a in image["axes"]]
    return [(str(a.get("name")), a.get("unit")) for a in axes]


def _listing(group: Attributes, path: str) -> Iterator[tuple[Attributes, Attributes]]:
    """The images of a group that list an array, with their entry for it."""
    for image in _images(group):
        for dataset in _datasets(image):
            if posixpath.normpath(dataset["path"]) == path:
                yield image, dataset


def _ngff(group: Attributes, path: str) -> Space | None:
    """What the entry of an array says: COSEM's and n5-universe's, else OME-NGFF's."""
    for image, dataset in _listing(group, path):
        return _named_axes(dataset) or _canonical(dataset) or _ngff_space(image, dataset)
    return None


def _ngff_space(multiscale: Attributes, dataset: Attributes) -> Space | None:
    """Transformations of the dataset, then of the whole multiscale."""
    if "axes" not in multiscale:
        return None
    axes, stated = zip(*_axes(multiscale), strict=True)
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
    if any(stated[i] in NO_UNIT for i in order):
        return Space(source=f"OME-NGFF scale {[scale[i] for i in order]} has no unit")
    units = [_factor(stated[i], "multiscales") for i in order]
    z, y, x = (scale[i] * u for i, u in zip(order, units, strict=True))
    tz, ty, tx = (translation[i] * u for i, u in zip(order, units, strict=True))
    return Space((z, y, x), (tz, ty, tx), "OME-NGFF multiscales")
