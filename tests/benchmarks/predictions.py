"""Prediction, store to store, against the network alone."""

import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from timing import pair

from cleftcli.geometry import Zyx
from cleftcli.jobs.predict import predict
from cleftcli.machine import cores
from cleftcli.model.device import tiles_at_once
from cleftcli.model.inference import Predictor, load_predictor
from cleftcli.model.objectives import objective
from cleftcli.prediction_plan import plan
from cleftcli.prediction_settings import Settings
from cleftcli.synthetic import tissue
from cleftcli.volumes import Space, create_volume, open_volume

SHAPE, VOXEL_SIZE = (40, 512, 512), (50.0, 4.6, 4.6)


def stored(folder: Path, shape: Zyx = SHAPE) -> Path:
    """A container with raw sections: a piece of tissue, repeated."""
    part = tissue((20, 256, 256), (40.0, 8.0, 8.0), seed=1).raw
    times = [-(-n // m) for n, m in zip(shape, part.shape, strict=True)]
    raw = np.tile(part, times)[tuple(map(slice, shape))]
    path = folder / "volume.zarr"
    volume = create_volume(
        f"{path}/raw", shape=shape, dtype=raw.dtype, chunks=(16, 128, 128), space=Space(VOXEL_SIZE)
    )
    volume.write(volume.roi, raw)
    return path


def prediction_against_bare_network(folder: Path) -> dict[str, float]:
    """predict, store to store, against the network alone on as many tiles."""
    path = stored(folder)
    settings = Settings(volume=f"{path}/raw", output=f"{folder}/p0.zarr")
    planned = plan(settings)
    predictor = load_predictor(
        planned.process.checkpoint_path,
        device=torch.device("cpu"),
        precision=planned.process.precision,
        batch_size=tiles_at_once(torch.device("cpu")),
        threads=cores(),
    )
    batch = torch.zeros(predictor.batch_size, 1, *planned.checkpoint.input_shape)
    with predictor.computing():
        predictor.predict(batch)
    tiles = int(planned.summary()["tiles_computed"])
    counter = iter(range(1, 10**6))

    def ours() -> None:
        out = f"{folder}/p{next(counter)}.zarr"
        again = Settings(volume=settings.volume, output=out)
        predict(again, overwrite=False, report=lambda *_: None)

    def theirs() -> None:
        with predictor.computing():
            for _ in range(-(-tiles // predictor.batch_size)):
                predictor.predict(batch)

    return {**pair(ours, theirs), "tiles": tiles}


class Identity(torch.nn.Module):
    """A network that costs nothing: what is left is reading, casting, blending and writing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input on both channels."""
        return x.expand(-1, 2, -1, -1, -1)


def identity_against_copy(folder: Path) -> dict[str, float]:
    """predict with a network that does nothing, tiles side by side, against a bare copy."""
    path = stored(folder, (64, 1024, 1024))
    device, learned = torch.device("cpu"), objective("mask_and_boundary")
    predictor = Predictor(Identity(), learned, device, "float32", batch_size=8, threads=cores())
    counter = iter(range(10**6))

    def ours() -> None:
        settings = Settings(f"{path}/raw", f"{folder}/i{next(counter)}.zarr", blend="none")
        predict(settings, overwrite=False, report=lambda *_: None)

    def theirs() -> None:
        source = open_volume(f"{path}/raw")
        target = create_volume(
            f"{folder}/c{next(counter)}.zarr/raw",
            shape=source.shape,
            dtype=source.dtype,
            chunks=(16, 128, 128),
            space=source.space,
        )
        # as fast as tensorstore can: all chunks at once
        target.array.view.write(source.array.view).result()

    with mock.patch("cleftcli.prediction.load_predictor", return_value=predictor):
        return pair(ours, theirs)


PEAK = """
import re, sys
from pathlib import Path
from cleftcli.jobs.predict import predict
from cleftcli.prediction_settings import Settings
settings = Settings(sys.argv[1], sys.argv[2], block=(20, 128, 256), overlap=(0, 0, 0))
predict(settings, overwrite=False, report=lambda *_: None)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def memory_of_growing_volumes(folder: Path) -> dict[str, float]:
    """The most memory that predict takes on a volume, and on ones 4 and 16 times as large."""
    peaks = []
    for times in (1, 2, 4):
        path = stored(folder / str(times), (20, 256 * times, 256 * times))
        command = [sys.executable, "-c", PEAK, f"{path}/raw", f"{folder}/m{times}.zarr"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    return {
        "ratio": round(peaks[2] / peaks[0], 2),
        **{f"mb_at_{n}x": round(p) for n, p in zip((1, 4, 16), peaks, strict=True)},
    }


ROWS = {
    "predict / bare network, same tiles": prediction_against_bare_network,
    "predict, network that does nothing / tensorstore copy": identity_against_copy,
    "predict, memory at 16x / 1x the volume": memory_of_growing_volumes,
}
