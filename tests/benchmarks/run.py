"""`make bench`: every claim about cost, side by side in one run, each in a process of its own.

Words behind the command choose rows, by group or name; rows found earlier on the same machine
with the same versions are kept. Exit code 1 where a row failed; a missed target is no failure.
"""

import argparse
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from cleftcli.machine import about, built_in_memory, cores, now
from tests.benchmarks import (
    clefts,
    inference,
    peers,
    predictions,
    profile,
    scaling,
    scheduling,
    training,
    volumes,
)
from tests.benchmarks.alone import alone, bring
from tests.benchmarks.page import WHERE, page, said
from tests.benchmarks.row import Row, Setting

GROUPS: dict[str, tuple[Row, ...]] = {
    "Volumes": volumes.ROWS,
    "Labels and scores": clefts.ROWS,
    "Inference": inference.ROWS,
    "Prediction": predictions.ROWS + peers.ROWS,
    "Schedule": scheduling.ROWS,
    "Training": training.ROWS,
    "Scaling": scaling.ROWS,
    WHERE: profile.ROWS,
}
LIBRARIES = ("torch", "numpy", "scipy", "tensorstore", "dask", "gunpowder")
FULL, QUICK = {}, {"repeats": 1, "edge": 0.5, "times": 4}
RESULTS = Path("benchmarks.json")


def measured(group: str, row: Row, **how: Any) -> dict[str, Any]:
    """A row with what it `found`, or why it `failed` or was `skipped`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.sync()  # what the row before wrote shall not be written while this one is timed
        answer = alone(partial(_measure, row, Setting(Path(folder), **how)), row.limit)
    target = row.target and {"number": row.target.number, "at_most": row.target.at_most}
    return {
        "group": group,
        "name": row.name,
        "against": row.against,
        "unit": row.unit,
        "target": target,
        "why": row.why,
        "date": now()[:10],
        **answer,
    }


def _measure(row: Row, at: Setting) -> dict[str, Any]:
    if row.needs:
        bring(row.needs, at.folder / "packages")
    return row.measure(at)


def conditions(*, quick: bool) -> dict[str, Any]:
    """Where and how rows are measured: those of other conditions do not stand in one table."""
    versions = about(LIBRARIES)
    versions.pop("host")
    system = versions.pop("machine")
    machine = f"{_processor()}, {cores()} cores, {built_in_memory() / 1e9:.0f} GB, {system}"
    return {"machine": machine, "versions": versions, "quick": quick}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "processor not known"
    return next((ln.split(":")[1].strip() for ln in lines if "model name" in ln), "CPU")


def earlier(under: dict[str, Any]) -> dict[str, Any]:
    """The rows that were found before under the same conditions."""
    try:
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found["rows"] if found.get("conditions") == under else {}


def main() -> int:
    """Measure, print, write; the exit code."""
    asked = _asked()
    under = conditions(quick=asked.quick)
    found = {"conditions": under, "rows": earlier(under)}
    for group, row in chosen(asked.words):
        line = measured(group, row, **(QUICK if asked.quick else FULL))
        found["rows"] = in_order({**found["rows"], row.title: line})
        print(f"{row.title:60} {said(line)}", flush=True)  # noqa: T201
        RESULTS.write_text(json.dumps(found, indent=1, default=float), encoding="utf-8")
    if asked.page:
        asked.page.write_text(page(found), encoding="utf-8")
    return int(any("failed" in line for line in found["rows"].values()))


def in_order(rows: dict[str, Any]) -> dict[str, Any]:
    """As they stand in GROUPS, without those that are no more."""
    return {r.title: rows[r.title] for of in GROUPS.values() for r in of if r.title in rows}


def chosen(words: list[str]) -> list[tuple[str, Row]]:
    """The rows that hold all words in their group or name, by their groups."""
    rows = [(group, row) for group, of in GROUPS.items() for row in of]
    return [(g, r) for g, r in rows if all(w.lower() in f"{g} {r.title}".lower() for w in words)]


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("words", nargs="*", help="rows with all of these in group or name")
    parser.add_argument("--quick", action="store_true", help="smaller volumes, one repeat")
    parser.add_argument("--page", type=Path, help="a Markdown page to write of all results")
    return parser.parse_args()
