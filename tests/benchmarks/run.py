"""`make bench`: ratios of our way to the obvious way, side by side in one run, and as JSON.

Each pair is timed alternately; medians and the spread of the ratio are shown. Results go to
stdout and to benchmarks.json in the current folder.
"""

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorstore as ts
import torch
from scipy import ndimage

from cleftcli.foreground import Foreground
from cleftcli.geometry import Roi, between, whole
from cleftcli.jobs.info import info
from cleftcli.jobs.make_labels import make_labels
from cleftcli.jobs.predict import Settings, plan, predict
from cleftcli.labels import BACKGROUND
from cleftcli.metrics import scores
from cleftcli.model.device import cores
from cleftcli.model.inference import load_predictor
from cleftcli.scoring import Pair
from cleftcli.synthetic import tissue
from cleftcli.volumes import AS_STORED, Space, create_volume, open_volume

BULK, CHUNK = (96, 2048, 1024), (16, 128, 128)
SHAPE, VOXEL_SIZE = (40, 512, 512), (40.0, 8.0, 8.0)
REPEATS = 3


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pair(ours: Callable[[], object], theirs: Callable[[], object]) -> dict[str, float]:
    """How many times as long theirs takes, median and range over alternating repeats."""
    times = [(seconds(ours), seconds(theirs)) for _ in range(REPEATS)]
    ratios = [b / a for a, b in times]
    return {
        "ours_s": round(statistics.median(a for a, _ in times), 3),
        "theirs_s": round(statistics.median(b for _, b in times), 3),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
    }


def stored(folder: Path) -> Path:
    """A container with raw, clefts, and a shifted copy of the truth as a prediction."""
    grown = tissue(SHAPE, VOXEL_SIZE, seed=1)
    moved = np.roll(grown.clefts != BACKGROUND, (1, 3, 2), (0, 1, 2)).astype(np.uint8) * 255
    path = folder / "volume.zarr"
    for name, data in (("raw", grown.raw), ("clefts", grown.clefts), ("cleft", moved)):
        volume = create_volume(
            f"{path}/{name}",
            shape=SHAPE,
            dtype=data.dtype,
            chunks=(16, 128, 128),
            space=Space(VOXEL_SIZE),
        )
        volume.write(volume.roi, data)
    return path


def labels_against_scipy(path: Path) -> dict[str, float]:
    """make-labels, store to store, against scipy's distance transforms in memory."""
    counter = iter(range(10**6))

    def ours() -> None:
        make_labels(
            f"{path}/clefts",
            f"{path.parent}/labels{next(counter)}.zarr",
            target="tanh-distance",
            scale=None,
            unit=None,
            voxel_size=None,
            missing="fill",
            workers=1,
            overwrite=False,
            report=lambda *_: None,
        )

    def theirs() -> None:
        mask = open_volume(f"{path}/clefts").read(whole(SHAPE)) != BACKGROUND
        inside = ndimage.distance_transform_edt(mask, sampling=VOXEL_SIZE)
        outside = ndimage.distance_transform_edt(~mask, sampling=VOXEL_SIZE)
        np.tanh((inside - outside) / min(VOXEL_SIZE)).astype(np.float32)

    return pair(ours, theirs)


def scores_against_edt(path: Path) -> dict[str, float]:
    """The CREMI distances against two full distance transforms, as the reference does."""
    prediction, truth = open_volume(f"{path}/cleft"), open_volume(f"{path}/clefts")
    of = Pair(
        Foreground(prediction, "probability", 0.5),
        Foreground(truth, "ids", None),
        whole(SHAPE),
        VOXEL_SIZE,
    )
    found: dict[str, float] = {}

    def ours() -> None:
        found["ours"] = float(scores(of.compare())["cremi_score"] or 0)

    def theirs() -> None:
        a, b = prediction.read(whole(SHAPE)) > 0, truth.read(whole(SHAPE)) != BACKGROUND
        to_b = ndimage.distance_transform_edt(~b, sampling=VOXEL_SIZE)[a].mean()
        to_a = ndimage.distance_transform_edt(~a, sampling=VOXEL_SIZE)[b].mean()
        found["theirs"] = (to_a + to_b) / 2

    row = pair(ours, theirs)
    return {**row, "difference_nm": float(abs(found["ours"] - found["theirs"]))}


def prediction_against_bare_network(path: Path) -> dict[str, float]:
    """predict, store to store, against the network alone on as many tiles."""
    settings = Settings(volume=f"{path}/raw", output=f"{path.parent}/p0.zarr")
    planned = plan(settings)
    predictor = load_predictor(
        planned.process.checkpoint_path,
        device=torch.device("cpu"),
        precision=planned.process.precision,
        batch_size=1,
        threads=cores(),
    )
    tile = np.zeros(planned.checkpoint.input_shape, np.float32)
    predictor.probabilities([tile])
    tiles = int(planned.summary()["tiles"])
    counter = iter(range(1, 10**6))

    def ours() -> None:
        out = f"{path.parent}/p{next(counter)}.zarr"
        again = Settings(volume=settings.volume, output=out)
        predict(again, overwrite=False, report=lambda *_: None)

    def theirs() -> None:
        for _ in range(tiles):
            predictor.probabilities([tile])

    return {**pair(ours, theirs), "tiles": tiles}


def noise() -> np.ndarray:
    """A volume that compresses as little as EM does."""
    smooth = np.random.default_rng(1).normal(128, 20, BULK).astype(np.uint8)
    return smooth // 4 * 4


def bare(path: Path, *, create: bool) -> ts.TensorStore:
    """A zarr v2 array as cleft writes it, by tensorstore alone."""
    spec = {"driver": "zarr", "kvstore": f"file://{path}/"}
    if create:
        spec["metadata"] = {
            "shape": list(BULK),
            "chunks": list(CHUNK),
            "dtype": "|u1",
            "dimension_separator": "/",
            "compressor": {"id": "zstd", "level": 3},
        }
    return ts.open(spec, create=create).result()


def blocks_of(data_shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Boxes of 16x512x512."""
    steps = (16, 512, 512)
    starts = np.ndindex(*(-(-n // s) for n, s in zip(data_shape, steps, strict=True)))
    return [
        tuple(slice(i * s, (i + 1) * s) for i, s in zip(at, steps, strict=True)) for at in starts
    ]


def writing_against_tensorstore(path: Path) -> dict[str, float]:
    """Volume.write against tensorstore with the same chunks and codec."""
    data, counter = noise(), iter(range(10**6))
    boxes = blocks_of(data.shape)

    def ours() -> None:
        volume = create_volume(
            f"{path.parent}/w{next(counter)}.zarr/raw",
            shape=BULK,
            dtype=np.uint8,
            chunks=CHUNK,
            space=Space(VOXEL_SIZE),
        )
        for box in boxes:
            volume.write(roi_of(box), data[box])

    def theirs() -> None:
        store = bare(path.parent / f"t{next(counter)}", create=True)
        for box in boxes:
            store[box].write(data[box]).result()

    return pair(ours, theirs)


def reading_against_tensorstore(path: Path) -> dict[str, float]:
    """Volume.read against tensorstore on arrays that neither has seen: no cache helps."""
    data, boxes = noise(), blocks_of(BULK)
    copies = [path.parent / f"bulk{n}.zarr/raw" for n in range(2 * REPEATS)]
    for copy in copies:
        bare(copy, create=True)[...].write(data).result()
    unseen = iter(copies)

    def ours() -> None:
        volume = open_volume(str(next(unseen)))
        for box in boxes:
            volume.read(roi_of(box))

    def theirs() -> None:
        store = bare(next(unseen), create=False)
        for box in boxes:
            store[box].read().result()

    return pair(ours, theirs)


def roi_of(box: tuple[slice, ...]) -> Roi:
    """A box of slices as a roi."""
    z, y, x = box
    return between((z.start, y.start, x.start), (z.stop, y.stop, x.stop))


def info_of_many_chunks(path: Path) -> dict[str, float]:
    """info on a store of 1e5 chunks against listing its files with their sizes."""
    edge = 4
    counts = (40, 50, 50)
    shape = tuple(n * edge for n in counts)
    folder = path.parent / "many.zarr"
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

    return {**pair(lambda: info(str(folder), AS_STORED), theirs), "chunks": int(np.prod(counts))}


ROWS = {
    "read / bare tensorstore, same chunks": reading_against_tensorstore,
    "write / bare tensorstore, same chunks": writing_against_tensorstore,
    "info, 1e5 chunks / listing them": info_of_many_chunks,
    "make-labels / scipy EDT + tanh, whole volume": labels_against_scipy,
    "evaluate / full EDT": scores_against_edt,
    "predict / bare network, same tiles": prediction_against_bare_network,
}


def main() -> None:
    """Print the table and write it."""
    found: dict[str, object] = {
        "machine": f"{platform.machine()}, {cores()} cores",
        "torch": torch.__version__,
        "volume": f"synthetic, {'x'.join(map(str, SHAPE))}",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = stored(Path(folder))
        for name, row in ROWS.items():
            found[name] = measured = row(path)
            print(f"{name:48} {measured['ratio']:6.2f}x  {measured}", flush=True)  # noqa: T201
    Path("benchmarks.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
