"""The benchmarks' own promises; what they measure is measured by `make bench` alone."""

import os
import time
from functools import partial

import pytest

from tests.benchmarks import run
from tests.benchmarks.alone import alone, bring, cost
from tests.benchmarks.page import number, page, said, verdict, without_folders
from tests.benchmarks.row import Setting, at_least, at_most
from tests.benchmarks.scaling import reading

ROWS = [(group, row) for group, rows in run.GROUPS.items() for row in rows]
CONDITIONS = {"machine": "a machine", "versions": {"torch": "2.13"}, "quick": False}


def made_up(group="Volumes", **more):
    """A row of results as it lies in benchmarks.json."""
    facts = {"group": group, "name": "read", "against": "a copy", "unit": "x", "why": ""}
    facts |= {"date": "2026-01-01", "target": {"number": 0.9, "at_most": False}}
    return facts | more


def drawn(*rows):
    """The lines of the page about these rows."""
    named = {str(n): row for n, row in enumerate(rows)}
    return page({"conditions": CONDITIONS, "rows": named})


def found(value, **more):
    return {"found": {"value": value, **more}}


# ---- rows


@pytest.mark.parametrize(("group", "row"), ROWS, ids=[row.title for _, row in ROWS])
def test_a_row_says_what_it_is_and_has_to_reach(group, row):
    """Name, group, what it measures, a time limit, and a target above 0 or none."""
    assert group
    assert row.name
    assert row.limit > 0
    assert row.measure is not None
    assert row.target is None or row.target.number > 0


def test_names_of_rows_are_their_own():
    """Results are kept by title: none is there twice."""
    assert len({row.title for _, row in ROWS}) == len(ROWS)


def test_words_choose_rows_by_group_and_name():
    """All words count, whatever their case; none is all rows."""
    assert run.chosen([]) == ROWS
    assert [row.name for _, row in run.chosen(["volumes", "INFO"])] == ["info of 1e5 chunks"]
    assert run.chosen(["volumes", "make-labels"]) == []
    assert 0 < len(run.chosen([], quick=True)) < len(ROWS)


def test_less_to_do_leaves_whole_chunks(tmp_path):
    """A quick setting shrinks rows and columns to whole chunks, and never to nothing."""
    quick = Setting(tmp_path, edge=0.5)
    assert quick.shape((125, 1250, 1250)) == (125, 640, 640)
    assert quick.shape((8, 64, 64)) == (8, 128, 128)
    assert quick.count(1) == 1
    assert Setting(tmp_path).shape((125, 1250, 1250)) == (125, 1250, 1250)


# ---- processes


def test_what_work_returns_comes_from_another_process():
    """A row's memory and threads are not those of the next."""
    assert alone(os.getpid, 60)["found"] != os.getpid()


def test_a_row_that_raises_is_named():
    """Its kind and what it says."""
    assert alone(partial(int, "x"), 60)["failed"].startswith("ValueError: invalid literal")


def test_a_row_that_dies_is_named():
    """With its exit code."""
    assert "exit code 3" in alone(partial(os._exit, 3), 60)["failed"]


def test_a_row_that_hangs_is_ended_and_named():
    """It has its limit and no more."""
    begun = time.monotonic()
    assert "hangs" in alone(partial(time.sleep, 600), 2)["failed"]
    assert time.monotonic() - begun < 60


def test_packages_that_cannot_be_brought_skip_a_row(tmp_path, monkeypatch):
    """Where no package index is in reach: a sentence, and no failure."""
    for name in ("PIP_NO_INDEX", "PIP_DISABLE_PIP_VERSION_CHECK"):
        monkeypatch.setenv(name, "1")
    answer = alone(partial(bring, ("no-such-package-of-anyone==1",), tmp_path / "packages"), 100)
    assert answer == {"skipped": "pip cannot bring no-such-package-of-anyone==1 here"}


def test_cost_is_that_of_the_work_alone():
    """64 MB more than before, and time."""
    taken = cost(partial(os.urandom, 64 << 20))
    assert 64 <= taken["mb"] < 400
    assert taken["seconds"] > 0


# ---- the page


def test_a_target_is_met_or_missed_by_a_share():
    """At least and at most, to the very number."""
    assert at_least(0.9).missed_by(0.9) == 0
    assert at_least(2.0).missed_by(1.5) == pytest.approx(0.25)
    assert at_most(500).missed_by(400) == 0
    assert at_most(500).missed_by(600) == pytest.approx(0.2)


def test_the_page_says_met_missed_failed_and_skipped():
    """Each in its row, with the reason where one is known."""
    text = drawn(
        made_up(**found(0.93456, least=0.9, greatest=1.0, repeats=3, ours_s=1.23456, theirs_s=2.0)),
        made_up(name="write", why="it also checks", **found(0.45)),
        made_up(name="info", failed="OSError: no"),
        made_up(name="copy", skipped="not here"),
        made_up(name="free", target=None, **found(1234.5)),
    )
    assert "| read | a copy | 0.935x (0.9 to 1) | 1.23, 2 | at least 0.9x | met |" in text
    assert "| write | a copy | 0.45x |  | at least 0.9x | missed by 50%: it also checks |" in text
    assert "| info | a copy |  |  | at least 0.9x | failed: OSError: no |" in text
    assert "| copy | a copy |  |  | at least 0.9x | skipped: not here |" in text
    assert "| free | a copy | 1234x |  |  |  |" in text


def test_scaling_and_profile_have_tables_of_their_own():
    """Sizes side by side with what they say; operators under the whole."""
    sizes = [
        {"name": "1x", "amount": 1, "seconds": 1.0, "per_unit": 1.0, "mb": 100},
        {"name": "4x", "amount": 4, "seconds": 4.0, "per_unit": 1.0, "mb": 100},
    ]
    parts = [{"operator": "aten::a", "share": 0.5}, {"operator": "aten::b", "share": 0.25}]
    grown = found(1.0, sizes=sizes, says="a straight line")
    costs = found(2.0, costs=parts, says="")
    text = drawn(
        made_up("Scaling", target=None, **grown),
        made_up("Where the time goes", target=None, unit="s", why="folded", **costs),
        made_up("Scaling", failed="OSError: no"),
    )
    assert "| read | 1x, 4x | 1, 4 | 1, 1 | 100, 100 | a straight line |" in text
    assert "| read, 2 s | `aten::a` | 50% |\n|  | `aten::b` | 25% |" in text
    assert "\nOf read: folded.\n" in text
    assert "failed: OSError: no" in text


def test_every_line_of_a_table_has_as_many_cells():
    """Also where a message holds the sign between cells."""
    text = drawn(made_up(failed="a | b"), made_up(**found(1.0)))
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {7}


def test_no_folder_of_the_machine_is_on_the_page():
    """Of a path its last name stays; what is no path stays whole."""
    text = drawn(made_up(failed="OSError: '/home/someone/x y/raw' and /tmp/abc/volume.zarr: no"))
    assert "home" not in text
    assert "tmp" not in text
    assert "volume.zarr: no" in text
    assert without_folders("12 MB/s, read / write") == "12 MB/s, read / write"


def test_numbers_have_three_digits():
    """Or all of those before the point."""
    assert [number(n) for n in (0.123456, 1.0, 99.96, 1234.5)] == ["0.123", "1", "100", "1234"]


def test_a_line_in_the_terminal_says_the_same():
    """Value, spread and verdict."""
    row = made_up(**found(1.0, least=0.5, greatest=2.0, repeats=3))
    assert said(row) == "1x (0.5 to 2)  met"
    assert verdict(made_up(target=None, **found(1.0))) == ""


# ---- scaling


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (4.0, "a straight line"),
        (2.0, "less than in"),
        (16.0, "more than in"),
        (1.0, "it stays"),
        (0.5, "it shrinks"),
    ],
)
def test_a_reading_is_of_the_last_step(seconds, said):
    """How time grows where the volume grows fourfold; memory beside it."""
    sizes = [
        {"amount": 1, "seconds": 0.9, "mb": 10},
        {"amount": 4, "seconds": 1.0, "mb": 100},
        {"amount": 16, "seconds": seconds, "mb": 150},
    ]
    says = reading("volume", sizes)["says"]
    assert says.startswith(said)
    assert says.endswith(
        f"with 4 times the volume, {seconds:.3g} times the time and 1.50 times the memory"
    )


# ---- results


def test_results_of_other_conditions_are_not_kept(tmp_path, monkeypatch):
    """Rows of another machine, of other versions or of quick runs do not stand in one table."""
    monkeypatch.setattr(run, "RESULTS", tmp_path / "benchmarks.json")
    assert run.earlier(CONDITIONS) == {}
    run.RESULTS.write_text('{"conditions": {"quick": true}, "rows": {"a": {}}}')
    assert run.earlier({"quick": True}) == {"a": {}}
    assert run.earlier({"quick": False}) == {}


def test_what_a_row_has_to_reach_is_said_by_the_code():
    """Whatever older results say of it; they stand in the code's order, and go with their row."""
    (_, first), (group, second) = ROWS[:2]
    known = run.described({second.title: {"why": "as it was"}, "no more": {}, first.title: {}})
    assert list(known) == [first.title, second.title]
    assert known[second.title]["why"] == second.why
    assert known[second.title]["group"] == group


def test_conditions_do_not_name_the_host():
    """Results are published."""
    assert os.uname().nodename not in str(run.conditions(quick=False)["versions"])
    assert set(run.conditions(quick=False)["versions"]) >= {"cleft", "python", "torch"}
