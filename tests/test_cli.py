"""The command line: every exit code, streams, laziness, help."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from cleftcli import __version__
from cleftcli.cli import app
from cleftcli.labels import TARGETS
from cleftcli.model.device import PRECISIONS
from cleftcli.model.inference import BLENDS, TTA
from cleftcli.prediction import DTYPES
from cleftcli.volumes.creation import LAYOUTS
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


@pytest.mark.parametrize("name", [*COMMANDS, "config show"])
def test_every_command_explains_itself(cleft, name):
    """Each has a help with three examples or more, brackets intact, and exits with 0."""
    shown = cleft(*name.split(), "--help")

    assert shown.exit_code == 0
    assert len(re.findall(rf"^ +cleft {name}(?: |$)", shown.stdout, re.MULTILINE)) >= 3
    assert "\x1b" not in shown.stdout


def test_the_version_is_printed(cleft):
    """--version prints one line on stdout."""
    assert cleft("--version").stdout == f"cleft {__version__}\n"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["predict", "x", "--chekpoint", "y"], "--checkpoint"),
        (["predct", "x"], "'predict'"),
        (["predict", "x", "--blend", "bmup"], "'bump', 'none'"),
        (["config", "show", "predct"], "predict"),
    ],
)
def test_what_is_not_known_is_told_in_a_line_with_what_was_meant(cleft, words, meant):
    """Unknown options, commands and choices: exit code 2, no box, and where to read on."""
    done = cleft(*words)

    assert done.exit_code == 2
    assert done.stdout == ""
    assert re.fullmatch(rf"cleft: .*{re.escape(meant)}.*\n", done.stderr), done.stderr


@pytest.mark.parametrize("words", [[], ["predict"], ["evaluate"]], ids=str)
def test_a_command_without_a_word_says_how_it_is_used(cleft, words):
    """Usage and examples on stderr, exit code 2; the options of a command are for --help."""
    done = cleft(*words)

    assert (done.exit_code, done.stdout) == (2, "")
    assert f"cleft {words[0] if words else 'predict'} " in done.stderr
    assert f"Usage: cleft {' '.join(words)}" in done.stderr
    assert ("\nOptions:" in done.stderr) == (not words)


def test_an_impossible_value_is_a_usage_error(cleft, volume, checkpoint):
    """Exit code 2, one line that quotes the value."""
    done = cleft("predict", volume, "--checkpoint", checkpoint, "--roi", "5:5,,")

    assert done.exit_code == 2
    assert done.stderr.startswith("cleft: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convert", "VOLUME", "x.zarr", "--chunks", "5,5"], "--chunks 5,5: expected three"),
        (["convert", "VOLUME", "x.zarr", "--voxel-size", "4,4"], "--voxel-size 4,4: expected 3"),
        (["convert", "VOLUME", "x.zarr", "--part", "3"], "--part 3: expected i/n, such as 3/16"),
        (["evaluate", "VOLUME", "VOLUME", "--min-voxels", "few"], "--min-voxels few: expected"),
        (["segment", "VOLUME", "-o", "x.zarr", "--table", "no/x.csv"], "there is no folder no"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_meant_is_named_with_its_option(
    cleft, volume, tmp_path, monkeypatch, words, said
):
    """Exit code 2 before any work: nothing is written."""
    monkeypatch.chdir(tmp_path)
    done = cleft(*(str(volume) if w == "VOLUME" else w for w in words))

    assert done.exit_code == 2
    assert said in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [volume.name]


def test_a_file_that_cannot_be_made_is_no_bug_of_ours(cleft, volume):
    """Exit code 6, with its name."""
    done = cleft("export-cremi", f"{volume}/volumes/labels/clefts", "-o", "/proc/x/y.hdf")

    assert done.exit_code == 6
    assert done.stderr.splitlines()[-1].startswith("cleft: /proc/x: ")


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


def test_a_bug_of_ours_keeps_its_traceback(cleft, monkeypatch, tmp_path):
    """Exit code 1 and one line, which names a file with the traceback and the command."""

    def broken(*_):
        raise KeyError("oops")

    monkeypatch.setattr("cleftcli.jobs.info.info", broken)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    done = cleft("info", "x y")
    kept = Path(done.stderr.split()[-1])

    assert done.exit_code == 1
    assert done.stderr.startswith("cleft: KeyError: 'oops'. This is a bug of ours")
    assert done.stderr.count("\n") == 1
    assert kept.parent == tmp_path / "state" / "cleft"
    assert "cleft info 'x y'\n\nTraceback (most recent call last)" in kept.read_text()
    assert "in broken" in kept.read_text()


def test_a_traceback_goes_where_it_can(cleft, monkeypatch, tmp_path):
    """A state folder that cannot be made, or no home at all, is no second bug."""
    (tmp_path / "state").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("cleftcli.jobs.info.info", None)

    done = cleft("info", "x")

    assert done.exit_code == 1
    assert Path(done.stderr.split()[-1]).parent.parent == tmp_path


def test_debug_shows_where_an_error_comes_from(cleft, tmp_path):
    """--debug: the traceback before the line, also of errors that a person can mend."""
    quiet, loud = cleft("info", tmp_path / "x"), cleft("info", tmp_path / "x", "--debug")

    assert quiet.stderr.count("\n") == 1
    assert loud.stderr.startswith("Traceback")
    assert loud.stderr.endswith(quiet.stderr)
    assert loud.exit_code == quiet.exit_code == 3


@pytest.mark.parametrize(
    "words",
    [
        ["--quiet", "info", "PATH"],
        ["info", "-q", "PATH"],
        ["info", "PATH", "-qv"],
        ["info", "PATH", "--config", "FILE"],
        ["info", "--config=FILE", "PATH"],
        ["--config", "FILE", "info", "PATH"],
    ],
    ids=" ".join,
)
def test_options_of_cleft_stand_anywhere(cleft, tmp_path, volume, words):
    """Before the command, behind it, together, with their values in either way."""
    (tmp_path / "quiet.toml").write_text("quiet = true")
    names = {"PATH": str(volume), "FILE": f"{tmp_path}/quiet.toml"}
    words = [names.get(w, w.replace("FILE", names["FILE"])) for w in words]

    assert cleft("info", volume).stderr.startswith("Next: ")
    assert cleft(*words).stderr == ""


def test_words_behind_two_dashes_are_not_options(cleft):
    """`--` ends the options of cleft too; a value that is missing is named."""
    assert "-q: no such file" in cleft("info", "--", "-q").stderr
    assert "'--config' requires an argument" in cleft("info", "x", "--config").stderr


def test_json_is_all_there_is_on_stdout(cleft, volume, checkpoint, tmp_path):
    """stdout parses; progress and hints go to stderr, without control characters when piped."""
    out = tmp_path / "out.zarr"
    done = cleft("predict", volume, "-o", out, "--checkpoint", checkpoint, "--json")

    assert json.loads(done.stdout)["blocks_done"] == 1
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr
    assert "Next: cleft view" in done.stderr


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


@pytest.mark.parametrize(
    ("command", "option", "known"),
    [
        ("predict", "blend", BLENDS),
        ("predict", "tta", TTA),
        ("predict", "dtype", DTYPES),
        ("predict", "precision", ["auto", *PRECISIONS]),
        ("predict", "format", LAYOUTS),
        ("make-labels", "target", TARGETS),
        ("make-labels", "unit", ["nm", "voxel"]),
        ("segment", "connectivity", [6, 26]),
    ],
)
def test_choices_are_those_of_the_tables(command, option, known):
    """The command line, which imports no table, names every row of it."""
    options = {p.name: p for p in typer.main.get_command(app).commands[command].params}

    assert set(options[option].type_descriptor.choices) == set(known)


def test_each_success_names_the_next_command(cleft, volume, tmp_path):
    """As a line that can be typed: its command, and its options, are known."""
    at = tmp_path / "my copies"
    clefts, copy = f"{volume}/volumes/labels/clefts", f"{at}/copy.zarr"
    for words in (
        ["convert", f"{volume}/volumes/raw", copy],
        ["info", copy],
        ["status", copy],
        ["verify", copy],
        ["make-labels", clefts, "-o", at / "labels.zarr"],
        ["segment", clefts, "-o", at / "clefts.zarr"],
        ["info", at / "clefts.zarr"],
        ["evaluate", at / "clefts.zarr", clefts],
        ["view", at / "clefts.zarr"],
        ["export-cremi", at / "clefts.zarr", "-o", at / "clefts.hdf"],
    ):
        done = cleft(*words)
        assert done.exit_code == 0, done.stderr
        said = done.stderr.splitlines()[-1]
        assert said.startswith("Next: cleft "), words
        command, *others = shlex.split(said.removeprefix("Next: cleft "))
        shown = cleft(command, "--help").stdout
        assert all(f"{word} " in shown for word in others if word.startswith("-"))
        assert any(str(at) in word for word in others)
