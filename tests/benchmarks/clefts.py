"""Labels, instances and scores on a volume of CREMI's size, against the obvious ways in memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cc3d
import numpy as np
from scipy import ndimage
from timing import pair, seconds

from cleftcli.blockwise import HERE
from cleftcli.geometry import BlockPlan, whole
from cleftcli.jobs.evaluate import evaluate
from cleftcli.jobs.make_labels import make_labels
from cleftcli.jobs.segment import Rule, segment
from cleftcli.labels import BACKGROUND
from cleftcli.synthetic import tissue
from cleftcli.volumes import Space, create_volume, open_volume

SHAPE, VOXEL_SIZE = (125, 1250, 1250), (40.0, 4.0, 4.0)
PIECE, KEPT = (40, 512, 512), 7  # of the clefts of synthetic tissue, every seventh: as rare as real
EVALUATION = {
    "threshold": None,
    "sweeping": False,
    "min_voxels": [0],
    "roi": None,
    "voxel_size": None,
    "table": None,
    "save_to": None,
}
# what a process holds at its height beside the libraries that it has imported, MB
MEMORY = """
import json, pathlib, re, sys
def held(what):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(what + r":\\s+(\\d+)", status)[1]) / 1024
from cleftcli.jobs.evaluate import evaluate
before = held("VmRSS")
evaluate([tuple(sys.argv[1:3])], **json.loads(sys.argv[3]))
print(held("VmHWM") - before)
"""


def stored(folder: Path, times: int = 1) -> Path:
    """Clefts and a prediction of them, moved by 1, 3 and 2 voxels; made once.

    A volume `times` as large holds the same clefts in its first part.
    """
    path = folder / f"clefts{times}.zarr"
    if path.exists():
        return path
    ids = tissue(PIECE, (40.0, 8.0, 8.0), seed=1).clefts
    ids[(ids % KEPT != 0) & (ids != BACKGROUND)] = BACKGROUND
    repeats = [-(-n // m) for n, m in zip(SHAPE, PIECE, strict=True)]
    clefts = np.tile(ids, repeats)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    moved = np.roll(clefts != BACKGROUND, (1, 3, 2), (0, 1, 2)).astype(np.uint8) * 255
    for name, data in (("clefts", clefts), ("cleft", moved)):
        volume = create_volume(
            f"{path}/{name}",
            shape=(SHAPE[0] * times, *SHAPE[1:]),
            dtype=data.dtype,
            chunks=(16, 128, 128),
            space=Space(VOXEL_SIZE),
            attributes={"content": "probability" if name == "cleft" else "ids"},
        )
        for block in BlockPlan(whole(SHAPE), (16, 1280, 1280)):
            volume.write(block.write, data[block.write.within(whole(SHAPE))])
    return path


def _numbered() -> Callable[[], int]:
    return iter(range(10**6)).__next__


def labels_against_scipy(folder: Path) -> dict[str, float]:
    """make-labels, store to store, against scipy's distance transforms in memory."""
    path, number = stored(folder), _numbered()

    def ours() -> None:
        make_labels(
            f"{path}/clefts",
            f"{folder}/labels{number()}.zarr",
            target="tanh-distance",
            scale=None,
            unit=None,
            voxel_size=None,
            format=None,
            missing="fill",
            workers=HERE,
            overwrite=False,
            report=lambda *_: None,
        )

    def theirs() -> None:
        mask = _true(path)
        inside = ndimage.distance_transform_edt(mask, sampling=VOXEL_SIZE)
        outside = ndimage.distance_transform_edt(~mask, sampling=VOXEL_SIZE)
        np.tanh((inside - outside) / min(VOXEL_SIZE)).astype(np.float32)

    return pair(ours, theirs, repeats=1)


def instances_against_cc3d(folder: Path) -> dict[str, float]:
    """segment, store to store, against cc3d on the whole volume in memory."""
    path, number = stored(folder), _numbered()

    def ours() -> None:
        output = f"{folder}/instances{number()}.zarr"
        options = {"table": None, "voxel_size": None, "format": None, "overwrite": False}
        segment(f"{path}/cleft", output, rule=Rule(), **options)

    def theirs() -> None:
        levels = open_volume(f"{path}/cleft").read(whole(SHAPE))
        labels = cc3d.connected_components((levels >= 127.5).view(np.uint8), connectivity=26)
        volume = create_volume(
            f"{folder}/whole{number()}.zarr/clefts",
            shape=SHAPE,
            dtype=np.uint64,
            chunks=(16, 128, 128),
            space=Space(VOXEL_SIZE),
        )
        volume.write(volume.roi, labels.astype(np.uint64))
        cc3d.statistics(labels)

    return pair(ours, theirs)


def scores_against_edt(folder: Path) -> dict[str, float]:
    """The CREMI distances against two full distance transforms, as the reference does."""
    path, found = stored(folder), {}

    def ours() -> None:
        of = evaluate([(f"{path}/cleft", f"{path}/clefts")], **EVALUATION)
        found["ours"] = float(of["cremi_score"])

    def theirs() -> None:
        a, b = open_volume(f"{path}/cleft").read(whole(SHAPE)) > 127, _true(path)
        to_b = ndimage.distance_transform_edt(~b, sampling=VOXEL_SIZE)[a].mean()
        to_a = ndimage.distance_transform_edt(~a, sampling=VOXEL_SIZE)[b].mean()
        found["theirs"] = float(to_a + to_b) / 2

    row = pair(ours, theirs, repeats=1)
    return {
        **row,
        "difference_nm": abs(found["ours"] - found["theirs"]),
        "beside_the_libraries_MB": round(_memory(path)),
        "cleft_voxels_percent": round(float(_true(path).mean() * 100), 2),
    }


def growth_of_evaluate(folder: Path) -> dict[str, float]:
    """evaluate on the same clefts in a volume 1, 2 and 4 times as large."""
    times = {}
    for n in (1, 2, 4):
        path = stored(folder, n)
        found = seconds(lambda p=path: evaluate([(f"{p}/cleft", f"{p}/clefts")], **EVALUATION))
        times[f"x{n}_s"] = round(found, 2)
        times[f"x{n}_MB"] = round(_memory(path))
    return {"ratio": round(times["x4_s"] / times["x1_s"], 2), **times}


def _true(path: Path) -> np.ndarray:
    ids = open_volume(f"{path}/clefts").read(whole(SHAPE))
    return (ids != BACKGROUND) & (ids != 0)


def _memory(path: Path) -> float:
    addresses = [f"{path}/cleft", f"{path}/clefts", json.dumps(EVALUATION)]
    command = [sys.executable, "-c", MEMORY, *addresses]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


ROWS = {
    "make-labels / scipy EDT + tanh, whole volume": labels_against_scipy,
    "segment / cc3d, whole volume": instances_against_cc3d,
    "evaluate / full EDT": scores_against_edt,
    "evaluate, same clefts in 1x, 2x, 4x": growth_of_evaluate,
}
