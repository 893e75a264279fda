"""Do others read what cleft writes? Each reader answers from an environment of its own.

    python tests/interop/check.py [--keep FOLDER]

Writes volumes, makes a virtual environment for each reader (pip, from the configured index), lets
it read them, and prints a table; exit code 1 where anything differs. `--keep` keeps both, and
uses the environments again. The results are in docs/interoperability.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cleftcli.geometry import Roi
from cleftcli.volumes import Space, create_volume, hdf5, list_volumes, open_volume

READERS = Path(__file__).with_name("readers.py")
SPACE = Space((40.0, 8.0, 4.0), (80.0, 0.0, 16.0))
SHAPE, CHUNKS, WRITTEN = (5, 12, 10), (4, 8, 8), Roi((0, 0, 0), (5, 8, 10))  # a row of chunks stays
SUFFIX = {"zarr2": "2.zarr", "zarr3": "3.zarr", "n5": ".n5", "hdf5": ".hdf"}
DTYPES = ("uint8", "uint64", "float32")


@dataclass(frozen=True)
class Reader:
    """A reader: what pip installs for it, and which formats it is asked for."""

    name: str
    packages: tuple[str, ...]
    formats: tuple[str, ...]
    optional: bool = False  # a reader that cannot be installed here is said, and no failure


MODELS = ("ome-zarr-models",)  # brings zarr-python 3
CHECKED = (
    Reader("zarr2", ("zarr==2.18.7", "numcodecs<0.16", "fsspec"), ("zarr2", "n5")),
    Reader("zarr3", MODELS, ("zarr2", "zarr3")),
    Reader("tensorstore", ("tensorstore",), ("zarr2", "zarr3", "n5")),
    Reader("z5py", ("z5py",), ("zarr2", "n5"), optional=True),
    Reader("h5py", ("h5py",), ("hdf5",)),
    Reader("models", MODELS, ("zarr2", "zarr3")),
    Reader("ome_zarr", ("ome-zarr",), ("zarr2", "zarr3"), optional=True),
)
MOTO = Reader("moto", ("moto[s3]", "flask", "flask-cors"), ("zarr2", "zarr3", "n5"))


@dataclass(frozen=True)
class Item:
    """An array that was written, and what a reader shall see."""

    name: str
    format: str
    container: str
    dataset: str
    voxels: str  # .npy
    shape: list[int]
    dtype: str
    chunks: list[int]
    voxel_size: list[float]


def voxels(dtype: str) -> np.ndarray:
    """Voxels with the extremes of a type; those of the chunks that are not written are 0."""
    found = np.zeros(SHAPE, dtype)
    box = WRITTEN.within(Roi((0, 0, 0), SHAPE))
    found[box] = np.random.default_rng(0).integers(1, 200, WRITTEN.shape)
    if dtype == "float32":
        found[box] += np.float32(0.1)
    else:
        found[0, 0, :2] = 0, np.iinfo(dtype).max
    return found


def write(folder: Path) -> list[Item]:
    """Volumes in every format that cleft writes."""
    return [_write(folder, format, dtype) for format in SUFFIX for dtype in DTYPES]


def _write(folder: Path, format: str, dtype: str) -> Item:
    data, kept, chunks = voxels(dtype), folder / f"{dtype}.npy", CHUNKS
    np.save(kept, data)
    # a container for each: ome-zarr's reader shows one image of a group
    container, dataset = folder / f"{dtype}{SUFFIX[format]}", "volumes/raw"
    if format == "hdf5":
        with h5py.File(container, "w") as file:
            made = hdf5.create_array(
                file, dataset, shape=SHAPE, dtype=data.dtype, space=SPACE, attributes={}
            )
            made.write(made.roi, data)
        chunks = made.chunks
    else:
        made = create_volume(
            f"{container}/{dataset}",
            shape=SHAPE,
            dtype=data.dtype,
            chunks=CHUNKS,
            space=SPACE,
            format=format,
        )
        made.write(WRITTEN, data[WRITTEN.within(made.roi)])
    return Item(
        name=dtype,
        format=format,
        container=str(container),
        dataset=dataset,
        voxels=str(kept),
        shape=list(SHAPE),
        dtype=dtype,
        chunks=list(chunks),
        voxel_size=list(SPACE.voxel_size or ()),
    )


def environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """The Python of a virtual environment with these packages, made where it is not there.

    Raises:
        CalledProcessError: they cannot be installed.
    """
    root = folder / "".join(c if c.isalnum() else "_" for c in packages[0])
    python, ready = root / "bin" / "python", root / "ready"
    if not ready.exists():
        sys.stderr.write(f"installing {' '.join(packages)}\n")
        subprocess.run([sys.executable, "-m", "venv", root], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", *packages], check=True)
        ready.touch()
    return python


def ask(python: Path, reader: str, items: list[Item], folder: Path) -> list[dict[str, Any]]:
    """What a reader says of each array."""
    listed = folder / "items.json"
    listed.write_text(json.dumps([asdict(i) for i in items]), encoding="utf-8")
    command = [python, READERS, reader, listed]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@contextlib.contextmanager
def bucket(python: Path, folder: Path) -> Iterator[str]:
    """The volumes in a bucket of moto, which this process then reads from; moto's version.

    Raises:
        JSONDecodeError: moto does not start.
    """
    pipe = subprocess.PIPE
    command = [python, READERS, "moto", folder]
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as moto:
        assert moto.stdout is not None
        about = json.loads(moto.stdout.readline())
        os.environ["AWS_ENDPOINT_URL"] = about["url"]
        os.environ |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
        yield about["version"]
        moto.communicate()


def read_from_s3(items: list[Item], moto: str) -> list[dict[str, Any]]:
    """What cleft itself reads from moto's bucket, and whether it lists and counts there."""
    found = []
    for item in items:
        container = f"s3://volumes/{Path(item.container).name}"
        volume = open_volume(container)
        said: dict[str, Any] = {
            "voxels": np.array_equal(volume.read(volume.roi), np.load(item.voxels)),
            "dtype": volume.dtype == item.dtype or str(volume.dtype),
            "shape": list(volume.shape) == item.shape or list(volume.shape),
            "chunks": list(volume.chunks) == item.chunks or list(volume.chunks),
            "voxel_size": list(volume.voxel_size) == item.voxel_size or list(volume.voxel_size),
            "listed": list_volumes(container) == [f"{container}/{item.dataset}"],
            "missing": volume.scan().missing == 4 or volume.scan().missing,
        }
        who = f"cleft, from S3 of moto {moto}"
        found.append({"item": item.name, "format": item.format, "reader": who, **said})
    return found


def wrong(line: dict[str, Any]) -> list[str]:
    """What is not as it should be; None is what a reader does not tell."""
    about = ("item", "format", "reader", "valid", "lacking")
    return [f"{k}: {v}" for k, v in line.items() if k not in about and v not in (True, None)]


def row(format: str, lines: list[dict[str, Any]]) -> str:
    """A row of the table for the arrays of a format."""
    told = [k for k in lines[0] if lines[0][k] is True]
    told.sort()
    troubles = "; ".join(f"{ln['item']} {t}" for ln in lines for t in wrong(ln))
    notes = {f"valid {ln['valid']}" for ln in lines if "valid" in ln}
    notes |= {
        f"optional and not there: {', '.join(ln['lacking'])}" for ln in lines if "lacking" in ln
    }
    result = troubles or ", ".join([*told, *sorted(notes)])
    return f"| {lines[0]['reader']} | {format} | {result.replace('_', ' ')} |"


def report(lines: list[dict[str, Any]]) -> bool:
    """Print a reader's rows; whether all is well."""
    for format in dict.fromkeys(line["format"] for line in lines):
        own = [line for line in lines if line["format"] == format]
        sys.stdout.write(row(format, own) + "\n")
    sys.stdout.flush()
    return not any(map(wrong, lines))


def check(folder: Path) -> bool:
    """Write, let all read, print; whether all is well."""
    shutil.rmtree(folder / "volumes", ignore_errors=True)
    (folder / "volumes").mkdir()
    items = write(folder / "volumes")
    sys.stdout.write("| reader | format | same, for uint8, uint64, float32 |\n|---|---|---|\n")
    well = True
    for reader in CHECKED:
        try:
            python = environment(folder, reader.packages)
        except subprocess.CalledProcessError:
            sys.stdout.write(f"| {reader.name} | | could not be installed |\n")
            well &= reader.optional
            continue
        wanted = [i for i in items if i.format in reader.formats]
        well &= report(ask(python, reader.name, wanted, folder))
    stored = [i for i in items if i.format in MOTO.formats]
    with bucket(environment(folder, MOTO.packages), folder / "volumes") as version:
        well &= report(read_from_s3(stored, version))
    return well


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder for volumes and environments, kept")
    kept = parser.parse_args().keep
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        return 0 if check(kept.resolve()) else 1
    with tempfile.TemporaryDirectory() as folder:
        return 0 if check(Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
