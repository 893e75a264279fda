"""How far an output is, from its ledgers alone: from any machine, while it grows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cleftcli.blockwise import Standing, is_held, ledgers, standing
from cleftcli.errors import InputError
from cleftcli.stored import ledger_of, output_at, plan_of

MOST_FAILED = 20  # blocks to name


def status(output: str) -> dict[str, Any]:
    """What is done, what failed, how fast it goes and how long it will take.

    Args:
        output: container or dataset that cleft is making or has made.

    Raises:
        InputError: there is no ledger of it here.
    """
    address = output_at(output)
    paths = ledgers(ledger_of(address))
    if not paths:
        raise InputError(f"{address}: no ledger beside it, so nothing is known of its blocks")
    found = standing(paths)
    plan = plan_of(found, ledger_of(address))
    skipped = sum(bool(record.get("skipped")) for _, record in found.records())
    running = [path.name for path in paths if is_held(path)]
    left = len(plan) - len(found.done)
    rate = _blocks_per_second(found, len(running) or 1)
    return {
        "output": address,
        "blocks": len(plan),
        "blocks_done": len(found.done),
        "blocks_skipped": skipped,
        "blocks_failed": len(found.failed),
        "failed": [
            {"block": str(plan[n].write), "error": error}
            for n, error in sorted(found.failed.items())[:MOST_FAILED]
        ],
        "running": running,
        "runs": found.runs,
        "blocks_per_second": rate,
        "voxels_per_second": rate and rate * plan.roi.size / len(plan),
        "seconds_left": left / rate if rate and left else None if left else 0.0,
    }


def _blocks_per_second(found: Standing, writers: int) -> float | None:
    """The speed of the runs that write now, or wrote last; None before they finished a block."""
    rates = []
    for run in found.runs[-writers:]:
        if run["blocks"] and "last" in run:
            seconds = _time(run["last"]) - _time(run["started"])
            rates.append(run["blocks"] / max(seconds, 1.0))
    return sum(rates) or None


def _time(text: str) -> float:
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()
