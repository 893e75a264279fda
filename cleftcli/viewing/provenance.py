"""What made an output: command, versions, machine, times, settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from cleftcli.machine import now
from cleftcli.run_record import LIBRARIES
from cleftcli.viewing.run import as_mapping
from cleftcli.viewing.scene import Scene

PLACES = ("cleft", "python", *LIBRARIES, "machine", "host", "folder", "started", "ended")


def provenance(scene: Scene) -> dict[str, Any]:
    """Of each record beside the output who ran what, and the settings that decide its voxels."""
    attributes = scene.volume.attributes
    made_by, settings, seen = (attributes.get(k) for k in ("made_by", "run", "input"))
    return {
        "made_by": made_by,
        "settings": dict(as_mapping(settings)),
        "of_probability": dict(scene.run.fingerprint) if scene.output.content == "ids" else {},
        "input": dict(as_mapping(seen)),
        "records": [_told(record, scene.run.fingerprint) for record in scene.run.records],
        "runs": [] if scene.coverage is None else scene.coverage.standing.runs,
        "reported": now(),
        "lacks": None if scene.run.records else "no run record lies beside the output",
    }


def _told(record: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what stands elsewhere in the report."""
    command = record.get("command")
    line = shlex.join(map(str, command)) if isinstance(command, list) else ""
    news = {k: v for k, v in as_mapping(record.get("plan")).items() if settings.get(k) != v}
    return {
        "command": line,
        **{k: record[k] for k in PLACES if k in record},
        "plan": {k: v for k, v in news.items() if k not in ("warnings", "input")},
    }
