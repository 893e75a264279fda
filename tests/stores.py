"""Stores of every format as other programs write them: what the tests of volumes read."""

import itertools
import json

import h5py
import numpy as np
import tensorstore as ts
import tifffile
import zarr

from cleftcli.volumes import FORMATS, Space, create_volume

SHAPE, CHUNKS = (5, 7, 11), (2, 3, 4)
SPACE = Space((40.0, 4.0, 5.0), (80.0, 12.0, 25.0))
DTYPES = ("uint8", "uint16", "uint64", "float32")
CHUNKED = sorted(name for name, f in FORMATS.items() if f.suffixes)
DOCUMENT = {"zarr2": ".zarray", "zarr3": "zarr.json", "n5": "attributes.json"}

# What a format has no place for, and why. Tests assert what is read instead.
LACKS = {
    "offset": {"tiff": "states no position in the tissue"},
    "attributes": {"precomputed": "info has fields of its own only", "tiff": "has tags only"},
    "several arrays": {
        "precomputed": "holds one volume, in scales",
        "tiff": "holds one stack",
    },
    "holes": {"tiff": "a file holds all its pages; folders are in test_tiff.py"},
    "silence": {"precomputed": "info always states a resolution"},
    "bool": {"n5": "has no such type", "precomputed": "has no such type"},
}


def able(what):
    """The formats that have a place for it."""
    return [name for name in FORMATS if name not in LACKS[what]]


def some_voxels(dtype, shape=SHAPE):
    """Random voxels that hold the extremes of their dtype."""
    random = np.random.default_rng(0)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    if dtype.kind == "f":
        data = random.standard_normal(shape).astype(dtype)
        data.flat[:3] = [np.finfo(dtype).max, np.finfo(dtype).tiny, -0.1]
        return data
    native = dtype.newbyteorder("=")
    top = np.iinfo(native).max
    data = random.integers(0, top, shape, native, endpoint=True)
    data.flat[:3] = [top, 0, top - 1]
    return data.astype(dtype)


def marked(place, shape=SHAPE, dtype=np.uint8):
    """Zeros, but 9 in one voxel."""
    data = np.zeros(shape, dtype)
    data[place] = 9
    return data


def created(folder, format, data=None, *, name="volumes/raw", space=SPACE, **more):
    """A zarr or N5 array that cleft itself made, filled with `data` where it is given: its address.

    Without data it has the `shape` and `dtype` in `more`.
    """
    dtype = more.get("dtype", np.uint8) if data is None else data.dtype
    address = f"{folder}/{format}{FORMATS[format].suffixes[0]}/{name}".rstrip("/")
    volume = create_volume(
        address,
        shape=SHAPE if data is None else data.shape,
        dtype=dtype,
        chunks=CHUNKS,
        space=space,
        attributes=more.get("attributes", {}),
        format=format,
    )
    if data is not None:
        volume.write(volume.roi, data)
    return address


def edit(path, change):
    """Apply `change` to the JSON document at `path`."""
    document = json.loads(path.read_text()) if path.exists() else {}
    change(document)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def cremi(space, attributes):
    """CREMI's attributes for a space, beside others."""
    stated = {"resolution": list(space.voxel_size)} if space.voxel_size else {}
    return {**stated, **({"offset": list(space.offset)} if stated else {}), **attributes}


def zarr_array(container, name, data, *, version, attributes=None, **options):
    """An array that zarr-python wrote; groups above it are there."""
    group = zarr.open_group(container, mode="a", zarr_format=version)
    array = group.create_array(
        name, shape=data.shape, dtype=data.dtype, chunks=options.pop("chunks", CHUNKS), **options
    )
    array[...] = data
    array.attrs.update(attributes or {})
    return f"{container}/{name}"


def n5_array(container, name, data, *, compression=None, attributes=None, chunks=CHUNKS, root=True):
    """An N5 array with a hand-made document; `data` and `chunks` are zyx, the document is xyz."""
    metadata = {
        "dimensions": list(data.shape[::-1]),
        "blockSize": list(chunks[::-1]),
        "dataType": data.dtype.newbyteorder("=").name,
        "compression": compression or {"type": "gzip"},
    }
    array = ts.open(
        {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": f"{container}/{name}/"},
            "metadata": metadata,
        },
        create=True,
    ).result()
    array.T.write(data).result()
    if root:
        edit(container / "attributes.json", lambda d: d.setdefault("n5", "2.5.1"))
    edit(container / name / "attributes.json", lambda d: d.update(attributes or {}))
    return f"{container}/{name}"


def _zarr(version):
    def write(folder, data, name="volumes/raw", space=SPACE, attributes=None):
        container = folder / f"zarr{version}.zarr"
        stated = cremi(space, attributes or {})
        return zarr_array(container, name, data, version=version, attributes=stated)

    return write


def _n5(folder, data, name="volumes/raw", space=SPACE, attributes=None):
    turned = {
        k: v[::-1] if k in ("resolution", "offset") else v
        for k, v in cremi(space, attributes or {}).items()
    }
    return n5_array(folder / "n5.n5", name, data, attributes=turned)


def _precomputed(folder, data, name="volumes/raw", space=SPACE, attributes=None):
    assert not attributes, LACKS["attributes"]["precomputed"]
    container = folder / "precomputed.precomputed"
    sizes = space.voxel_size or (1.0, 1.0, 1.0)
    start = [round(o / v) for o, v in zip(space.offset, sizes, strict=True)][::-1]
    return precomputed_array(container, name, data, resolution=sizes[::-1], voxel_offset=start)


def precomputed_array(
    container, key, data, *, resolution=(5, 4, 40), voxel_offset=(0, 0, 0), **more
):
    """A scale of a precomputed volume, raw, chunks as everywhere here; `data` may have channels."""
    channels = data.shape[3] if data.ndim == 4 else 1
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{container}/"},
        "multiscale_metadata": {
            "type": "image",
            "data_type": data.dtype.newbyteorder("=").name,
            "num_channels": channels,
        },
        "scale_metadata": {
            "key": key,
            "size": list(data.shape[2::-1]),
            "resolution": list(resolution),
            "voxel_offset": list(voxel_offset),
            "encoding": "raw",
            "chunk_size": list(CHUNKS[::-1]),
            **more,
        },
    }
    array = ts.open(spec, create=True).result()
    zyxc = data.reshape(*data.shape[:3], channels)
    array.write(zyxc.transpose(2, 1, 0, 3)).result()
    return f"{container}/{key}"


def _hdf5(folder, data, name="volumes/raw", space=SPACE, attributes=None):
    container = folder / "hdf5.hdf"
    with h5py.File(container, "a") as file:
        item = file.create_dataset(name, data.shape, data.dtype, chunks=CHUNKS, compression="gzip")
        starts = [range(0, n, c) for n, c in zip(data.shape, CHUNKS, strict=True)]
        for corner in itertools.product(*starts):  # chunks of zeros are left out, as elsewhere
            box = tuple(slice(o, o + c) for o, c in zip(corner, CHUNKS, strict=True))
            if data[box].any():
                item[box] = data[box]
        item.attrs.update(cremi(space, attributes or {}))
    return f"{container}/{name}"


def _tiff(folder, data, name="volumes/raw", space=SPACE, attributes=None):
    assert not attributes, LACKS["attributes"]["tiff"]
    path = folder / "tiff.tif"
    order = ">" if data.dtype.byteorder == ">" else "<"
    kind = data.dtype.newbyteorder("=").name
    if space.voxel_size is None or kind == "uint64":  # neither ImageJ nor OME has it
        tifffile.imwrite(path, data, photometric="minisblack", byteorder=order)
    elif kind in ("uint8", "uint16", "float32"):
        imagej_stack(path, data, space.voxel_size, byteorder=order)
    else:
        ome_stack(path, data, space.voxel_size, byteorder=order)
    return str(path)


def imagej_stack(path, data, sizes, unit="nm", axes="ZYX", **more):
    """A hyperstack with ImageJ's spacing, unit and resolution."""
    metadata = {"axes": axes, "spacing": sizes[0], "unit": unit}
    resolution = (1 / sizes[2], 1 / sizes[1])
    tifffile.imwrite(path, data, imagej=True, resolution=resolution, metadata=metadata, **more)


def ome_stack(path, data, sizes, unit="nm", axes="ZYX", **more):
    """A stack with OME-XML."""
    metadata = {"axes": axes}
    for axis, size in zip("ZYX", sizes, strict=True):
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    more.setdefault("photometric", "minisblack")
    tifffile.imwrite(path, data, ome=True, metadata=metadata, **more)


# format -> function(folder, data, name, space, attributes) -> address
WRITERS = {
    "zarr2": _zarr(2),
    "zarr3": _zarr(3),
    "n5": _n5,
    "precomputed": _precomputed,
    "hdf5": _hdf5,
    "tiff": _tiff,
}
