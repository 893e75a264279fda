"""Blocks and nothing in them: what planning and scheduling cost by themselves."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import dask
from distributed import LocalCluster

from cleftcli.blockwise import HERE, Process, Workers, run
from cleftcli.geometry import Block, BlockPlan, whole


@dataclass(frozen=True)
class Sleep(Process):
    """A block that takes its time and no processor."""

    seconds: float

    def __call__(self, block: Block) -> dict[str, int]:
        """Wait."""
        time.sleep(self.of(block))
        return {}

    def of(self, block: Block) -> float:
        """Seconds that a block takes: up to 1.5 times the mean, none the same."""
        return self.seconds * (0.5 + (block.index * 0.618) % 1.0)


def ends(sleep: Sleep, blocks: int, workers: Workers) -> list[tuple[float, float]]:
    """When each of so many sleeping blocks ended, and how long it had slept, in that order."""
    plan = BlockPlan(whole((blocks, 1, 1)), (1, 1, 1))
    ended: list[tuple[float, float]] = []
    run(
        sleep,
        plan,
        workers=workers,
        finished=lambda block, _: ended.append((time.perf_counter(), sleep.of(block))),
        failed=lambda *_: None,
    )
    assert len(ended) == blocks
    return ended


def asleep(blocks: int, each: float, workers: Workers) -> float:
    """Seconds that so many sleeping blocks take, from the first one on."""
    ended = ends(Sleep(each), blocks, workers)
    return ended[-1][0] - ended[0][0] + each


def empty_blocks(folder: Path) -> dict[str, float]:
    """Ten thousand blocks without work, one after the other through the scheduler."""
    taken = asleep(10_000, 0.0, HERE)
    return {"ratio": 1.0, "ms_per_block": round(taken / 10, 2)}


def two_workers(folder: Path) -> dict[str, float]:
    """Blocks that sleep 0.2 s, with one worker process against two."""
    alone, both = asleep(150, 0.2, Workers(1)), asleep(150, 0.2, Workers(2))
    return {"ratio": round(alone / both, 2), "ours_s": round(both, 2), "theirs_s": round(alone, 2)}


def hundred_workers(folder: Path) -> dict[str, float]:
    """A hundred workers, here threads, with blocks of 4 s on average: how busy they are kept.

    From the first end to when the last block is handed out: what follows is the end of any run.
    """
    # a hundred workers in one process would mostly look at themselves
    with (
        dask.config.set({"distributed.admin.system-monitor.interval": "1h"}),
        LocalCluster(
            n_workers=100,
            threads_per_worker=1,
            processes=False,
            dashboard_address=":0",
            worker_dashboard_address=":0",
            host="127.0.0.1",
            protocol="tcp",
        ) as cluster,
    ):
        ended = ends(Sleep(4.0), 1000, Workers(scheduler=cluster.scheduler_address))
    start, stop = ended[0][0], ended[-101][0]
    worked = sum(max(0.0, min(end, stop) - max(end - slept, start)) for end, slept in ended)
    return {"ratio": round(worked / (100 * (stop - start)), 3), "ours_s": round(stop - start, 1)}


PLAN = """
import re, sys, time
from pathlib import Path
from cleftcli.blockwise import HERE, Ledger
from cleftcli.geometry import BlockPlan, whole
from cleftcli.stored import sound
def most():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = most()
begun = time.perf_counter()
plan = BlockPlan(whole((100, 100, 100)), (1, 1, 1))
with Ledger(Path(sys.argv[1]), {"roi": str(plan.roi), "block": [1, 1, 1]}) as ledger:
    ledger.skip(range(0, len(plan), 2), {"skipped": 1})
    done = sound(Path("none.zarr"), plan, ledger.standing())
    missing = [i for i in range(len(plan)) if HERE.takes(i) and i not in done]
    first = plan[missing[0]]
print(time.perf_counter() - begun)
print(most() - before)
"""


def million_blocks(folder: Path) -> dict[str, float]:
    """Taking up a run of a million blocks of which half are recorded: seconds, and memory."""
    command = [sys.executable, "-c", PLAN, folder / "million.ledger"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    took, grown = map(float, done.stdout.split())
    return {"ratio": 1.0, "seconds": round(took, 2), "grown_mb": round(grown)}


ROWS = {
    "schedule 10 000 empty blocks": empty_blocks,
    "schedule, 2 sleeping workers / 1": two_workers,
    "schedule, share of time 100 workers are busy": hundred_workers,
    "take up a run of 1 000 000 blocks": million_blocks,
}
