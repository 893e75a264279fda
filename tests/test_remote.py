"""Volumes over HTTP: read as on disk; 404 alone is missing; all else is said, not guessed."""

import itertools
import zipfile

import numpy as np
import pytest

from cleftcli.errors import InputError
from cleftcli.volumes import open_volume, scan, stores
from tests.remote import (
    BOX,
    DATA,
    ITS,
    KEY,
    PLACES,
    address,
    alone,  # noqa: F401
    chunk,
    folder,  # noqa: F401
    forget,
    read,
    written,  # noqa: F401
)
from tests.servers import Fault, serve

pytestmark = pytest.mark.usefixtures("alone")
PASSING = [429, 500, 503, "short", "drop"]  # asked for again
SAID = {401: "HTTP code 401", 403: "HTTP code 403", 429: "HTTP code 429", 500: "HTTP code 500",
        503: "HTTP code 503", "short": "partial file", "drop": "Empty reply"}  # fmt: skip


@pytest.fixture
def http(folder):  # noqa: F811
    """The volumes over HTTP."""
    with serve(folder / "data") as served:
        yield served


# -- what is well


@pytest.mark.parametrize("format", PLACES)
def test_http_is_read_as_the_disk_is(format, http):
    """Voxels, place, chunks and codec are those of the same volume on disk."""
    local = open_volume(f"{http.folder}/{PLACES[format][0]}")

    volume = open_volume(address(http, format))

    np.testing.assert_array_equal(read(volume), DATA)
    for fact in ("format", "shape", "dtype", "chunks", "space", "codec", "axes"):
        assert getattr(volume, fact) == getattr(local, fact)
    assert (volume.scan().missing, volume.scan().damaged) == (0, ())


def test_a_zip_file_elsewhere_is_read(http):
    """A zipped zarr is read in place, and lists its chunks."""
    root = http.folder / "a.zarr"
    (root / "raw" / KEY).unlink()
    with zipfile.ZipFile(http.folder / "a.zarr.zip", "w") as packed:
        for file in root.rglob("*"):
            packed.write(file, file.relative_to(root))

    volume = open_volume(f"{http.url}/a.zarr.zip")

    assert (read(volume) == DATA).mean() == 7 / 8
    assert volume.scan().missing == 1


def test_slow_is_no_failure(http):
    """A server may take its time."""
    http.faults = [Fault("slow", chunk())]

    np.testing.assert_array_equal(read(open_volume(address(http))), DATA)


# -- what is missing


@pytest.mark.parametrize("format", PLACES)
def test_a_404_chunk_is_zero_and_counted(format, http):
    """A chunk that the server does not have reads as 0, and the scan names it."""
    http.faults = [Fault(404, chunk(format))]
    volume = open_volume(address(http, format))

    found, seen = read(volume), volume.scan()

    assert not found[ITS].any()
    assert (found == DATA).mean() == 7 / 8
    assert (seen.missing, seen.first_missing, seen.damaged) == (1, (PLACES[format][3],), ())


def test_many_chunks_are_not_asked_for_one_by_one(http, monkeypatch):
    """Beyond MOST_ASKED the number is not known, and the server is left alone."""
    monkeypatch.setattr(scan, "MOST_ASKED", 7)
    volume = open_volume(address(http))

    assert volume.scan().missing is None
    assert not http.times(r"/\d/\d/\d$")


def test_a_server_without_byte_ranges_is_scanned(http):
    """A server that sends all where one byte is asked for has the chunk."""
    http.ranges = False
    http.faults = [Fault(404, chunk())]

    seen = open_volume(address(http)).scan()

    assert (seen.missing, seen.damaged) == (1, ())


def test_a_chunk_that_changes_is_noticed(http):
    """The stamp of a scan is of the versions that the server tells."""
    volume = open_volume(address(http))
    before = volume.scan().stamp
    assert volume.scan().stamp == before

    (http.folder / "a.zarr/raw/1/0/1").write_bytes(b"another version")

    assert volume.scan().stamp != before


# -- what fails


@pytest.mark.parametrize("what", PASSING)
@pytest.mark.parametrize("where", [chunk(), r"\.zarray$"], ids=["chunk", "document"])
def test_what_passes_is_asked_for_again(what, where, http):
    """Two failures, then an answer: nobody notices."""
    http.faults = [Fault(what, where, times=2)]

    np.testing.assert_array_equal(read(open_volume(address(http))), DATA)


def test_again_is_later_and_later(http, monkeypatch):
    """The pauses between requests grow, and end."""
    patience = {"max_retries": 3, "initial_delay": "40ms", "max_delay": "1s"}
    monkeypatch.setattr(stores, "_RETRIES", patience)
    forget()
    http.faults = [Fault(503)]

    with pytest.raises(InputError, match="503"):
        stores.read(http.url, "key")

    times = http.times("key")
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert len(pauses) == 3
    assert pauses[0] > 0.03
    assert pauses[2] > 1.5 * pauses[0]


@pytest.mark.parametrize("what", SAID)
def test_what_stays_is_said(what, http):
    """The chunk, its voxels and the status are named, after few requests; it is no zero."""
    volume = open_volume(address(http))
    http.faults = [Fault(what, chunk())]

    with pytest.raises(InputError) as failed:
        read(volume)

    for word in (KEY, BOX, SAID[what]):
        assert word in str(failed.value)
    # once in the box, once alone; curl asks twice where a connection drops
    assert len(http.times(chunk())) <= 2 * 4 * (2 if what == "drop" else 1)


@pytest.mark.parametrize("what", ["html", "noise"])
@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5"])
def test_a_chunk_of_something_else_is_no_voxels(what, format, http):
    """A page or garbage in the place of a chunk is an error that names the chunk."""
    volume = open_volume(address(http, format))
    http.faults = [Fault(what, chunk(format))]

    with pytest.raises(InputError, match=f"{PLACES[format][3]}.*{BOX}"):
        read(volume)


@pytest.mark.parametrize("format", PLACES)
@pytest.mark.parametrize("what", [*SAID, 304, 501, "html", "noise"])
def test_documents_that_do_not_come_are_said(what, format, http):
    """Metadata are never taken for missing because a server fails, or for JSON because it came."""
    http.faults = [Fault(what, PLACES[format][2])]

    with pytest.raises(InputError, match=SAID.get(what)) as failed:
        open_volume(address(http, format))

    assert PLACES[format][2] in str(failed.value)
    assert "<p>" not in str(failed.value)  # the page that came with the status


@pytest.mark.parametrize("what", [401, 403, 304, 412])
def test_a_scan_takes_no_refusal_for_an_answer(what, http):
    """Refused is neither there nor missing: an error, with chunk and voxels; nor 304 and 412."""
    volume = open_volume(address(http))
    http.faults = [Fault(what, chunk())]

    with pytest.raises(InputError, match=f"{KEY}.*{BOX}.*{SAID.get(what, '')}"):
        volume.scan()


@pytest.mark.parametrize("what", [400, *PASSING])
def test_a_scan_says_which_chunk_does_not_come(what, http):
    """Failures that stay are damage: not missing, not silent; those that pass are nothing."""
    volume = open_volume(address(http))
    http.faults = [Fault(what, chunk(), times=2 if what in PASSING else 0)]
    assert volume.scan().damaged == ()
    http.faults = [Fault(what, chunk())]

    seen = volume.scan()

    assert (seen.missing, len(seen.damaged)) == (0, 1)
    assert str(seen.damaged[0].roi) == BOX
    assert SAID.get(what, "") in str(seen.damaged[0])


def test_a_server_that_fails_is_not_asked_for_ever(http, monkeypatch):
    """After a few chunks it is the server, and the scan ends."""
    monkeypatch.setattr(scan, "MOST_FAILED", 2)
    volume = open_volume(address(http))
    http.faults = [Fault(500, r"/\d/\d/\d$")]

    with pytest.raises(InputError, match=r"server fails.*500"):
        volume.scan()


def test_an_empty_chunk_elsewhere_is_damaged(http):
    """A chunk without a byte is there, and no voxels."""
    (http.folder / "a.zarr/raw/1/0/1").write_bytes(b"")

    seen = open_volume(address(http)).scan()

    assert (seen.missing, [d.reason for d in seen.damaged]) == (0, ["0 bytes"])


def test_a_container_that_cannot_be_listed_says_so(http):
    """HTTP lists nothing; the message asks for the dataset."""
    with pytest.raises(InputError, match=r"cannot list.*name the dataset"):
        open_volume(f"{http.url}/c.n5")
