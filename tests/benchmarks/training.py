"""Training: what augmentation costs, how long the network waits, whether memory grows."""

import re
import subprocess
import sys
import time
from pathlib import Path

from predictions import VOXEL_SIZE
from timing import seconds

from cleftcli.augment import AUGMENTATIONS
from cleftcli.jobs.train import train
from cleftcli.sampling import Batches, open_source
from cleftcli.synthetic import tissue
from cleftcli.volumes import Space, create_volume

SHAPE, PATCH = (40, 512, 512), (8, 128, 128)
PATCHES = 40
PRACTICE = {"flip": 0.5, "rotate": 0.5, "grayscale": 0.5, "elastic": 0.5, "slip": 0.05}
PRACTICE |= {"shift": 0.05, "defocus": 0.05, "noise": 0.1, "missing_section": 0.03}
CONFIG = """
[data]
train = [{{ raw = "volume.zarr/raw", clefts = "volume.zarr/clefts" }}]
[network]
name = "{network}"
{network_options}
[augment]
flip = 0.5
rotate = 0.5
grayscale = 0.5
elastic = 0.5
[training]
steps = {steps}
batch_size = 2
save_every = 1000000
workers = 1
"""
MEMORY = """
import re, sys
from pathlib import Path
from cleftcli.jobs.train import train
held = {}
def report(step, steps, facts):
    if step in (steps // 5, steps):
        status = Path("/proc/self/status").read_text()
        held[step] = int(re.search(r"VmRSS:\\s+(\\d+)", status)[1]) / 1024
train(Path(sys.argv[1]), Path(sys.argv[2]), resume=False, device="cpu", report=report)
print(*held.values())
"""


def stored(folder: Path) -> Path:
    """Raw and clefts of synthetic tissue."""
    path = folder / "volume.zarr"
    if path.exists():
        return path
    grown = tissue(SHAPE, (40.0, 8.0, 8.0), seed=1)
    for name, data in (("raw", grown.raw), ("clefts", grown.clefts)):
        volume = create_volume(
            f"{path}/{name}",
            shape=SHAPE,
            dtype=data.dtype,
            chunks=(16, 128, 128),
            space=Space(VOXEL_SIZE),
        )
        volume.write(volume.roi, data)
    return path


def augmentations_against_none(folder: Path) -> dict[str, float]:
    """Patches a second from one process: with each augmentation always, and as in practice."""
    path = stored(folder)
    source = open_source(f"{path}/raw", f"{path}/clefts", None, PATCH)

    def rate(augment: dict[str, float]) -> float:
        batches = Batches((source,), PATCH, ("mask", "tanh-distance"), 1, 1, 200, 0.95, augment)
        batches[0]
        return PATCHES / seconds(lambda: [batches[n] for n in range(1, PATCHES + 1)])

    bare = rate({})
    found = {name: round(rate({name: 1.0}), 1) for name in AUGMENTATIONS}
    practice = rate(PRACTICE)
    return {"ratio": round(practice / bare, 2), "none": round(bare, 1), **found} | {
        "as in practice": round(practice, 1)
    }


def waiting_for_data(folder: Path) -> dict[str, float]:
    """The share of the time that the lite CleftNet waits for data, with one process making it."""
    stored(folder)
    config = folder / "wait.toml"
    config.write_text(
        CONFIG.format(network="cleftnet", network_options='preset = "lite"', steps=40)
    )
    times, waits = [], []

    def report(step: int, _steps: int, facts: dict[str, float]) -> None:
        times.append(time.perf_counter())
        waits.append(facts["waited"] * 2 * step / facts["patches_per_second"])

    train(config, folder / "run", resume=False, device="cpu", report=report)
    share = (waits[-1] - waits[9]) / (times[-1] - times[9])  # once the first batches are there
    return {"ratio": round(1 - share, 4), "waited_share": round(share, 4)}


def memory_over_steps(folder: Path) -> dict[str, float]:
    """What a process holds after 200 and after 1000 steps of a tiny network."""
    stored(folder)
    config = folder / "memory.toml"
    options = "input_shape = [8, 32, 32]\noptions = { channels = [4, 6, 8] }"
    config.write_text(CONFIG.format(network="unet3d", network_options=options, steps=1000))
    command = [sys.executable, "-c", MEMORY, str(config), str(folder / "memory")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    early, late = (float(n) for n in re.findall(r"[\d.]+", done.stdout.splitlines()[-1]))
    return {
        "ratio": round(late / early, 3),
        "after_200_MB": round(early),
        "after_1000_MB": round(late),
    }


ROWS = {
    "batches, augmented as in practice / not": augmentations_against_none,
    "training, lite: share of time not waiting": waiting_for_data,
    "training: memory after 1000 steps / 200": memory_over_steps,
}
