"""One small volume in every format that is read from elsewhere, for tests.servers to serve."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts

from cleftcli.volumes import Space, Volume, create_volume, stores
from tests.conftest import VOXEL_SIZE
from tests.servers import Served

SHAPE, CHUNKS = (20, 24, 40), (10, 12, 20)
DATA = np.random.default_rng(0).integers(1, 255, SHAPE, dtype=np.uint8)  # none is 0
# format: container, dataset, a document of the array, and the key of the chunk to meddle with
PLACES = {
    "zarr2": ("a.zarr", "raw", ".zarray", "1/0/1"),
    "zarr3": ("b.zarr", "raw", "zarr.json", "c/1/0/1"),
    "n5": ("c.n5", "raw", "attributes.json", "1/0/1"),
    "precomputed": ("d.precomputed", "s0", "info", "20-40_0-12_10-20"),
}
KEY = PLACES["zarr2"][3]
BOX = "10:20,0:12,20:40"  # the voxels of that chunk
ITS = np.s_[10:20, 0:12, 20:40]
RETRIES = {"max_retries": 3, "initial_delay": "2ms", "max_delay": "8ms"}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Short delays, nothing cached, and nobody's keys."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(stores, "_RETRIES", RETRIES)
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `data` with the volume in each format, in a folder to copy."""
    root = tmp_path_factory.mktemp("written")
    for format, (container, dataset, *_) in PLACES.items():
        if format == "precomputed":
            _precomputed(f"{root}/data/{container}")
            continue
        made = create_volume(
            f"{root}/data/{container}/{dataset}",
            shape=SHAPE,
            dtype=np.uint8,
            chunks=CHUNKS,
            space=Space(VOXEL_SIZE),
            format=format,
        )
        made.write(made.roi, DATA)
    return root


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A folder `data` with the volume in each format, in a folder to serve."""
    return Path(shutil.copytree(written, tmp_path / "served"))


def _precomputed(address: str) -> None:
    scale = {"key": "s0", "size": SHAPE[::-1], "resolution": VOXEL_SIZE[::-1], "encoding": "raw",
             "chunk_size": CHUNKS[::-1]}  # fmt: skip
    about = {"data_type": "uint8", "num_channels": 1, "type": "image"}
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{address}/",
            "multiscale_metadata": about, "scale_metadata": scale}  # fmt: skip
    ts.open(spec, create=True).result()[..., 0].write(DATA.T).result()


def forget() -> None:
    """Nothing that was read before is known."""
    stores.context.cache_clear()
    stores.store.cache_clear()


def address(served: Served, format: str = "zarr2") -> str:
    """URL of the array in a format."""
    return "/".join((served.url, *PLACES[format][:2]))


def chunk(format: str = "zarr2") -> str:
    """A pattern of the path of the chunk that tests meddle with."""
    return f"{PLACES[format][3]}$"


def read(volume: Volume) -> np.ndarray:
    """All its voxels."""
    return volume.read(volume.roi)
