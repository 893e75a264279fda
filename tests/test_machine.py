"""What a process may use: read from fake trees of /proc and control groups, and from real disks."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cleftcli import machine
from cleftcli.errors import ResourceError
from cleftcli.machine import cores, free_space, memory, memory_limit, try_writing, writing

GB = 1_024_000_000  # whole kB
V2 = "0::/a/b/c\n"
V1 = "9:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n3:cpuset:/\n"
MEMINFO = f"MemTotal: {32 * GB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {8 * GB // 1024} kB\n"


@pytest.fixture
def tree(tmp_path):
    """Make /proc and /sys/fs/cgroup of {path: text}."""

    def make(mine="", groups=None, meminfo=""):
        files = {"proc/self/cgroup": mine, "proc/meminfo": meminfo}
        files |= {f"cgroup/{path}": text for path, text in (groups or {}).items()}
        for path, text in files.items():
            if text:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text(text)
        return tmp_path / "proc", tmp_path / "cgroup"

    return make


@pytest.fixture
def many(monkeypatch):
    """This process may run on 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


# what /proc/self/cgroup says, the limits, and how many cores that leaves of 64
QUOTAS = {
    "nothing": ("", {}, 64),
    "no limit": (V2, {"a/b/c/cpu.max": "max 100000\n"}, 64),
    "one and a half": (V2, {"a/b/c/cpu.max": "150000 100000\n"}, 2),
    "another period": (V2, {"a/b/c/cpu.max": "15000 5000\n"}, 3),
    "a sliver": (V2, {"a/b/c/cpu.max": "1000 100000\n"}, 1),
    "more than there are": (V2, {"a/b/c/cpu.max": "9900000 100000\n"}, 64),
    "the one above": (V2, {"a/cpu.max": "300000 100000", "a/b/c/cpu.max": "900000 100000"}, 3),
    "the one below": (V2, {"a/cpu.max": "900000 100000", "a/b/c/cpu.max": "300000 100000"}, 3),
    "a container's root": ("0::/\n", {"cpu.max": "400000 100000"}, 4),
    "outside of it": ("0::/../../x\n", {"cpu.max": "400000 100000"}, 4),
    "somebody else's": (V2, {"a/z/cpu.max": "100000 100000"}, 64),
    "version 1": (
        V1,
        {
            "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000\n",
            "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "version 1, by its first name, at the root": (
        V1,
        {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "version 1, no limit": (
        V1,
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        64,
    ),
    "another controller's": (
        V1,
        {"cpuset/cpu.cfs_quota_us": "100000\n", "cpuset/cpu.cfs_period_us": "100000\n"},
        64,
    ),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_cores_are_those_of_the_tightest_quota(tree, many, case):
    """Of all groups from this process's up to the root; fractions count as one core more."""
    mine, groups, expected = QUOTAS[case]
    assert cores(*tree(mine, groups)) == expected


def test_cores_are_those_this_process_may_run_on(tree, monkeypatch):
    """Affinity counts where there is one; a quota above it changes nothing."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert cores(*tree(V2, {"a/cpu.max": "500000 100000"})) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores(*tree(V2, {"a/cpu.max": "900000 100000"})) == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores(*tree()) == 1


# what /proc/self/cgroup says, the limits, and the GB that leaves of 8 available
LIMITS = {
    "nothing": ("", {}, 8),
    "no limit": (V2, {"a/b/c/memory.max": "max\n", "a/b/c/memory.current": f"{7 * GB}"}, 8),
    "some is taken": (
        V2,
        {"a/b/c/memory.max": f"{5 * GB}", "a/b/c/memory.current": f"{3 * GB}"},
        2,
    ),
    "file cache is free": (
        V2,
        {
            "a/b/c/memory.max": f"{5 * GB}\n",
            "a/b/c/memory.current": f"{3 * GB}\n",
            "a/b/c/memory.stat": f"anon 5\nactive_file 7\ninactive_file {2 * GB}\nshmem 3\n",
        },
        4,
    ),
    "the one above": (
        V2,
        {
            "a/memory.max": f"{4 * GB}",
            "a/memory.current": f"{3 * GB}",
            "a/b/c/memory.max": f"{4 * GB}",
            "a/b/c/memory.current": f"{1 * GB}",
        },
        1,
    ),
    "more than there is": (V2, {"a/memory.max": f"{64 * GB}", "a/memory.current": "0"}, 8),
    "beyond the limit": (V2, {"a/memory.max": f"{GB}", "a/memory.current": f"{2 * GB}"}, 0),
    "version 1": (
        V1,
        {
            "memory/docker/x/memory.limit_in_bytes": f"{6 * GB}\n",
            "memory/docker/x/memory.usage_in_bytes": f"{4 * GB}\n",
            "memory/docker/x/memory.stat": f"inactive_file 1\ntotal_inactive_file {GB}\n",
        },
        3,
    ),
    "version 1, at the root": (
        V1,
        {"memory/memory.limit_in_bytes": f"{6 * GB}\n", "memory/memory.usage_in_bytes": "0\n"},
        6,
    ),
    "version 1, no limit": (
        V1,
        {
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": f"{20 * GB}\n",
        },
        8,
    ),
}


@pytest.mark.parametrize("case", LIMITS)
def test_memory_is_that_of_the_tightest_limit(tree, case):
    """Of the machine, and of all groups from this process's up to the root, less what they use."""
    mine, groups, expected = LIMITS[case]
    assert memory(*tree(mine, groups, MEMINFO)) == expected * GB


def test_memory_is_what_is_built_in_where_nothing_is_told(tree):
    """Without /proc and without groups; a group's limit counts without /proc/meminfo too."""
    assert memory(*tree()) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = {"a/memory.max": f"{3 * GB}", "a/memory.current": f"{GB}"}
    assert memory(*tree(V2, limits)) == 2 * GB


@pytest.mark.parametrize("case", LIMITS)
def test_the_limit_of_memory_is_the_tightest_one_stated(tree, case, monkeypatch):
    """Whatever is used of it; None where nobody limits, or grants more than there is."""
    monkeypatch.setattr(machine, "built_in_memory", lambda: 32 * GB)
    stated = [
        int(v)
        for k, v in LIMITS[case][1].items()
        if "max" in k.split("/")[-1] and v.strip() != "max"
    ]
    stated += [int(v) for k, v in LIMITS[case][1].items() if "limit_in_bytes" in k]
    least = min((n for n in stated if n < 32 * GB), default=None)
    assert memory_limit(*tree(*LIMITS[case][:2], MEMINFO)) == least


def test_this_machine_grants_something():
    """The real files are read: no more than there is."""
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert 0 < memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_free_space_is_that_of_the_folder_that_is_there(tmp_path, monkeypatch):
    """A path that is yet to be made lies on the disk of the folder above it."""
    asked = []
    about = SimpleNamespace(f_bavail=30, f_frsize=4096, f_files=100, f_favail=7)
    monkeypatch.setattr(os, "statvfs", lambda path: asked.append(path) or about)
    assert free_space(tmp_path / "not" / "there") == (30 * 4096, 7)
    about.f_files = about.f_favail = 0
    assert free_space(tmp_path) == (30 * 4096, None)
    assert asked == [tmp_path, tmp_path]


REFUSALS = {
    errno.ENOSPC: ("the disk is full", "3.1 GB and 12 inodes", "same command continues"),
    errno.EDQUOT: ("quota", "same command continues"),
    errno.EFBIG: ("ulimit -f", "same command continues"),
    errno.EROFS: ("read-only", "write elsewhere"),
    errno.EACCES: ("may not write", "write elsewhere"),
    errno.EPERM: ("may not write", "write elsewhere"),
    errno.EIO: ("Input/output error",),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_what_the_system_refuses_is_one_line(code, monkeypatch, tmp_path):
    """Where, what, how much room there is, and what helps; exit code 6."""
    monkeypatch.setattr(machine, "free_space", lambda _: (3_100_000_000, 12))
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (4096, 4096))
    with pytest.raises(ResourceError) as raised, writing(tmp_path / "out"):
        raise OSError(code, os.strerror(code))
    text = str(raised.value)
    assert text.startswith(f"{tmp_path}/out: ")
    assert [w for w in REFUSALS[code] if w not in text] == []
    assert "\n" not in text
    assert raised.value.exit_code == 6


def test_inodes_that_are_used_up_are_named(monkeypatch, tmp_path):
    """The same error as of a full disk, but bytes are left: fewer files would do."""
    monkeypatch.setattr(machine, "free_space", lambda _: (3_100_000_000, 0))
    words = "3.1 GB but no inodes left: larger chunks make fewer files"
    with pytest.raises(ResourceError, match=words), writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_go_through(tmp_path):
    """What the system did not say is not taken for a lack of room."""
    with pytest.raises(ValueError, match="a bug"), writing(tmp_path):
        raise ValueError("a bug")


def test_trying_leaves_nothing_behind(tmp_path):
    """A folder that can be written is as it was; one that is none is refused."""
    try_writing(tmp_path)
    assert list(tmp_path.iterdir()) == []
    Path(tmp_path, "file").write_text("mine")
    with pytest.raises(ResourceError, match="Not a directory"):
        try_writing(tmp_path / "file")
