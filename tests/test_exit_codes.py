"""Every exit code, and what stands on which stream, of real processes."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from cleftcli.cli.boundary import KINDS
from tests.conftest import store

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}

# `cleft info x` whose work is what BODY says
INSTEAD = """
import os, signal, sys, time
from cleftcli import interrupt
from cleftcli.cli import main
from cleftcli.jobs import info

def work(*_):
{body}

info.info = work
sys.argv = ["cleft", *sys.argv[1:]]
main()
"""


def instead(body):
    """A process of `cleft info` that does something else."""
    return [sys.executable, "-c", INSTEAD.format(body=textwrap.indent(body, "    ")), "info", "x"]


def run(*words, shell="", environment=ENVIRONMENT):
    """A process of `cleft`; `shell` is put behind it."""
    command = [str(w) for w in words]
    if command[0] != sys.executable:
        command = [sys.executable, "-m", "cleftcli", *command]
    wrapped = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *command]
    settings = {**os.environ, **environment}
    return subprocess.run(wrapped, capture_output=True, text=True, check=False, env=settings)


def linked(path):
    """An HDF5 file that points at another."""
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = h5py.ExternalLink("/etc/passwd", "x")
    return path


WAYS = {
    1: lambda _: instead("raise KeyError('oops')"),
    2: lambda _: ["info", "--colour"],
    3: lambda at: ["info", at / "nowhere.zarr"],
    4: lambda at: [
        "export-cremi",
        store(f"{at}/part.zarr/cleft", np.zeros((4, 8, 8), "u1"), complete=False).address,
        "-o",
        at / "out.hdf",
    ],
    5: lambda at: [
        "export-cremi",
        store(f"{at}/all.zarr/cleft", np.zeros((4, 8, 8), "u1")).address,
        *("-o", linked(at / "there.hdf")),
    ],
    6: lambda _: instead("raise MemoryError('unable to allocate 3 TB')"),
    7: lambda at: ["info", f"{linked(at / 'evil.h5')}/volumes/raw"],
    130: lambda _: instead("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"),
    143: lambda _: instead("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"),
}


def test_no_exit_code_is_without_a_way_there():
    """The table of codes is the table of this test."""
    assert WAYS.keys() == KINDS.keys()


@pytest.mark.parametrize("code", KINDS)
def test_every_exit_code_is_in_the_docs(code):
    """With its kind, a row of the page on what commands have in common."""
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")

    assert f"\n| {code} | {KINDS[code]} | " in page


@pytest.mark.parametrize("code", WAYS, ids=KINDS.get)
def test_an_error_is_a_line_and_an_object(tmp_path, code):
    """On stderr a line that begins with `cleft: `; on stdout JSON where it was asked for."""
    done = run(*WAYS[code](tmp_path), "--json")
    found = json.loads(done.stdout)

    assert done.returncode == code, done.stderr
    assert done.stderr == f"cleft: {found['error'].pop('message')}\n"
    assert found == {"schema_version": 1, "error": {"kind": KINDS[code], "exit_code": code}}


def test_done_is_0_with_the_result_on_stdout(tmp_path):
    """All else is on stderr, without control characters; stdin may be closed."""
    address = store(f"{tmp_path}/a.zarr/raw", np.zeros((4, 8, 8), "u1")).address
    done = run("info", address, "--json", shell="<&-")

    assert done.returncode == 0
    assert json.loads(done.stdout)["arrays"][0]["shape"] == [4, 8, 8]
    assert done.stderr.startswith("Next: cleft predict ")
    assert not re.search("[\x00-\x09\x0b-\x1f]", done.stderr)


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("> /dev/full", 6, "cleft: .*No space left on device.*\n"),
        ("> /dev/full 2> /dev/full", 6, ""),
        ("2> /dev/full", 0, ""),
        (">&- 2>&-", 0, ""),
        ("| head -c 1", 0, "Next: .*\n"),
        ("| true", 0, "(Next: .*\n)?"),
    ],
)
def test_streams_that_take_nothing(tmp_path, shell, code, said):
    """A full stdout is a lack of resources; a closed one, and any stderr, are no errors."""
    address = store(f"{tmp_path}/a.zarr/raw", np.zeros((4, 8, 8), "u1")).address
    done = run("info", address, shell=shell)

    assert done.returncode == code, done.stderr
    assert re.fullmatch(said, done.stderr), done.stderr


def test_a_process_that_is_left_still_says_so():
    """A second Ctrl-C ends at once, with the code, the line and the object."""
    body = (
        "with interrupt.stoppable():\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)"
    )
    done = run(*instead(body), "--json")

    assert done.returncode == 130
    assert json.loads(done.stdout)["error"]["kind"] == "interrupted"
    assert done.stderr.splitlines()[0].endswith("once more to stop now")
    assert done.stderr.splitlines()[1].startswith("cleft: interrupted")
