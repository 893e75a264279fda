"""Progress, as a person and as a program see it."""

import json
import logging

import pytest

from cleftcli.cli import report


@pytest.fixture
def clock(monkeypatch):
    """A function that sets the time."""
    now = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, float(seconds))


@pytest.fixture
def level():
    """A function that sets how much is said; afterwards it is as before."""
    log = logging.getLogger("cleftcli")
    before = log.level
    yield log.setLevel
    log.setLevel(before)


def lines(capsys):
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()


def test_a_line_tells_how_long_it_will_take(clock, capsys, level):
    """Done of total, seconds, seconds to go by this run's own speed, and facts."""
    level(logging.DEBUG)
    with report.progress("steps") as show:
        show(6, 10, {"learning_rate": 1e-5})
        clock(10)
        show(7, 10, {"loss": 0.1234567, "voxels_per_second": 1_234_567, "failed": 2})
        clock(40)
        show(10, 10)

    assert lines(capsys) == [
        "steps 6/10, 0 s, learning rate 1e-05",
        "steps 7/10, 10 s, 30 s to go, loss 0.123, voxels/s 1.23M, failed 2",
        "steps 10/10, 40 s",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (1 / 2048, [1000]),  # all within a second: the last one alone
        (1 / 64, [*range(64, 1000, 64), 1000]),  # every second
        (1 / 8, [*range(50, 1001, 50)]),  # every twentieth part
        (10, [*range(3, 1000, 3), 1000]),  # every 30 s
    ],
)
def test_a_log_is_neither_silent_nor_long(clock, capsys, level, seconds, said):
    """A line at 5 % or after half a minute, at most one a second, and the last."""
    level(logging.INFO)
    with report.progress("blocks") as show:
        for done in range(1001):
            clock(done * seconds)
            show(done, 1000)

    assert [int(line.split("/")[0].split()[1]) for line in lines(capsys)] == said


def test_progress_for_programs_is_an_object_a_line(clock, capsys, level, monkeypatch):
    """Each time something is done, with every fact as it is."""
    monkeypatch.setattr(report, "style", "json")
    level(logging.INFO)
    with report.progress("blocks") as show:
        show(0, 4)
        clock(2)
        show(1, 4, {"voxels_per_second": 1234.5, "failed": 0})

    first, second = map(json.loads, lines(capsys))
    assert first["seconds_left"] is None
    assert second == {
        "progress": "blocks", "done": 1, "total": 4, "seconds": 2.0, "seconds_left": 6.0,
        "voxels_per_second": 1234.5, "failed": 0,
    }  # fmt: skip


def test_nothing_is_said_where_quiet_was_asked_for(capsys, level):
    """Neither progress nor the next command."""
    level(logging.ERROR)
    with report.progress("blocks") as show:
        show(1, 1)
    report.hint("info", "x")

    assert lines(capsys) == []


def test_the_next_command_can_be_typed_as_it_is_printed(capsys, level):
    """Words that a shell would split are quoted."""
    level(logging.INFO)
    report.hint("info", "my volume.zarr")

    assert lines(capsys) == ["Next: cleft info 'my volume.zarr'"]
