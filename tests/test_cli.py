"""The command line: every exit code, streams, laziness, help."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from cleftcli import __version__
from cleftcli.cli import app, report
from tests.conftest import store

COMMANDS = [command.name for command in app.registered_commands]


def test_help_imports_nothing_heavy():
    """`cleft --help` needs neither torch nor dask nor gunpowder nor tensorstore."""
    heavy = ("torch", "dask", "distributed", "gunpowder", "tensorstore", "h5py", "numpy", "scipy")
    code = (
        "import sys\nfrom cleftcli.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(cleft, name):
    """Each has a help with an example, brackets intact, and exits with 0."""
    shown = cleft(name, "--help")

    assert shown.exit_code == 0
    assert f"cleft {name}" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_the_version_is_printed(cleft):
    """--version prints one line on stdout."""
    assert cleft("--version").stdout == f"cleft {__version__}\n"


def test_an_unknown_option_is_a_usage_error(cleft):
    """Exit code 2."""
    assert cleft("info", "--colour", "x").exit_code == 2


def test_an_impossible_value_is_a_usage_error(cleft, volume, checkpoint):
    """Exit code 2, one line that quotes the value."""
    done = cleft("predict", volume, "--checkpoint", checkpoint, "--roi", "5:5,,")

    assert done.exit_code == 2
    assert done.stderr.startswith("cleft: ")


def test_a_missing_volume_names_what_is_near(cleft, volume):
    """Exit code 3, with the name that was probably meant."""
    done = cleft("info", str(volume).replace("volume.zarr", "volum.zarr"))

    assert done.exit_code == 3
    assert "did you mean volume.zarr?" in done.stderr
    assert done.stdout == ""


def test_an_unfinished_prediction_is_incomplete(cleft, tmp_path, volume):
    """Exit code 4 from every command that would take a part for the whole."""
    part = store(f"{tmp_path}/part.zarr/cleft", np.zeros((10, 48, 64), np.uint8), complete=False)

    for command in (
        ["evaluate", part.address, volume],
        ["segment", part.address, "-o", tmp_path / "clefts.zarr"],
        ["export-cremi", part.address, "-o", tmp_path / "out.hdf"],
    ):
        assert cleft(*command).exit_code == 4
    assert not (tmp_path / "clefts.zarr").exists()
    assert not (tmp_path / "out.hdf").exists()


def test_an_output_that_exists_is_a_conflict(cleft, tmp_path, volume, checkpoint):
    """Exit code 5; the file there is not touched."""
    out = tmp_path / "out.hdf"
    out.write_text("precious")
    clefts = f"{volume}/volumes/labels/clefts"

    assert cleft("export-cremi", clefts, "-o", out).exit_code == 5
    assert out.read_text() == "precious"


def test_a_device_that_is_not_there_is_a_lack_of_resources(cleft, volume, checkpoint):
    """Exit code 6."""
    name = f"cuda:{torch.cuda.device_count()}"

    done = cleft("predict", volume, "--checkpoint", checkpoint, "--device", name)

    assert done.exit_code == 6


def test_a_pickled_checkpoint_is_refused_as_unsafe(cleft, tmp_path, volume):
    """Exit code 7."""
    torch.save({"weights": 1}, tmp_path / "model.pth")

    assert cleft("predict", volume, "--checkpoint", tmp_path / "model.pth").exit_code == 7


def test_a_bug_of_ours_keeps_its_traceback(cleft, monkeypatch):
    """Exit code 1, and nothing hides where it happened."""

    def broken(*_):
        raise KeyError("oops")

    monkeypatch.setattr("cleftcli.jobs.info.info", broken)
    done = cleft("info", "x")

    assert done.exit_code == 1
    assert isinstance(done.exception, KeyError)


def test_json_is_all_there_is_on_stdout(cleft, volume, checkpoint, tmp_path):
    """stdout parses; progress and hints go to stderr, without control characters when piped."""
    out = tmp_path / "out.zarr"
    done = cleft("predict", volume, "-o", out, "--checkpoint", checkpoint, "--json")

    assert json.loads(done.stdout)["blocks_done"] == 1
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr
    assert "Next: cleft segment" in done.stderr


def test_quiet_leaves_errors_only(cleft, volume, checkpoint, tmp_path):
    """-q: nothing on stderr when all is well."""
    done = cleft("-q", "predict", volume, "-o", tmp_path / "o.zarr", "--checkpoint", checkpoint)

    assert done.exit_code == 0
    assert done.stderr == ""


def test_a_dry_run_writes_nothing(cleft, volume, checkpoint, tmp_path):
    """--dry-run prints the plan and leaves no file."""
    out = tmp_path / "o.zarr"
    done = cleft("predict", volume, "-o", out, "--checkpoint", checkpoint, "--dry-run", "--json")

    found = json.loads(done.stdout)
    assert found["tiles"] == 3 * 4 * 5
    assert found["output_bytes"] == 10 * 48 * 64
    assert not out.exists()


def test_a_closed_pipe_is_no_error(volume):
    """`cleft info x --json | head -c1` ends quietly."""
    command = f"{sys.executable} -m cleftcli info {volume} --json | head -c1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)

    assert done.stdout == "{"
    assert "Traceback" not in done.stderr


def test_a_line_tells_how_long_it_will_take(monkeypatch, capsys):
    """Piped progress: done of total, seconds, seconds to go by this run's own speed, and facts."""
    now = iter([0.0, 0.0, 10.0, 40.0])
    monkeypatch.setattr(report, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(report.time, "monotonic", lambda: next(now))
    show = report._lines("steps")
    show(6, 10, {"learning_rate": 1e-5})
    show(7, 10, {"loss": 0.1234567})
    show(10, 10)
    assert capsys.readouterr().err.splitlines() == [
        "steps 6/10, 0 s learning rate 1e-05",
        "steps 7/10, 10 s, 30 s to go loss 0.123",
        "steps 10/10, 40 s",
    ]
