"""Prediction, store to store, against the network alone."""

from pathlib import Path

import torch
from timing import pair

from cleftcli.jobs.predict import predict
from cleftcli.machine import cores
from cleftcli.model.device import tiles_at_once
from cleftcli.model.inference import load_predictor
from cleftcli.prediction_plan import Settings, plan
from cleftcli.synthetic import tissue
from cleftcli.volumes import Space, create_volume

SHAPE, VOXEL_SIZE = (40, 512, 512), (50.0, 4.6, 4.6)


def stored(folder: Path) -> Path:
    """A container with raw sections."""
    raw = tissue(SHAPE, (40.0, 8.0, 8.0), seed=1).raw
    path = folder / "volume.zarr"
    volume = create_volume(
        f"{path}/raw", shape=SHAPE, dtype=raw.dtype, chunks=(16, 128, 128), space=Space(VOXEL_SIZE)
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
    tiles = int(planned.summary()["tiles"])
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


ROWS = {"predict / bare network, same tiles": prediction_against_bare_network}
