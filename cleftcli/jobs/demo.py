"""The whole chain on a generated volume: what to type, and a picture of what came out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cleftcli.errors import CleftError
from cleftcli.foreground import read_foreground
from cleftcli.geometry import Roi
from cleftcli.labels import cleft_mask
from cleftcli.pictures import montage
from cleftcli.synthetic import tissue
from cleftcli.volumes import Space, create_volume, crop, open_volume, write_attributes

SHAPE = (24, 256, 640)
VOXEL_SIZE = (40.0, 8.0, 8.0)
SEED = 7
HELD_OUT = Roi((0, 0, 448), (24, 256, 192))  # 64 voxels, a patch, away from the training part
THRESHOLD = 0.9  # near the best CREMI-score, as `evaluate --sweep` shows
BETTER_THAN_CHANCE = 0.95  # AUC

CONFIG = """\
# What `cleft demo` trains: a small CleftNet on 60 % of a generated volume.
seed = 1

[data]
train = [{{ raw = "{raw}", clefts = "{clefts}", roi = ":,:,0:384" }}]

[network]
name = "cleftnet"
input_shape = [8, 64, 64]

[network.options]
channels = [8, 16, 24, 32]
key_channels = 8
max_keys = 256

[objective]
name = "mask_and_boundary"
scale = 3.0

[augment]
flip = 0.875
rotate = 0.75
grayscale = 0.2

[training]
steps = 200
batch_size = 4
learning_rate = 3e-3
warmup_steps = 20
cosine = true
average = 0.98
save_every = 100
"""


@dataclass(frozen=True)
class Demo:
    """The files of a demo, and the commands that make them."""

    folder: Path

    @property
    def volume(self) -> Path:
        """The generated volume."""
        return self.folder / "volume.zarr"

    @property
    def report(self) -> Path:
        """The page about the prediction."""
        return self.folder / "report.html"

    @property
    def commands(self) -> list[list[str]]:
        """What a user would type after `cleft`, in order; each may be typed again."""
        at = self.folder
        config, run, prediction = at / "config.toml", at / "run", at / "prediction.zarr"
        clefts = self.volume / "volumes" / "labels" / "clefts"
        checkpoint = ["--checkpoint", run / "checkpoint.safetensors"]
        table = ["--min-voxels", "50", "--table", at / "clefts.csv"]
        sure = ["--threshold", str(THRESHOLD)]
        resume = ["--resume"] if (run / "state.safetensors").exists() else []
        _, y, x = (f"{a}:{b}" for a, b in zip(HELD_OUT.offset, HELD_OUT.end, strict=True))
        steps = [
            ["info", self.volume],
            ["make-labels", clefts, "-o", at / "labels.zarr"],
            ["train", config, "-o", run, *resume],
            ["predict", self.volume, "--roi", f":,{y},{x}", "-o", prediction, *checkpoint],
            ["segment", prediction, *sure, "-o", at / "clefts.zarr", *table, "--overwrite"],
            ["evaluate", prediction, self.volume, *sure, "--json"],
            ["view", prediction, "--truth", self.volume, *sure, "-o", self.report],
            ["export-cremi", prediction, *sure, "-o", at / "submission.hdf", "--overwrite"],
        ]
        return [[str(part) for part in step] for step in steps]


def prepare(folder: Path) -> Demo:
    """Generate the volume and the config, unless an earlier demo has."""
    demo = Demo(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_there(demo.volume):
        grown = tissue(SHAPE, VOXEL_SIZE, SEED)
        names = {"volumes/raw": grown.raw, "volumes/labels/clefts": grown.clefts}
        for name, data in names.items():
            volume = create_volume(
                f"{demo.volume}/{name}",
                shape=SHAPE,
                dtype=data.dtype,
                chunks=(8, 128, 128),
                space=Space(VOXEL_SIZE),
            )
            volume.write(volume.roi, data)
            write_attributes(volume, {"complete": True})
    raw, clefts = "volume.zarr/volumes/raw", "volume.zarr/volumes/labels/clefts"
    (folder / "config.toml").write_text(CONFIG.format(raw=raw, clefts=clefts), encoding="utf-8")
    return demo


def _is_there(volume: Path) -> bool:
    last = volume / "volumes" / "labels" / "clefts"
    return last.exists() and open_volume(str(last)).attributes.get("complete") is True


def finish(demo: Demo, scores: str) -> tuple[Path, float]:
    """Draw the held-out part; returns the picture and the AUC there.

    Args:
        demo: whose commands have run.
        scores: what `evaluate --json` printed.

    Raises:
        CleftError: the prediction is hardly better than chance.
    """
    found = json.loads(scores)
    auc, threshold = float(found["auc"] or 0), float(found["threshold"])
    prediction = read_foreground(open_volume(str(demo.folder / "prediction.zarr")), threshold)
    raw = crop(open_volume(f"{demo.volume}/volumes/raw"), HELD_OUT)
    ids = crop(open_volume(f"{demo.volume}/volumes/labels/clefts"), HELD_OUT)
    truth = cleft_mask(ids.read(ids.roi))
    fullest = np.argsort(-truth.sum(axis=(1, 2)), kind="stable")
    path = demo.folder / "demo.png"
    montage(
        path,
        raw.read(raw.roi),
        truth,
        prediction.levels(raw.roi) / prediction.full,
        sections=sorted(fullest[[0, len(fullest) // 4]].tolist()),
        nm_per_voxel=VOXEL_SIZE[2],
        shown=threshold,
    )
    if auc < BETTER_THAN_CHANCE:
        raise CleftError(f"AUC {auc:.3f} on the held-out part; {BETTER_THAN_CHANCE} was expected")
    return path, auc
