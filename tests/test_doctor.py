"""`cleft doctor`: the whole of it, as a person and a script see it."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cleftcli.checks import CHECKS, apart
from cleftcli.checks.finding import Finding
from cleftcli.cli import app
from cleftcli.cli import doctor as command
from cleftcli.jobs import doctor as job

IMPORTING = ("libraries", "checkpoint", "precision", "gpus")  # these take seconds


@pytest.fixture
def found(monkeypatch):
    """Make the findings of a run up: {check: (state, fact, advice)}; all others are ok."""

    def make(**findings):
        told = {name: Finding("ok", "fine") for name in CHECKS}
        told |= {name.replace("_", " "): Finding(*values) for name, values in findings.items()}
        monkeypatch.setattr(job, "examine", lambda _: told.items())

    return make


def test_a_machine_is_examined_and_left_as_it_was(cleft, monkeypatch, tmp_path):
    """JSON alone on stdout: every check and every command; 0 or 6 by the worst; no file is left."""
    quick = {n: c for n, c in CHECKS.items() if "extra" not in n and n not in IMPORTING}
    monkeypatch.setattr(apart, "CHECKS", quick)
    monkeypatch.setattr(job, "ALL", ())
    monkeypatch.setattr(job, "COMMANDS", {"convert": tuple(quick)})

    done = cleft("doctor", tmp_path, "--json")

    told = json.loads(done.stdout)
    assert told.keys() == {"schema_version", "folder", "checks", "commands"}
    assert (told["schema_version"], told["folder"]) == (1, str(tmp_path))
    assert [c["name"] for c in told["checks"]] == list(quick)
    for row in told["checks"]:
        assert row.keys() == {"name", "state", "fact", "advice", "numbers"}
        assert row["state"] in ("ok", "note", "problem")
    states = {c["name"]: c["state"] for c in told["checks"]}
    assert done.exit_code == (6 if "problem" in states.values() else 0), done.stderr
    limiting = [name for name, state in states.items() if state != "ok"]
    assert told["commands"] == [{"name": "convert", "limited_by": limiting}]
    speeds = next(c for c in told["checks"] if c["name"] == "speed")["numbers"]
    assert len(speeds) in (0, 4)
    assert all(rate > 0 for rate in speeds.values())
    assert list(tmp_path.iterdir()) == []


ONLY_SPEED = """
import sys
from cleftcli.checks import CHECKS, apart
from cleftcli.cli import main
if __name__ == "__main__":
    apart.CHECKS = {"speed": CHECKS["speed"]}
    sys.argv = ["cleft", "doctor", sys.argv[1]]
    main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_doctor_that_is_stopped_leaves_nothing_behind(tmp_path, number, code):
    """Ctrl-C reaches its processes all at once, a batch system the first one only."""
    (script := tmp_path / "only_speed.py").write_text(ONLY_SPEED)
    (place := tmp_path / "place").mkdir()
    command = [sys.executable, script, place]
    done = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not any(place.glob(".cleft-*/large")) and done.poll() is None:
        time.sleep(0.002)
    if number == signal.SIGINT:
        os.killpg(done.pid, number)
    else:
        done.send_signal(number)

    _, said = done.communicate(timeout=30)
    assert done.returncode == code
    assert "Traceback" not in said
    assert list(place.iterdir()) == []


def test_every_command_is_told_of():
    """One that is added says which checks decide how far it can go."""
    assert list(job.COMMANDS) == [c.name for c in app.registered_commands]
    assert {n for needs in job.COMMANDS.values() for n in (*job.ALL, *needs)} <= CHECKS.keys()


def test_what_is_not_ok_limits_the_commands_that_need_it(cleft, found, tmp_path):
    """A note is no failure; it is named by the commands that it is about, and by no other."""
    found(extra_train=("note", "gunpowder is missing", "pip install 'cleft[train]'"))

    done = cleft("doctor", tmp_path, "--json")

    limited = {c["name"]: c["limited_by"] for c in json.loads(done.stdout)["commands"]}
    assert done.exit_code == 0
    assert limited.pop("train") == limited.pop("demo") == ["extra train"]
    assert set(map(tuple, limited.values())) == {()}


def test_a_problem_ends_with_6_and_its_name(cleft, found, tmp_path):
    """The table is still printed; stderr has one line."""
    found(replacing=("problem", "the file system is read-only", "write elsewhere"))

    done = cleft("doctor", tmp_path)

    assert done.exit_code == 6
    assert done.stderr.splitlines()[-1] == "cleft: this machine is not able: replacing"
    assert "write elsewhere" in done.stdout


def test_a_folder_that_is_not_there_is_refused(cleft, tmp_path):
    """3, before anything is tried."""
    done = cleft("doctor", tmp_path / "none")
    assert done.exit_code == 3
    assert "no such folder" in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_table_is_aligned_in_any_terminal(found, tmp_path, monkeypatch, encoding):
    """Every fact begins in the same column, long ones go on there; ASCII where that is all."""
    long = "a fact " * 40
    found(memory=("note", long, "get more " * 30), speed=("problem", "slow", "faster"))
    told = job.doctor(tmp_path, report=lambda *_: None)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))

    lines = command._text(told).splitlines()

    assert max(map(len, lines)) <= command.WIDTH
    column = lines[0].index("fine")
    assert all(not line or line[:column].endswith("  ") for line in lines[:-1])
    assert lines[-1] == f"{len(CHECKS)} checks, 1 problem and 1 note"
    assert "\n".join(lines).isascii() == (encoding == "ascii")
    joined = " ".join(" ".join(line[column:] for line in lines).split())
    assert long.strip() in joined
