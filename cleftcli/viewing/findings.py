"""All that a report says of an output: a section each, as numbers; and what is worth a warning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cleftcli.errors import CleftError
from cleftcli.viewing.accuracy import accuracy
from cleftcli.viewing.clefts import clefts
from cleftcli.viewing.intensities import intensities
from cleftcli.viewing.places import places
from cleftcli.viewing.provenance import provenance
from cleftcli.viewing.run import as_mapping
from cleftcli.viewing.scene import Scene
from cleftcli.viewing.seams import WORTH_A_WORD, seams

Found = dict[str, Any]
Report = Callable[[int, int], None]


def find(scene: Scene, report: Report) -> dict[str, Found]:
    """The numbers of every section by its name; one that has none says what it `lacks`.

    Args:
        scene: to look at.
        report: called with sections done and sections in all.
    """
    found: dict[str, Found] = {}
    broken: list[str] = []
    for number, (name, section) in enumerate(SECTIONS.items()):
        report(number, len(SECTIONS))
        try:
            found[name] = {"lacks": None, **section(scene)}
        except CleftError as error:  # a damaged chunk takes its section, not the report
            found[name] = {"lacks": str(error)}
            broken.append(f"No {name}: {error}.")
    report(len(SECTIONS), len(SECTIONS))
    return {"summary": _summary(scene, found, broken), **found}


def _coverage(scene: Scene) -> Found:
    if scene.coverage is None:
        return {"lacks": "no ledger lies beside the output"}
    return scene.coverage.numbers()


def _summary(scene: Scene, found: dict[str, Found], broken: list[str]) -> Found:
    """What the output is, in a few lines, and what is doubtful."""
    volume, size = scene.volume, scene.volume.space.voxel_size
    plans = [record["plan"] for record in found["provenance"].get("records", [])]
    return {
        "output": volume.address,
        "content": scene.output.content,
        "rule": scene.output.rule,
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "voxel_size": None if size is None else list(size),
        "threshold": scene.output.threshold,
        "complete": scene.complete,
        "running": bool(scene.coverage and scene.coverage.running),
        "network": next((plan["network"] for plan in plans if "network" in plan), None),
        "raw": scene.raw and scene.raw.volume.address,
        "truth": scene.truth and scene.truth.volume.address,
        "warnings": [*broken, *_warnings(scene, found)],
    }


def _warnings(scene: Scene, found: dict[str, Found]) -> list[str]:
    """What a reader should know before believing the rest."""
    said = [] if scene.complete else ["The output is not finished: only what is there is shown."]
    counts = found["coverage"].get("counts", {})
    for state, what in (("failed", "failed"), ("missing input", "met missing chunks of the input")):
        if counts.get(state):
            said.append(f"{counts[state]} of {found['coverage']['blocks']} blocks {what}.")
    if "raw" in scene.lacks:
        said.append(f"Raw is not shown: {scene.lacks['raw']}.")
    if found["accuracy"].get("whole") is False:
        said.append(f"Only a part was compared with the truth: voxels {found['accuracy']['roi']}.")
    said += [f"Raw: {doubt}." for doubt in found["intensities"].get("doubts", [])]
    for axis, each in found["seams"].get("axes", {}).items():
        if each["ratio"] is not None and each["ratio"] > WORTH_A_WORD:
            said.append(f"Blocks show: jumps across their faces in {axis} are too large.")
    return [*said, *_of_runs(scene)]


def _of_runs(scene: Scene) -> list[str]:
    """What the runs themselves warned of."""
    plans = [as_mapping(record.get("plan")) for record in scene.run.records]
    said = [warning for plan in plans for warning in plan.get("warnings") or []]
    return [f"When it was made: {warning}." for warning in dict.fromkeys(map(str, said))]


SECTIONS: dict[str, Callable[[Scene], Found]] = {
    "places": places,
    "accuracy": accuracy,
    "clefts": clefts,
    "coverage": _coverage,
    "intensities": intensities,
    "seams": seams,
    "provenance": provenance,
}
