"""Blocks and nothing in them: what planning and scheduling cost by themselves."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distributed import LocalCluster

from cleftcli.blockwise import HERE, Ledger, Process, Workers, run
from cleftcli.geometry import Block, BlockPlan, whole
from cleftcli.stored import sound
from tests.benchmarks.alone import cost
from tests.benchmarks.row import Row, Setting, at_least, at_most


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


@dataclass(frozen=True)
class SleepByTens(Sleep):
    """Where a dask worker stands for ten: it holds as many blocks."""

    at_once = 10


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


def empty_blocks(at: Setting) -> dict[str, float]:
    """Ten thousand blocks without work, one after the other through the scheduler."""
    count = at.count(10_000)
    return {"value": round(1000 * asleep(count, 0.0, HERE) / count, 2), "blocks": count}


def two_workers(at: Setting) -> dict[str, float]:
    """Blocks that sleep 0.2 s, with one worker process against two."""
    alone, both = (asleep(at.count(150), 0.2, Workers(n)) for n in (1, 2))
    return {"value": round(alone / both, 2), "ours_s": round(both, 2), "theirs_s": round(alone, 2)}


def hundred_workers(at: Setting) -> dict[str, float]:
    """A hundred threads, ten for each of ten workers, with blocks of 4 s on average: how busy.

    From the first end to when the last block is handed out: what follows is the end of any run.
    """
    with LocalCluster(
        n_workers=10,  # a hundred in one process mostly look at themselves, and do not get to start
        threads_per_worker=SleepByTens.at_once,
        processes=False,
        dashboard_address=":0",
        worker_dashboard_address=":0",
        host="127.0.0.1",
        protocol="tcp",
    ) as cluster:
        ended = ends(SleepByTens(4.0), 1000, Workers(scheduler=cluster.scheduler_address))
    start, stop = ended[0][0], ended[-101][0]
    worked = sum(max(0.0, min(end, stop) - max(end - slept, start)) for end, slept in ended)
    return {"value": round(worked / (100 * (stop - start)), 3), "seconds": round(stop - start, 1)}


def take_up(count: int, ledger: Path) -> None:
    """Find the first block to do of a run whose ledger has every second one."""
    plan = BlockPlan(whole((count, 1, 1)), (1, 1, 1))
    with Ledger(ledger, {"roi": str(plan.roi), "block": [1, 1, 1]}) as written:
        written.skip(range(0, len(plan), 2), {"skipped": 1})
        done = sound(Path("none.zarr"), plan, written.standing())
        missing = [i for i in range(len(plan)) if HERE.takes(i) and i not in done]
        assert plan[missing[0]].index == 1


def million_blocks(at: Setting) -> dict[str, float]:
    """Taking up a run of a million blocks of which half are recorded: memory, and seconds."""
    count = at.count(1_000_000)
    found = cost(partial(take_up, count, at.folder / "million.ledger"))
    return {"value": found["mb"], "seconds": found["seconds"], "blocks": count}


ROWS = (
    Row("10 000 empty blocks, each", "", empty_blocks, None, unit="ms"),
    Row("2 sleeping workers", "1", two_workers, at_least(1.9), quick=False),
    Row(
        "share of time that 100 threads of 10 workers are busy",
        "",
        hundred_workers,
        at_least(0.95),
        unit="",
        quick=False,
    ),
    Row("take up a run of 1 000 000 blocks", "", million_blocks, at_most(500), unit="MB"),
)
