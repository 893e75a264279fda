"""Runs that are killed, crowded, starved and tampered with: nothing is lost, nothing is hidden."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from dask import config as dask_config

from cleftcli.blockwise import Workers
from cleftcli.errors import ConflictError, IncompleteError, InputError, UsageError
from cleftcli.geometry import Roi
from cleftcli.jobs.predict import predict
from cleftcli.jobs.status import status
from cleftcli.jobs.verify import verify
from cleftcli.prediction_plan import plan
from cleftcli.prediction_settings import Settings
from cleftcli.volumes import chunks_behind, open_volume
from tests.conftest import store

ROOT = Path(__file__).parents[1]
BLOCK = (4, 16, 16)  # 3x3x4 of them
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture
def settings(volume, checkpoint, tmp_path):
    """Settings of a prediction in 36 blocks, by the name of its output."""

    def make(name, **changed):
        common = {"checkpoint": checkpoint, "block": BLOCK, "device": "cpu"}
        return Settings(f"{volume}/volumes/raw", str(tmp_path / name), **{**common, **changed})

    return make


def made(chosen, **options):
    """What `predict` returns."""
    return predict(chosen, **{"overwrite": False, "report": lambda *_: None, **options})


def voxels(path):
    return open_volume(f"{path}/cleft").read(open_volume(f"{path}/cleft").roi)


def files(path):
    """Every chunk on disk, byte for byte, and whatever else lies there but documents."""
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in Path(path).rglob("*")
        if p.is_file() and not p.name.startswith(".z")
    }


KILLER = """
    import json, os, random, signal, sys, time
    from pathlib import Path
    from cleftcli.blockwise.ledger import Ledger
    from cleftcli.jobs.predict import predict
    from cleftcli.prediction_settings import Settings
    from cleftcli.volumes.chunked import Chunked

    volume, folder, checkpoint = sys.argv[1:]

    def killing(method, chance, before):
        # end the process at a call: before it, or between it and what follows
        def called(*arguments):
            strikes = chance.random() < 0.1
            if strikes and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = method(*arguments)
            if strikes:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return called

    def attempt(n, out):
        chance = random.Random(n)
        if n % 3 == 0:
            Chunked.write = killing(Chunked.write, chance, before=False)
        elif n % 3 == 1:
            Ledger.record = killing(Ledger.record, chance, before=n % 2)
        settings = Settings(
            volume, out, checkpoint=Path(checkpoint), block=(4, 16, 16), device="cpu", blend="none"
        )
        predict(settings, overwrite=False, report=lambda *_: None)

    # the parent touches neither tensorstore nor dask: its children may be forked
    kills, n, outputs, chance = 0, 0, [], random.Random(0)
    while kills < 20:
        outputs.append(str(Path(folder, f"killed-{len(outputs)}.zarr")))
        ended = None
        while ended is None:
            n += 1
            child = os.fork()
            if not child:
                try:
                    attempt(n, outputs[-1])
                    os._exit(0)
                except BaseException as error:
                    print(repr(error), file=sys.stderr, flush=True)
                    os._exit(1)
            if n % 3 == 2:  # at whatever it is doing
                time.sleep(chance.uniform(0.1, 1.5))
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            kills += os.WIFSIGNALED(status)
            ended = None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
        if ended:
            sys.exit(ended)
    print(json.dumps({"kills": kills, "outputs": outputs}))
"""


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(settings, tmp_path, volume):
    """Killed before and after chunks and records, and anywhere: the same bytes in the end."""
    made(settings("undisturbed.zarr", blend="none"))
    undisturbed = files(tmp_path / "undisturbed.zarr")
    checkpoint = settings("x").checkpoint
    command = [sys.executable, "-c", textwrap.dedent(KILLER), f"{volume}/volumes/raw", tmp_path]

    done = subprocess.run(
        [*command, checkpoint], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= 20
    for out in found["outputs"]:
        assert files(out) == undisturbed
        assert verify(out, deep=True, report=lambda *_: None)["sound"]


def test_a_chunk_lost_or_cut_off_is_made_again(settings, tmp_path):
    """A resume believes no record whose chunks are not there as they were written."""
    chosen, out = settings("out.zarr"), tmp_path / "out.zarr"
    made(chosen)
    whole = files(out)
    chunks = sorted(name for name in whole if name.count("/") == 3)
    (out / chunks[3]).unlink()
    (out / chunks[7]).write_bytes(whole[chunks[7]][:-5])
    (out / chunks[9]).write_bytes(b"")

    with pytest.raises(IncompleteError, match="3 of 36 blocks are not sound"):
        verify(str(out), deep=False, report=lambda *_: None)
    assert made(chosen)["blocks_resumed"] == 33
    assert files(out) == whole


def test_other_voxels_of_the_same_size_are_seen_by_a_deep_look(settings, tmp_path):
    """Sizes do not tell; checksums do, and name the block."""
    made(settings("out.zarr"))
    volume = open_volume(f"{tmp_path}/out.zarr/cleft")
    box = Roi((4, 16, 16), BLOCK)
    volume.write(box, 255 - volume.read(box))
    size = chunks_behind(volume).bytes_in(box.within(volume.roi))
    ledger = tmp_path / "out.zarr.cleft.ledger"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:  # as if the chunk had been as large before
        if line.get("block") == 17:
            line["stored"]["cleft"][0] = size
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))

    verify(str(tmp_path / "out.zarr"), deep=False, report=lambda *_: None)
    with pytest.raises(IncompleteError, match=f"1 of 36 .*\nblock {box}: other voxels in cleft"):
        verify(str(tmp_path / "out.zarr"), deep=True, report=lambda *_: None)


def test_an_output_that_is_whole_is_said_so(cleft, settings, tmp_path):
    """Both looks, and by the command line; the ledger is found beside the container."""
    made(settings("out.zarr"))

    for option in ([], ["--deep"]):
        done = cleft("verify", tmp_path / "out.zarr", *option, "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["blocks"] == 36
    assert cleft("verify", tmp_path / "volume.zarr").exit_code == 3


def test_parts_of_a_job_array_make_one_output(settings, tmp_path):
    """In any order, each its own blocks; complete with the last one, and equal to a single run."""
    made(settings("alone.zarr"))
    for n, part in enumerate([(2, 3), (3, 3), (1, 3)]):
        found = made(settings("parts.zarr", workers=Workers(part=part)))
        assert found["blocks_done"] == 12 * (n + 1)
        assert found["complete"] is (n == 2)
        if n < 2:
            with pytest.raises(IncompleteError):
                verify(str(tmp_path / "parts.zarr"), deep=False, report=lambda *_: None)

    assert files(tmp_path / "parts.zarr") == files(tmp_path / "alone.zarr")
    assert verify(str(tmp_path / "parts.zarr"), deep=True, report=lambda *_: None)["sound"]
    assert made(settings("parts.zarr"))["blocks_resumed"] == 36


def test_parts_run_at_the_same_time(settings, tmp_path, volume):
    """Processes that know nothing of each other share an output; the ones left over finish it."""
    made(settings("alone.zarr"))
    out = tmp_path / "parts.zarr"
    command = [sys.executable, "-m", "cleftcli", "predict", f"{volume}/volumes/raw", "-o", out]
    command += ["--checkpoint", settings("x").checkpoint, "--block", "4,16,16", "--device", "cpu"]
    parts = [
        subprocess.Popen([*command, "--part", f"{i}/2"], env=ENVIRONMENT, stderr=subprocess.PIPE)
        for i in (1, 2)
    ]
    said = [part.communicate()[1] for part in parts]

    assert [part.returncode for part in parts] == [0, 0], said
    assert files(out) == files(tmp_path / "alone.zarr")
    assert open_volume(f"{out}/cleft").attributes["complete"] is True


def test_a_part_takes_nothing_away_from_others(settings, tmp_path):
    """--overwrite would delete what another part has just made."""
    with pytest.raises(UsageError, match="before the parts start"):
        made(settings("out.zarr", workers=Workers(part=(1, 2))), overwrite=True)
    made(settings("out.zarr"))
    made(settings("out.zarr", blend="none"), overwrite=True)
    made(settings("out.zarr", workers=Workers(part=(1, 2)), blend="none"))
    assert len(list(tmp_path.glob("out.zarr.*ledger*"))) == 2
    made(settings("out.zarr"), overwrite=True)
    assert len(list(tmp_path.glob("out.zarr.*ledger*"))) == 1


def test_an_output_that_a_network_shows_late_is_waited_for(settings, tmp_path, monkeypatch):
    """A worker on another machine may see a second later what was made here."""
    seen = []

    def shown_late(address):
        seen.append(time.monotonic())
        if seen[-1] - seen[0] < 1.0:
            raise InputError(f"{address}: no such file or folder")
        return open_volume(address)

    monkeypatch.setattr("cleftcli.stored.open_volume", shown_late)
    chosen = settings("late.zarr")

    made(chosen)
    assert len(seen) > len(plan(chosen).blocks)
    verify(chosen.output, deep=True, report=lambda *_: None)


def test_a_second_run_on_the_same_output_is_told_who_is_there(settings, tmp_path):
    """5, and the process that writes."""
    code = """
        import sys, time
        from pathlib import Path
        from cleftcli.blockwise import Ledger
        with Ledger(Path(sys.argv[1]), {}):
            print("held", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "out.zarr.cleft.ledger"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as other:
        other.stdout.readline()
        with pytest.raises(ConflictError, match=f"process {other.pid} on .* is writing"):
            made(settings("out.zarr"))
        other.communicate(b"")


CHANGES = {
    "roi": {"roi": "0:8,:,:"},
    "stride": {"overlap": (2, 8, 8)},
    "blend": {"blend": "none"},
    "output_dtype": {"dtype": "float32"},
    "batch_size": {"batch_size": 3},
    "intensity_range": {"intensity_range": (0.0, 200.0)},
    "block": {"block": (8, 16, 16)},
}


@pytest.mark.parametrize("name", [*CHANGES, "checkpoint", "volume"])
def test_a_run_with_another_setting_is_refused_by_name(settings, tmp_path, name):
    """Whatever changes a voxel; and the old output is as it was."""
    chosen = settings("out.zarr", block=(10, 48, 64))
    made(chosen)
    whole = files(tmp_path / "out.zarr")
    weights = bytearray(chosen.checkpoint.read_bytes())
    weights[-1] ^= 1
    (tmp_path / "other.safetensors").write_bytes(weights)
    source = open_volume(chosen.volume)
    other = store(f"{tmp_path}/other.zarr/raw", source.read(source.roi)).address
    elsewhere = {
        "checkpoint": {"checkpoint": tmp_path / "other.safetensors"},
        "volume": {"volume": other},
    }

    with pytest.raises(ConflictError, match=rf"\W{name}: "):
        made(dataclasses.replace(chosen, **{**CHANGES, **elsewhere}[name]))

    assert files(tmp_path / "out.zarr") == whole


def test_a_later_cleft_that_would_give_other_voxels_does_not_resume(settings, monkeypatch):
    """The version of the contract is part of a run; that of the program is not."""
    made(settings("out.zarr"))
    monkeypatch.setattr("cleftcli.outputs.__version__", "99")
    assert made(settings("out.zarr"))["blocks_resumed"] == 36
    monkeypatch.setattr("cleftcli.resumable.CONTRACT", 99)
    with pytest.raises(ConflictError, match=r"contract: \d+ -> 99"):
        made(settings("out.zarr"))


def test_a_signal_leaves_a_run_that_goes_on(settings, tmp_path, volume):
    """143 to SIGTERM within seconds, a line that says so, and the same command continues."""
    out = tmp_path / "out.zarr"
    command = [sys.executable, "-m", "cleftcli", "predict", f"{volume}/volumes/raw", "-o", out]
    command += ["--checkpoint", settings("x").checkpoint, "--block", "4,16,16", "--device", "cpu"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    ledger = tmp_path / "out.zarr.cleft.ledger"
    while process.poll() is None and (not ledger.exists() or ledger.read_bytes().count(b"\n") < 4):
        pass
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 143
    assert "stopping at the next safe point" in said
    found = status(str(out))
    assert 2 <= found["blocks_done"] < 36
    assert found["running"] == []
    assert found["blocks_per_second"] > 0
    assert made(settings("out.zarr"))["blocks_resumed"] == found["blocks_done"]


def test_status_of_a_run_that_failed_names_its_blocks(cleft, settings, tmp_path, monkeypatch):
    """Done, failed with the reason, nothing left to wait for; JSON and text."""
    from cleftcli.prediction import PredictBlock

    right = PredictBlock.__call__

    def wrong(self, block):
        if block.index in (3, 5):
            raise ValueError("no such luck")
        return right(self, block)

    monkeypatch.setattr(PredictBlock, "__call__", wrong)
    monkeypatch.setattr("cleftcli.blockwise.schedule.PAUSES", (0.0, 0.0))
    with pytest.raises(IncompleteError, match="2 of 36 blocks failed"):
        made(settings("out.zarr"))

    found = json.loads(cleft("status", tmp_path / "out.zarr", "--json").stdout)
    assert (found["blocks"], found["blocks_done"], found["blocks_failed"]) == (36, 34, 2)
    assert found["failed"][0] == {"block": "0:4,0:16,48:64", "error": "ValueError: no such luck"}
    assert found["seconds_left"] > 0
    assert "no such luck" in cleft("status", tmp_path / "out.zarr").stdout
    monkeypatch.setattr(PredictBlock, "__call__", right)
    made(settings("out.zarr"))
    assert status(str(tmp_path / "out.zarr"))["blocks_failed"] == 0
    assert cleft("status", tmp_path / "nothing.zarr").exit_code == 3


FULL = """
    set -e
    mount -t tmpfs -o {limit} none {mount}
    {command} 2>{folder}/said && exit 99
    code=$?
    mount -o remount,{more} {mount}
    {command} --json
    cp -r {mount}/out.zarr {folder}/copy.zarr
    cp {mount}/out.zarr.cleft.ledger {folder}/copy.zarr.cleft.ledger
    exit $code
"""


def may_mount():
    done = subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True)
    return done.returncode == 0


@pytest.mark.skipif(not shutil.which("unshare") or not may_mount(), reason="no namespaces here")
@pytest.mark.parametrize(
    ("limit", "more", "least", "what"),
    [
        ("size=36k", "size=4m", 1, "the disk is full"),
        ("nr_inodes=34", "nr_inodes=2000", 0, "inodes"),
    ],
)
def test_a_disk_that_fills_up_is_enlarged_and_the_run_goes_on(
    settings, tmp_path, volume, limit, more, least, what
):
    """6 with what is lacking; what is done stays, and the same command ends as on any disk.

    Bytes run out on the way, for files take whole pages; inodes are counted beforehand.
    """
    made(settings("alone.zarr"))
    mount = tmp_path / "mount"
    mount.mkdir()
    command = (
        f"{sys.executable} -m cleftcli predict {volume}/volumes/raw -o {mount}/out.zarr "
        f"--checkpoint {settings('x').checkpoint} --block 4,16,16 --device cpu"
    )
    script = FULL.format(limit=limit, more=more, mount=mount, folder=tmp_path, command=command)

    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )

    said = (tmp_path / "said").read_text()
    assert done.returncode == 6, (said, done.stderr)
    assert what in said
    assert least <= json.loads(done.stdout)["blocks_resumed"] < 36, said
    assert files(tmp_path / "copy.zarr") == files(tmp_path / "alone.zarr")


def dask(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *map(str, arguments), "--no-dashboard"],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("loses", ["a worker", "the scheduler"])
def test_a_cluster_started_by_hand_does_the_work_whatever_it_loses(
    settings, tmp_path, volume, loses
):
    """As docs/cluster.md says, by dask's own commands; without a scheduler, 4 and go on later."""
    made(settings("alone.zarr"))
    file = tmp_path / "cluster.json"
    common = ["--scheduler-file", file]
    scheduler = dask("scheduler", *common, "--host", "127.0.0.1", "--port", "0")
    workers = [dask("worker", *common, "--nthreads", "2", "--no-nanny") for _ in range(2)]
    command = [sys.executable, "-m", "cleftcli", "predict", "volume.zarr/volumes/raw"]
    command += ["-o", "out.zarr", "--checkpoint", settings("x").checkpoint]
    command += ["--block", "4,16,16", "--device", "cpu", "--scheduler", file, "--batch-size", "2"]
    try:
        while not file.exists() or not file.read_text():
            time.sleep(0.1)
        run = subprocess.Popen(  # its workers have another current folder
            command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        ledger = tmp_path / "out.zarr.cleft.ledger"
        while run.poll() is None and (not ledger.exists() or ledger.read_bytes().count(b"\n") < 6):
            time.sleep(0.01)
        (workers[0] if loses == "a worker" else scheduler).kill()
        _, said = run.communicate(timeout=200)
    finally:
        for process in (scheduler, *workers):
            process.kill()
            process.wait()

    if loses == "the scheduler":
        assert run.returncode == 4, said
        assert "the connection to the scheduler is lost" in said
        elsewhere = settings("out.zarr", batch_size=2)
        assert made(elsewhere)["blocks_resumed"] >= 4
    else:
        assert run.returncode == 0, said
    assert files(tmp_path / "out.zarr") == files(tmp_path / "alone.zarr")


def test_elsewhere_the_device_has_to_be_said(cleft, settings, volume, tmp_path):
    """The node that plans may have none."""
    options = ["--checkpoint", settings("x").checkpoint, "-o", tmp_path / "o.zarr"]
    done = cleft("predict", volume, *options, "--scheduler", "tcp://127.0.0.1:9")

    assert done.exit_code == 2
    assert "--device cpu or cuda" in done.stderr


def test_workers_without_the_device_are_told_of_in_time(
    cleft, scheduler, settings, volume, tmp_path
):
    """6 and what is lacking, instead of waiting for a GPU that nobody has."""
    where = ["--scheduler", scheduler.scheduler_address, "--device", "cuda"]
    options = ["--checkpoint", settings("x").checkpoint, "-o", tmp_path / "out.zarr"]

    done = cleft("predict", volume, *options, *where)

    assert done.exit_code == 6
    assert "0 GPUs are usable" in done.stderr


def test_workers_are_spawned():
    """A fork after CUDA or tensorstore was used would hang or fail."""
    assert dask_config.get("distributed.worker.multiprocessing-method") == "spawn"


@pytest.mark.parametrize(("workers", "threads"), [(1, 6), (2, 3), (4, 1), (9, 1)])
def test_threads_are_shared_out_among_workers(settings, monkeypatch, workers, threads):
    """Two workers with all threads each would wait for each other."""
    monkeypatch.setattr("cleftcli.prediction_plan.cores", lambda: 6)
    assert plan(settings("out.zarr", workers=Workers(workers))).process.threads == threads


def test_a_hang_up_leaves_a_run_that_goes_on(settings, tmp_path, volume):
    """The terminal is gone: the process ends, and nothing that is done is lost."""
    out = tmp_path / "out.zarr"
    command = [sys.executable, "-m", "cleftcli", "predict", f"{volume}/volumes/raw", "-o", out]
    command += ["--checkpoint", settings("x").checkpoint, "--block", "4,16,16", "--device", "cpu"]
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup hands on its own
    )
    ledger = tmp_path / "out.zarr.cleft.ledger"
    while process.poll() is None and (not ledger.exists() or ledger.read_bytes().count(b"\n") < 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)

    assert process.returncode == -signal.SIGHUP
    assert 2 <= made(settings("out.zarr"))["blocks_resumed"] < 36
    assert verify(str(out), deep=True, report=lambda *_: None)["sound"]
