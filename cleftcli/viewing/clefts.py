"""Cleft by cleft: what became of each, the worst first."""

from __future__ import annotations

from typing import Any

from cleftcli.detection import Tally, detect
from cleftcli.geometry import BlockPlan, fit_block
from cleftcli.outputs import CHUNK
from cleftcli.scoring import BLOCK_VOXELS
from cleftcli.viewing.scene import Scene

MOST_ROWS = 200
FATES = ("missed", "false", "merged", "split", "hit")  # the worst first


def clefts(scene: Scene) -> dict[str, Any]:
    """The clefts of both sides held against each other, or the ids of an output without a truth.

    At most MOST_ROWS rows: missed and false ones first, of a kind the largest; without a truth
    the smallest, for those are the likeliest to be none.
    """
    if scene.pair is not None:
        found = detect(scene.pair)
        rows = [_judged(row) for row in found.rows if _is_news(row)]
        rows.sort(key=lambda row: (FATES.index(row["fate"]), -row["voxels"]))
        facts: dict[str, Any] = {"counts": found.counts}
    elif scene.output.content == "ids":
        rows = sorted(_own(scene), key=lambda row: row["voxels"])
        facts = {"counts": {"predicted": len(rows)}}
    else:
        return {"lacks": "without a truth there are none to tell; `cleft segment` makes them"}
    roi = scene.part
    whole = roi == scene.volume.roi
    return {**facts, "roi": str(roi), "whole": whole, "of": len(rows), "rows": rows[:MOST_ROWS]}


def _is_news(row: dict[str, Any]) -> bool:
    """Predicted clefts that meet a true one are told of with that."""
    return row["side"] == "truth" or not row["hit"]


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    fate = "false" if row["side"] == "prediction" else "missed"
    if row["hit"]:
        fate = "merged" if row["merged"] else "split" if row["split"] else "hit"
    kept = ("id", "voxels", "shared_voxels", "centroid_z", "centroid_y", "centroid_x")
    return {"fate": fate, **{k: row[k] for k in kept}, "partners": len(row["partners"])}


def _own(scene: Scene) -> list[dict[str, Any]]:
    """A row for each id."""
    tally = Tally()
    for block in BlockPlan(scene.part, fit_block(scene.part.shape, CHUNK, BLOCK_VOXELS)):
        tally.add(scene.output.ids(block.write), block.write)
    return [{"id": n, "voxels": v, **tally.centroid(n)} for n, v in tally.voxels.items()]
