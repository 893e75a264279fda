"""Run by check.py in an environment of its own, without cleft: one reader, asked what it sees.

python readers.py READER LIST.json        a JSON line for each array
python readers.py moto FOLDER             serves a folder as the bucket `volumes` until stdin ends
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Found = dict[str, Any]


def zarr2(item: Found) -> Found:
    """zarr-python 2, which reads zarr v2 and, by a store class, N5."""
    import zarr

    n5 = item["format"] == "n5"
    store = zarr.N5FSStore(item["container"]) if n5 else zarr.DirectoryStore(item["container"])
    array = zarr.open_group(store, mode="r")[item["dataset"]]
    return seen(array, array[:], array.chunks, array.attrs["resolution"][:: -1 if n5 else 1])


def zarr3(item: Found) -> Found:
    """zarr-python 3."""
    import zarr

    array = zarr.open_array(f"{item['container']}/{item['dataset']}", mode="r")
    return seen(array, array[:], array.chunks, array.attrs["resolution"])


def tensorstore(item: Found) -> Found:
    """Tensorstore, which leaves N5 as xyz and knows its resolution alone."""
    import tensorstore as ts

    driver = {"zarr2": "zarr", "zarr3": "zarr3", "n5": "n5"}[item["format"]]
    path = f"{item['container']}/{item['dataset']}/"
    array = ts.open({"driver": driver, "kvstore": {"driver": "file", "path": path}}).result()
    units = [None if u is None else u.multiplier for u in array.dimension_units or []]
    chunks = array.chunk_layout.write_chunk.shape
    data = array.read().result()
    if item["format"] == "n5":
        data, chunks, units = data.T, chunks[::-1], units[::-1]
    return seen(data, data, chunks, None if None in units else units)


def z5py(item: Found) -> Found:
    """z5py, which turns N5 to zyx but not its attributes."""
    import z5py as z5

    n5 = item["format"] == "n5"
    array = z5.File(item["container"], "r", use_zarr_format=not n5)[item["dataset"]]
    return seen(array, array[:], array.chunks, array.attrs["resolution"][:: -1 if n5 else 1])


def h5py(item: Found) -> Found:
    """Plain h5py."""
    import h5py as h5

    with h5.File(item["container"]) as file:
        array = file[item["dataset"]]
        return seen(array, array[:], array.chunks, array.attrs["resolution"])


def models(item: Found) -> Found:
    """The OME-NGFF validator ome-zarr-models, and what the validated metadata say."""
    import zarr
    from ome_zarr_models import v04, v05

    at, name = str(Path(item["dataset"]).parent), Path(item["dataset"]).name
    group = zarr.open_group(f"{item['container']}/{at}", mode="r")
    stated, module = {"zarr2": ("0.4", v04), "zarr3": ("0.5", v05)}[item["format"]]
    image = module.Image.from_zarr(group)
    attributes = getattr(image.attributes, "ome", image.attributes)
    for multiscale in attributes.multiscales:
        for dataset in multiscale.datasets:
            if dataset.path == name:
                size = dataset.coordinateTransformations[0].scale
                return {"voxel_size": list(size), "valid": f"as {stated}", **advice(multiscale)}
    return {"error": f"no multiscale lists {name}"}


def advice(multiscale: Any) -> Found:
    """What the specification says SHOULD be there, which the validator does not ask for."""
    lacking = [k for k in ("name", "type", "metadata") if getattr(multiscale, k, None) is None]
    return {"lacking": lacking} if lacking else {}


def ome_zarr(item: Found) -> Found:
    """The reader of ome-zarr-py, behind napari's plugin: it shows a group's first image."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    at = Path(item["container"], item["dataset"]).parent
    node = next(iter(Reader(parse_url(at))()))
    array = node.data[0]
    scale = node.metadata["coordinateTransformations"][0][0]["scale"]
    return seen(array, array.compute(), array.chunksize, scale)


def seen(array: Any, data: Any, chunks: Any, voxel_size: Any) -> Found:
    """Everything that is compared."""
    return {
        "shape": list(map(int, array.shape)),
        "dtype": str(array.dtype),
        "chunks": list(map(int, chunks)),
        "voxel_size": None if voxel_size is None else list(map(float, voxel_size)),
        "data": data,
    }


def compare(item: Found, found: Found) -> Found:
    """Each fact: true, or what was seen instead."""
    import numpy as np

    data = found.pop("data", None)
    said = {k: found.get(k) == item[k] or found.get(k) for k in found if k in item}
    if data is not None:
        wanted = np.load(item["voxels"])
        same = data.dtype == wanted.dtype and np.array_equal(data, wanted)
        said["voxels"] = bool(same) or "other voxels"
    return said | {k: found[k] for k in ("valid", "lacking", "error") if k in found}


def moto(folder: str) -> None:
    """Serve a folder by moto, an S3 that is not ours, until the caller is done."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    s3 = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
    )
    s3.create_bucket(Bucket="volumes")
    for file in Path(folder).rglob("*"):
        if file.is_file():
            s3.upload_file(str(file), "volumes", file.relative_to(folder).as_posix())
    sys.stdout.write(json.dumps({"url": url, "version": version("moto")}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


READERS: dict[str, tuple[Callable[[Found], Found], str]] = {
    "zarr2": (zarr2, "zarr"),
    "zarr3": (zarr3, "zarr"),
    "tensorstore": (tensorstore, "tensorstore"),
    "z5py": (z5py, "z5py"),
    "h5py": (h5py, "h5py"),
    "models": (models, "ome-zarr-models"),
    "ome_zarr": (ome_zarr, "ome-zarr"),
}


def main() -> None:
    """A line for each array."""
    name, argument = sys.argv[1:]
    if name == "moto":
        moto(argument)
        return
    reader, package = READERS[name]
    for item in json.loads(Path(argument).read_text(encoding="utf-8")):
        try:
            said = compare(item, reader(item))
        except Exception as error:  # whatever a reader raises is what is to be reported
            said = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        about = {"item": item["name"], "format": item["format"]}
        line = {**about, "reader": f"{package} {version(package)}", **said}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
