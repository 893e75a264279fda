"""Where options come from: the command line, the environment, files, defaults."""

import json
from pathlib import Path

import pytest
import typer

from cleftcli.cli import app
from cleftcli.cli.settings import settable

COMMANDS = {n: c for n, c in typer.main.get_command(app).commands.items() if settable(c)}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The user's file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "cleft" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def shown(cleft):
    """Value and origin of an option of `predict`."""

    def show(option, *words):
        done = cleft("config", "show", "predict", "--json", *words)
        assert done.exit_code == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["schema_version"] == 1
        return next((o["value"], o["from"]) for o in found["options"] if o["option"] == option)

    return show


def test_the_nearest_word_counts(cleft, shown, own, tmp_path, monkeypatch):
    """Environment before --config, that before the user's file, that before the default."""
    lab = tmp_path / "lab.toml"
    assert shown("--workers") == (None, "default")
    own.write_text("[predict]\nworkers = 2\ndtype = 'float32'")
    assert shown("--workers") == (2, str(own))
    lab.write_text("[predict]\nworkers = 3")
    assert shown("--workers", "--config", lab) == (3, str(lab))
    assert shown("--dtype", "--config", lab) == ("float32", str(own))
    monkeypatch.setenv("CLEFT_CONFIG", str(lab))
    assert shown("--workers") == (3, str(lab))
    monkeypatch.setenv("CLEFT_PREDICT_WORKERS", "4")
    assert shown("--workers") == (4, "CLEFT_PREDICT_WORKERS")


def test_what_is_typed_counts_before_all(cleft, own, tmp_path, volume, monkeypatch):
    """And what is set is used: an output of another name."""
    own.write_text(f"[segment]\noutput = '{tmp_path}/file.zarr'\nthreshold = 0.5\n")
    monkeypatch.setenv("CLEFT_SEGMENT_OUTPUT", f"{tmp_path}/environment.zarr")
    clefts = f"{volume}/volumes/labels/clefts"

    assert cleft("segment", clefts, "-o", tmp_path / "typed.zarr").exit_code == 0
    assert cleft("segment", clefts).exit_code == 0
    monkeypatch.delenv("CLEFT_SEGMENT_OUTPUT")
    assert cleft("segment", clefts).exit_code == 0
    made = {p.name for p in tmp_path.glob("*.zarr")} - {volume.name}
    assert made == {"typed.zarr", "environment.zarr", "file.zarr"}


def test_options_of_cleft_stand_above_the_tables(cleft, own, volume):
    """They are set like those of commands."""
    own.write_text("quiet = true\n[predict]\nworkers = 2")

    assert cleft("info", volume).stderr == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[predict]\nwrokers = 2", "[predict] wrokers: unknown key; did you mean workers?"),
        ("[predct]\nworkers = 2", "[predct] is no command; did you mean predict?"),
        ("quite = true", "quite: unknown key; did you mean quiet?"),
        ("[predict]\nworkers = 'two'", "[predict] workers: Input should be a valid integer"),
        ("[predict]\nworkers = 0", "[predict] workers: Input should be greater than or equal to 1"),
        ("[predict]\nworkers = true", "[predict] workers: expected one value"),
        ("[predict]\npyramid = 'yes'", "[predict] pyramid: expected true or false, got 'yes'"),
        ("[predict]\nvoxel-size = [40, 4, 4]", 'voxel-size: expected one value as it is typed'),
        ("[predict]\ntta = 'flip'", "[predict] tta: 'flip' is not one of 'none', 'flips'"),
        ("[predict]\njson = true", "[predict] json: unknown key"),
        ("config = 'x.toml'", "config: unknown key"),
        ("version = true", "version: unknown key"),
        ("[config]\nshow = 1", "[config] is no command"),
        ("[predict", "not TOML"),
        ("\udc80", "not UTF-8"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_meant_is_a_usage_error(cleft, tmp_path, volume, text, said):
    """Whatever command is called: exit code 2, and the file, the key, and what was meant."""
    file = tmp_path / "lab.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    done = cleft("info", volume, "--config", file)

    assert done.exit_code == 2
    assert done.stderr.startswith(f"cleft: {file}: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_not_there(cleft, tmp_path, volume):
    """One that was named is missed; the user's own is not."""
    done = cleft("info", volume, "--config", tmp_path / "x.toml")

    assert (done.exit_code, cleft("info", volume).exit_code) == (3, 0)
    assert "x.toml: cannot be read: No such file" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_can_be_set(cleft, tmp_path, name):
    """By the name that is typed, with or without dashes between its words."""
    options = settable(COMMANDS[name])
    typed = [max(o.opts, key=len).removeprefix("--") for o in options.values()]
    assert sorted(n.replace("-", "_") for n in typed) == sorted(options)
    assert {"json", "help", "config"}.isdisjoint(options)
    for spelled in (typed, list(options)):
        flags = [k for k, o in zip(spelled, options.values(), strict=True) if o.is_flag]
        file = tmp_path / "all.toml"
        file.write_text(f"[{name}]\n" + "".join(f"{key} = true\n" for key in flags))
        done = cleft("config", "show", name, "--json", "--config", file)
        found = {o["option"]: o for o in json.loads(done.stdout)["options"]}
        assert len(found) == len(options)
        for key in flags:
            option = found[f"--{key.replace('_', '-')}"]
            assert (option["value"], Path(option["from"])) == (True, file)


def test_every_option_is_shown(cleft):
    """Without a command: those of all commands and of cleft itself, a line each."""
    printed = cleft("config", "show").stdout.splitlines()

    assert len(printed) == 1 + sum(len(settable(c)) for c in COMMANDS.values()) + 5
    assert printed[1].split() == ["cleft", "--quiet", "False", "default"]
