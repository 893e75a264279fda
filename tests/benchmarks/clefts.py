"""Labels, instances and scores on a volume of CREMI's size, against the obvious ways in memory."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cc3d
import numpy as np
from scipy import ndimage

from cleftcli.blockwise import HERE
from cleftcli.geometry import BlockPlan, whole
from cleftcli.jobs.evaluate import evaluate
from cleftcli.jobs.make_labels import make_labels
from cleftcli.jobs.segment import Rule, segment
from cleftcli.labels import BACKGROUND
from cleftcli.volumes import Space, create_volume, open_volume
from tests.benchmarks import section
from tests.benchmarks.alone import cost
from tests.benchmarks.row import Row, Setting, at_least, at_most
from tests.benchmarks.timing import pair

SHAPE, VOXEL_SIZE = (125, 1250, 1250), (40.0, 4.0, 4.0)
EVALUATION = {
    "threshold": None,
    "sweeping": False,
    "min_voxels": [0],
    "roi": None,
    "voxel_size": None,
    "table": None,
    "save_to": None,
}


def stored(at: Setting) -> Path:
    """Clefts and a prediction of them in a volume of CREMI's size."""
    path, shape = at.folder / "clefts.zarr", at.shape(SHAPE)
    ids = section.clefts(shape, section.RARE)
    for name, data in (("clefts", ids), ("cleft", section.prediction(ids))):
        volume = create_volume(
            f"{path}/{name}",
            shape=shape,
            dtype=data.dtype,
            chunks=(16, 128, 128),
            space=Space(VOXEL_SIZE),
            attributes={"content": "probability" if name == "cleft" else "ids"},
        )
        for block in BlockPlan(whole(shape), (16, 1280, 1280)):
            volume.write(block.write, data[block.write.within(whole(shape))])
    return path


def label(clefts: str, output: str) -> None:
    """make-labels with nothing else given."""
    make_labels(
        clefts,
        output,
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


def instances(prediction: str, output: str) -> None:
    """segment with nothing else given."""
    options = {"table": None, "voxel_size": None, "format": None, "overwrite": False}
    segment(prediction, output, rule=Rule(), **options)


def score(prediction: str, truth: str) -> float | None:
    """The CREMI-score that evaluate finds, nm."""
    return evaluate([(prediction, truth)], **EVALUATION)["cremi_score"]


def labels_against_scipy(at: Setting) -> dict[str, float]:
    """make-labels, store to store, against scipy's distance transform in memory."""
    path, number = stored(at), _numbered()

    def ours() -> None:
        label(f"{path}/clefts", f"{at.folder}/labels{number()}.zarr")

    def theirs() -> None:
        inside = ndimage.distance_transform_edt(_true(path), sampling=VOXEL_SIZE)
        np.tanh(inside / min(VOXEL_SIZE)).astype(np.float32)

    return pair(ours, theirs, repeats=1)


def instances_against_cc3d(at: Setting) -> dict[str, float]:
    """segment, store to store, against cc3d on the whole volume in memory."""
    path, number = stored(at), _numbered()

    def ours() -> None:
        instances(f"{path}/cleft", f"{at.folder}/instances{number()}.zarr")

    def theirs() -> None:
        prediction = open_volume(f"{path}/cleft")
        levels = prediction.read(prediction.roi)
        labels = cc3d.connected_components((levels >= 127.5).view(np.uint8), connectivity=26)
        volume = create_volume(
            f"{at.folder}/whole{number()}.zarr/clefts",
            shape=prediction.shape,
            dtype=np.uint64,
            chunks=(16, 128, 128),
            space=Space(VOXEL_SIZE),
        )
        volume.write(volume.roi, labels.astype(np.uint64))
        cc3d.statistics(labels)

    return pair(ours, theirs, at.repeats)


def scores_against_edt(at: Setting) -> dict[str, float]:
    """The CREMI distances against two full distance transforms, as the reference does."""
    path, found = stored(at), {}

    def ours() -> None:
        found["ours"] = score(f"{path}/cleft", f"{path}/clefts")

    def theirs() -> None:
        prediction = open_volume(f"{path}/cleft")
        a, b = prediction.read(prediction.roi) > 127, _true(path)
        to_b = ndimage.distance_transform_edt(~b, sampling=VOXEL_SIZE)[a].mean()
        to_a = ndimage.distance_transform_edt(~a, sampling=VOXEL_SIZE)[b].mean()
        found["theirs"] = float(to_a + to_b) / 2

    row = pair(ours, theirs, repeats=1)
    apart = abs(found["ours"] - found["theirs"])
    if apart > 1e-6:
        raise AssertionError(f"{apart} nm apart from the reference's score")
    return {**row, "difference_nm": apart}


def memory_of_evaluate(at: Setting) -> dict[str, float]:
    """What evaluate holds at its height beside the libraries."""
    path = stored(at)
    found = cost(partial(score, f"{path}/cleft", f"{path}/clefts"))
    cleft_voxels = round(float(_true(path).mean() * 100), 2)
    return {"value": found["mb"], "cleft_voxels_percent": cleft_voxels}


def _numbered() -> Callable[[], int]:
    return iter(range(10**6)).__next__


def _true(path: Path) -> np.ndarray:
    clefts = open_volume(f"{path}/clefts")
    ids = clefts.read(clefts.roi)
    return (ids != BACKGROUND) & (ids != 0)


ROWS = (
    Row(
        "make-labels",
        "scipy EDT and tanh, whole volume",
        labels_against_scipy,
        at_least(6),
        limit=600,
        quick=False,
    ),
    Row("segment", "cc3d, whole volume in memory", instances_against_cc3d, at_least(0.66)),
    Row(
        "evaluate",
        "full EDT, as the CREMI reference",
        scores_against_edt,
        at_least(15),
        limit=600,
        why="less than runs differ by",
    ),
    Row(
        "evaluate, memory beside the libraries",
        "",
        memory_of_evaluate,
        at_most(300),
        unit="MB",
        quick=False,
    ),
)
