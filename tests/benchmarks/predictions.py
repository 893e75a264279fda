"""Prediction, store to store, against the network alone."""

from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from cleftcli.blockwise import in_one_thread
from cleftcli.geometry import Zyx
from cleftcli.jobs.predict import predict
from cleftcli.machine import cores
from cleftcli.model.device import tiles_at_once
from cleftcli.model.inference import Predictor, load_predictor
from cleftcli.model.objectives import objective
from cleftcli.prediction_plan import plan
from cleftcli.prediction_settings import Settings
from cleftcli.volumes import Space, Volume, create_volume, open_volume
from tests.benchmarks import section
from tests.benchmarks.alone import cost
from tests.benchmarks.row import Row, Setting, at_least, at_most
from tests.benchmarks.timing import pair

SHAPE, LARGE = (16, 512, 512), (64, 2048, 2048)


def stored(folder: Path, shape: Zyx) -> Path:
    """A container with raw sections."""
    path, raw = folder / "volume.zarr", section.raw(shape)
    volume = create_volume(
        f"{path}/raw",
        shape=shape,
        dtype=raw.dtype,
        chunks=(16, 128, 128),
        space=Space(section.VOXEL_SIZE),
    )
    volume.write(volume.roi, raw)
    return path


def empty_like(source: Volume, address: str) -> Volume:
    """A volume of a source's shape, to copy it to."""
    return create_volume(
        address,
        shape=source.shape,
        dtype=source.dtype,
        chunks=(16, 128, 128),
        space=source.space,
    )


def run(volume: str, output: str, **settings: Any) -> None:
    """predict, with the shipped checkpoint."""
    predict(Settings(volume, output, **settings), overwrite=False, report=lambda *_: None)


def prediction_against_bare_network(at: Setting) -> dict[str, float]:
    """predict, store to store, against the network alone on as many tiles."""
    path = stored(at.folder, at.shape(SHAPE))
    settings = Settings(f"{path}/raw", f"{at.folder}/p0.zarr")
    planned = plan(settings)
    predictor = load_predictor(
        planned.process.checkpoint_path,
        device=torch.device("cpu"),
        precision=planned.process.precision,
        batch_size=tiles_at_once(torch.device("cpu")),
        threads=cores(),
    )
    batch = torch.zeros(predictor.batch_size, 1, *planned.checkpoint.input_shape)
    tiles = int(planned.summary()["tiles_computed"])
    counter = iter(range(1, 10**6))

    def ours() -> None:
        run(settings.volume, f"{at.folder}/p{next(counter)}.zarr")

    def bare(tiles: int) -> None:
        with predictor.computing():
            for _ in range(-(-tiles // predictor.batch_size)):
                predictor.predict(batch)

    def theirs() -> None:
        in_one_thread(partial(bare, tiles))

    in_one_thread(partial(bare, 1))
    return {**pair(ours, theirs, at.repeats), "tiles": tiles}


class Identity(torch.nn.Module):
    """A network that costs nothing: what is left is reading, casting, blending and writing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input on both channels."""
        return x.expand(-1, 2, -1, -1, -1)


def run_nothing(volume: str, output: str, **settings: Any) -> None:
    """predict with a network that does nothing, tiles side by side."""
    device, learned = torch.device("cpu"), objective("mask_and_boundary")
    predictor = Predictor(Identity(), learned, device, "float32", batch_size=8, threads=cores())
    with mock.patch("cleftcli.prediction.load_predictor", return_value=predictor):
        run(volume, output, blend="none", overlap=(0, 0, 0), **settings)


def identity_against_copy(at: Setting) -> dict[str, float]:
    """predict with a network that does nothing against a bare copy."""
    path = stored(at.folder, at.shape(LARGE))
    counter = iter(range(10**6))

    def ours() -> None:
        run_nothing(f"{path}/raw", f"{at.folder}/i{next(counter)}.zarr")

    def theirs() -> None:
        source = open_volume(f"{path}/raw")
        target = empty_like(source, f"{at.folder}/c{next(counter)}.zarr/raw")
        # as fast as tensorstore can: all chunks at once
        target.array.view.write(source.array.view).result()

    return pair(ours, theirs, at.repeats)


def memory_of_growing_volumes(at: Setting) -> dict[str, float]:
    """What predict holds at its height on 64 blocks, on 256 and on 1024 of the same size.

    The network does nothing; the least volume is more than the cache of chunks.
    """
    held = {}
    for times in (1, 2, 4):
        path = stored(at.folder / str(times), (16, 2048 * times, 2048 * times))
        work = partial(run_nothing, f"{path}/raw", f"{at.folder}/m{times}.zarr")
        held[times**2] = cost(partial(work, block=(16, 256, 256)))["mb"]
    return {"value": round(held[16] / held[1], 2), **{f"mb_at_{n}x": m for n, m in held.items()}}


ROWS = (
    Row(
        "predict",
        "bare network, same tiles",
        prediction_against_bare_network,
        at_least(0.95),
        why="2 to 3 % is beside the network; the rest is the network, slower beside the threads "
        "that schedule. Repeats differ by more",
    ),
    Row(
        "predict, network that does nothing",
        "tensorstore copy",
        identity_against_copy,
        at_least(0.7),
        why="a network is shown float32, and gives it: a dozen passes over it, and 0.7 s to plan "
        "and start. The default network takes 200 times as long for a voxel",
    ),
    Row(
        "predict, network that does nothing, memory at 16x the volume",
        "at 1x",
        memory_of_growing_volumes,
        at_most(1.1),
        quick=False,
        why="the height is where blocks in flight happen to be largest together, which more blocks "
        "see more often",
    ),
)
