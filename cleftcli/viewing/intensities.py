"""Whether raw looks like what the network was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleftcli.errors import CleftError
from cleftcli.inspection import FAR, distance, intensity_doubts, look
from cleftcli.viewing.run import as_mapping
from cleftcli.viewing.scene import Scene

if TYPE_CHECKING:
    from cleftcli.model.checkpoint import Checkpoint


def intensities(scene: Scene) -> dict[str, Any]:
    """Histograms of raw and of the training data, black to white, their distance, and doubts."""
    if scene.raw is None:
        return {"lacks": scene.lacks["raw"]}
    sample = look(scene.raw.volume)
    found: dict[str, Any] = {
        "raw": scene.raw.volume.address,
        "black_white": list(scene.raw.black_white),
        "sections": sample.sections,
        "histogram": sample.histogram(scene.raw.black_white),
    }
    if not found["histogram"]:
        return {"lacks": f"{scene.raw.volume.address}: no section that was looked at has contrast"}
    known = _checkpoint(scene)
    trained = list(known.intensities) if known else []
    found["doubts"] = intensity_doubts(sample, scene.raw.black_white, trained)
    found["training"] = trained
    found["distance"] = distance(found["histogram"], trained) if trained else None
    found["far"] = FAR
    return found


def _checkpoint(scene: Scene) -> Checkpoint | None:
    """The checkpoint that predicted, if it is still where it was, or is the one that ships."""
    from cleftcli.model import checkpoint

    for path in (*_named(scene), checkpoint.shipped()):
        try:
            if checkpoint.digest(path) == scene.run.fingerprint.get("checkpoint"):
                return checkpoint.load(path)[0]
        except (OSError, CleftError):
            continue
    return None


def _named(scene: Scene) -> list[Path]:
    """Where the runs say that their checkpoints are."""
    plans = [(r.get("folder", ""), as_mapping(r.get("plan"))) for r in scene.run.records]
    return [
        Path(str(folder), str(plan["checkpoint"])) for folder, plan in plans if "checkpoint" in plan
    ]
