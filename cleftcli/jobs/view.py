"""An output in, one self-contained page about it out, and all the numbers behind its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cleftcli.resumable import Report
from cleftcli.stored import beside
from cleftcli.viewing.charts import charts
from cleftcli.viewing.findings import find
from cleftcli.viewing.overlays import overlays
from cleftcli.viewing.page import check_place, page, write_page, write_pictures
from cleftcli.viewing.places import places
from cleftcli.viewing.scene import Scene, Subject, open_scene
from cleftcli.volumes import is_remote

SCHEMA_VERSION = 1


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
    return {"schema_version": SCHEMA_VERSION, "report": str(path), **numbers}


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
    result = {"folder": str(folder), "files": files, "places": found}
    return {"schema_version": SCHEMA_VERSION, **result}


def _beside(scene: Scene, what: str) -> Path:
    """Beside the output; of one that lies elsewhere, in the current folder."""
    path = beside(scene.volume.address, what)
    return Path(path.name) if is_remote(scene.volume.address) else path
