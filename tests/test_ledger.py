"""The ledger: what is noted stays noted, what was torn is not done, strangers are refused."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleftcli.blockwise.ledger import Ledger, is_held, refuse_if_held, standing
from cleftcli.errors import ConflictError

SETTINGS = {"volume": "a.zarr/raw", "roi": "0:4,0:8,0:8", "tile": (4, 8, 8), "blend": "bump"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.zarr.ledger"


def noted(path, facts=None, part=None, **changed):
    """What the ledger says of each block after these facts were noted."""
    with Ledger(path, {**SETTINGS, **changed}, part) as ledger:
        for index, fact in (facts or {}).items():
            ledger.record(index, fact)
        return told(ledger.standing())


def told(found):
    return {i: {k: v for k, v in facts.items() if k != "at"} for i, facts in found.records()}


def test_a_new_ledger_is_empty(path):
    """No block of a new run is done."""
    with Ledger(path, SETTINGS) as ledger:
        assert not ledger.standing().done
        assert told(ledger.standing()) == {}


def test_records_survive_reopening(path):
    """Blocks noted in one run are done in the next, with their facts; more can be added."""
    facts = {3: {"constant_sections": 2}, 0: {}, 11: {"name": "Çiçek", "n": [1, 2.5]}}
    assert noted(path, facts) == facts
    assert noted(path, {4: {"n": 1}}) == {**facts, 4: {"n": 1}}
    with Ledger(path, SETTINGS) as ledger:
        assert ledger.standing().done.keys() == {0, 3, 4, 11}


def test_a_block_noted_twice_has_the_later_facts(path):
    """A block done again replaces its record."""
    noted(path, {1: {"n": 1}})
    noted(path, {1: {"n": 2}})
    assert noted(path) == {1: {"n": 2}}


def test_a_record_is_on_disk_when_it_is_noted(path):
    """When `record` returns, its line has been written and synced: a kill loses nothing."""
    code = f"""
import os, signal
from pathlib import Path
from cleftcli.blockwise.ledger import Ledger
ledger = Ledger(Path({str(path)!r}), {SETTINGS!r})
ledger.record(5, {{"n": 1}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert noted(path) == {5: {"n": 1}}


def test_records_are_synced(path, monkeypatch):
    """Every note reaches the disk by fsync."""
    synced = []
    with Ledger(path, SETTINGS) as ledger:
        monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_text()))
        ledger.record(5, {})
        assert json.loads(synced[-1].splitlines()[-1])["block"] == 5


@pytest.mark.parametrize("torn", [b'{"block": 2', b'{"block": 2}', b"{", b"\x00" * 40])
def test_a_torn_last_line_is_a_block_not_done(path, torn):
    """A line without its end does not count, and what is noted afterwards can be read."""
    noted(path, {0: {}, 1: {"n": 1}})
    path.write_bytes(path.read_bytes() + torn)
    assert noted(path, {7: {"n": 7}}) == {0: {}, 1: {"n": 1}, 7: {"n": 7}}
    assert noted(path, {2: {}}).keys() == {0, 1, 7, 2}
    assert noted(path).keys() == {0, 1, 7, 2}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cut_anywhere_the_ledger_goes_on(tmp_path_factory, data):
    """Cut at any byte, the ledger holds the lines that were whole, and takes up from there."""
    path = tmp_path_factory.mktemp("cut") / "ledger"
    facts = {n: {"name": "ä" * n, "n": n} for n in range(4)}
    noted(path, facts)
    content = path.read_bytes()
    kept = content[: data.draw(st.integers(0, len(content)))]
    path.write_bytes(kept)
    expected = {n: facts[n] for n in range(max(kept.count(b"\n") - 2, 0))}
    assert noted(path, {9: {"n": 9}}) == {**expected, 9: {"n": 9}}
    assert noted(path) == {**expected, 9: {"n": 9}}


@pytest.mark.parametrize("line", ['{"bl\n', "null\n", "[1]\n", '{"n": 1}\n', "\n", "\x00\x00\n"])
def test_a_line_that_says_nothing_is_passed_over(path, line):
    """A damaged line in the middle is a block not done; those after it count."""
    noted(path, {0: {}})
    with path.open("a") as file:
        file.write(line + '{"block": 1}\n')
    assert noted(path) == {0: {}, 1: {}}


def test_another_run_is_refused_with_the_difference(path):
    """Another fingerprint is refused; each setting that differs is named with both values."""
    noted(path, {0: {}})
    before = path.read_bytes()
    with pytest.raises(ConflictError) as caught:
        noted(path, blend="none", tile=(4, 16, 16))
    message = str(caught.value)
    assert "blend: 'bump' -> 'none'" in message
    assert "tile: [4, 8, 8] -> [4, 16, 16]" in message
    assert "volume" not in message.split("(", 1)[1]
    assert "out.zarr" in message
    assert path.read_bytes() == before
    assert noted(path) == {0: {}}


def test_a_setting_more_or_less_is_a_difference(path):
    """A setting that only one of the runs knows is named as well."""
    noted(path)
    with pytest.raises(ConflictError, match="gain: None -> 3"):
        noted(path, gain=3)
    with pytest.raises(ConflictError, match="precision"):
        noted(path, precision=None)


def test_tuples_are_the_lists_they_are_stored_as(path):
    """The same settings given as tuples or lists are the same run."""
    noted(path, {0: {}})
    assert noted(path, tile=[4, 8, 8]) == {0: {}}


def test_the_order_of_settings_means_nothing(path):
    """The same settings in another order are the same run."""
    noted(path, {0: {}})
    with Ledger(path, dict(reversed(SETTINGS.items()))) as ledger:
        assert ledger.standing().done.keys() == {0}


@pytest.mark.parametrize("content", ["hello\n", "[1]\n", '"x"\n', '{"block": 1}\n'])
def test_a_file_that_is_no_ledger_is_refused(path, content):
    """A file of another kind belongs to something else, and is left as it is."""
    path.write_text(content)
    with pytest.raises(ConflictError):
        noted(path)
    assert path.read_text() == content


def test_a_second_opener_is_refused(path):
    """One run writes at a time; the other is told that somebody does."""
    with Ledger(path, SETTINGS) as ledger:
        ledger.record(0, {})
        with pytest.raises(ConflictError, match=rf"process {os.getpid()} on \S+ since 20"):
            Ledger(path, SETTINGS)
        ledger.record(1, {})
    assert noted(path) == {0: {}, 1: {}}


def test_who_only_asks_is_in_nobodys_way(path):
    """Parts and `status` may ask at the same time, with no right to write; a writer is seen."""
    noted(path)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        refuse_if_held(path)
        assert not is_held(path)
    with Ledger(path, SETTINGS):
        assert is_held(path)
        with pytest.raises(ConflictError, match=f"process {os.getpid()} on"):
            refuse_if_held(path)


def test_a_second_process_is_refused(path):
    """Also a process of its own finds the ledger taken, and can have it afterwards."""
    code = f"""
from pathlib import Path
from cleftcli.blockwise.ledger import Ledger
from cleftcli.errors import ConflictError
try:
    Ledger(Path({str(path)!r}), {SETTINGS!r})
except ConflictError:
    print("refused")
else:
    print("taken")
"""
    command = [sys.executable, "-c", code]
    with Ledger(path, SETTINGS):
        during = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (during.strip(), after.strip()) == ("refused", "taken")


def test_a_refused_opener_leaves_the_lock(path):
    """A run that was refused for its settings does not keep others out."""
    noted(path)
    with pytest.raises(ConflictError, match="other settings"):
        Ledger(path, {**SETTINGS, "blend": "none"})
    assert noted(path, {0: {}}) == {0: {}}


def test_the_start_of_a_ledger_on_disk_says_whose_it_is(path):
    """Fingerprint first, then who writes; both again readable after any number of runs."""
    for n in range(3):
        noted(path, {n: {}})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [next(iter(line)) for line in lines] == ["fingerprint", *["run", "block"] * 3]
    assert [run["blocks"] for run in standing([path]).runs] == [1, 1, 1]
    assert standing([path]).runs[0]["pid"] == os.getpid()
    assert standing([path]).fingerprint == json.loads(json.dumps(SETTINGS))


def test_parts_write_side_by_side_and_know_of_each_other(path):
    """Each part has a file of its own; what is done is what any of them says."""
    with (
        Ledger(path, SETTINGS, (1, 3)) as first,
        Ledger(path, SETTINGS, (3, 3)) as third,
    ):
        first.record(0, {"n": 1})
        third.record(2, {"n": 3})
        assert told(first.standing()) == told(third.standing()) == {0: {"n": 1}, 2: {"n": 3}}
        for other in (None, (1, 3)):
            with pytest.raises(ConflictError, match="is writing this output"):
                Ledger(path, SETTINGS, other)
    assert noted(path, {1: {}}) == {0: {"n": 1}, 1: {}, 2: {"n": 3}}
    with Ledger(path, SETTINGS), pytest.raises(ConflictError, match="is writing this output"):
        Ledger(path, SETTINGS, (2, 3))
    with pytest.raises(ConflictError, match="blend"):
        noted(path, part=(2, 3), blend="none")
    path.unlink()
    with pytest.raises(ConflictError, match="blend"):
        noted(path, blend="none")


def test_a_block_done_again_elsewhere_counts_once(path):
    """The whole came first, then a part: the last record of a block is the one that counts."""
    noted(path, {0: {"n": 1}, 1: {"n": 1}})
    assert noted(path, {1: {"n": 2}}, part=(2, 2)) == {0: {"n": 1}, 1: {"n": 2}}


def test_failures_are_noted_until_the_block_is_done(path):
    """A block that failed is named with its error; once done it has not failed."""
    with Ledger(path, SETTINGS) as ledger:
        ledger.fail(3, ValueError("bad chunk"))
        ledger.fail(4, ValueError("bad chunk"))
        assert ledger.standing().failed == {
            3: "ValueError: bad chunk",
            4: "ValueError: bad chunk",
        }
        ledger.record(3, {})
        assert list(ledger.standing().failed) == [4]
        assert list(ledger.standing().done) == [3]


def test_many_blocks_are_skipped_with_one_sync(path, monkeypatch):
    """A mask leaves out a million blocks in one go; they are done, and no work of a run."""
    syncs = []
    with Ledger(path, SETTINGS) as ledger:
        monkeypatch.setattr(os, "fsync", syncs.append)
        ledger.skip(range(1000), {"skipped": 1})
        found = ledger.standing()
    assert len(syncs) == 1
    assert told(found) == {n: {"skipped": 1} for n in range(1000)}
    assert found.runs[-1]["blocks"] == 0


def test_where_there_are_no_locks_a_warning_says_so(path, monkeypatch, caplog):
    """Some network file systems refuse locks: the run goes on, and says what to take care of."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level("WARNING"):
        assert noted(path, {0: {}}) == {0: {}}
    assert "let no other run write this output" in caplog.text


def test_records_from_several_threads_stay_whole(path):
    """Notes made at the same time do not tear each other's lines."""
    with Ledger(path, SETTINGS) as ledger, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ledger.record(n, {"text": "x" * n}), range(60)))
    assert noted(path) == {n: {"text": "x" * n} for n in range(60)}
