"""What the shell offers where Tab is pressed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from cleftcli.cli import app
from cleftcli.cli.complete import datasets


@pytest.fixture
def offered():
    """The words that bash is given for the last one of a line."""

    def complete(*words):
        line = {"COMP_WORDS": " ".join(["cleft", *words]), "COMP_CWORD": str(len(words))}
        done = CliRunner().invoke(
            app, [], prog_name="cleft", env={"_CLEFT_COMPLETE": "complete_bash", **line}
        )
        assert done.exit_code == 0
        return done.stdout.split()

    return complete


def test_datasets_of_a_store_are_offered(offered, volume, monkeypatch):
    """However the path begins, wherever the word ends, for every store that can be listed."""
    raw, clefts = "volumes/raw", "volumes/labels/clefts"
    monkeypatch.chdir(volume.parent)
    with h5py.File("a.hdf", "w") as file:
        file["volumes/raw"] = np.zeros((2, 4, 4), "u1")

    for path in (
        str(volume),
        "volume.zarr",
        "./volume.zarr",
        f"../{volume.parent.name}/volume.zarr",
    ):
        assert sorted(offered("predict", f"{path}/")) == [f"{path}/{clefts}", f"{path}/{raw}"]
        assert offered("predict", f"{path}/volumes/r") == [f"{path}/{raw}"]
        assert offered("predict", f"{path}/volumes/labels/") == [f"{path}/{clefts}"]
    assert offered("evaluate", "x.zarr", "a.hdf/v") == [f"a.hdf/{raw}"]
    assert offered("predict", "x", "--mask", "volume.zarr/volumes/l") == [f"volume.zarr/{clefts}"]


@pytest.mark.parametrize(
    "word", ["", "vol", "volume.zarr", "nowhere.zarr/v", "s3://a/b.zarr/", "~x/y"]
)
def test_paths_are_left_to_the_shell(volume, monkeypatch, word):
    """Nothing is offered, nothing raised, nothing fetched where no local store was typed."""
    monkeypatch.chdir(volume.parent)

    assert datasets(word) == []


def test_choices_are_offered(offered):
    """Of commands, options, and options with a fixed set of values."""
    assert offered("pre") == ["predict"]
    assert "--blend" in offered("predict", "x", "--b")
    assert offered("predict", "x", "--blend", "") == ["bump", "none"]
    assert offered("predict", "-v", "x", "--device", "c") == ["cpu", "cuda"]
    assert offered("--progress", "j") == ["json"]
    assert offered("make-labels", "x", "--target", "s") == ["signed-distance"]


def test_nothing_heavy_is_imported(volume):
    """Neither torch nor dask, for Tab shall not be felt."""
    code = (
        "import sys\nfrom cleftcli.cli.complete import datasets\n"
        f"assert datasets('{volume}/')\n"
        "print([m for m in ('torch', 'dask', 'distributed', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.fixture
def script(monkeypatch):
    """The script for a shell, as --show-completion prints it."""

    def show(shell):
        monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
        done = CliRunner().invoke(app, ["--show-completion", shell], prog_name="cleft")
        assert done.exit_code == 0, done.stderr
        return done.stdout

    return show


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(script, shell):
    """It asks cleft, and the shell, where there is one, takes it."""
    text = script(shell)

    assert f"_CLEFT_COMPLETE=complete_{shell}" in text
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=text, text=True, check=False).returncode == 0


def test_bash_completes_a_dataset(script, volume, tmp_path):
    """A real shell with that script: Tab behind a store and the beginning of a name."""
    (tmp_path / "script").write_text(script("bash"))
    command = tmp_path / "cleft"
    code = "import sys; sys.argv[0] = 'cleft'; from cleftcli.cli import main; main()"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}"\n')
    command.chmod(0o755)
    typed = f"source {tmp_path}/script; COMP_WORDS=(cleft predict {volume}/vol); COMP_CWORD=2"
    asked = f"{typed}; _cleft_completion {command}; echo ${{COMPREPLY[@]}}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", asked], capture_output=True, text=True, check=True, env=environment
    )

    wanted = {f"{volume}/volumes/raw", f"{volume}/volumes/labels/clefts"}
    assert set(done.stdout.split()) == wanted
    assert done.stderr == ""
