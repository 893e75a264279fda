"""Reading, writing and describing volumes, against the engine below and the file system."""

from pathlib import Path

import numpy as np
import tensorstore as ts

from cleftcli.geometry import Roi, Zyx, between
from cleftcli.jobs.info import info
from cleftcli.volumes import AS_STORED, Space, create_volume, open_volume
from tests.benchmarks.row import Row, Setting, at_least
from tests.benchmarks.timing import pair

BULK, CHUNK = (96, 2048, 1024), (16, 128, 128)
VOXEL_SIZE = (40.0, 8.0, 8.0)


def noise(shape: Zyx) -> np.ndarray:
    """A volume that compresses as little as EM does."""
    smooth = np.random.default_rng(1).normal(128, 20, shape).astype(np.uint8)
    return smooth // 4 * 4


def bare(path: Path, shape: Zyx | None = None) -> ts.TensorStore:
    """A zarr v2 array as cleft writes it, by tensorstore alone; made where a shape is given."""
    spec = {"driver": "zarr", "kvstore": f"file://{path}/"}
    if shape:
        spec["metadata"] = {
            "shape": list(shape),
            "chunks": list(CHUNK),
            "dtype": "|u1",
            "dimension_separator": "/",
            "compressor": {"id": "zstd", "level": 3},
        }
    return ts.open(spec, create=shape is not None).result()


def blocks_of(shape: Zyx) -> list[tuple[slice, ...]]:
    """Boxes of 16x512x512."""
    steps = (16, 512, 512)
    starts = np.ndindex(*(-(-n // s) for n, s in zip(shape, steps, strict=True)))
    return [
        tuple(slice(i * s, min(i * s + s, n)) for i, s, n in zip(at, steps, shape, strict=True))
        for at in starts
    ]


def writing_against_tensorstore(at: Setting) -> dict[str, float]:
    """Volume.write against tensorstore with the same chunks and codec."""
    data, counter = noise(at.shape(BULK)), iter(range(10**6))
    boxes = blocks_of(data.shape)

    def ours() -> None:
        volume = create_volume(
            f"{at.folder}/w{next(counter)}.zarr/raw",
            shape=data.shape,
            dtype=np.uint8,
            chunks=CHUNK,
            space=Space(VOXEL_SIZE),
        )
        for box in boxes:
            volume.write(roi_of(box), data[box])

    def theirs() -> None:
        store = bare(at.folder / f"t{next(counter)}", data.shape)
        for box in boxes:
            store[box].write(data[box]).result()

    return pair(ours, theirs, at.repeats)


def reading_against_tensorstore(at: Setting) -> dict[str, float]:
    """Volume.read against tensorstore on arrays that neither has seen: no cache helps."""
    data = noise(at.shape(BULK))
    boxes = blocks_of(data.shape)
    copies = [at.folder / f"bulk{n}.zarr/raw" for n in range(2 * at.repeats)]
    for copy in copies:
        bare(copy, data.shape)[...].write(data).result()
    unseen = iter(copies)

    def ours() -> None:
        volume = open_volume(str(next(unseen)))
        for box in boxes:
            volume.read(roi_of(box))

    def theirs() -> None:
        store = bare(next(unseen))
        for box in boxes:
            store[box].read().result()

    return pair(ours, theirs, at.repeats)


def roi_of(box: tuple[slice, ...]) -> Roi:
    """A box of slices as a roi."""
    z, y, x = box
    return between((z.start, y.start, x.start), (z.stop, y.stop, x.stop))


def info_of_many_chunks(at: Setting) -> dict[str, float]:
    """info on a store of 1e5 chunks against listing its files with their sizes."""
    edge = 4
    counts = (at.count(40), 50, 50)
    shape = tuple(n * edge for n in counts)
    folder = at.folder / "many.zarr"
    volume = create_volume(
        f"{folder}/raw",
        shape=shape,
        dtype=np.uint8,
        chunks=(edge,) * 3,
        space=Space(VOXEL_SIZE),
    )
    volume.write(
        Roi((0, 0, 0), (edge,) * 3), np.arange(edge**3, dtype=np.uint8).reshape((edge,) * 3)
    )
    chunk = (folder / "raw/0/0/0").read_bytes()
    for z, y in np.ndindex(*counts[:2]):
        row = folder / f"raw/{z}/{y}"
        row.mkdir(parents=True, exist_ok=True)
        for x in range(counts[2]):
            (row / str(x)).write_bytes(chunk)

    def theirs() -> None:
        sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())

    row = pair(lambda: info(str(folder), AS_STORED), theirs, at.repeats)
    return {**row, "chunks": int(np.prod(counts))}


ROWS = (
    Row(
        "read",
        "bare tensorstore, same chunks",
        reading_against_tensorstore,
        at_least(0.9),
        why="64 MB of decoded chunks are kept, with which blocks that share chunks are 7 times as "
        "fast; without them it is as fast",
    ),
    Row("write", "bare tensorstore, same chunks", writing_against_tensorstore, at_least(0.9)),
    Row("info of 1e5 chunks", "listing their files", info_of_many_chunks, None),
)
