"""Checks of machine and folder: each says what is wrong where something is."""

import errno
import fcntl
import os
import shlex
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cleftcli.checks import CHECKS, apart, check, devices, folder, limits, packages
from cleftcli.model import checkpoint, device
from cleftcli.model.checkpoint import load, save

FAULTS = {}


def fault(name):
    """Register what makes a check fail; it returns words of the finding."""

    def register(make):
        FAULTS[name] = make
        return make

    return register


def installed(monkeypatch, **versions):
    """Libraries of these versions, or None of them; the others as they are."""

    def found(name):
        key = name.replace("-", "_")
        stated = versions[key] if key in versions else version(name)
        if stated is None:
            raise PackageNotFoundError(name)
        return stated

    monkeypatch.setattr(packages, "version", found)


@fault("python")
def _(monkeypatch, _):
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.9.1")
    return "problem", "Python 3.9.1", "wanted is Python >=3.11"


@fault("libraries")
def _(monkeypatch, _):
    monkeypatch.setattr(packages, "_broken", lambda _: {})
    installed(monkeypatch, scipy="0.1", edt=None)
    again = "pip install --force-reinstall 'edt<4,>=3.1' 'scipy<2,>=1.15'"
    return "problem", "edt is missing; scipy is 0.1, wanted is <2,>=1.15", again


@fault("weaknesses")
def _(monkeypatch, _):
    installed(monkeypatch, torch="2.9.1+cpu")
    return "note", "CVE-2026-24747", "CVE-2025-3000", "pip install 'torch>=2.13.0'"


@fault("checkpoint")
def _(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "shipped", lambda: tmp_path / "default.safetensors")
    return "problem", "default.safetensors: no such checkpoint"


def without(extra, library):
    @fault(f"extra {extra}")
    def _(monkeypatch, _):
        monkeypatch.setattr(packages, "_broken", lambda _: {})
        installed(monkeypatch, **{library: None})
        name = library.replace("_", "-")
        return "note", f"{name} is missing", f"pip install 'cleft[{extra}]'"


without("train", "gunpowder")
without("view", "neuroglancer")
without("cluster", "dask_jobqueue")
without("tiff", "imagecodecs")


@fault("processor")
def _(monkeypatch, _):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.setattr(devices, "cores", lambda: 2)
    return "note", "2 of 64 cores: the cores it may run on"


@fault("precision")
def _(monkeypatch, _):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(device, "_bfloat16_kills", lambda: True)
    return "note", "float32", "ends the process"


@fault("gpus")
def _(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    card(monkeypatch, tmp_path)
    return "note", "a build without CUDA", "https://pytorch.org"


@fault("memory")
def _(monkeypatch, _):
    monkeypatch.setattr(limits, "memory", lambda: 500_000_000)
    monkeypatch.setattr(limits, "memory_limit", lambda: 2_000_000_000)
    return "note", "0.5 GB free", "the control group grants 2.0 GB", "--block"


@fault("shared memory")
def _(monkeypatch, _):
    docker = SimpleNamespace(f_bavail=16384, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: docker)
    return "note", "0.07 GB free", "--shm-size"


@fault("limits")
def _(monkeypatch, _):
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (100, 100))
    return "note", "low: open_files, processes", "ulimit -n 4096; ulimit -u"


@fault("loopback")
def _(monkeypatch, _):
    def refuse(_):
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", refuse)
    return "problem", "127.0.0.1 does not answer", "allow loopback"


@fault("file system")
def _(monkeypatch, tmp_path):
    mounts(monkeypatch, tmp_path, f"36 35 98:0 / {tmp_path} rw,soft - nfs4 host:/x rw,nolock")
    return "note", "nfs4 at", "some seconds late", "locks are not seen", "failed write"


@fault("space")
def _(monkeypatch, _):
    monkeypatch.setattr(folder, "free_space", lambda _: (3_000_000_000, 400_000))
    return "note", "3.0 GB and 400000 inodes free", "--dry-run"


@fault("replacing")
def _(monkeypatch, _):
    def overwrite(new, old):
        old.write_bytes(new.read_bytes())
        new.unlink()

    monkeypatch.setattr(Path, "replace", overwrite)
    return "problem", "replacing a file under its reader", "write outputs elsewhere"


@fault("locks")
def _(monkeypatch, _):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    return "note", "locks do not work here", "one run at a time"


@fault("speed")
def _(monkeypatch, _):
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(0.03))
    monkeypatch.setattr(folder, "MOST_SECONDS", 0.1)
    return "note", "chunks of 64 kB", "larger chunks"


def card(monkeypatch, tmp_path, kind="0x030200"):
    """A PCI bus with one device of NVIDIA."""
    bus = tmp_path / "bus"
    (bus / "0000:01:00.0").mkdir(parents=True)
    (bus / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    (bus / "0000:01:00.0" / "class").write_text(f"{kind}\n")
    monkeypatch.setattr(devices, "CARDS", bus)


def mounts(monkeypatch, tmp_path, *lines):
    """/proc/self/mountinfo that says this, below a root of ext4."""
    path = tmp_path / "mountinfo"
    path.write_text("\n".join(["22 1 8:1 / / rw - ext4 /dev/sda1 rw", *lines]) + "\n")
    monkeypatch.setattr(folder, "MOUNTS", path)


def test_every_check_has_a_fault():
    """A check that nobody saw fail is not worth its line."""
    assert FAULTS.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", CHECKS)
def test_a_fault_is_found_and_said(name, monkeypatch, tmp_path):
    """Each check tells its own fault, with what to do, and leaves the folder as it was."""
    place = tmp_path / "place"
    place.mkdir()
    state, *words = FAULTS[name](monkeypatch, tmp_path)

    found = check(name, place)

    assert found.state == state, found
    assert [w for w in words if w not in f"{found.fact} {found.advice}"] == []
    assert "\n" not in found.fact + found.advice
    assert list(place.iterdir()) == []


def test_no_check_fails_for_nothing(monkeypatch, tmp_path):
    """Where the tests run nothing is a problem; extras and room may be worth a note."""
    monkeypatch.setattr(packages, "_broken", lambda _: {})  # test_doctor.py imports them all
    found = {name: check(name, tmp_path) for name in CHECKS}
    assert [f"{n}: {f.fact}" for n, f in found.items() if f.state == "problem"] == []
    assert all(f.fact for f in found.values())
    assert all(f.advice for f in found.values() if f.state == "note")


# ---- packages


def test_what_does_not_import_is_named_with_its_reason(monkeypatch, tmp_path):
    """Another process tries; one that ends it is named too, after those before it."""
    (tmp_path / "torn.py").write_text("raise OSError('libtorn.so: not found\\nmore')")
    (tmp_path / "deadly.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    assert packages._broken(["json", "absent", "torn", "deadly"]) == {
        "absent": "does not import: ModuleNotFoundError No module named 'absent'",
        "torn": "does not import: OSError libtorn.so: not found",
        "deadly": "ends the process that imports it (-6)",
    }
    assert packages._broken(["json"]) == {}


def test_a_library_that_does_not_import_is_a_problem(monkeypatch, tmp_path):
    """By the name it is installed by, with what would bring it back."""
    monkeypatch.setattr(packages, "_broken", lambda _: {"cc3d": "does not import: OSError"})
    found = check("libraries", tmp_path)
    assert found.fact.startswith("connected-components-3d ")
    assert found.fact.endswith(" does not import: OSError")
    assert "--force-reinstall 'connected-components-3d<" in found.advice


def test_every_library_is_looked_for_by_the_name_it_is_imported_by():
    """Of the package and of every extra that a check knows, as far as they are installed."""
    for extra in ("", *(name.removeprefix("extra ") for name in CHECKS if "extra " in name)):
        wanted = packages._wanted(extra)
        assert wanted, extra
        assert extra == "" or not set(wanted) & set(packages._wanted()), extra
        there = [packages.module(r.name) for r in wanted if packages._is_there(r.name)]
        assert [name for name in there if find_spec(name) is None] == []


def test_a_weakness_is_mended_by_the_version_it_names(monkeypatch):
    """From that version on it is not told; what is not installed has none."""
    for weak in packages.WEAKNESSES:
        before = f"{int(weak.mended.split('.')[0]) - 1}.99"
        installed(monkeypatch, **{weak.library: before})
        assert weak.name in packages.weaknesses().fact
        installed(monkeypatch, **{weak.library: weak.mended})
        assert weak.name not in packages.weaknesses().fact
        installed(monkeypatch, **{weak.library: None})
        assert weak.name not in packages.weaknesses().fact


def test_a_damaged_checkpoint_is_a_problem(monkeypatch, tmp_path, checkpoint):
    """One that is cut short, and one with weights that are no numbers."""
    monkeypatch.setattr("cleftcli.model.checkpoint.shipped", lambda: checkpoint)
    assert check("checkpoint", tmp_path).state == "ok"
    about, weights = load(checkpoint)
    first = next(iter(weights))
    save(checkpoint, about, weights | {first: weights[first] * float("nan")})
    assert "no numbers" in check("checkpoint", tmp_path).fact
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    assert "damaged" in check("checkpoint", tmp_path).fact


# ---- devices


def test_a_quota_is_told_from_affinity(monkeypatch, tmp_path):
    """Which of the two leaves fewer cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(devices, "cores", lambda: 3)
    assert "3 of 8 cores: the CPU quota" in check("processor", tmp_path).fact
    monkeypatch.setattr(devices, "cores", lambda: 8)
    assert check("processor", tmp_path).state == "ok"


@pytest.mark.parametrize("kind", ["0x030200", "0x030000", "0x040300"])
def test_only_a_card_that_could_compute_is_missed(monkeypatch, tmp_path, kind):
    """A display controller of that vendor; not its sound device, and no machine without one."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(devices, "CARDS", tmp_path)
    assert check("gpus", tmp_path).state == "ok"
    card(monkeypatch, tmp_path, kind)
    assert (check("gpus", tmp_path).state == "note") == kind.startswith("0x03")


def test_why_there_is_no_gpu_is_said(monkeypatch, tmp_path):
    """Hidden by a variable, or refused by CUDA in its own words, first line."""

    def refuse():
        raise RuntimeError("The NVIDIA driver on your system is too old\nmore")

    card(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", refuse)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert check("gpus", tmp_path).fact.endswith("driver on your system is too old")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in check("gpus", tmp_path).fact


def test_a_gpu_that_fails_is_a_problem(monkeypatch, tmp_path):
    """Each is asked for a product; where one fails the finding names it and its error."""

    def lost(*_, **__):
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nmore")

    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar\n")
    monkeypatch.setattr(devices, "DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * 10**9, 4 * 10**9))
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda shape, **_: ones(shape))
    found = check("gpus", tmp_path)
    assert (found.state, found.numbers) == ("ok", {"gpus": 1})
    assert found.fact.startswith("cuda:0 H200, 3.0 of 4.0 GB free; CUDA ")
    assert found.fact.endswith("driver 550.54.15")
    monkeypatch.setattr(torch, "ones", lost)
    found = check("gpus", tmp_path)
    assert found.state == "problem"
    assert "cuda:0 H200 fails: CUDA error: uncorrectable ECC error encountered;" in found.fact


# ---- limits


def test_a_limit_of_the_shell_is_found():
    """A real one, in a process that has it."""
    ask = "import sys; from cleftcli.checks import check; print(check('limits', None).fact)"
    command = f"ulimit -n 100; exec {shlex.join([sys.executable, '-c', ask])}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("low: open_files (open_files 100, ")


def test_no_limit_is_no_lack(monkeypatch, tmp_path):
    """`unlimited` is the number -1."""
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (-1, -1))
    found = check("limits", tmp_path)
    assert found.state == "ok"
    assert "file_bytes unlimited" in found.fact


def test_a_machine_without_shared_memory_is_no_error(monkeypatch, tmp_path):
    """It is told, with what helps."""
    monkeypatch.setattr(limits, "SHARED", tmp_path / "shm")
    assert "workers = 0" in check("shared memory", tmp_path).advice


# ---- folder


def test_the_nearest_mount_counts(monkeypatch, tmp_path):
    """Not one above it, nor one beside it with a longer name; later mounts cover earlier ones."""
    place = tmp_path / "a b"
    (place / "in").mkdir(parents=True)
    escaped = str(place).replace(" ", "\\040")
    mounts(
        monkeypatch,
        tmp_path,
        f"30 22 0:1 / {escaped} rw - lustre x rw,flock",
        f"31 22 0:2 / {escaped}/i rw - tmpfs x rw",
        f"32 22 0:3 / {escaped} rw shared:1 master:2 - xfs x rw",
    )
    assert check("file system", place / "in").fact == f"xfs at {place}"
    assert check("file system", tmp_path).fact == "ext4 at /"


@pytest.mark.parametrize(
    ("kind", "options", "state"),
    [
        ("lustre", "rw,flock", "note"),
        ("lustre", "rw,localflock", "note"),
        ("fuse.sshfs", "rw", "note"),
        ("xfs", "rw,noatime", "ok"),
        ("zfs", "rw,softdep", "ok"),
    ],
)
def test_kinds_and_options_with_a_catch_are_known(monkeypatch, tmp_path, kind, options, state):
    """By whole names; an option that keeps locks to one machine is told."""
    mounts(monkeypatch, tmp_path, f"36 35 98:0 / {tmp_path} rw - {kind} x {options}")
    found = check("file system", tmp_path)
    assert found.state == state
    assert ("locks" in found.fact) == ("localflock" in options)


def test_a_system_without_a_list_of_mounts_is_no_error(monkeypatch, tmp_path):
    """The kind is unknown, and that is all."""
    monkeypatch.setattr(folder, "MOUNTS", tmp_path / "none")
    assert check("file system", tmp_path).fact == "unknown at /"


def test_few_inodes_are_told_apart_from_few_bytes(monkeypatch, tmp_path):
    """And a file system that does not count them is fine."""
    monkeypatch.setattr(folder, "free_space", lambda _: (10**13, 500))
    assert "shards" in check("space", tmp_path).advice
    monkeypatch.setattr(folder, "free_space", lambda _: (10**13, None))
    assert check("space", tmp_path).state == "ok"


@pytest.mark.parametrize("name", ["replacing", "locks", "speed"])
def test_a_disk_that_fills_up_is_a_finding_and_is_left_clean(monkeypatch, tmp_path, name):
    """What was begun is removed, also when the system refuses halfway."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    found = check(name, tmp_path)
    assert found.state == "problem"
    assert "the disk is full" in found.fact
    assert list(tmp_path.iterdir()) == []


def test_a_small_disk_is_not_filled(monkeypatch, tmp_path):
    """Speed is measured only where that leaves room."""
    monkeypatch.setattr(folder, "free_space", lambda _: (200_000_000, 9))
    assert check("speed", tmp_path).fact == "not measured: 200 MB are free"


def test_rates_are_counted_by_the_clock(monkeypatch):
    """Times done over seconds passed, also where time ran out first."""
    now = iter([0.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(folder.time, "perf_counter", lambda: next(now))
    assert folder._a_second(3, lambda _: None) == 3 / 4
    now = iter([0.0, 2.0, 6.0, 7.0])
    assert folder._a_second(100, lambda _: None) == 2 / 6


# ---- in another process


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("import os; os.abort()", "ended the process that tried (exit code -6)"),
        ("import time; time.sleep(60)", "no answer in 1 s"),
        (
            "raise ImportError('libfoo.so.1: none\\nmore')",
            "not tried: ImportError libfoo.so.1: none",
        ),
        ("print('noise')", "not tried: "),
    ],
)
def test_a_check_that_kills_or_hangs_is_a_finding(monkeypatch, tmp_path, capfd, does, said):
    """The others are asked in a new process; what libraries print does not reach stdout."""
    (tmp_path / "dask.py").write_text(does)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(apart, "PATIENCE", 1.0)
    chosen = {name: CHECKS[name] for name in ("space", "locks", "file system")}
    monkeypatch.setattr(apart, "CHECKS", chosen)
    found = dict(apart.examine(tmp_path))
    assert list(found) == list(chosen)
    assert found["locks"].state == "problem"
    assert found["locks"].fact.startswith(said)
    assert found["space"].numbers["free_bytes"] > 0
    assert found["file system"].fact != ""
    assert capfd.readouterr().out == ""
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".cleft")] == []
