"""An output volume made block by block that any kill leaves resumable.

The attribute `complete` of the volume turns true only after every block is recorded and its chunks
are there, so that no later command takes a part for the whole.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cleftcli.blockwise import Ledger, Process, Workers, run
from cleftcli.errors import IncompleteError, UsageError
from cleftcli.geometry import Block
from cleftcli.outputs import Output, check_output, create, make_room
from cleftcli.stored import sound
from cleftcli.volumes import Volume, write_attributes

log = logging.getLogger(__name__)
Report = Callable[[int, int, dict[str, float]], None]

CONTRACT = 2  # raised when the same settings would give other voxels


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
    inputs: frozenset[str]  # states of the input that blocks were made of


def make(
    output: Output,
    process: Process,
    fingerprint: Mapping[str, Any],
    *,
    workers: Workers,
    overwrite: bool,
    report: Report,
    input: str = "",
    further: Sequence[Output] = (),
    skipped: Iterable[int] = (),
    begun: Callable[[], None] = lambda: None,
) -> Outcome:
    """Make an output, or what is missing of it.

    Args:
        output: what to make; a block's write roi is offset by `plan.roi.offset` in it.
        process: writes one block by `store`.
        fingerprint: every setting that changes voxels.
        workers: see `blockwise.run`; those of a part do its blocks only.
        overwrite: replace an output of cleft made with other settings.
        report: called with blocks done, blocks in all, and how fast it goes or what failed.
        input: what the state of the input is known by.
        further: outputs that the blocks write too; they share its fate and its ledger.
        skipped: indices of blocks that stay 0.
        begun: called once the output is known to be ours to write, before the first block.

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
    make_room(output, further, overwrite=overwrite)
    output.container.parent.mkdir(parents=True, exist_ok=True)
    with Ledger(output.ledger, full, workers.part, input=input) as ledger:
        try:
            volumes = [create(one) for one in (output, *further)]
        except UsageError:
            if not ledger.standing().done:
                ledger.path.unlink()  # or it would refuse the corrected command
            raise
        begun()
        before = sound(output.container, plan, ledger.standing())
        if before:
            log.info("resumed: %d of %d blocks were done", len(before), len(plan))
        outside = {i for i in skipped if workers.takes(i)} - before
        ledger.skip(sorted(outside), {"skipped": 1})
        done = before | outside
        _run(output, process, ledger, done=done, workers=workers, report=report)
        standing = ledger.standing()
        after = sound(output.container, plan, standing)
        complete = len(after) == len(plan)
        if not complete and not workers.part:
            raise IncompleteError(_say_lost(output, len(plan) - len(after)))
        for volume in volumes if complete else []:
            write_attributes(volume, {"complete": True})
        if not complete:
            log.info("this part is done; of the whole, %d of %d blocks", len(after), len(plan))
    finished = replace(volumes[0], attributes={**volumes[0].attributes, "complete": complete})
    totals, members = _sum(record for _, record in standing.records())
    inputs = frozenset(r["input"] for r in standing.runs if r["blocks"] and r.get("input"))
    return Outcome(finished, complete, len(after), len(before), totals, members, inputs)


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


def _run(
    output: Output,
    process: Process,
    ledger: Ledger,
    *,
    done: set[int],
    workers: Workers,
    report: Report,
) -> None:
    """Do the blocks of this part that are not done.

    Raises:
        IncompleteError: some could not be done.
    """
    plan = output.plan
    count, total = len(done), len(plan)
    failures: list[tuple[Block, BaseException]] = []
    missing = [i for i in range(total) if workers.takes(i) and i not in done]
    begun, voxels = time.monotonic(), 0

    def tell() -> None:
        speed = voxels / max(time.monotonic() - begun, 1e-9)
        report(count, total, {"voxels_per_second": speed, "failed": len(failures)})

    def finished(block: Block, facts: dict[str, Any]) -> None:
        nonlocal count, voxels
        ledger.record(block.index, facts)
        count, voxels = count + 1, voxels + block.write.size
        tell()

    def failed(block: Block, error: BaseException) -> None:
        ledger.fail(block.index, error)
        failures.append((block, error))
        tell()

    report(count, total, {})

    if missing:
        blocks = (plan[i] for i in missing)
        run(process, blocks, workers=workers, finished=finished, failed=failed)
    if failures:
        raise IncompleteError(_say_failed(output, failures))


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
