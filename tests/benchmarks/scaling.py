"""How cost grows: each size in a process of its own, seconds and memory, and what that says."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from cleftcli.blockwise import Workers
from cleftcli.geometry import BlockPlan, Zyx, whole, zyx
from cleftcli.labels import BACKGROUND
from cleftcli.volumes import Space, create_volume
from tests.benchmarks import section
from tests.benchmarks.alone import cost
from tests.benchmarks.clefts import instances, label, score
from tests.benchmarks.predictions import run, run_nothing
from tests.benchmarks.row import Row, Setting, at_most

PIECE = (16, 512, 512)
TILES = {1: (1, 1, 1), 4: (1, 2, 2), 16: (4, 2, 2), 64: (4, 4, 4)}
BLOCKS = ((32, 512, 512), (16, 256, 256), (16, 128, 128))
KEPT = (16, 4, 1)  # one of so many clefts
CONTENT = {"raw": {}, "clefts": {"content": "ids"}, "cleft": {"content": "probability"}}
STRAIGHT = 0.1  # from exponent 1
SHAPES = {  # up to these exponents
    -STRAIGHT: "it shrinks",
    STRAIGHT: "it stays",
    1 - STRAIGHT: "less than in proportion",
    1 + STRAIGHT: "a straight line",
    math.inf: "more than in proportion",
}
Size = tuple[str, float, Callable[[], object]]  # its name, how much it is, the work


def tiled(address: str, piece: np.ndarray, times: int) -> str:
    """A volume that repeats a piece; its address."""
    shape = zyx([n * m for n, m in zip(piece.shape, TILES[times], strict=True)])
    volume = create_volume(
        address,
        shape=shape,
        dtype=piece.dtype,
        chunks=(16, 128, 128),
        space=Space(section.VOXEL_SIZE),
        attributes=CONTENT[address.rpartition("/")[2]],
    )
    for block in BlockPlan(whole(shape), zyx(piece.shape)):
        volume.write(block.write, piece)
    return address


def swept(of: str, sizes: Iterable[Size]) -> dict[str, Any]:
    """Cost at each size; `value` is the exponent with which time grows over the last step."""
    found = [{"name": name, "amount": amount, **cost(work)} for name, amount, work in sizes]
    rates = [line["seconds"] / line["amount"] for line in found]
    for line, rate in zip(found, rates, strict=True):
        line["per_unit"] = round(rate / rates[0], 3)
    return {**reading(of, found), "of": of, "sizes": found}


def reading(of: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """What the last step says: the exponent of time, and a sentence."""
    before, last = list(pairwise(found))[-1]
    more = last["amount"] / before["amount"]
    exponent = math.log(last["seconds"] / before["seconds"]) / math.log(more)
    shape = next(words for most, words in SHAPES.items() if exponent <= most)
    memory = last["mb"] / max(before["mb"], 1)
    says = f"{shape}: with {more:.3g} times the {of}, {more**exponent:.3g} times the time"
    return {"value": round(exponent, 3), "says": f"{says} and {memory:.2f} times the memory"}


def _times(at: Setting) -> list[int]:
    return [n for n in TILES if n <= at.times]


def prediction_by_volume(at: Setting) -> dict[str, Any]:
    """predict, with a network that does nothing."""
    raw = section.raw(at.shape(PIECE))

    def work(times: int) -> Callable[[], object]:
        volume = tiled(f"{at.folder}/{times}.zarr/raw", raw, times)
        return partial(run_nothing, volume, f"{at.folder}/{times}_made.zarr")

    return swept("volume", ((f"{n}x", n, work(n)) for n in _times(at)))


def clefts_by_volume(
    job: Callable[..., object], reads: tuple[str, ...], at: Setting
) -> dict[str, Any]:
    """A job that reads clefts, or a prediction of them, or both, and may write an output."""
    ids = section.clefts(at.shape(PIECE), section.RARE)
    pieces = {"clefts": ids, "cleft": section.prediction(ids)}

    def work(times: int) -> Callable[[], object]:
        folder = f"{at.folder}/{times}"
        read = [tiled(f"{folder}.zarr/{name}", pieces[name], times) for name in reads]
        return partial(job, *read, *([] if job is score else [f"{folder}_made.zarr"]))

    return swept("volume", ((f"{n}x", n, work(n)) for n in _times(at)))


def prediction_by_blocks(at: Setting) -> dict[str, Any]:
    """predict, with a network that does nothing, on one volume in more and more blocks."""
    times = min(16, at.times)
    raw = section.raw(at.shape(PIECE))
    volume = tiled(f"{at.folder}/raw.zarr/raw", raw, times)
    shape = zyx([n * m for n, m in zip(raw.shape, TILES[times], strict=True)])

    def size(block: Zyx) -> Size:
        count = len(BlockPlan(whole(shape), block))
        work = partial(run_nothing, volume, f"{at.folder}/{count}.zarr", block=block)
        return f"{count} blocks", count, work

    return swept("blocks", map(size, BLOCKS))


def evaluation_by_clefts(at: Setting) -> dict[str, Any]:
    """Evaluate on one volume with more and more clefts."""
    times = min(16, at.times)

    def size(kept: int) -> Size:
        ids = section.clefts(at.shape(PIECE), kept)
        truth = tiled(f"{at.folder}/{kept}.zarr/clefts", ids, times)
        prediction = tiled(f"{at.folder}/{kept}.zarr/cleft", section.prediction(ids), times)
        voxels = int((ids != BACKGROUND).sum()) * times
        return f"{voxels} cleft voxels", voxels, partial(score, prediction, truth)

    return swept("clefts", map(size, KEPT))


def prediction_by_workers(at: Setting) -> dict[str, Any]:
    """predict with one worker and with two, that share the cores of this machine."""
    raw = section.raw(at.shape(PIECE))
    volume = tiled(f"{at.folder}/raw.zarr/raw", raw, 1)
    z, y, x = raw.shape

    def size(count: int) -> Size:
        options = {"block": (z, y // 2, x // 2), "workers": Workers(count)}
        return str(count), count, partial(run, volume, f"{at.folder}/{count}.zarr", **options)

    return swept("workers", map(size, (1, 2)))


STRAIGHT_LINE = at_most(1 + STRAIGHT)
ROWS = (
    Row(
        "predict, network that does nothing, by volume",
        "",
        prediction_by_volume,
        STRAIGHT_LINE,
        unit="",
    ),
    *(
        Row(
            f"{name}, by volume",
            "",
            partial(clefts_by_volume, job, reads),
            STRAIGHT_LINE,
            unit="",
            limit=600,
        )
        for name, job, reads in (
            ("make-labels", label, ("clefts",)),
            ("segment", instances, ("cleft",)),
            ("evaluate", score, ("cleft", "clefts")),
        )
    ),
    Row("evaluate, by clefts", "", evaluation_by_clefts, STRAIGHT_LINE, unit=""),
    Row("predict, network that does nothing, by blocks", "", prediction_by_blocks, None, unit=""),
    Row(
        "predict, by workers on the same cores",
        "",
        prediction_by_workers,
        None,
        unit="",
        quick=False,
        why="two processes wait less than two threads of one; memory is that of the command alone",
    ),
)
