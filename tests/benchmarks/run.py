"""`make bench`: every claim about cost, side by side in one run, each in a process of its own.

Words behind the command choose rows, by group or name; what was found of others on the same
machine with the same versions is kept in benchmarks.json. `--resume` measures what is not there,
and where all is there only writes the page again. Exit code 1 where a row failed.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict
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
FULL, QUICK = {}, {"repeats": 1, "edge": 0.4, "times": 4}
RESULTS = Path("benchmarks.json")


def measured(row: Row, packages: Path, **how: Any) -> dict[str, Any]:
    """What a row `found`, or why it `failed` or was `skipped`; when, and how long it `took`, s."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.sync()  # what the row before wrote shall not be written while this one is timed
        work = partial(_measure, row, packages, Setting(Path(folder), **how))
        start = time.monotonic()
        answer = alone(work, row.limit)
        return {"date": now()[:10], "took": round(time.monotonic() - start), **answer}


def _measure(row: Row, packages: Path, at: Setting) -> dict[str, Any]:
    if row.needs:
        bring(row.needs, packages / row.needs[0])
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the row's process ends with this one
    asked = _asked()
    under, how = conditions(quick=asked.quick), QUICK if asked.quick else FULL
    rows = described(earlier(under))
    with tempfile.TemporaryDirectory() as packages:
        for _, row in chosen(asked.words, quick=asked.quick):
            if asked.resume and "found" in rows.get(row.title, {}):
                continue
            rows = described({**rows, row.title: measured(row, Path(packages), **how)})
            one = rows[row.title]
            print(f"{one['took']:4} s  {row.title:60} {said(one)}", flush=True)  # noqa: T201
            found = {"conditions": under, "rows": rows}
            RESULTS.write_text(json.dumps(found, indent=1, default=float), encoding="utf-8")
    if asked.page and rows:
        asked.page.write_text(page({"conditions": under, "rows": rows}), encoding="utf-8")
    return int(any("failed" in row for row in rows.values()))


def described(rows: dict[str, Any]) -> dict[str, Any]:
    """Results with what the code says of their rows, in its order; rows that are no more go."""
    known = [(group, row) for group, of in GROUPS.items() for row in of if row.title in rows]
    return {row.title: {**rows[row.title], **_described(group, row)} for group, row in known}


def _described(group: str, row: Row) -> dict[str, Any]:
    return {
        "group": group,
        "name": row.name,
        "against": row.against,
        "unit": row.unit,
        "target": row.target and asdict(row.target),
        "why": row.why,
    }


def chosen(words: list[str], *, quick: bool = False) -> list[tuple[str, Row]]:
    """The rows that hold all words in their group or name, with their groups."""
    rows = [(group, row) for group, of in GROUPS.items() for row in of if row.quick or not quick]
    return [(g, r) for g, r in rows if all(w.lower() in f"{g} {r.title}".lower() for w in words)]


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("words", nargs="*", help="rows with all of these in group or name")
    parser.add_argument("--quick", action="store_true", help="smaller volumes, one repeat")
    parser.add_argument("--resume", action="store_true", help="measure what is not there yet")
    parser.add_argument("--page", type=Path, help="a Markdown page to write of all results")
    return parser.parse_args()
