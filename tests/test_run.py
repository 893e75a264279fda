"""Blocks through dask: all done, failures told apart, workers lost and replaced."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cleftcli.blockwise import run
from cleftcli.geometry import Block, BlockPlan, whole

PLAN = BlockPlan(whole((4, 4, 4)), (2, 2, 2))


@dataclass(frozen=True)
class Touch:
    """Leave a file for each block; raise, or die once, at one of them."""

    folder: Path
    raises_at: int = -1
    dies_once_at: int = -1

    def __call__(self, block: Block) -> dict[str, int]:
        if block.index == self.raises_at:
            raise ValueError("bad block")
        mark = self.folder / f"died-{block.index}"
        if block.index == self.dies_once_at and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / str(block.index)).touch()
        return {"index": block.index}


def done(process: Touch, workers: int = 1, **options):
    """Failures, and what was reported finished."""
    finished = {}
    failures = run(
        process,
        PLAN,
        workers=workers,
        finished=lambda block, facts: finished.update({block.index: facts}),
        **options,
    )
    return failures, finished


def test_every_block_is_done_and_reported_once(tmp_path):
    """With one worker in this process, all blocks are done."""
    failures, finished = done(Touch(tmp_path))

    assert failures == []
    assert finished == {i: {"index": i} for i in range(8)}
    assert {p.name for p in tmp_path.iterdir()} == {str(i) for i in range(8)}


def test_a_block_that_raises_is_reported_and_the_others_are_done(tmp_path):
    """One bad block costs one block."""
    failures, finished = done(Touch(tmp_path, raises_at=3))

    assert [f.block.index for f in failures] == [3]
    assert isinstance(failures[0].error, ValueError)
    assert sorted(finished) == [0, 1, 2, 4, 5, 6, 7]


def test_a_killed_worker_is_replaced_and_its_block_done(tmp_path):
    """kill -9 of a worker process loses nothing."""
    failures, finished = done(Touch(tmp_path, dies_once_at=5), workers=2)

    assert failures == []
    assert sorted(finished) == list(range(8))


def test_blocks_are_drawn_as_workers_become_free(tmp_path):
    """A million blocks are never held at once: the plan is consumed in a window."""
    drawn = []

    def blocks():
        for block in PLAN:
            drawn.append(block.index)
            yield block

    ahead = []

    def finished(block, _facts):
        ahead.append(len(drawn) - block.index)

    run(Touch(tmp_path), blocks(), workers=1, finished=finished)

    assert max(ahead) <= 3


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_listens_beyond_this_machine(tmp_path, workers):
    """dask accepts code from whoever reaches it: loopback only, and no fixed port."""
    heard = set()

    def finished(_block, _facts):
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            found = process.net_connections("inet")
            heard.update(c.laddr for c in found if c.status == psutil.CONN_LISTEN)

    run(Touch(tmp_path), PLAN, workers=workers, finished=finished)

    assert {address.ip for address in heard} == {"127.0.0.1"}
    assert 8787 not in {address.port for address in heard}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_blocks_in_flight_and_exits_with_its_code(tmp_path, number):
    """130 after Ctrl-C, 143 after SIGTERM; what is done is reported."""
    seen = []

    def finished(block, _facts):
        seen.append(block.index)
        if len(seen) == 1:
            os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as stopped:
        run(Touch(tmp_path), PLAN, workers=1, finished=finished)

    assert stopped.value.code == 128 + number
    assert 1 <= len(seen) < 8
