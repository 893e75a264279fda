"""Two ways of doing one thing, timed alternately."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pair(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> dict[str, float]:
    """How many times as long theirs takes: median and range over alternating repeats."""
    times = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return {
        **spread([b / a for a, b in times]),
        "ours_s": round(statistics.median(a for a, _ in times), 3),
        "theirs_s": round(statistics.median(b for _, b in times), 3),
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Median and range of a row's repeats."""
    return {
        "value": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "greatest": round(max(values), 4),
        "repeats": len(values),
    }
