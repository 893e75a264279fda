"""Two ways of doing one thing, timed alternately."""

import statistics
import time
from collections.abc import Callable

REPEATS = 3


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pair(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int = REPEATS
) -> dict[str, float]:
    """How many times as long theirs takes, median and range over alternating repeats."""
    times = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    ratios = [b / a for a, b in times]
    return {
        "ours_s": round(statistics.median(a for a, _ in times), 3),
        "theirs_s": round(statistics.median(b for _, b in times), 3),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
    }
