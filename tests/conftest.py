"""What the tests share: small volumes, a tiny checkpoint, the command line."""

import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import LocalCluster
from typer.testing import CliRunner, Result

from cleftcli.blockwise.workers import started
from cleftcli.cli import app
from cleftcli.model.checkpoint import Checkpoint, save
from cleftcli.synthetic import tissue
from cleftcli.volumes import Space, Volume, create_volume

VOXEL_SIZE = (40.0, 8.0, 8.0)


def store(address: str, data: np.ndarray, **attributes: object) -> Volume:
    """A zarr or N5 volume that holds an array."""
    volume = create_volume(
        address,
        shape=data.shape,
        dtype=data.dtype,
        chunks=tuple(min(n, 16) for n in data.shape),
        space=Space(VOXEL_SIZE),
        attributes=attributes,
    )
    volume.write(volume.roi, data)
    return volume


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """What runs in the background may ignore Ctrl-C, and its children with it: tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and lose much where cores are busy."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Two threads that wait for each other on busy cores take ten times as long."""
    monkeypatch.setattr("cleftcli.prediction_plan.cores", lambda: 1)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # in processes of their own


@pytest.fixture(autouse=True)
def no_home(monkeypatch, tmp_path_factory):
    """Neither the settings of whoever runs the tests, nor files among theirs."""
    for kind in ("CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", f"{tmp_path_factory.getbasetemp()}/{kind}")


@pytest.fixture(scope="session")
def grown():
    """Raw and clefts of a small piece of synthetic tissue, 10x48x64."""
    return tissue((10, 48, 64), VOXEL_SIZE, seed=3)


@pytest.fixture
def volume(tmp_path: Path, grown) -> Path:
    """A zarr container with volumes/raw and volumes/labels/clefts."""
    path = tmp_path / "volume.zarr"
    store(f"{path}/volumes/raw", grown.raw)
    store(f"{path}/volumes/labels/clefts", grown.clefts)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained CleftNet for tiles of 4x16x16, with a threshold."""
    torch.manual_seed(0)
    made = Checkpoint(
        network="cleftnet",
        options={"channels": [4, 6, 8], "key_channels": 4, "max_keys": 64},
        input_shape=(4, 16, 16),
        objective="mask_and_boundary",
        objective_options={},
        voxel_size=VOXEL_SIZE,
        step=0,
        threshold=0.5,
    )
    path = tmp_path / "tiny.safetensors"
    save(path, made, made.new_network().state_dict())
    return path


@pytest.fixture
def cleft():
    """Run a command line in this process: cleft("info", path) -> result."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return run


@pytest.fixture
def scheduler(tmp_path_factory):
    """A dask cluster that somebody else started: two workers with a thread each."""
    start = partial(
        LocalCluster,
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        dashboard_address=":0",
        worker_dashboard_address=":0",
        host="127.0.0.1",
        protocol="tcp",
        local_directory=str(tmp_path_factory.mktemp("scratch")),
    )
    with started(start) as cluster:
        yield cluster
