"""Blocks and nothing in them: what planning and scheduling cost by themselves."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from distributed import LocalCluster

from cleftcli.blockwise import HERE, Process, Workers, run
from cleftcli.geometry import Block, BlockPlan, whole


@dataclass(frozen=True)
class Sleep(Process):
    """A block that takes its time and no processor."""

    seconds: float

    def __call__(self, block: Block) -> dict[str, int]:
        """Wait; blocks take up to twice the mean, none the same."""
        time.sleep(self.seconds * (0.5 + (block.index * 0.618) % 1.0))
        return {}


def asleep(blocks: int, each: float, workers: Workers) -> float:
    """Seconds that so many sleeping blocks take, from the first one on."""
    plan = BlockPlan(whole((blocks, 1, 1)), (1, 1, 1))
    ended: list[float] = []
    run(
        Sleep(each),
        plan,
        workers=workers,
        finished=lambda *_: ended.append(time.perf_counter()),
        failed=lambda *_: None,
    )
    assert len(ended) == blocks
    return ended[-1] - ended[0] + each


def empty_blocks(folder: Path) -> dict[str, float]:
    """Ten thousand blocks without work, one after the other through the scheduler."""
    taken = asleep(10_000, 0.0, HERE)
    return {"ratio": 1.0, "ms_per_block": round(taken / 10, 2)}


def two_workers(folder: Path) -> dict[str, float]:
    """Blocks that sleep 0.2 s, with one worker process against two."""
    alone, both = asleep(150, 0.2, Workers(1)), asleep(150, 0.2, Workers(2))
    return {"ratio": round(alone / both, 2), "ours_s": round(both, 2), "theirs_s": round(alone, 2)}


def hundred_workers(folder: Path) -> dict[str, float]:
    """A hundred workers, here threads, with blocks of 4 s on average: how busy they are kept."""
    with LocalCluster(
        n_workers=100,
        threads_per_worker=1,
        processes=False,
        dashboard_address=":0",
        worker_dashboard_address=":0",
        host="127.0.0.1",
        protocol="tcp",
    ) as cluster:
        taken = asleep(1500, 4.0, Workers(scheduler=cluster.scheduler_address))
    worked = sum(4.0 * (0.5 + (n * 0.618) % 1.0) for n in range(1500))
    return {"ratio": round(worked / (100 * taken), 3), "ours_s": round(taken, 1)}


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
