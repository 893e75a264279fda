"""Commands on volumes elsewhere: what was missing is counted, what fails is named, none waits."""

import json
import os
import subprocess
import sys

import pytest

from cleftcli.volumes import open_volume, stores
from tests.remote import (
    BOX,
    DATA,
    KEY,
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


@pytest.fixture
def http(folder):  # noqa: F811
    """The volumes over HTTP."""
    with serve(folder / "data") as served:
        yield served


def test_convert_reports_what_is_missing(cleft, http, tmp_path):
    """A copy of a volume elsewhere equals it, and says which chunk was not there."""
    http.faults = [Fault(404, chunk())]

    done = cleft("convert", address(http), tmp_path / "out.zarr", "--json")

    assert done.exit_code == 0, done.stderr
    seen = json.loads(done.stdout)["input"]
    assert (seen["missing"], seen["first_missing"]) == (1, [KEY])
    assert (read(open_volume(f"{tmp_path}/out.zarr")) == DATA).mean() == 7 / 8
    assert (
        cleft("convert", address(http), tmp_path / "no.zarr", "--missing", "error").exit_code == 3
    )
    assert not (tmp_path / "no.zarr").exists()


def test_predict_reports_what_is_missing(cleft, http, tmp_path, checkpoint):
    """A prediction of a volume elsewhere runs through, and says which chunk was not there."""
    http.faults = [Fault(404, chunk())]
    options = ("--roi", "8:12,0:16,16:32", "--overlap", "0,0,0", "--checkpoint", checkpoint)

    done = cleft("predict", address(http), *options, "-o", tmp_path / "out.zarr", "--json")

    assert done.exit_code == 0, done.stderr
    seen = json.loads(done.stdout)["input"]
    assert (seen["missing"], seen["first_missing"]) == (1, [KEY])
    assert seen["changed_while_read"] is False


def test_a_damaged_chunk_elsewhere_is_named(cleft, http, tmp_path):
    """The command ends incomplete (4), names chunk and voxels, and finishes once it is mended."""
    http.faults = [Fault("html", chunk())]
    command = ("convert", address(http), tmp_path / "out.zarr")

    done = cleft(*command)

    assert done.exit_code == 4
    assert KEY in str(done.stderr)
    assert BOX in str(done.stderr)
    http.faults = []
    forget()
    assert cleft(*command).exit_code == 0


def test_a_refused_volume_writes_nothing(cleft, http, tmp_path):
    """403 on a chunk ends before there is an output: unusable input (3)."""
    http.faults = [Fault(403, chunk())]

    done = cleft("convert", address(http), tmp_path / "out.zarr")

    assert done.exit_code == 3
    assert "403" in str(done.stderr)
    assert not (tmp_path / "out.zarr").exists()


def test_a_server_that_never_answers_is_left(http):
    """Silence ends: the request is made again a few times, and then said."""
    http.faults = [Fault("silent", r"\.zarray$")]
    code = (
        "import sys; from cleftcli.volumes import open_volume, stores\n"
        "stores._SILENCE = {n: '1' for n in stores._SILENCE}\n"
        "stores._RETRIES = {'max_retries': 1, 'initial_delay': '1ms', 'max_delay': '1ms'}\n"
        "open_volume(sys.argv[1])"
    )
    own = {n: v for n, v in os.environ.items() if n not in stores._SILENCE}

    done = subprocess.run(
        [sys.executable, "-c", code, address(http)],
        env=own,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert "InputError" in done.stderr
    assert "Timeout was reached" in done.stderr
    assert len(http.times(r"\.zarray$")) == 2
