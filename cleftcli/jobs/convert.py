"""Any readable volume in, zarr or N5 out: block by block, resumable, voxel for voxel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cleftcli.blockwise import Process, Workers
from cleftcli.errors import IncompleteError, InputError, UsageError
from cleftcli.geometry import Block, BlockPlan, Zyx, fit_block, parse_roi, zyx
from cleftcli.inspection import BlockInput, Missing, doubts, log, scan_input, what_was_read
from cleftcli.outputs import BLOCK_VOXELS, CARRIED, CHUNK, Output, check_output, check_room
from cleftcli.resumable import Report, make
from cleftcli.stored import store
from cleftcli.volumes import (
    Reading,
    absolute,
    choose_format,
    crop,
    open_volume,
    split_address,
    write_attributes,
)
from cleftcli.volumes.volume import check_chunk


@dataclass(frozen=True)
class ConvertBlock(Process):
    """Copy one block; `origin` is the output's first voxel in the source."""

    source: BlockInput
    origin: Zyx
    output: str

    def __call__(self, block: Block) -> dict[str, Any]:
        """Read and write the block; how many chunks it missed.

        Raises:
            InputError: a chunk is damaged, or missing where it may not be.
        """
        source, noted = self.source.opened(block.write)
        here = block.write.shift(zyx([-o for o in self.origin]))
        stored = store(self.output, here, source.read(block.write))
        return {**noted, "stored": stored}


def convert(
    source: str,
    output: str,
    *,
    format: str | None,
    chunks: Zyx | None,
    roi: str | None,
    reading: Reading,
    missing: Missing,
    workers: Workers,
    overwrite: bool,
    report: Report,
) -> dict[str, Any]:
    """Copy a volume; returns both addresses, what was copied, and what the input lacked.

    Args:
        source: any readable volume.
        output: a .zarr or .n5 container; the dataset is called as in the source, or volumes/raw.
        format: zarr2, zarr3 or n5; by default what the container's name says.
        chunks: voxels; the default is a compromise of reading speed and number of files.
        roi: copy this box only; it keeps its place in the tissue.
        reading: what the source does not say, or says wrongly.
        missing: chunks that are not stored are read as 0 ("fill") or refused ("error").
        workers: who does the blocks.
        overwrite: replace an output made with other settings.
        report: called with blocks done, blocks in all, and the speed and failures so far.

    Raises:
        IncompleteError: blocks failed, or the source is an unfinished output.
        InputError: the source cannot be read, or chunks are missing and shall not be.
        UsageError: the output cannot be of that format, or have such chunks.
    """
    if workers.elsewhere:
        source, output = absolute(source), absolute(output)
    check_output(output, source)
    volume = open_volume(source, reading=reading)
    if volume.attributes.get("complete") is False:
        raise IncompleteError(f"{volume.address}: not finished; run the command that makes it")
    container, dataset = split_address(output)
    address = f"{container}/{dataset or split_address(volume.address)[1] or 'volumes/raw'}"
    written = choose_format(address, format, volume.dtype)
    chunk = _chunk(address, chunks, volume.dtype)
    for doubt in doubts(volume):
        log.warning("%s: %s", volume.address, doubt)
    box = parse_roi(roi, volume.shape) if roi else volume.roi
    scan = scan_input(volume, missing, box)
    part = crop(volume, box)
    plan = BlockPlan(box, fit_block(box.shape, chunk, BLOCK_VOXELS))
    facts = {
        "source": volume.address,
        "axes": volume.axes,
        "voxel_size": None if part.space.voxel_size is None else list(part.space.voxel_size),
        "offset": list(part.space.offset),
        "dtype": volume.dtype.name,
        "chunks": list(chunk),
        "format": written,
    }
    attributes = {k: volume.attributes[k] for k in CARRIED if k in volume.attributes}
    attributes |= {"zero_is_cleft": True} if volume.zero_is_cleft else {}
    attributes["run"] = facts
    wanted = Output(address, plan, volume.dtype.type, chunk, part.space, attributes, written)
    check_room(wanted)
    read = BlockInput(volume.address, reading, missing, scan.missing is None)
    process = ConvertBlock(read, box.offset, address)
    outcome = make(
        wanted,
        process,
        facts,
        workers=workers,
        overwrite=overwrite,
        report=report,
        input=scan.stamp,
    )
    seen = what_was_read(volume, scan, box, outcome.inputs, outcome.totals)
    if outcome.complete:
        write_attributes(outcome.volume, {"input": seen})
    return {
        "output": address,
        **facts,
        "shape": list(box.shape),
        "blocks": len(plan),
        "complete": outcome.complete,
        "blocks_resumed": outcome.resumed,
        "input": seen,
    }


def _chunk(address: str, stated: Zyx | None, dtype: np.dtype) -> Zyx:
    """The chunk to write.

    Raises:
        UsageError: it has no voxels, or too many.
    """
    chunk = stated or CHUNK
    if min(chunk) < 1:
        raise UsageError(f"chunks {chunk}: must be positive")
    try:
        check_chunk(address, math.prod(chunk), dtype)
    except InputError as error:
        raise UsageError(str(error)) from error
    return chunk
