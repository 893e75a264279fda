"""Whether an output is what its ledgers say: every block recorded, every chunk there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cleftcli.blockwise import Standing, ledgers, standing
from cleftcli.errors import CleftError, IncompleteError, InputError
from cleftcli.geometry import BlockPlan
from cleftcli.resumable import Report
from cleftcli.stored import checksum, ledger_of, output_at, plan_of, sound, written_at
from cleftcli.volumes import Volume, open_volume, split_address

MOST_NAMED = 20  # blocks


def verify(output: str, *, deep: bool, report: Report) -> dict[str, Any]:
    """Look at every block; returns how many there are, all of them sound.

    Chunks are held against the sizes they were written with; `deep` reads and decodes them all,
    and holds every block against its CRC-32.

    Args:
        output: container or dataset that cleft made.
        deep: read every voxel.
        report: called with blocks read and blocks in all.

    Raises:
        IncompleteError: blocks are missing or damaged; they are named, and running the command
            that makes the output again mends those that are not there as they were written.
        InputError: there is no such output, or no ledger of it.
    """
    address = output_at(output)
    paths = ledgers(ledger_of(address))
    if not paths:
        raise InputError(f"{address}: no ledger beside it, so nothing can be held against it")
    found = standing(paths)
    plan, container = plan_of(found, ledger_of(address)), Path(split_address(address)[0])
    volume = open_volume(address)
    if volume.shape != plan.roi.shape:
        raise IncompleteError(f"{address} is {volume.shape}, its ledger speaks of {plan.roi.shape}")
    whole = sound(container, plan, found)
    troubles = {n: "never done" for n in range(len(plan)) if n not in found.done}
    troubles |= {n: "not on disk as it was written" for n in found.done if n not in whole}
    if deep:
        troubles |= dict(_decoded(container, plan, found, whole - troubles.keys(), report))
    if troubles:
        raise IncompleteError(_say(address, plan, troubles))
    if not volume.attributes.get("complete"):
        raise IncompleteError(
            f"{address}: every block is there, but its run has not ended; "
            "run the command that makes it again"
        )
    return {"output": address, "blocks": len(plan), "deep": deep, "sound": True}


def _decoded(
    container: Path, plan: BlockPlan, found: Standing, indices: set[int], report: Report
) -> Iterator[tuple[int, str]]:
    """Blocks whose voxels are not those that were written."""
    opened: dict[str, Volume] = {}
    for number, (index, record) in enumerate(found.records()):
        for dataset, (_, expected) in record.get("stored", {}).items():
            if index not in indices:
                continue
            if dataset not in opened:
                opened[dataset] = open_volume(f"{container}/{dataset}")
            try:
                same = checksum(opened[dataset].read(written_at(plan, index))) == expected
            except CleftError as error:
                yield index, str(error)
            else:
                if not same:
                    yield index, f"other voxels in {dataset} than were written"
        report(number + 1, len(plan), {})


def _say(address: str, plan: BlockPlan, troubles: dict[int, str]) -> str:
    first = sorted(troubles.items())[:MOST_NAMED]
    named = [f"block {plan[n].write}: {why}" for n, why in first]
    more = f"\n... and {len(troubles) - MOST_NAMED} more" if len(troubles) > MOST_NAMED else ""
    head = f"{address}: {len(troubles)} of {len(plan)} blocks are not sound"
    return "\n".join([head, *named]) + more + "\nTo make them again, type what made it"
