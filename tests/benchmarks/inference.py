"""Blended prediction of a box, against the bare network and other ways to run it over tiles."""

from collections.abc import Callable
from functools import partial
from time import perf_counter
from unittest import mock

import numpy as np
import torch

from cleftcli.geometry import TileGrid, Zyx, whole
from cleftcli.machine import cores
from cleftcli.model import build, inference, preset
from cleftcli.model.device import tiles_at_once
from cleftcli.model.inference import Predictor, bump_window, fold_batch_norms, predict_box
from cleftcli.model.objectives import objective
from cleftcli.prediction import quantise, read_input, tile_grid
from cleftcli.volumes import Space, Volume, create_volume
from tests.benchmarks import section
from tests.benchmarks.row import Row, Setting, at_least
from tests.benchmarks.timing import pair, seconds

SHAPE = (16, 512, 512)
NETWORKS = ("unet3d", "cleftnet")
BLACK_WHITE = (0.0, 255.0)
MONAI = ("monai==1.6.1",)


def lite(network: str, shape: Zyx) -> tuple[Predictor, TileGrid, np.ndarray]:
    """A small network with weights by lot, the tiles of a volume, and its raw in [-1, 1]."""
    tile, options = preset(network, "lite")
    torch.manual_seed(0)
    made = fold_batch_norms(build(network, out_channels=2, input_shape=tile, options=options))
    device, learned = torch.device("cpu"), objective("mask_and_boundary")
    made = made.to(memory_format=torch.channels_last_3d)
    using = Predictor(
        made, learned, device, "float32", batch_size=tiles_at_once(device), threads=cores()
    )
    raw = section.raw(shape)
    return using, tile_grid(shape, tile), raw.astype(np.float32) / 255 * 2 - 1


def box_against_bare_network(network: str, at: Setting) -> dict[str, float]:
    """A box in memory, against the network alone on the same tiles."""
    using, grid, raw = lite(network, at.shape(SHAPE))
    tiles = [raw[t.within(whole(raw.shape))] for t in grid.touching(whole(raw.shape))]
    size = using.batch_size
    batches = [
        torch.from_numpy(np.stack(tiles[n : n + size])[:, None]).to(
            memory_format=torch.channels_last_3d
        )
        for n in range(0, len(tiles), size)
    ]

    def theirs() -> None:
        with using.computing():
            for batch in batches:
                using.network(batch)

    return {
        **pair(partial(_box, using, grid, raw), theirs, at.repeats),
        "tiles": len(tiles),
        "beside_the_network_percent": round(100 * beside_the_network(using, grid, raw), 2),
    }


def beside_the_network(using: Predictor, grid: TileGrid, raw: np.ndarray) -> float:
    """What blending takes in one run, as a share of what the network takes in that run."""
    inside: list[float] = []
    started = using.network.register_forward_pre_hook(lambda *_: inside.append(-perf_counter()))
    ended = using.network.register_forward_hook(lambda *_: inside.append(perf_counter()))
    total = seconds(partial(_box, using, grid, raw))
    started.remove()
    ended.remove()
    return total / sum(inside) - 1


def box_against_monai(network: str, mode: str, at: Setting) -> dict[str, float]:
    """A box in memory, against MONAI's on the same tiles; in constant mode they are equal."""
    from monai.inferers import sliding_window_inference

    using, grid, raw = lite(network, at.shape(SHAPE))
    of_cleft = using.objective.maps["cleft"].read
    found: dict[str, np.ndarray] = {}

    def theirs() -> None:
        with using.computing():
            found["theirs"] = sliding_window_inference(
                torch.from_numpy(raw)[None, None],
                roi_size=grid.tile,
                sw_batch_size=using.batch_size,
                predictor=lambda x: of_cleft(
                    using.network(x.contiguous(memory_format=torch.channels_last_3d))
                )[:, None],
                overlap=0.25,
                mode=mode,
            )[0, 0].numpy()

    def ours() -> None:
        found["ours"] = _box(using, grid, raw)[0]

    flat: Callable[..., np.ndarray] = partial(np.ones, dtype=np.float32)
    window = flat if mode == "constant" else bump_window
    with mock.patch.object(inference, "bump_window", window):
        row = pair(ours, theirs, at.repeats)
    apart = float(np.abs(found["ours"] - found["theirs"]).max())
    if mode == "constant" and apart > 1e-5:
        raise AssertionError(f"{apart} apart from MONAI's")
    return {**row, "largest_difference": apart}


def box_against_tile_by_tile(network: str, at: Setting) -> dict[str, float]:
    """Store to store, against a task for each tile that reads, computes and blends it alone."""
    using, grid, raw = lite(network, at.shape(SHAPE))
    volume, made = (_stored(f"{at.folder}/{n}.zarr", raw.shape) for n in ("raw", "made"))
    volume.write(volume.roi, quantise((raw + 1) / 2))
    alone = Predictor(using.network, using.objective, using.device, "float32", 1)

    def ours() -> None:
        shown = read_input(volume, BLACK_WHITE, grid, volume.roi)
        made.write(made.roi, quantise(_box(using, grid, shown.raw)[0]))

    def theirs() -> None:
        total, weights = np.zeros(raw.shape, np.float32), np.zeros(raw.shape, np.float32)
        bump = bump_window(grid.tile)
        for tile in grid.touching(volume.roi):
            single = TileGrid(grid.tile, grid.tile, grid.tile)
            shown = volume.read(tile).astype(np.float32) / 255 * 2 - 1
            here = tile.within(volume.roi)
            total[here] += _box(alone, single, shown)[0] * bump
            weights[here] += bump
        made.write(made.roi, quantise(total / weights))

    return pair(ours, theirs, repeats=1)


def _box(using: Predictor, grid: TileGrid, raw: np.ndarray) -> np.ndarray:
    return predict_box(using, raw, grid=grid, write=whole(grid.shape), blend="bump")


def _stored(path: str, shape: Zyx) -> Volume:
    return create_volume(
        f"{path}/raw",
        shape=shape,
        dtype=np.uint8,
        chunks=(16, 128, 128),
        space=Space(section.VOXEL_SIZE),
    )


ROWS = (
    *(
        Row(
            f"box, {n} lite",
            "bare network, same tiles",
            partial(box_against_bare_network, n),
            at_least(0.95),
            quick=n == NETWORKS[0],
        )
        for n in NETWORKS
    ),
    *(
        Row(
            f"box, {n} lite",
            f"MONAI, {mode}",
            partial(box_against_monai, n, mode),
            at_least(1.0),
            needs=MONAI,
            quick=(n, mode) == ("unet3d", "gaussian"),
        )
        for n, mode in (("unet3d", "gaussian"), ("unet3d", "constant"))
    ),
    Row(
        "box, store to store, unet3d lite",
        "tile by tile",
        partial(box_against_tile_by_tile, "unet3d"),
        None,
        quick=False,
    ),
)
