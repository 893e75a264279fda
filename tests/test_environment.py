"""Terminals, locales and homes that are not as one would wish; of real processes."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import store

PYTHONPATH = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": os.environ["PATH"]}
ENVIRONMENTS = {
    "nothing": {},
    "no letters": {"LC_ALL": "C"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "narrow": {"COLUMNS": "20", "TERM": "dumb"},
    "a home that is not there": {"HOME": "/proc/nowhere"},
    "a home that is no folder": {"HOME": "/dev/null", "XDG_CONFIG_HOME": "/dev/null"},
    "homes that are empty": {"HOME": "", "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""},
}


def run(environment, *words):
    command = [sys.executable, "-m", "cleftcli", *map(str, words)]
    settings = {**PYTHONPATH, **environment}
    return subprocess.run(command, capture_output=True, check=False, env=settings)


@pytest.fixture
def address(tmp_path):
    """A volume whose name not every terminal can write."""
    return store(
        f"{tmp_path}/für 1 µm.zarr/raw", np.arange(256, dtype="u1").reshape(4, 8, 8)
    ).address


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_has_the_same_result(address, name):
    """A table for a person and an error are printed in each, in the letters that there are."""
    shown = run(ENVIRONMENTS[name], "info", address)
    failed = run(ENVIRONMENTS[name], "info", f"{address}ß", "--json")

    assert shown.returncode == 0, shown.stderr
    assert re.search(rb"shape +4, 8, 8\n", shown.stdout)
    assert b"Next: cleft predict" in shown.stderr
    assert failed.returncode == 3
    assert json.loads(failed.stdout)["error"]["message"].startswith(f"{address}ß: no such")
    assert failed.stderr.startswith(b"cleft: ")
    assert shown.stdout.startswith(f"address           {address}\n".encode())


def test_names_that_are_no_text_are_refused(tmp_path):
    """A file name may be any bytes; those that no store could be opened by are an input error."""
    store(f"{tmp_path}/a.zarr/raw", np.zeros((4, 8, 8), "u1"))
    named = os.fsdecode(os.fsencode(tmp_path) + b"/f\xfcr.zarr")
    (tmp_path / "a.zarr").rename(named)
    done = run({}, "info", named)

    assert done.returncode == 3
    assert re.fullmatch(rb"cleft: .*f\\udcfcr.zarr: .*\n", done.stderr), done.stderr


def test_texts_of_cleft_are_ascii(tmp_path):
    """Where the terminal has no other letters: help, results, errors, the next command."""
    address = store(f"{tmp_path}/a.zarr/raw", np.arange(256, dtype="u1").reshape(4, 8, 8)).address
    for words in (["--help"], ["predict", "--help"], ["info", address], ["info", f"{address}x"]):
        done = run({"PYTHONIOENCODING": "ascii"}, *words)
        assert done.stdout + done.stderr
        assert (done.stdout + done.stderr).isascii()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_bug_is_kept_in_every_environment(name):
    """Or is printed, where no folder takes it."""
    code = (
        "import sys; from cleftcli.cli import main; from cleftcli.jobs import info; "
        "info.info = None; sys.argv = ['cleft', 'info', 'x']; main()"
    )
    settings = {**PYTHONPATH, **ENVIRONMENTS[name]}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=False, env=settings, text=True)

    assert done.returncode == 1
    assert "This is a bug of ours" in done.stderr
    kept = Path(done.stderr.strip().split()[-1])
    assert "Traceback" in kept.read_text()
    kept.unlink()


def on_a_terminal(environment, *words):
    """What a process prints on a terminal, and its exit code."""
    child, terminal = pty.fork()
    if not child:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "cleftcli", *words],
            {**PYTHONPATH, **environment},
        )
    printed = b""
    while True:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        printed += more
    os.close(terminal)
    return printed.decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("environment", "moves", "coloured", "said"),
    [
        ({"TERM": "xterm-256color"}, True, True, "1/1"),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True, False, "1/1"),
        ({"TERM": "xterm-256color", "CLEFT_NO_COLOR": "1"}, True, False, "1/1"),
        ({"TERM": "dumb"}, False, False, "blocks 1/1, "),
        ({"TERM": "xterm-256color", "CLEFT_PROGRESS": "json"}, False, False, '{"progress": '),
    ],
)
def test_colours_and_moves_are_for_those_who_want_them(
    tmp_path, volume, environment, moves, coloured, said
):
    """A bar moves and is coloured on a terminal; NO_COLOR, --no-color and TERM=dumb are heard."""
    source, target = f"{volume}/volumes/raw", str(tmp_path / "copy.zarr")
    printed, code = on_a_terminal(environment, "convert", source, target)

    assert code == 0, printed
    assert ("\x1b[?25l" in printed) is moves
    assert bool(re.search(r"\x1b\[[0-9;]*[34][0-9][;m]|\x1b\[38", printed)) is coloured
    assert said in printed
    assert "Next: cleft info" in printed
