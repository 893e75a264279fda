"""A raw volume in, cleft probability out: OME-NGFF zarr or N5, block by block, resumable."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import Any

from cleftcli.geometry import zyx
from cleftcli.inspection import what_was_read
from cleftcli.prediction import predict_roi
from cleftcli.prediction_plan import Plan, plan
from cleftcli.prediction_settings import Settings
from cleftcli.pyramid import make_pyramid
from cleftcli.resumable import Outcome, Report, make
from cleftcli.run_record import RunRecord
from cleftcli.volumes import write_attributes

log = logging.getLogger(__name__)

MOST_IN_BLACK = 0.01  # share of positives where there is no tissue, before it is worth a word


def predict(
    settings: Settings, *, overwrite: bool, report: Report, pyramid: bool = False
) -> dict[str, Any]:
    """Predict a volume; returns the plan's summary and what came of it.

    Args:
        settings: what to predict, and how.
        overwrite: replace an output of cleft made with other settings.
        report: called with blocks done, blocks in all, and the speed and failures so far.
        pyramid: then make coarser levels of the probability, for viewers.

    Raises:
        ConflictError: another run's output is there.
        IncompleteError: blocks failed; the same call continues.
    """
    planned = plan(settings)
    log.info("%s", describe(planned))
    for warning in planned.warnings:
        log.warning("%s: %s", planned.volume.address, warning)
    record = RunRecord(planned.output.address, planned.workers.part)
    facts = {"settings": asdict(settings), "plan": planned.summary()}
    outcome = make(
        planned.output,
        planned.process,
        planned.fingerprint,
        input=planned.scan.stamp,
        further=planned.further,
        skipped=planned.outside,
        workers=planned.workers,
        overwrite=overwrite,
        report=report,
        begun=partial(record.begin, facts),
    )
    seen = _what_was_seen(planned, outcome)
    if outcome.complete:
        write_attributes(outcome.volume, {"input": seen})
    found = {
        **planned.summary(),
        "complete": outcome.complete,
        "blocks_done": outcome.done,
        "blocks_resumed": outcome.resumed,
        "blocks_skipped": outcome.totals["skipped"],
        "input": seen,
        "threshold": planned.checkpoint.threshold,
        "levels": [],
    }
    if pyramid and outcome.complete:
        found["levels"] = make_pyramid(
            outcome.volume, workers=planned.workers, overwrite=overwrite, report=report
        )
    record.end(found)
    return found


def _what_was_seen(planned: Plan, outcome: Outcome) -> dict[str, Any]:
    """What the blocks met in the input; the troubles are said aloud."""
    _, rows, columns = planned.blocks.counts
    constant = outcome.members.get("constant_sections", Counter())
    empty = sorted(z for z, n in constant.items() if n == rows * columns)
    positive, black = outcome.totals["positive"], outcome.totals["positive_in_black"]
    seen = {
        **what_was_read(
            planned.volume, planned.scan, planned.blocks.roi, outcome.inputs, outcome.totals
        ),
        "blocks_without_contrast": outcome.totals["empty"],
        "sections_without_contrast": empty,
        "nan_or_inf_voxels": outcome.totals["strange"],
        "positive_voxels": positive,
        "positive_voxels_without_tissue": black,
    }
    if empty:
        log.warning("sections without contrast, taken as grey: z %s", ", ".join(map(str, empty)))
    if seen["nan_or_inf_voxels"]:
        log.warning("%d voxels were NaN or inf, taken as grey", seen["nan_or_inf_voxels"])
    if black > positive * MOST_IN_BLACK:
        share = 100 * black / positive
        log.warning("%.1f %% of the positive voxels lie in black squares of the input", share)
    return seen


def dry_run(settings: Settings) -> dict[str, Any]:
    """The plan, and how long it will take: a few tiles from the middle are timed, none written.

    Raises:
        CleftError: as `plan`.
    """
    planned = plan(settings)
    found = planned.summary()
    if planned.workers.elsewhere:
        return found
    count, seconds = _time_of_tiles(planned)
    rate = count / seconds * planned.workers.processes
    return {**found, "tiles_per_second": rate, "seconds": found["tiles_computed"] / rate}


def _time_of_tiles(planned: Plan) -> tuple[int, float]:
    """How many tiles were computed in how many seconds, once warm."""
    process, roi = planned.process, planned.blocks.roi
    grid = process.tiling.grid
    box = roi.middle(zyx([2 * n for n in grid.stride]))
    for _ in range(2):
        begun = time.monotonic()
        predict_roi(process.predictor(), planned.volume, process.black_white, process.tiling, box)
        seconds = time.monotonic() - begun
    return len(grid.touching(box)), seconds


def describe(planned: Plan) -> str:
    """The plan in two lines."""
    s = planned.summary()
    low, high = s["intensity_range"]
    blocks = "block" if s["blocks"] == 1 else "blocks"
    return (
        f"{s['volume']}: {'x'.join(map(str, s['shape']))} {planned.volume.dtype}, "
        f"axes {s['axes']}, voxel size {s['voxel_size'] or 'not known'} nm, "
        f"{low:g} is black and {high:g} white\n"
        f"{s['network']} on {s['device']} in {s['precision']}: {s['tiles']} tiles of "
        f"{'x'.join(map(str, s['tile']))} in {s['blocks']} {blocks} -> {s['output']}"
    )
