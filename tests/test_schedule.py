"""Blocks through dask: all done, failures told apart, workers lost and replaced."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster

from cleftcli.blockwise import HERE, Process, Workers, in_one_thread, run, schedule
from cleftcli.errors import DeviceLost, IncompleteError, InputError, ResourceError, UsageError
from cleftcli.geometry import Block, BlockPlan, whole

PLAN = BlockPlan(whole((4, 4, 4)), (2, 2, 2))
TWO = Workers(2)


@dataclass(frozen=True)
class Touch(Process):
    """Leave a file for each block; at one of them do something else, at times only once."""

    folder: Path
    at: int = -1
    does: str = ""
    once: bool = False

    def __call__(self, block: Block) -> dict[str, int]:
        mark = self.folder / f"met-{block.index}"
        if block.index == self.at and not (self.once and mark.exists()):
            with mark.open("a") as file:
                file.write("x")
            globals()[self.does]()
        (self.folder / str(block.index)).touch()
        return {"index": block.index}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def bad():
    raise ValueError("bad block")


def unusable():
    raise InputError("chunk 0/0/0 is damaged")


def full():
    raise ResourceError("no space left")


def lost():
    raise DeviceLost("CUDA error: an illegal memory access was encountered")


def hang():
    time.sleep(30)


def done(process, workers=HERE, blocks=PLAN):
    """What failed and why, and what was reported finished, by index."""
    failures, finished = {}, {}
    run(
        process,
        blocks,
        workers=workers,
        finished=lambda block, facts: finished.update({block.index: facts["index"]}),
        failed=lambda block, error: failures.update({block.index: error}),
    )
    return failures, finished


EVERY = {i: i for i in range(8)}


def left(folder):
    return {p.name for p in folder.iterdir() if not p.name.startswith("met")}


def test_every_block_is_done_and_reported_once(tmp_path):
    """With one worker in this process, all blocks are done."""
    assert done(Touch(tmp_path)) == ({}, EVERY)
    assert left(tmp_path) == {str(i) for i in range(8)}


@pytest.mark.parametrize(("does", "kind"), [("bad", ValueError), ("unusable", InputError)])
def test_a_block_that_raises_is_tried_again_and_told_of(tmp_path, monkeypatch, does, kind):
    """One bad block costs one block, and three tries."""
    monkeypatch.setattr("cleftcli.blockwise.schedule.PAUSES", (0.0, 0.0))

    failures, finished = done(Touch(tmp_path, at=3, does=does))

    assert {i: type(e) for i, e in failures.items()} == {3: kind}
    assert finished == {i: i for i in range(8) if i != 3}
    assert len((tmp_path / "met-3").read_text()) == 3


@pytest.mark.parametrize("does", ["bad", "unusable"])
def test_what_passes_is_no_failure(tmp_path, does):
    """An error that does not come again, as networks and servers have them, is forgotten."""
    assert done(Touch(tmp_path, at=3, does=does, once=True)) == ({}, EVERY)


def test_a_killed_worker_is_replaced_and_its_block_done(tmp_path):
    """kill -9 of a worker process loses nothing."""
    assert done(Touch(tmp_path, at=5, does="die", once=True), TWO) == ({}, EVERY)


@dataclass(frozen=True)
class Beside(Touch):
    """Blocks that are in a worker together, for a while."""

    at_once = 3

    def __call__(self, block: Block) -> dict[str, int]:
        if block.index != self.at:
            time.sleep(0.3)
        return super().__call__(block)


def test_a_block_that_kills_its_workers_takes_no_other_with_it(tmp_path):
    """It alone fails and is named, however often it kills those that are beside it."""
    failures, finished = done(Beside(tmp_path, at=1, does="die"), TWO)

    assert list(failures) == [1]
    assert "its worker died whenever it came to this block" in str(failures[1])
    assert finished == {i: i for i in range(8) if i != 1}


def test_a_lost_device_costs_a_process_not_a_block(tmp_path):
    """What CUDA calls sticky is over with the process: another one does the block."""
    assert done(Touch(tmp_path, at=2, does="lost", once=True), TWO) == ({}, EVERY)


@pytest.mark.parametrize("workers", [HERE, TWO])
def test_a_lack_ends_the_run_and_keeps_what_is_done(tmp_path, workers):
    """No block is begun on a full disk; those in flight are reported."""
    finished = []

    with pytest.raises(ResourceError, match="no space left"):
        run(
            Touch(tmp_path, at=2, does="full"),
            BlockPlan(whole((64, 4, 4)), (1, 4, 4)),
            workers=workers,
            finished=lambda block, _: finished.append(block.index),
            failed=lambda *_: pytest.fail("a lack is no failure of a block"),
        )

    assert sorted(map(str, finished)) == sorted(left(tmp_path))
    assert len(finished) < 30


@pytest.mark.parametrize("workers", [1, 2])
def test_blocks_that_hang_end_with_a_diagnosis(tmp_path, monkeypatch, workers):
    """Which blocks, how many workers, and where the code stands."""
    monkeypatch.setattr("cleftcli.blockwise.schedule.PULSE", 0.2)
    monkeypatch.setattr(f"{__name__}.hang", lambda: time.sleep(4))

    with pytest.raises(IncompleteError) as stopped:
        done(Touch(tmp_path, at=1, does="hang"), Workers(workers, patience=1.5))

    assert "no block was finished for" in str(stopped.value)
    assert str(PLAN[1].write) in str(stopped.value)
    assert f"{workers} workers" in str(stopped.value)
    assert "time.sleep" in str(stopped.value) or "hang" in str(stopped.value)


def test_blocks_are_drawn_as_workers_become_free(tmp_path):
    """A million blocks are never held at once: the plan is consumed in a window."""
    drawn, ahead = [], []

    def blocks():
        for block in PLAN:
            drawn.append(block.index)
            yield block

    run(
        Touch(tmp_path),
        blocks(),
        workers=HERE,
        finished=lambda block, _: ahead.append(len(drawn) - block.index),
        failed=lambda *_: None,
    )

    assert max(ahead) <= 3


@dataclass(frozen=True)
class Together(Process):
    """How many blocks are in a worker at the same time."""

    folder: Path
    at_once = 3

    def __call__(self, block: Block) -> dict[str, int]:
        mark = self.folder / f"in-{block.index}"
        mark.touch()
        time.sleep(0.2)
        inside = len(list(self.folder.glob("in-*")))
        mark.unlink()
        return {"index": inside}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_holds_as_many_blocks_as_the_process_says(tmp_path, workers):
    """One is read and one written while one is computed; never more."""
    _, finished = done(Together(tmp_path), Workers(workers))

    assert 2 * workers <= max(finished.values()) <= 3 * workers


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_listens_beyond_this_machine(tmp_path, workers):
    """dask accepts code from whoever reaches it: loopback only, and no fixed port."""
    heard = set()

    def finished(_block, _facts):
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            found = process.net_connections("inet")
            heard.update(c.laddr for c in found if c.status == psutil.CONN_LISTEN)

    run(
        Touch(tmp_path),
        PLAN,
        workers=Workers(workers),
        finished=finished,
        failed=lambda *_: None,
    )

    assert {address.ip for address in heard} == {"127.0.0.1"}
    assert 8787 not in {address.port for address in heard}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_blocks_in_flight_and_exits_with_its_code(tmp_path, number):
    """KeyboardInterrupt after Ctrl-C, 143 after SIGTERM; what is done is reported."""
    seen = []

    def finished(block, _facts):
        seen.append(block.index)
        if len(seen) == 1:
            os.kill(os.getpid(), number)

    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        run(Touch(tmp_path), PLAN, workers=HERE, finished=finished, failed=lambda *_: None)

    code = getattr(stopped.value, "code", 130)
    assert code == 128 + number
    assert 1 <= len(seen) < 8


def script(folder, body, workers="HERE"):
    """A run in a process of its own, begun; its blocks hang from the second on."""
    code = f"""
        from pathlib import Path
        from cleftcli.blockwise import schedule
        from cleftcli.blockwise import HERE, Workers, run
        from cleftcli.interrupt import Stop, own_process
        from tests.test_schedule import PLAN, Touch

        if __name__ == "__main__":
            schedule.GRACE = 1.0
            own_process()
            {body}
            run(Touch(Path({str(folder)!r}), at=1, does="hang"), PLAN, workers={workers},
                finished=lambda block, _: print(block.index, flush=True),
                failed=lambda *_: None)
    """
    path = folder / "met.py"
    path.write_text(textwrap.dedent(code))
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def until(there, seconds=60):
    """Wait for something."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["HERE", "Workers(2)"])
def test_blocks_that_outlast_the_grace_are_left(tmp_path, number, workers):
    """Batch systems kill half a minute after they ask: the run is gone before, and says so."""
    process = script(tmp_path, "pass", workers)
    until((tmp_path / "met-1").exists)
    begun = time.monotonic()
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)

    _, said = process.communicate(timeout=20)

    assert process.returncode == 128 + number
    assert "in flight are left" in said
    assert time.monotonic() - begun < 15
    until(lambda: not any(c.is_running() and c.status() != "zombie" for c in children), 20)


@pytest.mark.parametrize(("ours", "code"), [(True, 130), (False, -signal.SIGINT)])
def test_a_second_signal_ends_at_once(tmp_path, ours, code):
    """Whoever insists does not wait; a process that is not the command's gets KeyboardInterrupt."""
    process = script(tmp_path, f"schedule.GRACE, Stop.ends_process = 600.0, {ours}")
    until((tmp_path / "met-1").exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)

    _, said = process.communicate(timeout=60)

    assert process.returncode == code
    assert ("\nKeyboardInterrupt\n" in said) is not ours


def test_workers_do_not_outlive_the_run(tmp_path):
    """kill -9 of the process that schedules: its workers notice and end."""
    process = script(tmp_path, "pass", "Workers(2)")
    until((tmp_path / "met-1").exists)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.communicate()

    until(lambda: not any(c.is_running() and c.status() != "zombie" for c in children), 40)


def test_a_running_scheduler_is_joined_and_left_as_it_is(tmp_path, scheduler):
    """By its address or its file; its workers live on."""
    file = tmp_path / "met-scheduler.json"
    file.write_text(json.dumps({"address": scheduler.scheduler_address}))
    for where in (scheduler.scheduler_address, str(file)):
        assert done(Touch(tmp_path), Workers(scheduler=where)) == ({}, EVERY)
    assert len(scheduler.scheduler.workers) == 2


def test_workers_of_another_version_are_refused(tmp_path, scheduler, monkeypatch):
    """3, and both versions: blocks of two versions do not fit together."""
    monkeypatch.setattr(schedule, "_version", _other_version)

    with pytest.raises(InputError, match=r"runs cleft 0\.0\.0, this is"):
        done(Touch(tmp_path), Workers(scheduler=scheduler.scheduler_address))


def _other_version():
    return "0.0.0"


def test_a_scheduler_without_workers_is_said_in_time(tmp_path, scheduler, monkeypatch):
    """6, before anything waits for ever."""
    monkeypatch.setattr("cleftcli.blockwise.workers.SECONDS_TO_JOIN", 0.5)
    scheduler.scale(0)
    until(lambda: not scheduler.scheduler.workers)

    with pytest.raises(ResourceError, match="no worker has joined"):
        done(Touch(tmp_path), Workers(scheduler=scheduler.scheduler_address))


def test_workers_that_all_leave_before_a_block_is_done_are_missed(tmp_path, scheduler, monkeypatch):
    """Without a finished block there is no measure of patience, but nobody to wait for either."""
    monkeypatch.setattr("cleftcli.blockwise.schedule.PULSE", 0.2)
    monkeypatch.setattr("cleftcli.blockwise.schedule.LEAST_PATIENCE", 1.0)
    monkeypatch.setattr(schedule, "_check", lambda _: scheduler.scale(0))
    monkeypatch.setattr(f"{__name__}.hang", lambda: time.sleep(8))

    with pytest.raises(IncompleteError, match=r"no block was finished for .* 0 workers"):
        done(
            Touch(tmp_path, at=0, does="hang"),
            Workers(scheduler=scheduler.scheduler_address),
            blocks=[PLAN[0]],
        )


def test_all_threads_share_one_to_compute():
    """Results and errors come back to who asked."""
    with ThreadPoolExecutor(4) as pool:
        seen = set(pool.map(lambda _: in_one_thread(threading.get_ident), range(8)))
    assert len(seen) == 1
    assert threading.get_ident() not in seen
    with pytest.raises(ValueError, match="bad block"):
        in_one_thread(bad)


def test_the_thread_that_computes_does_not_keep_a_process():
    """It is at something that never ends; the process ends."""
    hangs = """
    import threading, time
    from cleftcli.blockwise import in_one_thread
    begun = threading.Event()
    def hang():
        begun.set()
        time.sleep(600)
    threading.Thread(target=in_one_thread, args=(hang,), daemon=True).start()
    begun.wait()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(hangs)], check=True, timeout=60)


def test_workers_that_do_not_start_are_tried_twice(tmp_path, monkeypatch):
    """A moment's failure is not the run's; one that stays is said."""
    starts = []

    def start(**options):
        starts.append(options)
        if len(starts) in (1, 3, 4):
            raise AssertionError("Status.init")
        return LocalCluster(**options)

    monkeypatch.setattr("cleftcli.blockwise.workers.LocalCluster", start)

    assert done(Touch(tmp_path), HERE) == ({}, EVERY)
    with pytest.raises(ResourceError, match=r"do not start here: Status.init"):
        done(Touch(tmp_path), HERE)


@pytest.mark.parametrize(
    ("where", "error"),
    [("tcp://127.0.0.1:9", ResourceError), ("nowhere.json", InputError)],
)
def test_a_scheduler_that_is_not_there_is_said(tmp_path, monkeypatch, where, error):
    """No scheduler answers, or no such file: neither hangs."""
    monkeypatch.setattr("cleftcli.blockwise.workers.SECONDS_TO_JOIN", 0.5)

    with pytest.raises(error, match=where):
        done(Touch(tmp_path), Workers(scheduler=where))


def test_jobs_of_a_queue_do_the_blocks(tmp_path):
    """A TOML file for dask-jobqueue; here its queue is this machine."""
    pytest.importorskip("dask_jobqueue")
    file = tmp_path / "met-cluster.toml"
    file.write_text(
        'queue = "local"\njobs = 2\ncores = 1\nprocesses = 1\nmemory = "1GB"\ninterface = "lo"\n'
    )

    assert done(Touch(tmp_path), Workers(cluster=file)) == ({}, EVERY)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", InputError),
        ("jobs = 2", InputError),
        ('queue = "fast"\njobs = 2', InputError),
        ("queue = ", UsageError),
        ('queue="slurm"\njobs=1\nx=1', InputError),
    ],
)
def test_a_cluster_file_that_says_too_little_is_refused(tmp_path, text, error):
    """3, and what it takes; 2 where it is not even TOML."""
    pytest.importorskip("dask_jobqueue")
    file = tmp_path / "cluster.toml"
    file.write_text(text)

    with pytest.raises(error, match=r"cluster\.toml"):
        done(Touch(tmp_path), Workers(cluster=file))


@pytest.mark.parametrize(
    "text", ["", '{"type": "Sched', "not json", "[]", "{}", '{"address": null}', "\udc80"]
)
def test_a_scheduler_file_that_is_none_is_refused_at_once(tmp_path, text):
    """3: empty, torn or of something else; dask would look at it for two minutes."""
    file = tmp_path / "scheduler.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    begun = time.monotonic()

    with pytest.raises(InputError, match=r"scheduler\.json: "):
        done(Touch(tmp_path), Workers(scheduler=str(file)))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("part", [(0, 2), (3, 2), (1, 0)])
def test_parts_that_cannot_be_are_refused(part):
    """Parts count from 1 to n."""
    with pytest.raises(UsageError):
        Workers(part=part)


def test_parts_share_the_blocks():
    """Every block belongs to one part."""
    takers = [Workers(part=(i, 3)) for i in (1, 2, 3)]

    assert all(sum(w.takes(n) for w in takers) == 1 for n in range(20))
