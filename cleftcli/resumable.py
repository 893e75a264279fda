"""An output volume made block by block that any kill leaves resumable.

The ledger lies beside the output (`OUT.ledger`); the attribute `complete` of the volume turns
true only after every block is recorded, so that no later command takes a part for the whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli import __version__
from cleftcli.blockwise import Failure, Ledger, Process, run
from cleftcli.errors import ConflictError, IncompleteError, UsageError
from cleftcli.geometry import BlockPlan, Zyx
from cleftcli.volumes import (
    Space,
    Volume,
    create_volume,
    is_ours,
    is_remote,
    remove_container,
    split_address,
    write_attributes,
)

log = logging.getLogger(__name__)
Report = Callable[[int, int], None]

CHUNK: Zyx = (16, 128, 128)
BLOCK_VOXELS = 2**24  # what one unit of work writes; a kill loses at most the blocks in flight
CONTRACT = 1  # raised when the same settings would give other voxels


@dataclass(frozen=True)
class Output:
    """The volume to make: address of its array, and what it will say of itself."""

    address: str
    plan: BlockPlan
    dtype: type
    chunks: Zyx
    space: Space
    attributes: Mapping[str, Any]

    @property
    def container(self) -> Path:
        """The store on disk."""
        return Path(split_address(self.address)[0])

    @property
    def ledger(self) -> Path:
        """Lies beside the store, so that copies of the store do not carry it."""
        return self.container.with_name(self.container.name + ".ledger")


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
    if overwrite:
        _discard(output)
    elif output.container.exists() and not output.ledger.exists():
        raise ConflictError(f"{output.container} exists; choose another -o, or --overwrite it")
    output.container.parent.mkdir(parents=True, exist_ok=True)
    with Ledger(output.ledger, full) as ledger:
        if not output.container.exists():
            ledger.forget()
        volume = _volume(output)
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


def check_output(address: str) -> None:
    """Refuse what cannot be written block by block, before any work.

    Raises:
        UsageError: it is no local .zarr or .n5.
    """
    container, _ = split_address(address)
    if is_remote(address) or not container.endswith((".zarr", ".n5")):
        raise UsageError(f"{address}: output goes to a local .zarr or .n5")


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


def _volume(output: Output) -> Volume:
    """The output's array, made if a kill has not left it already."""
    attributes = {**output.attributes, "made_by": f"cleft {__version__}", "complete": False}
    return create_volume(
        output.address,
        shape=output.plan.roi.shape,
        dtype=np.dtype(output.dtype),
        chunks=output.chunks,
        space=output.space,
        attributes=attributes,
    )


def _discard(output: Output) -> None:
    """Remove an output that cleft made, and nothing else."""
    if output.container.exists():
        if not is_ours(output.address):
            raise ConflictError(f"{output.container} was not made by cleft; it stays")
        remove_container(output.address)
    output.ledger.unlink(missing_ok=True)


def _say(output: Output, failures: list[Failure]) -> str:
    first = failures[0]
    return (
        f"{output.container}: {len(failures)} of {len(output.plan)} blocks failed, the first at "
        f"{first.block.write}: {type(first.error).__name__}: {first.error}. The others are done; "
        "run the same command to try these again"
    )
