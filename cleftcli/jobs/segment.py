"""Cleft probability in, cleft ids and a table of clefts out; equal for any block shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli.errors import ConflictError, UsageError
from cleftcli.foreground import Foreground, read_foreground
from cleftcli.geometry import BlockPlan, fit_block
from cleftcli.outputs import BLOCK_VOXELS, CHUNK, Output, check_output, check_room, create
from cleftcli.segmentation import Components, Hysteresis, Units, components
from cleftcli.tables import check_table, write_table
from cleftcli.volumes import (
    Nm,
    Reading,
    is_ours,
    open_volume,
    remove_array,
    split_address,
    write_attributes,
)

PREDICTION = ("cleft",)


@dataclass(frozen=True)
class Rule:
    """What makes a cleft: see `segmentation.Hysteresis`; thresholds are probabilities."""

    threshold: float | None = None
    low: float | None = None
    min_voxels: int = 0
    min_sections: int = 0
    connectivity: int = 26

    def levels(self, of: Foreground) -> Hysteresis:
        """In the unit of a prediction's levels.

        Raises:
            UsageError: `low` is not in (0, threshold], or the connectivity is not 6 or 26.
        """
        threshold = 1.0 if of.threshold is None else of.threshold
        low = threshold if self.low is None else self.low
        if not 0 < low <= threshold:
            raise UsageError(f"low {low} must be in (0, {threshold}], the threshold")
        if self.connectivity not in (6, 26):
            raise UsageError(f"connectivity {self.connectivity}: 6 or 26")
        return Hysteresis(
            threshold * of.full,
            low * of.full,
            self.min_voxels,
            self.min_sections,
            self.connectivity,
        )


def segment(
    prediction: str,
    output: str,
    *,
    rule: Rule,
    table: Path | None,
    voxel_size: Nm | None,
    format: str | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Label the clefts of a prediction; returns addresses, the rule and how many there are.

    Args:
        prediction: container or dataset: probability, mask or ids.
        output: a .zarr or .n5 container; ids go to its dataset `clefts` unless one is named:
            uint64, background 0.
        rule: what makes a cleft.
        table: a .csv or .json to write, one row for each cleft.
        voxel_size: nm, where the store does not say.
        format: zarr2, zarr3 or n5; by default what the container's name says.
        overwrite: replace a finished output.

    Raises:
        ConflictError: the output exists, or is not cleft's.
        IncompleteError: the prediction is not finished.
        ResourceError: the disk does not suffice, or may not be written.
        UsageError: the rule, or the format, cannot be meant.
    """
    check_output(output, prediction)
    check_table(table)
    source = open_volume(prediction, prefer=PREDICTION, reading=Reading(voxel_size))
    found = read_foreground(source, rule.threshold)
    levels = rule.levels(found)
    container, dataset = split_address(output)
    address = f"{container}/{dataset or 'clefts'}"
    plan = BlockPlan(source.roi, fit_block(source.shape, CHUNK, BLOCK_VOXELS))
    facts = {
        "prediction": source.address,
        "threshold": found.threshold,
        "low": levels.low / found.full if found.threshold is not None else None,
        "min_voxels": rule.min_voxels,
        "min_sections": rule.min_sections,
        "connectivity": rule.connectivity,
    }
    attributes = {"content": "ids", "run": facts}
    wanted = Output(address, plan, np.uint64, CHUNK, source.space, attributes, format)
    check_room(wanted)
    _make_room(address, overwrite=overwrite)
    units = Units(source.space.voxel_size, source.space.offset, found.full)
    clefts = components(found.levels, plan, levels, units)
    _write(clefts, wanted)
    if table is not None:
        write_table(table, clefts.table)
    return {"output": address, **facts, "clefts": len(clefts.table), "rule": found.rule}


def _write(clefts: Components, output: Output) -> None:
    volume = create(output)
    for block in clefts.plan:
        volume.write(block.write, clefts.labels(block.index))
    write_attributes(volume, {"complete": True})


def _make_room(address: str, *, overwrite: bool) -> None:
    """Remove an unfinished output of ours, or a finished one when told to; refuse others."""
    container = split_address(address)[0]
    if not Path(container).exists():
        return
    if not is_ours(address):
        raise ConflictError(f"{container} exists and was not made by cleft; choose another -o")
    if open_volume(address).attributes.get("complete") and not overwrite:
        raise ConflictError(f"{container} exists; choose another -o, or --overwrite it")
    remove_array(address)
