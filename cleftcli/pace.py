"""How fast a training run goes, and how long it waits for data."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from torch import Tensor


class Pace:
    """Gives the batches of each step, and tells how fast that goes and how long it is waited for.

    Time counts from the first step's batches on: to start the processes that make them is no
    waiting.
    """

    def __init__(self, feed: Iterator[dict[str, Tensor]], each: int, batch_size: int) -> None:
        self._feed, self._each, self._patches = feed, each, each * batch_size
        self._steps, self._waited, self._started = 0, 0.0, math.nan

    def batches(self) -> list[dict[str, Tensor]]:
        """Those of one step."""
        before = time.monotonic()
        found = [next(self._feed) for _ in range(self._each)]
        now = time.monotonic()
        if self._steps:
            self._waited += now - before
        else:
            self._started = now
        self._steps += 1
        return found

    def facts(self) -> dict[str, float]:
        """After a step."""
        passed = time.monotonic() - self._started
        return {"patches_per_second": self._steps * self._patches / passed, "waited": self.waited}

    @property
    def waited(self) -> float:
        """The share of the time, so far."""
        return self._waited / (time.monotonic() - self._started) if self._steps else 0.0
