"""An output volume made block by block that any kill leaves resumable.

The ledger lies beside the container (`OUT.zarr.DATASET.ledger`); the attribute `complete` of the
volume turns true only after every block is recorded, so that no later command takes a part for
the whole.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli import __version__
from cleftcli.blockwise import Failure, Ledger, Process, refuse_if_held, run
from cleftcli.errors import ConflictError, IncompleteError, InputError, ResourceError, UsageError
from cleftcli.geometry import BlockPlan, Zyx
from cleftcli.machine import free_space, nearest, try_writing
from cleftcli.volumes import (
    Space,
    Volume,
    choose_format,
    create_volume,
    has_array,
    is_ours,
    is_remote,
    list_volumes,
    open_volume,
    remove_array,
    split_address,
    write_attributes,
)

log = logging.getLogger(__name__)
Report = Callable[[int, int], None]

CHUNK: Zyx = (16, 128, 128)
BLOCK_VOXELS = 2**24  # what one unit of work writes; a kill loses at most the blocks in flight
DOCUMENTS = 16  # files and folders of an output beside its chunks, about
# attributes that hold for other voxels made of a volume's
CARRIED = ("content", "threshold", "probability_is", "contrastAdjustment", "intensity_range")
CONTRACT = 2  # raised when the same settings would give other voxels


@dataclass(frozen=True)
class Output:
    """The volume to make: address of its array, and what it will say of itself."""

    address: str
    plan: BlockPlan
    dtype: type
    chunks: Zyx
    space: Space
    attributes: Mapping[str, Any]
    format: str | None = None
    image: bool = True  # not a level of one

    @property
    def container(self) -> Path:
        """The store on disk."""
        return Path(split_address(self.address)[0])

    @property
    def files(self) -> int:
        """How many files and folders it takes: one a chunk, and those that hold them."""
        counts = [-(-n // c) for n, c in zip(self.plan.roi.shape, self.chunks, strict=True)]
        outer = counts[::-1] if self.container.suffix == ".n5" else counts
        return DOCUMENTS + sum(math.prod(outer[:n]) for n in (1, 2, 3))

    @property
    def ledger(self) -> Path:
        """Lies beside the store, so that copies of the store do not carry it."""
        dataset = split_address(self.address)[1].replace("/", ".")
        name = ".".join(p for p in (self.container.name, dataset, "ledger") if p)
        return self.container.with_name(name)


@dataclass(frozen=True)
class Outcome:
    """A finished output: the volume, and what the ledger says of each block."""

    volume: Volume
    records: list[dict[str, Any]]
    resumed: int  # blocks that an earlier run had done

    def total(self, fact: str) -> int:
        """A count summed over the blocks."""
        return sum(int(record.get(fact, 0)) for record in self.records)


def make(
    output: Output,
    process: Process,
    fingerprint: Mapping[str, Any],
    *,
    workers: int,
    overwrite: bool,
    report: Report,
) -> Outcome:
    """Make an output, or what is missing of it.

    Args:
        output: what to make; a block's write roi is offset by `plan.roi.offset` in it.
        process: writes one block.
        fingerprint: every setting that changes voxels.
        workers: see `blockwise.run`.
        overwrite: replace an output of cleft made with other settings.
        report: called with blocks done and blocks in all.

    Raises:
        ConflictError: something else is at that address.
        IncompleteError: blocks failed; the others are done, the same call continues.
    """
    check_output(output.address)
    plan = output.plan
    full = {"contract": CONTRACT, "roi": str(plan.roi), "block": list(plan.block), **fingerprint}
    _make_room(output, overwrite=overwrite)
    output.container.parent.mkdir(parents=True, exist_ok=True)
    with Ledger(output.ledger, full) as ledger:
        if not has_array(output.address):
            ledger.forget()
        try:
            volume = create(output)
        except UsageError:
            if not ledger.done:
                output.ledger.unlink()  # or it would refuse the corrected command
            raise
        resumed = len(ledger.done)
        if resumed:
            log.info("resumed: %d of %d blocks were done", resumed, len(plan))
        failures = _run(plan, process, ledger, workers, report)
        if failures:
            raise IncompleteError(_say(output, failures))
        write_attributes(volume, {"complete": True})
        records = [ledger.records[i] for i in sorted(ledger.records)]
    finished = replace(volume, attributes={**volume.attributes, "complete": True})
    return Outcome(finished, records, resumed)


def check_output(address: str, *inputs: str) -> None:
    """Refuse what cannot be written block by block, before any work.

    Raises:
        UsageError: it is no local .zarr or .n5, or would be written into an input.
    """
    container, _ = split_address(address)
    if is_remote(address) or not container.endswith((".zarr", ".n5")):
        raise UsageError(f"{address}: output goes to a local .zarr or .n5")
    for other in inputs:
        source = Path(split_address(other)[0])
        if not is_remote(other) and _real(container).is_relative_to(_real(source)):
            raise UsageError(f"{container}: the output would be written into the input {source}")


def _real(path: str | Path) -> Path:
    """The path without links; one whose links run in circles is an output's or input's fault."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: {error}") from error


def check_room(output: Output) -> None:
    """Refuse an output that its place cannot take, in the first second.

    It counts as incompressible, but blocks that its ledger names are there already. A file is
    written on trial, and removed.

    Raises:
        ResourceError: bytes or inodes are too few, or the place may not be written.
        UsageError: it cannot be of that format there.
    """
    choose_format(output.address, output.format, np.dtype(output.dtype))
    folder = nearest(output.container if output.ledger.exists() else output.container.parent)
    left = 1 - _lines(output.ledger) / len(output.plan)
    needed = left * output.plan.roi.size * np.dtype(output.dtype).itemsize
    free, inodes = free_space(folder)
    if needed > free:
        raise ResourceError(
            f"the output may need {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free; "
            "nothing was written"
        )
    if inodes is not None and left * output.files > inodes:
        raise ResourceError(
            f"the output may need {left * output.files:.0f} files and folders and {folder} has "
            f"room for {inodes} (inodes); larger chunks make fewer; nothing was written"
        )
    try_writing(folder)


def _lines(ledger: Path) -> int:
    """How many blocks a ledger names."""
    if not ledger.exists():
        return 0
    with ledger.open("rb") as file:
        return max(sum(1 for _ in file) - 1, 0)


def _run(
    plan: BlockPlan, process: Process, ledger: Ledger, workers: int, report: Report
) -> list[Failure]:
    total = len(plan)
    report(len(ledger.done), total)

    def finished(block: Any, facts: dict[str, Any]) -> None:
        ledger.record(block.index, facts)
        report(len(ledger.done), total)

    missing = [i for i in range(total) if i not in ledger.records]
    if not missing:
        return []
    return run(process, (plan[i] for i in missing), workers=workers, finished=finished)


def create(output: Output) -> Volume:
    """The output's array, not `complete` as yet; made if a kill has not left it already.

    Raises:
        ResourceError: the place may not be written.
        UsageError: it cannot be of that format there, or another array is in the way.
    """
    attributes = {**output.attributes, "made_by": f"cleft {__version__}", "complete": False}
    return create_volume(
        output.address,
        shape=output.plan.roi.shape,
        dtype=np.dtype(output.dtype),
        chunks=output.chunks,
        space=output.space,
        attributes=attributes,
        format=output.format,
        image=output.image,
    )


def _make_room(output: Output, *, overwrite: bool) -> None:
    """Refuse a place that holds what is not this output; remove an old one when told to.

    Raises:
        ConflictError: something is there that cleft did not make, or that it made before.
    """
    there, begun = has_array(output.address), output.ledger.exists()
    if there and not is_ours(output.address) and not (begun and _is_bare(output.address)):
        raise ConflictError(f"{output.address} was not made by cleft; it stays")
    if not there and output.container.exists() and not _all_ours(output.container):
        raise ConflictError(f"{output.container} was not made by cleft; choose another -o")
    if begun and not overwrite:
        return
    if begun:
        refuse_if_held(output.ledger)
    if there:
        if not overwrite:
            raise ConflictError(f"{output.address} exists; choose another -o, or --overwrite it")
        remove_array(output.address)
    output.ledger.unlink(missing_ok=True)


def _is_bare(address: str) -> bool:
    """Whether an array holds nothing yet: a kill came between making it and naming its maker."""
    scan = open_volume(address).scan()
    return scan.missing == scan.chunks


def _all_ours(container: Path) -> bool:
    try:
        return all(map(is_ours, list_volumes(str(container))))
    except InputError:
        return not any(container.iterdir())


def _say(output: Output, failures: list[Failure]) -> str:
    first = failures[0]
    return (
        f"{output.container}: {len(failures)} of {len(output.plan)} blocks failed, the first at "
        f"{first.block.write}: {type(first.error).__name__}: {first.error}. The others are done; "
        "run the same command to try these again"
    )
