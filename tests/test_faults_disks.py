"""Disks that are full, out of inodes, read-only, or not ours: real ones, a few kB large.

Each is mounted in a name space of its own, where that is permitted.
"""

import functools
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import store

# writes a volume section by section until it is refused: what was refused, in order
FILL = """
import json, sys
import numpy as np
from cleftcli.errors import CleftError
from cleftcli.geometry import Roi
from cleftcli.volumes import Space, create_volume, open_volume, write_attributes

place, format = sys.argv[1:]
address = f"{place}/out.{'n5' if format == 'n5' else 'zarr'}/a"
refused = []

def attempt(do, *values, **more):
    try:
        return do(*values, **more)
    except CleftError as error:
        refused.append([do.__name__, type(error).__name__, str(error)])

def full():
    data = np.random.default_rng(0).integers(0, 255, (1, 64, 64), "u1")
    for z in range(60):
        open_volume(address).write(Roi((z, 0, 0), (1, 64, 64)), data)

def kept():
    scan = open_volume(address).scan()
    return scan.chunks - scan.missing, open_volume(address).read(Roi((0, 0, 0), (1, 64, 64))).any()

options = {"shape": (60, 64, 64), "dtype": "u1", "chunks": (1, 64, 64), "format": format}
volume = attempt(create_volume, address, space=Space((1.0, 1.0, 1.0)), **options)
if volume:
    attempt(full)
    attempt(write_attributes, volume, {"long": "x" * 300_000})
    attempt(create_volume, address + "b", space=Space((1.0, 1.0, 1.0)), **options)
    print(*map(int, kept()))
print(json.dumps(refused))
"""


def run(*command) -> subprocess.CompletedProcess:
    """A command on its own, in this tree."""
    return subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)


@functools.cache
def may_mount() -> bool:
    """Whether this user may mount in a name space of its own."""
    return run("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/tmp").returncode == 0


def mounted(folder, options, *command, after="true") -> subprocess.CompletedProcess:
    """A command with a tmpfs at a folder that nobody else sees."""
    if not may_mount():
        pytest.skip("mounting in a user name space is not permitted here")
    folder.mkdir(exist_ok=True)
    at, typed = shlex.quote(str(folder)), shlex.join(map(str, command))
    script = f"mount -t tmpfs -o {options} none {at} && {{ {after}; }} && exec {typed}"
    return run("unshare", "-rm", "sh", "-c", script)


def refused(done) -> tuple[list[int], dict[str, tuple[str, str]]]:
    """What FILL kept, and what it was refused: {function: (exception, its words)}."""
    assert done.returncode == 0, done.stderr
    *kept, said = done.stdout.splitlines()
    found = {what: (kind, text) for what, kind, text in json.loads(said)}
    assert {kind for kind, _ in found.values()} == {"ResourceError"}
    assert not [text for _, text in found.values() if "\n" in text]
    return [int(n) for line in kept for n in line.split()], found


def test_a_full_disk_is_said_with_what_is_left(tmp_path):
    """Chunks, attributes and a new array are refused in a line; what was written stays."""
    at = tmp_path / "disk"
    (kept, read), found = refused(mounted(at, "size=160k", sys.executable, "-c", FILL, at, "zarr2"))
    assert 10 < kept < 60
    assert read
    assert found.keys() == {"full", "write_attributes", "create_volume"}
    for what, place in (("full", "a"), ("write_attributes", "a/.zattrs"), ("create_volume", "ab")):
        text = found[what][1]
        assert text.startswith(f"{at}/out.zarr/{place}: the disk is full, with 0.0 GB and ")
        assert text.endswith("inodes left; make room, then the same command continues")


def test_a_lack_of_inodes_is_no_lack_of_bytes(tmp_path):
    """The message names inodes, and larger chunks as what makes fewer of them."""
    at = tmp_path / "disk"
    done = mounted(at, "size=1g,nr_inodes=60", sys.executable, "-c", FILL, at, "zarr3")
    (kept, read), found = refused(done)
    assert 10 < kept < 60
    assert read
    words = "out.zarr/a: the disk has 1.1 GB but no inodes left: larger chunks make fewer files"
    assert words in found["full"][1]
    assert "no inodes left" in found["create_volume"][1]


@pytest.mark.parametrize(("limit", "chunks"), [(40, 60), (2, 0)])
def test_a_limit_of_file_size_is_named(tmp_path, limit, chunks):
    """What is smaller is written; a chunk or a document that is larger is refused with it."""
    typed = shlex.join([sys.executable, "-c", FILL, str(tmp_path), "n5"])
    (kept, _), found = refused(run("bash", "-c", f"ulimit -f {limit}; exec {typed}"))
    assert kept == chunks
    words = f"files may not be that large (ulimit -f: {1024 * limit} bytes); allow more"
    assert f"out.n5/a/attributes.json: {words}" in found["write_attributes"][1]
    assert ("full" in found) == (chunks == 0)
    assert chunks or f"out.n5/a: {words}" in found["full"][1]


def test_a_read_only_disk_is_refused(tmp_path):
    """By its own name, not as a format that cannot hold the volume."""
    at = tmp_path / "disk"
    remount = f"mount -o remount,ro {shlex.quote(str(at))}"
    done = mounted(at, "size=1m", sys.executable, "-c", FILL, at, "zarr2", after=remount)
    assert "the file system is read-only" in refused(done)[1]["create_volume"][1]


NOBODY = ("setpriv", "--reuid", 65534, "--regid", 65534, "--clear-groups")


def as_nobody(*command) -> subprocess.CompletedProcess:
    """A command as a user who owns nothing; root may write anywhere."""
    user = NOBODY if os.geteuid() == 0 else ()
    if run(*user, sys.executable, "-c", "import cleftcli.cli").returncode:
        pytest.skip("another user cannot run this program here")
    return run(*user, *command)


@pytest.fixture
def theirs(tmp_path, tmp_path_factory):
    """A folder that others may read only."""
    for folder in (tmp_path_factory.getbasetemp().parent, tmp_path_factory.getbasetemp(), tmp_path):
        folder.chmod(0o755)
    (tmp_path / "theirs").mkdir(mode=0o555)
    return tmp_path / "theirs"


def test_a_folder_of_somebody_else_is_refused(theirs):
    """Permission, not a format."""
    done = as_nobody(sys.executable, "-c", FILL, theirs, "zarr2")
    assert "you may not write there" in refused(done)[1]["create_volume"][1]


# ---- seen in the first second


BEFORE = {
    "full": ("size=64k", "head -c 1m /dev/zero > {at}/a 2> /dev/null || true", "GB free"),
    "no inodes": ("size=1g,nr_inodes=9", "true", "room for 8 (inodes)"),
    "read-only": ("size=1m", "mount -o remount,ro {at}", "{at}: the file system is read-only"),
}


def copied(source, out) -> list[str]:
    """A command that copies a volume."""
    return [sys.executable, "-m", "cleftcli", "convert", source, out]


@pytest.mark.parametrize("case", BEFORE)
def test_a_place_that_takes_nothing_is_refused_before_work(tmp_path, case):
    """6, one line, and nothing is begun there."""
    source = store(f"{tmp_path}/in.zarr/raw", np.ones((4, 64, 64), np.uint8)).address
    at = tmp_path / "disk"
    options, before, words = (text.format(at=at) for text in BEFORE[case])
    command = f"{shlex.join(copied(source, f'{at}/out.zarr'))}; code=$?; ls -A {at}; exit $code"
    done = mounted(at, options, "sh", "-c", command, after=before)
    assert done.returncode == 6, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("cleft: ")]
    assert words in line
    assert "Traceback" not in done.stderr
    assert done.stdout.split() == (["a"] if case == "full" else [])


def test_a_place_of_somebody_else_is_refused_before_work(tmp_path, theirs):
    """The folder that is there is named, not the one to be made."""
    source = store(f"{tmp_path}/in.zarr/raw", np.ones((4, 64, 64), np.uint8)).address
    done = as_nobody(*copied(source, f"{theirs}/new/out.zarr"))
    assert done.returncode == 6, done.stderr
    assert f"{theirs}: you may not write there" in done.stderr
