"""The pictures of a report: windows and sections over z, with what is predicted in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cleftcli.errors import InputError
from cleftcli.geometry import Roi, parse_roi
from cleftcli.pictures import compared, likely, rgb, sheet
from cleftcli.viewing.scene import Scene

WIDTH = 1024  # pixels of the montage, about
COLUMNS = 4  # of it, fewer where sections are long
LEGEND = "right: blue, false: red, missed: yellow"


@dataclass(frozen=True)
class Picture:
    """An image, a name for its file, and what it shows in words."""

    name: str
    alt: str
    image: Image.Image


def overlays(scene: Scene, found: dict[str, Any]) -> list[Picture]:
    """A picture of each place, then the montage over z.

    Args:
        scene: to read from.
        found: what `places` found there; nothing is drawn where it found nothing.
    """
    pictures = [_place(scene, n, place) for n, place in enumerate(found.get("places", []), 1)]
    montage = found.get("montage")
    return [*pictures, _montage(scene, montage)] if montage else pictures


def _place(scene: Scene, number: int, place: dict[str, Any]) -> Picture:
    roi = parse_roi(place["roi"], scene.volume.shape)
    columns = _panels(scene, roi)
    names = [[f"z {place['z']}"]]
    image = sheet(tuple(columns), [list(columns.values())], names, _nm(scene))
    z, y, x = roi.offset
    kind = place["kind"]
    alt = f"{kind.capitalize()} place, section {z} from y {y} and x {x}: {', '.join(columns)}"
    return Picture(f"place-{number:02d}-{kind.replace(' ', '-')}-z{z}-y{y}-x{x}", alt, image)


def _panels(scene: Scene, roi: Roi) -> dict[str, np.ndarray]:
    """The panels (y, x, 3) of a box of one section by what they show."""
    grey = scene.grey(roi)[0]
    levels, unknown = (found[0] for found in _read(scene, roi))
    found = {"raw": rgb(grey)} if scene.raw is not None else {}
    threshold = scene.output.threshold
    name = "prediction" if threshold is None else f"prediction (outline: probability {threshold:g})"
    found[name] = likely(grey, levels / scene.output.full, 1.0 if threshold is None else threshold)
    if scene.truth is not None:
        found[LEGEND] = _compared(scene, roi, grey, levels)
    for panel in found.values():
        panel[unknown] //= 3  # what is not there, or nobody knows, is dark
    return found


def _read(scene: Scene, roi: Roi) -> tuple[np.ndarray, np.ndarray]:
    """Levels of the output, and where nobody knows: also where it cannot be read."""
    try:
        return scene.output.read(roi)
    except InputError:
        return np.zeros(roi.shape, np.uint8), np.ones(roi.shape, bool)


def _compared(scene: Scene, roi: Roi, grey: np.ndarray, levels: np.ndarray) -> np.ndarray:
    marked, unannotated = (found[0] for found in scene.truth.read(roi))  # type: ignore[union-attr]
    true = scene.truth.mask(marked)  # type: ignore[union-attr]
    return compared(grey, scene.output.mask(levels) & ~unannotated, true & ~unannotated)


def _montage(scene: Scene, montage: dict[str, Any]) -> Picture:
    """Sections from the first to the last at one place, made smaller."""
    roi = parse_roi(montage["roi"], scene.volume.shape)
    sections = montage["sections"]
    _, height, width = roi.shape
    columns = min(max(round(COLUMNS * height / width), 1), COLUMNS)
    factor = -(-max(height, width) * columns // WIDTH)
    starts = range(0, len(sections), columns)
    names = [[f"z {z}" for z in sections[n : n + columns]] for n in starts]
    rows = [[_cell(scene, roi, z, factor) for z in sections[n : n + columns]] for n in starts]
    head = LEGEND if scene.truth is not None else "prediction: orange"
    nm = _nm(scene)
    heads = (head, *[""] * (columns - 1))
    image = sheet(heads, rows, names, None if nm is None else nm * factor)
    alt = f"Sections {', '.join(map(str, sections))} at voxels {roi}; {head}"
    return Picture("over-z", alt, image)


def _cell(scene: Scene, roi: Roi, z: int, factor: int) -> np.ndarray:
    here = Roi((z, *roi.offset[1:]), (1, *roi.shape[1:]))
    panels = list(_panels(scene, here).values())
    return _smaller(panels[-1], factor)


def _smaller(panel: np.ndarray, factor: int) -> np.ndarray:
    """Each pixel the mean of `factor` x `factor`; what is left at the far edges is cut."""
    height, width = (n // factor for n in panel.shape[:2])
    cut = panel[: height * factor, : width * factor].astype(np.float32)
    means = cut.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    return np.asarray(np.rint(means).astype(np.uint8))


def _nm(scene: Scene) -> float | None:
    """Along x, for the scale bar."""
    size = scene.volume.space.voxel_size
    return None if size is None else size[2]
