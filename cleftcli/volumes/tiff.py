"""TIFF, read only: one file of many sections, or a folder with one file a section."""

from __future__ import annotations

import functools
import itertools
import math
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from cleftcli.errors import InputError, UnsafeError
from cleftcli.volumes.address import TIFF
from cleftcli.volumes.axes import Nm, Reading, arrange
from cleftcli.volumes.metadata import NM_PER_UNIT
from cleftcli.volumes.tiff_pages import (
    Kind,
    Pages,
    Section,
    Stack,
    blamed,
    decode,
    kind_of,
    opened,
)
from cleftcli.volumes.volume import Space, Volume, check_chunk

CACHE_BYTES = 300_000_000  # of decoded sections: a block needs the same ones as its neighbour
COUNTED = ("imagej", "shaped", "ome")  # kinds of TIFF that state how many sections they have


def detect(container: str) -> bool:
    """Whether a path is a TIFF file, or a folder of them."""
    path = Path(container)
    return bool(_files(path)) if path.is_dir() else _is_tiff(path)


def _is_tiff(path: Path) -> bool:
    """By name; files of a Mac's own (._z1.tif) hold no sections."""
    hidden = path.name.startswith(".")
    return path.suffix.lower() in TIFF and not hidden and path.is_file()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _is_tiff(p))


def list_arrays(container: str) -> list[str]:
    """The one array of a file or folder."""
    return [""] if detect(container) else []


def open_array(container: str, dataset: str, reading: Reading) -> Volume:
    """The sections as a volume.

    Raises:
        InputError: no TIFF, a single section, axes that cannot be read as z, y, x, or file names
            that do not count the sections.
    """
    path = Path(container)
    if dataset:
        raise InputError(f"{container}: a TIFF stack has no dataset {dataset}")
    if path.is_dir():
        return _folder(path, reading)
    with blamed(path), opened(path) as file:
        series = _stack(file, path)
        names = _names(series.axes)
        kind = kind_of(series.keyframe)
        leading = tuple(series.shape[: len(series.shape) - len(kind.page)])
        sections = [Section(path, i) for i in range(math.prod(leading))]
        space = Space(*_voxel_size(file))
    return _volume(Stack(path, sections, leading, kind, names, space), reading)


def _stack(file: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """The one image of a file, which has several sections.

    Raises:
        InputError: it has one section, or several images: then some would be left out.
        UnsafeError: its OME-XML names other files.
    """
    if file.is_ome and file.ome_metadata:
        named = ElementTree.fromstring(file.ome_metadata).iterfind(".//{*}UUID")
        others = {e.get("FileName", path.name) for e in named} - {path.name}
        if others:
            raise UnsafeError(f"{path}: keeps sections in other files ({min(others)})")
    images = [s for s in file.series if not s.keyframe.is_reduced]
    known = images and images[0].dataoffset is not None and images[0].kind in COUNTED
    if not images or (not known and _goes_on(file)):
        raise InputError(f"{path}: truncated: more sections follow the {len(file.pages)} in it")
    if len(images) > 1:
        kinds = ", ".join("x".join(map(str, s.shape)) for s in images)
        raise InputError(f"{path}: pages of several kinds ({kinds}); save the volume as one stack")
    series = images[0]
    if math.prod(series.shape) == math.prod(series.keyframe.shape):
        stated = (file.imagej_metadata or {}).get("images", 1)
        cut = f"truncated: {stated} sections were" if stated > 1 else "a single section is"
        raise InputError(f"{path}: {cut} in it; open a stack, or the folder of all sections")
    return series


def _goes_on(file: tifffile.TiffFile) -> bool:
    """Whether the last page that was found names a next one, which then is beyond the end."""
    about, handle = file.tiff, file.filehandle
    start = file.pages[-1].offset
    handle.seek(start)
    (tags,) = struct.unpack(about.tagnoformat, handle.read(about.tagnosize))
    handle.seek(start + about.tagnosize + tags * about.tagsize)
    return any(handle.read(about.offsetsize))


def _folder(path: Path, reading: Reading) -> Volume:
    files = _files(path)
    sections = [Section(p) for p in _in_order(path, files)]
    with blamed(files[0]), opened(files[0]) as file:
        if len(file.pages) > 1:
            raise InputError(f"{path}: {files[0].name} holds several sections; open it by itself")
        names = "z" + _names(file.series[0].axes)
        kind = kind_of(file.pages[0].keyframe)
    space = Space(source="a folder of TIFF states no distance of sections")
    return _volume(Stack(path, sections, (len(sections),), kind, names, space), reading)


def _in_order(folder: Path, files: Sequence[Path]) -> list[Path | None]:
    """Files by the number in their names, None for each number that is skipped.

    The number is the one that differs between the names; a lost section then leaves a gap instead
    of moving all others.
    """
    if len(files) < 2:
        raise InputError(f"{folder}: holds a single TIFF; a volume has several sections")
    parts = [re.split(r"(\d+)", p.stem) for p in files]
    varying = [i for i, column in enumerate(zip(*parts, strict=False)) if len(set(column)) > 1]
    if len({len(p) for p in parts}) > 1 or len(varying) != 1 or varying[0] % 2 == 0:
        raise InputError(f"{folder}: the names of its TIFF files differ in more than one number")
    numbered = {int(p[varying[0]]): file for p, file in zip(parts, files, strict=True)}
    numbers = sorted(numbered)
    if len(numbers) < len(files):
        raise InputError(f"{folder}: two of its TIFF files have the same number")
    step = math.gcd(*(b - a for a, b in itertools.pairwise(numbers)))
    places = range(numbers[0], numbers[-1] + 1, step)
    if len(places) > 2 * len(numbers):
        raise InputError(
            f"{folder}: its TIFF files are numbered {numbers[0]} to {numbers[-1]}, but more than "
            "half are missing"
        )
    return [numbered.get(n) for n in places]


def _volume(stack: Stack, reading: Reading) -> Volume:
    page, dtype = stack.kind.page, stack.kind.dtype
    shape = (*stack.leading, *page)
    axes = arrange(shape, stack.names, "TIFF", reading, str(stack.path))
    check_chunk(str(stack.path), math.prod(page), dtype)
    kept = max(1, CACHE_BYTES // max(1, math.prod(page) * dtype.itemsize))
    plain = functools.partial(decode, kind=stack.kind)
    array = Pages(stack, axes, functools.lru_cache(maxsize=kept)(plain))
    return Volume(
        address=str(stack.path),
        format="tiff",
        shape=axes.roi([0] * len(shape), shape).shape,
        dtype=np.dtype(dtype),
        chunks=axes.roi([0] * len(shape), array.grid.chunk).shape,
        space=stack.space,
        array=array,
        attributes=_intensities(stack.kind),
        axes=str(axes),
    )


def _intensities(kind: Kind) -> dict[str, list[float]]:
    """Which intensities are black and white, where a TIFF says that 0 is white."""
    if not kind.white_is_zero or kind.dtype.kind != "u":
        return {}
    return {"intensity_range": [float(np.iinfo(kind.dtype).max), 0.0]}


def _names(axes: str) -> str:
    """Letters of tifffile as ours: unnamed sections are z, samples of a pixel are channels."""
    names = axes.upper()
    for unnamed in "QI":
        names = names.replace(unnamed, "Z") if "Z" not in names else names
    names = names.replace("S", "C") if "C" not in names else names
    return names.lower()


def _voxel_size(file: tifffile.TiffFile) -> tuple[Nm | None, Nm, str]:
    """Voxel size, offset and who says so: OME-XML or ImageJ; a bare resolution has no z."""
    origin = (0.0, 0.0, 0.0)
    if file.is_ome and file.ome_metadata:
        pixels = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels")
        sizes = [_physical({} if pixels is None else pixels.attrib, axis) for axis in "ZYX"]
        return _known(sizes, "OME-XML") or (None, origin, "OME-XML without PhysicalSizeX, Y and Z")
    about = file.imagej_metadata or {}
    factor = NM_PER_UNIT.get(str(about.get("unit", "")).replace("\\u00B5", "µ").lower())
    if factor is None or not about.get("spacing"):
        return None, origin, "TIFF without OME-XML, or ImageJ's unit and spacing"
    sizes = [float(about["spacing"]) * factor]
    for tag in ("YResolution", "XResolution"):
        pixels_, units = file.pages[0].tags[tag].value if tag in file.pages[0].tags else (0, 1)
        sizes.append(units / pixels_ * factor if pixels_ else math.nan)
    return _known(sizes, "ImageJ") or (None, origin, "ImageJ without a resolution")


def _physical(attributes: Mapping[str, str], axis: str) -> float:
    value = float(attributes.get(f"PhysicalSize{axis}", "nan"))
    return value * NM_PER_UNIT.get(
        attributes.get(f"PhysicalSize{axis}Unit", "µm").lower(), math.nan
    )


def _known(sizes: Sequence[float], source: str) -> tuple[Nm, Nm, str] | None:
    z, y, x = sizes
    good = all(0 < v < math.inf for v in sizes)
    return ((z, y, x), (0.0, 0.0, 0.0), source) if good else None
