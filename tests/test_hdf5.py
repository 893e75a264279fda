"""Hostile, broken and busy HDF5 files: nothing of other files is read, and nothing crashes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from cleftcli.errors import InputError
from cleftcli.volumes import hdf5_file, hdf5_probe, open_volume
from tests.conftest import VOXEL_SIZE

SHAPE = (6, 20, 24)
SECRET = b"SECRET-OF-SOMEBODY-ELSE!"  # 24 bytes
DIES = "import os, signal, sys; sys.stdin.readline(); os.kill(os.getpid(), signal.SIGKILL)"
# VmHWM, for ru_maxrss would begin with that of the process that started this one
PEAK = (
    "import atexit, pathlib, re, runpy, sys\n"
    "status = pathlib.Path('/proc/self/status')\n"
    "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1]) // 1024\n"
    "atexit.register(lambda: print('peak', peak(), file=sys.stderr))\n"
    "runpy.run_module('cleftcli', run_name='__main__')"
)


def raw(path, shape=SHAPE, **options) -> Path:
    """A file with volumes/raw in it."""
    data = np.random.default_rng(0).integers(0, 9, shape, np.uint8)
    with h5py.File(path, "w") as file:
        made = file.create_dataset("volumes/raw", data=data, chunks=(3, 10, 12), **options)
        made.attrs["resolution"] = VOXEL_SIZE
    return path


def script(text, *arguments, **options) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, **options)


@pytest.fixture(autouse=True)
def fresh_probe():
    """Each test starts and ends without a probe process, and without open files."""
    yield
    hdf5_file.file_at.cache_clear()
    hdf5_file._probe.stop()


@pytest.fixture
def strangers(tmp_path):
    """A file whose datasets lead to voxels of other files by every means that HDF5 has."""
    secret = tmp_path / "secret.hdf"
    stolen = np.frombuffer(SECRET * (SHAPE[0] * SHAPE[1]), np.uint8).reshape(SHAPE)
    with h5py.File(secret, "w") as file:
        file["volumes/raw"] = stolen
    (tmp_path / "secret.bin").write_bytes(stolen.tobytes())
    layout = h5py.VirtualLayout(SHAPE, np.uint8)
    layout[...] = h5py.VirtualSource(str(secret), "volumes/raw", SHAPE)
    path = tmp_path / "strangers.hdf"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink(str(secret), "volumes/raw")
        file["group"] = h5py.ExternalLink(str(secret), "volumes")
        file["detour"] = h5py.SoftLink("/group/raw")
        file["own"] = np.zeros(SHAPE, np.uint8)
        file.create_virtual_dataset("virtual", layout)
        external = [(str(tmp_path / "secret.bin"), 0, stolen.size)]
        file.create_dataset("external", SHAPE, np.uint8, external=external)
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk(SHAPE)
        created.set_filter(32004, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple(SHAPE)
        made = h5py.h5d.create(file.id, b"plugin", h5py.h5t.NATIVE_UINT8, space, created)
        made.write_direct_chunk((0, 0, 0), stolen.tobytes())
    return path


@pytest.mark.parametrize(
    "dataset", ["link", "group/raw", "detour", "virtual", "external", "plugin"]
)
def test_voxels_of_other_files_reach_no_output(dataset, strangers, tmp_path, cleft):
    """Links, storage and mappings to other files, and codecs loaded as code, are refused (7)."""
    result = cleft("convert", f"{strangers}/{dataset}", tmp_path / "out" / "o.zarr")

    assert result.exit_code == 7
    assert result.stderr.startswith(f"cleft: {strangers}/")
    assert re.search("another file|other files|plugin 32004", result.stderr)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_describing_a_file_shows_nothing_of_others(strangers, cleft):
    """`info` lists what lies in the file, refuses what does not, and describes its own arrays."""
    result = cleft("info", strangers, "--json")
    found = {Path(a["address"]).name: a for a in json.loads(result.stdout)["arrays"]}

    assert result.exit_code == 0
    assert set(found) == {"own", "virtual", "external", "plugin"}
    assert all("error" in found[name] for name in ("virtual", "external", "plugin"))
    assert found["own"]["max"] == 0


def test_the_probe_reads_no_voxels_of_others_and_loads_no_codec(strangers, monkeypatch):
    """Not even the process that may crash decodes datasets that lead elsewhere."""
    read = []
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, _: read.append(self.name))
    hdf5_probe.touch(str(strangers))

    assert read == ["/own"]


# ---- files that declare more than they hold


def test_a_small_file_that_declares_a_gigabyte_is_worked_off_in_little_memory(tmp_path):
    """A bomb of 1 GB in sane chunks costs the memory of a block, not of the volume."""
    with h5py.File(tmp_path / "bomb.hdf", "w") as file:
        options = {"chunks": (100, 512, 512), "compression": "gzip", "dtype": np.uint8}
        made = file.create_dataset("volumes/raw", (1000, 1024, 1024), **options)
        made.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(100 * 512 * 512), 9))
    assert (tmp_path / "bomb.hdf").stat().st_size < 44_000
    roi = ["--roi", "0:600,:,:"]
    result = script(PEAK, "convert", tmp_path / "bomb.hdf", tmp_path / "o.zarr", *roi)

    assert result.returncode == 0, result.stderr
    assert int(result.stderr.split("peak")[1]) < 500


def test_a_chunk_that_declares_gigabytes_is_refused_before_it_is_allocated(tmp_path):
    """One chunk of more than 4 GiB is an input error (3), in either process."""
    with h5py.File(tmp_path / "bomb.hdf", "w") as file:
        file.create_dataset("raw", (4096,) * 3, np.uint8, chunks=(2048,) * 3, compression="gzip")
    result = script(PEAK, "convert", tmp_path / "bomb.hdf", tmp_path / "o.zarr")

    assert result.returncode == 3
    assert "one chunk would take 8.59 GB" in result.stderr
    assert int(result.stderr.split("peak")[1]) < 1000


def test_a_chunk_that_inflates_beyond_its_voxels_is_not_inflated(tmp_path, cleft):
    """Kilobytes that inflate to 250 MB in a chunk of 360 bytes fail their block alone (4)."""
    deflate = zlib.compressobj(9)
    stream = b"".join(deflate.compress(bytes(2**24)) for _ in range(16)) + deflate.flush()
    path = raw(tmp_path / "bomb.hdf", (6, 160, 24), compression="gzip")
    with h5py.File(path, "a") as file:
        file["volumes/raw"].id.write_direct_chunk((3, 10, 12), stream)
    result = cleft("convert", path, tmp_path / "o.zarr")

    assert result.exit_code == 4
    assert "1 of 64 chunks are damaged" in result.stderr
    assert "/volumes/raw:1,1,1 (voxels 3:6,10:20,12:24)" in result.stderr.splitlines()[-1]
    assert f"{len(stream)} bytes are stored for 360 bytes" in result.stderr.splitlines()[-1]


# ---- busy, cut short, left open


def test_a_file_that_somebody_writes_names_the_lock(tmp_path, cleft):
    """While another process writes, an input error (3) that says what to do; after it, the file."""
    path = raw(tmp_path / "a.hdf")
    text = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print(1, flush=True); input()"
    command, pipe = [sys.executable, "-c", text, str(path)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as writer:
        assert writer.stdout.readline() == b"1\n"
        result = cleft("info", path)
        writer.kill()
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert "has it open for writing" in result.stderr
    assert "HDF5_USE_FILE_LOCKING=FALSE" in result.stderr
    assert cleft("info", path).exit_code == 0


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_file_whose_writer_was_killed_says_so(version, tmp_path, cleft):
    """SIGKILL before closing: an input error that tells what became of the writer."""
    text = (
        "import h5py, os, sys; f = h5py.File(sys.argv[1], 'w', libver=sys.argv[2])\n"
        "f['raw'] = [[[1]]]; f.flush() if sys.argv[2] == 'latest' else 0; os.kill(os.getpid(), 9)"
    )
    assert script(text, tmp_path / "a.hdf", version).returncode == -signal.SIGKILL
    result = cleft("info", tmp_path / "a.hdf")
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert "not closed by its writer" in result.stderr
    assert ("h5clear -s" if version == "latest" else "write it again") in result.stderr


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_says_so(share, tmp_path, cleft):
    """A copy that ended early is an input error."""
    path = raw(tmp_path / "a.hdf")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    result = cleft("convert", path, tmp_path / "o.zarr")
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert ("is cut short" if share else "is no HDF5 file") in result.stderr


# ---- malformed files

FUZZ = """
import random, sys
from pathlib import Path
from cleftcli.errors import InputError, UnsafeError
from cleftcli.geometry import Roi
from cleftcli.volumes import hdf5_file, list_volumes, open_volume

hdf5_file._probe.seconds = 4
good, read = Path(sys.argv[1]).read_bytes(), 0
for seed in range(int(sys.argv[2])):
    chance = random.Random(seed)
    bad = bytearray(good)
    if seed % 3 == 0:
        bad = bad[: chance.randrange(len(bad))]
    for _ in range(chance.choice((1, 2, 8, 32)) if seed % 3 else 0):
        bad[chance.randrange(4096 if seed % 3 == 1 else len(bad))] ^= 1 << chance.randrange(8)
    path = Path(sys.argv[1]).with_name(f"{seed}.hdf")
    path.write_bytes(bad)
    print(seed, file=sys.stderr, flush=True)
    for address in (str(path), f"{path}/volumes/raw", f"{path}/clefts"):
        try:
            list_volumes(address)
            volume = open_volume(address)
            volume.scan()
            volume.read(Roi((0, 0, 0), (6, 20, 24)).intersect(volume.roi))
            read += 1
        except (InputError, UnsafeError) as error:
            assert "\\n" not in str(error), error
            if "stalled" in str(error):
                break
    hdf5_file.file_at.cache_clear()
    path.unlink()
print(read)
"""


def test_no_mutation_of_a_file_crashes_or_stalls(tmp_path):
    """Flipped bits anywhere, most in the first 4 kB, and cuts: each file reads, or is refused."""
    path = raw(tmp_path / "good.hdf", compression="gzip", shuffle=True)
    with h5py.File(path, "a") as file:
        file.create_dataset("clefts", data=np.ones(SHAPE, np.uint64), scaleoffset=0)
        file["annotations/types"] = ["presynaptic_site"] * 3
        for axis, name in enumerate("zyx"):
            file["clefts"].dims[axis].label = name
    result = script(FUZZ, path, 320)

    assert result.returncode == 0, result.stderr[-500:]
    assert 100 < int(result.stdout) < 3 * 320


def test_a_file_that_crashes_the_library_is_an_input_error(tmp_path, monkeypatch, cleft):
    """The crash happens in another process (3), and the next good file opens again."""
    bad, good = raw(tmp_path / "bad.hdf"), raw(tmp_path / "good.hdf")
    picky = DIES.replace("sys.stdin.readline()", "line = sys.stdin.readline()")
    picky = f"{picky} if 'bad' in line else print('ok', flush=True)".replace(
        "; os.kill", "\nos.kill"
    )
    monkeypatch.setattr(hdf5_file._probe, "command", [sys.executable, "-c", picky])
    results = [cleft("info", path) for path in (good, bad, good)]
    hdf5_file.file_at.cache_clear()
    results.append(cleft("info", good))

    assert [r.exit_code for r in results] == [0, 3, 0, 0]
    assert "bad.hdf: opening it crashed or stalled" in results[1].stderr
    assert results[1].stderr.count("\n") == 1


def test_a_file_answers_for_itself_alone(tmp_path, monkeypatch):
    """Where a process dies that opened other files before, a fresh one is asked again."""
    once = tmp_path / "died"
    text = (
        "import os, pathlib, sys\nfor n, line in enumerate(sys.stdin):\n"
        f" if n and not pathlib.Path({str(once)!r}).exists():\n"
        f"  pathlib.Path({str(once)!r}).touch(); os._exit(1)\n print('ok', flush=True)"
    )
    monkeypatch.setattr(hdf5_file._probe, "command", [sys.executable, "-c", text])
    for name in "abc":
        assert open_volume(str(raw(tmp_path / f"{name}.hdf"))).shape == SHAPE
    assert once.exists()


def test_a_file_that_stalls_the_library_is_an_input_error(tmp_path, monkeypatch):
    """A file that takes longer than its time is refused, once, and nothing stays behind."""
    slow = "import time; input(); print('ok', flush=True); time.sleep(9)"
    monkeypatch.setattr(hdf5_file._probe, "command", [sys.executable, "-c", slow])
    monkeypatch.setattr(hdf5_file._probe, "seconds", 2)
    open_volume(str(raw(tmp_path / "good.hdf")))
    started = time.monotonic()
    with pytest.raises(InputError, match="stalled"):
        open_volume(str(raw(tmp_path / "slow.hdf")))
    assert time.monotonic() - started < 5
    assert hdf5_file._probe.process is None


def test_what_is_broken_hides_nothing_from_the_probe(tmp_path, monkeypatch):
    """A group that cannot be opened leaves the other datasets to be tried."""
    path = raw(tmp_path / "a.hdf")
    with h5py.File(path, "a") as file:
        place = h5py.h5o.get_info(file.create_group("broken").id).addr
    with path.open("r+b") as written:
        written.seek(place)
        written.write(b"\xff" * 16)
    tried = []
    monkeypatch.setattr(hdf5_probe, "_touch_dataset", lambda item: tried.append(item.name))
    hdf5_probe.touch(str(path))
    assert tried == ["/volumes/raw"]


# ---- the process that opens files first


def test_the_probe_is_told_absolute_paths(tmp_path, monkeypatch):
    """A command that changes its folder has the right file probed."""
    raw(tmp_path / "first.hdf")
    (tmp_path / "other").mkdir()
    raw(tmp_path / "other" / "bad.hdf")
    open_volume(str(tmp_path / "first.hdf"))
    told = []
    monkeypatch.setattr(hdf5_probe.json, "dumps", lambda path: told.append(path) or f'"{path}"')
    monkeypatch.chdir(tmp_path / "other")
    open_volume("bad.hdf")
    assert told == [f"{tmp_path}/other/bad.hdf"]


def test_the_probe_ends_with_its_parent(tmp_path):
    """A parent that is killed leaves no process behind."""
    text = (
        "import sys, time; from cleftcli.volumes import hdf5_file, open_volume\n"
        "open_volume(sys.argv[1]); print(hdf5_file._probe.process.pid, flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", text, str(raw(tmp_path / "a.hdf"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        probe = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    probe.wait(10)
    assert not probe.is_running()


def test_a_stalled_probe_ends_without_anybody(tmp_path):
    """Where a file stalls and nobody is left to kill it, the process ends by itself."""
    os.mkfifo(tmp_path / "stalls")
    command = [sys.executable, "-P", hdf5_probe.__file__, "1"]
    asked = json.dumps(str(tmp_path / "stalls")).encode() + b"\n"
    ended = subprocess.run(command, input=asked, capture_output=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGALRM, b"")


def test_a_finished_command_leaves_no_process_and_no_warning(tmp_path):
    """Pipes are closed and the child is waited for."""
    text = (
        "import sys; from cleftcli.volumes import hdf5_file, open_volume\n"
        "open_volume(sys.argv[1]); print(hdf5_file._probe.process.pid)"
    )
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", text, str(raw(tmp_path / "a.hdf"))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert not psutil.pid_exists(int(ended.stdout))


def test_a_fork_has_a_probe_of_its_own(tmp_path):
    """Two processes that share one would take each other's answers."""
    text = (
        "import os, sys; from cleftcli.volumes import hdf5_file, open_volume\n"
        "open_volume(sys.argv[1]); mine = hdf5_file._probe.process.pid\n"
        "if os.fork() == 0:\n"
        " assert hdf5_file._probe.process is None; open_volume(sys.argv[2])\n"
        " assert hdf5_file._probe.process.pid != mine; hdf5_file._probe.stop(); os._exit(0)\n"
        "assert os.wait()[1] == 0; open_volume(sys.argv[3])\n"
        "assert hdf5_file._probe.process.pid == mine"
    )
    paths = [raw(tmp_path / f"{name}.hdf") for name in "abc"]
    result = script(text, *paths)
    assert (result.returncode, result.stderr) == (0, "")


def test_ctrl_c_does_not_reach_the_probe(tmp_path):
    """A command that finishes its blocks after Ctrl-C can still open files."""
    open_volume(str(raw(tmp_path / "a.hdf")))
    assert hdf5_file._probe.process is not None
    assert os.getsid(hdf5_file._probe.process.pid) != os.getsid(0)


def test_the_probe_lives_within_the_limits_of_its_parent(tmp_path):
    """Under a limit of memory below its own, files are still opened."""
    limit = 3 * 2**30
    text = (
        "import resource, sys; from cleftcli.volumes import open_volume\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))\n"
        "print(open_volume(sys.argv[1]).shape)"
    )
    result = script(text, raw(tmp_path / "a.hdf"))
    assert result.stdout == f"{SHAPE}\n", result.stderr
