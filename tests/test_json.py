"""What scripts read: the --json of each command is one object of a known version, without NaN."""

import json

import numpy as np
import pytest

from cleftcli.checks import CHECKS, Finding
from cleftcli.cli import app
from cleftcli.cli.report import SCHEMA_VERSION
from tests.conftest import store
from tests.test_chain import CONFIG

TALKS_TO_A_PERSON = {"demo"}
PREDICT = "predict volume.zarr -o out.zarr --checkpoint tiny.safetensors"
CONVERT = "convert volume.zarr copy.zarr"
EXPORT = "export-cremi prediction.zarr -o out.hdf"
LINES = [  # what comes before the last command of a line makes what that one reads
    "info volume.zarr",
    "info tiny.safetensors",
    "info strange.zarr",  # attributes of NaN
    CONVERT,
    "make-labels volume.zarr -o labels.zarr",
    "train config.toml -o run",
    "train config.toml -o check.png --check",
    "networks",
    "doctor .",
    PREDICT,
    f"{PREDICT} --dry-run",
    f"{CONVERT}; status copy.zarr",
    f"{CONVERT}; verify copy.zarr --deep",
    "segment prediction.zarr -o clefts.zarr",
    "evaluate prediction.zarr volume.zarr --table table.json",
    "evaluate prediction.zarr volume.zarr --threshold 1.0",  # nothing is predicted
    "evaluate prediction.zarr volume.zarr prediction.zarr volume.zarr --sweep",
    "view prediction.zarr --truth volume.zarr",
    "view prediction.zarr --raw volume.zarr --png",
    "view prediction.zarr --napari",
    EXPORT,
    f"{EXPORT}; export-cremi --check out.hdf",
]


@pytest.fixture
def folder(tmp_path, monkeypatch, volume, checkpoint):
    """The current folder, with what the lines read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cleftcli.jobs.networks.available", lambda: ["unet3d"])  # all take long
    well = {name: Finding("ok", "fine") for name in CHECKS}  # whatever the machine
    monkeypatch.setattr("cleftcli.jobs.doctor.examine", lambda _: well.items())
    data = np.zeros((10, 48, 64), np.uint8)
    data[3:6, 10:20, 10:30] = 200
    store("prediction.zarr/cleft", data, content="probability", complete=True)
    strange = np.where(data, np.inf, np.nan).astype(np.float32)
    store("strange.zarr/raw", strange, threshold=np.nan, content=[np.inf])
    (tmp_path / "config.toml").write_text(CONFIG.replace("steps = 4", "steps = 1"))


def no_number(name):
    """JSON knows neither NaN nor Infinity."""
    raise AssertionError(name)


def test_every_command_has_json():
    """A line below asks each for it, but those that talk to a person alone."""
    commands = {command.name for command in app.registered_commands}

    assert {line.split("; ")[-1].split()[0] for line in LINES} == commands - TALKS_TO_A_PERSON


@pytest.mark.parametrize("line", LINES)
def test_json_is_one_object_of_a_version(cleft, folder, line):
    """All of stdout is one object; `schema_version` at its top says what to expect of it."""
    *before, last = line.split("; ")
    for command in before:
        assert cleft(*command.split()).exit_code == 0

    done = cleft(*last.split(), "--json")

    assert done.exit_code == 0, done.stderr + str(done.exception)
    found = json.loads(done.stdout, parse_constant=no_number)
    assert found["schema_version"] == SCHEMA_VERSION
    assert isinstance(SCHEMA_VERSION, int)
    assert len(found) > 1
