"""Cleft ids in, training targets out: block by block, resumable, equal to the whole to the bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cleftcli.blockwise import Process, Workers
from cleftcli.errors import InputError, UsageError
from cleftcli.geometry import Block, BlockPlan, fit_block
from cleftcli.inspection import BlockInput, Missing, scan_input, what_was_read
from cleftcli.labels import TARGETS, Nm
from cleftcli.outputs import BLOCK_VOXELS, CHUNK, Output, check_output, check_room
from cleftcli.resumable import Report, make
from cleftcli.stored import store
from cleftcli.volumes import (
    AS_STORED,
    Reading,
    absolute,
    open_volume,
    split_address,
    write_attributes,
)

CLEFTS = ("volumes/labels/clefts", "clefts")


@dataclass(frozen=True)
class MakeBlock(Process):
    """Compute one block of a target and write it."""

    clefts: BlockInput
    output: str
    target: str
    scale: float  # nm
    voxel_size: Nm
    zero_is_cleft: bool

    def __call__(self, block: Block) -> dict[str, Any]:
        """Write the block; whether it met missing chunks.

        Raises:
            InputError: a chunk is damaged, or missing where it may not be.
        """
        clefts, noted = self.clefts.opened(block.write)
        read = block.read.intersect(clefts.roi)  # faces of the volume are no cleft surfaces
        found = TARGETS[self.target].compute(
            clefts.read(read), self.voxel_size, self.scale, zero_is_cleft=self.zero_is_cleft
        )
        stored = store(self.output, block.write, found[block.write.within(read)])
        return {**noted, "stored": stored}


def make_labels(
    clefts: str,
    output: str,
    *,
    target: str,
    scale: float | None,
    unit: str | None,
    voxel_size: Nm | None,
    format: str | None,
    missing: Missing,
    workers: Workers,
    overwrite: bool,
    report: Report,
) -> dict[str, Any]:
    """Make the target volume; returns its address, target, scale in nm and blocks.

    Args:
        clefts: address of cleft ids or of a mask.
        output: a .zarr or .n5 container; the dataset is named after the target unless given.
        target: one of TARGETS.
        scale: of a distance target, in `unit`; None is the target's own.
        unit: "nm", or "voxel": edges of the finest voxel.
        voxel_size: nm, where the store does not say.
        format: zarr2, zarr3 or n5; by default what the container's name says.
        missing: chunks that are not stored are background ("fill") or refused ("error").
        workers: who does the blocks.
        overwrite: replace an output made with other settings.
        report: called with blocks done, blocks in all, and the speed and failures so far.

    Raises:
        InputError: the ids cannot be used, or their voxel size is not known.
        ResourceError: the disk does not suffice, or may not be written.
        UsageError: no such target, a scale for one that has none, or no such format.
    """
    if target not in TARGETS:
        raise UsageError(f"target {target!r}: {', '.join(TARGETS)}")
    if workers.elsewhere:
        clefts, output = absolute(clefts), absolute(output)
    volume = open_volume(clefts, prefer=CLEFTS, reading=Reading(voxel_size))
    if volume.dtype.kind not in "bu":
        raise InputError(f"{volume.address} is {volume.dtype}; cleft ids are unsigned integers")
    chosen = TARGETS[target]
    scan = scan_input(volume, missing)
    scale_nm = chosen.scale_nm(volume.voxel_size, scale, unit)
    check_output(output, clefts)
    container, dataset = split_address(output)
    address = f"{container}/{dataset or target}"
    process = MakeBlock(
        clefts=BlockInput(volume.address, AS_STORED, missing, scan.missing is None),
        output=address,
        target=target,
        scale=scale_nm,
        voxel_size=volume.voxel_size,
        zero_is_cleft=volume.zero_is_cleft,
    )
    plan = BlockPlan(
        volume.roi,
        fit_block(volume.shape, CHUNK, BLOCK_VOXELS),
        chosen.context(volume.voxel_size, scale_nm),
    )
    facts = {"clefts": volume.address, "target": target, "scale_nm": scale_nm}
    facts["voxel_size"] = list(volume.voxel_size)
    content = "mask" if target == "mask" else target
    attributes = {"content": content, "run": facts}
    wanted = Output(address, plan, chosen.dtype, CHUNK, volume.space, attributes, format)
    check_room(wanted)
    outcome = make(
        wanted,
        process,
        facts,
        workers=workers,
        overwrite=overwrite,
        report=report,
        input=scan.stamp,
    )
    seen = what_was_read(volume, scan, None, outcome.inputs, outcome.totals)
    if outcome.complete:
        write_attributes(outcome.volume, {"input": seen})
    return {
        "output": address,
        **facts,
        "blocks": len(plan),
        "complete": outcome.complete,
        "blocks_resumed": outcome.resumed,
        "input": seen,
    }
