"""An output volume made block by block that any kill leaves resumable.

The attribute `complete` of the volume turns true only after every block is recorded and its chunks
are there, so that no later command takes a part for the whole.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli import __version__
from cleftcli.blockwise import (
    Ledger,
    Process,
    Workers,
    ledgers,
    refuse_if_held,
    run,
)
from cleftcli.errors import ConflictError, IncompleteError, InputError, ResourceError, UsageError
from cleftcli.geometry import Block, BlockPlan, Zyx
from cleftcli.stored import ledger_of, sound
from cleftcli.volumes import (
    Space,
    Volume,
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

    @property
    def container(self) -> Path:
        """The store on disk."""
        return Path(split_address(self.address)[0])

    @property
    def ledger(self) -> Path:
        """Lies beside the store, so that copies of the store do not carry it."""
        return ledger_of(self.address)


@dataclass(frozen=True)
class Outcome:
    """An output and what the ledgers say of its blocks.

    It is `complete` unless other parts of a job array have blocks to do. Whole numbers that the
    blocks noted are summed in `totals`, the members of lists are counted in `members`.
    """

    volume: Volume
    complete: bool
    done: int  # blocks, whoever did them
    resumed: int  # blocks that an earlier run had done
    totals: Counter[str]
    members: dict[str, Counter[Any]]


def make(
    output: Output,
    process: Process,
    fingerprint: Mapping[str, Any],
    *,
    workers: Workers,
    overwrite: bool,
    report: Report,
    skipped: Iterable[int] = (),
) -> Outcome:
    """Make an output, or what is missing of it.

    Args:
        output: what to make; a block's write roi is offset by `plan.roi.offset` in it.
        process: writes one block by `store`.
        fingerprint: every setting that changes voxels.
        workers: see `blockwise.run`; those of a part do its blocks only.
        overwrite: replace an output of cleft made with other settings.
        report: called with blocks done and blocks in all.
        skipped: indices of blocks that stay 0.

    Raises:
        ConflictError: something else is at that address.
        IncompleteError: blocks failed; the others are done, the same call continues.
        UsageError: a part would overwrite what others make.
    """
    check_output(output.address)
    if overwrite and workers.part:
        raise UsageError("--overwrite and --part: remove the old output before the parts start")
    plan = output.plan
    full = {"contract": CONTRACT, "roi": str(plan.roi), "block": list(plan.block), **fingerprint}
    _make_room(output, overwrite=overwrite)
    output.container.parent.mkdir(parents=True, exist_ok=True)
    with Ledger(output.ledger, full, workers.part) as ledger:
        volume = _volume(output, ledger)
        before = sound(output.container, plan, ledger.standing())
        if before:
            log.info("resumed: %d of %d blocks were done", len(before), len(plan))
        ledger.skip((i for i in skipped if i not in before), {"skipped": 1})
        _run(output, process, ledger, before=before, workers=workers, report=report)
        standing = ledger.standing()
        after = sound(output.container, plan, standing)
        complete = len(after) == len(plan)
        if not complete and not workers.part:
            raise IncompleteError(_say_lost(output, len(plan) - len(after)))
        if complete:
            write_attributes(volume, {"complete": True})
        else:
            log.info("this part is done; of the whole, %d of %d blocks", len(after), len(plan))
    finished = replace(volume, attributes={**volume.attributes, "complete": complete})
    totals, members = _sum(record for _, record in standing.records())
    return Outcome(finished, complete, len(after), len(before), totals, members)


def _sum(records: Iterable[Mapping[str, Any]]) -> tuple[Counter[str], dict[str, Counter[Any]]]:
    totals: Counter[str] = Counter()
    members: defaultdict[str, Counter[Any]] = defaultdict(Counter)
    for record in records:
        for fact, value in record.items():
            if isinstance(value, int):
                totals[fact] += value
            elif isinstance(value, list):
                members[fact].update(value)
    return totals, members


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


def check_disk(output: Output) -> None:
    """Refuse an output that the disk cannot hold, should nothing compress.

    Raises:
        ResourceError: it is larger than what is free.
    """
    if output.container.exists():
        return
    folder = next(f for f in output.container.resolve().parents if f.exists())
    needed = output.plan.roi.size * np.dtype(output.dtype).itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"the output may need {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free; "
            "nothing was written"
        )


def _run(
    output: Output,
    process: Process,
    ledger: Ledger,
    *,
    before: set[int],
    workers: Workers,
    report: Report,
) -> None:
    """Do the blocks of this part that are not done.

    Raises:
        IncompleteError: some could not be done.
    """
    plan = output.plan
    done, total = len(before), len(plan)
    failures: list[tuple[Block, BaseException]] = []
    missing = [i for i in range(total) if workers.takes(i) and i not in before]
    report(done, total)

    def finished(block: Block, facts: dict[str, Any]) -> None:
        nonlocal done
        ledger.record(block.index, facts)
        done += 1
        report(done, total)

    def failed(block: Block, error: BaseException) -> None:
        ledger.fail(block.index, error)
        failures.append((block, error))

    if missing:
        blocks = (plan[i] for i in missing)
        run(process, blocks, workers=workers, finished=finished, failed=failed)
    if failures:
        raise IncompleteError(_say_failed(output, failures))


def _volume(output: Output, ledger: Ledger) -> Volume:
    """The output's array, made if a kill has not left it already."""
    attributes = {**output.attributes, "made_by": f"cleft {__version__}", "complete": False}
    try:
        return create_volume(
            output.address,
            shape=output.plan.roi.shape,
            dtype=np.dtype(output.dtype),
            chunks=output.chunks,
            space=output.space,
            attributes=attributes,
            format=output.format,
        )
    except UsageError:
        if not ledger.standing().done:
            ledger.path.unlink()  # or it would refuse the corrected command
        raise


def _make_room(output: Output, *, overwrite: bool) -> None:
    """Refuse a place that holds what is not this output; remove an old one when told to.

    Raises:
        ConflictError: something is there that cleft did not make, or that it made before.
    """
    there, begun = has_array(output.address), ledgers(output.ledger)
    if there and not is_ours(output.address) and not (begun and _is_bare(output.address)):
        raise ConflictError(f"{output.address} was not made by cleft; it stays")
    if not there and output.container.exists() and not _all_ours(output.container):
        raise ConflictError(f"{output.container} was not made by cleft; choose another -o")
    if begun and not overwrite:
        return
    for ledger in begun:
        refuse_if_held(ledger)
    if there:
        if not overwrite:
            raise ConflictError(f"{output.address} exists; choose another -o, or --overwrite it")
        remove_array(output.address)
    for ledger in begun:
        ledger.unlink()


def _is_bare(address: str) -> bool:
    """Whether an array holds nothing yet: a kill came between making it and naming its maker."""
    scan = open_volume(address).scan()
    return scan.missing == scan.chunks


def _all_ours(container: Path) -> bool:
    try:
        return all(map(is_ours, list_volumes(str(container))))
    except InputError:
        return not any(container.iterdir())


def _say_failed(output: Output, failures: list[tuple[Block, BaseException]]) -> str:
    block, error = failures[0]
    return (
        f"{output.container}: {len(failures)} of {len(output.plan)} blocks failed, the first at "
        f"{block.write}: {type(error).__name__}: {error}. The others are done; "
        "run the same command to try these again"
    )


def _say_lost(output: Output, lost: int) -> str:
    return (
        f"{output.container}: {lost} blocks were written, but their chunks are not there as they "
        "were: something else changes this output. Run the same command to make them again"
    )
