"""An output in, one self-contained page about it out, and all the numbers behind its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cleftcli.foreground import Foreground
from cleftcli.stored import beside
from cleftcli.viewers.layer import Layer
from cleftcli.viewing.charts import charts
from cleftcli.viewing.findings import Report, find
from cleftcli.viewing.overlays import overlays
from cleftcli.viewing.page import check_place, page, write_page, write_pictures
from cleftcli.viewing.places import places
from cleftcli.viewing.scene import Scene, Subject, open_scene
from cleftcli.volumes import Reading, is_remote


def view(subject: Subject, to: Path | None, report: Report) -> dict[str, Any]:
    """Write the report of an output, finished or growing; returns its path and the numbers in it.

    Args:
        subject: the output, and what to hold it against.
        to: the file; None is beside the output, OUT.zarr.DATASET.report.html.
        report: called with sections done and sections in all.

    Raises:
        ConflictError: a file is there that is no report.
        InputError: the output cannot be read, or truth or raw do not lie over it.
        ResourceError: the report cannot be written.
        UsageError: the threshold is not in (0, 1].
    """
    scene = open_scene(subject)
    path = to or _beside(scene, "report.html")
    check_place(path)
    numbers = find(scene, report)
    write_page(path, page(numbers, charts(numbers), overlays(scene, numbers["places"])))
    return {"report": str(path), **numbers}


def view_pictures(subject: Subject, to: Path | None) -> dict[str, Any]:
    """Write the pictures of a report alone, as PNG; returns their folder, paths and places.

    Args:
        subject: the output, and what to hold it against.
        to: the folder; None is beside the output, OUT.zarr.DATASET.overlays.

    Raises:
        CleftError: as `view`.
    """
    scene = open_scene(subject)
    folder = to or _beside(scene, "overlays")
    found = places(scene)
    files = write_pictures(folder, overlays(scene, found))
    return {"folder": str(folder), "files": files, "places": found}


def layers(subject: Subject) -> list[Layer]:
    """What a viewer shows of an output, from the back to the front: raw, truth, what was found.

    Raises:
        CleftError: as `view`.
    """
    scene, reading = open_scene(subject), Reading(subject.voxel_size)
    raw = [] if scene.raw is None else [Layer("raw", scene.raw.volume.address, "raw", reading)]
    ids = None if scene.output is scene.probability else scene.output
    named = {"truth": scene.truth, "probability": scene.probability, "clefts": ids}
    return [*raw, *(_layer(name, found, reading) for name, found in named.items() if found)]


def _layer(name: str, found: Foreground, reading: Reading) -> Layer:
    if found.threshold is None:
        return Layer(name, found.volume.address, "clefts", reading)
    return Layer(name, found.volume.address, "probability", reading, found.threshold)


def _beside(scene: Scene, what: str) -> Path:
    """Beside the output; of one that lies elsewhere, in the current folder."""
    path = beside(scene.volume.address, what)
    return Path(path.name) if is_remote(scene.volume.address) else path
