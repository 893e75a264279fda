"""Training: what augmentation costs, how long the network waits, whether memory grows."""

import time
from pathlib import Path

from cleftcli.augment import AUGMENTATIONS
from cleftcli.jobs.train import train
from cleftcli.sampling import Batches, open_source
from cleftcli.volumes import Space, create_volume
from tests.benchmarks import section
from tests.benchmarks.alone import resident
from tests.benchmarks.row import Row, Setting, at_most
from tests.benchmarks.timing import seconds, spread

SHAPE, PATCH = (40, 512, 512), (8, 128, 128)
PATCHES = 40
PRACTICE = {"flip": 0.875, "rotate": 0.75, "grayscale": 0.5, "elastic": 0.5, "slip": 0.05}
PRACTICE |= {"shift": 0.05, "defocus": 0.05, "noise": 0.1, "missing_section": 0.03}
CONFIG = """
[data]
train = [{{ raw = "volume.zarr/raw", clefts = "volume.zarr/clefts" }}]
[network]
name = "{network}"
{network_options}
[augment]
flip = 0.875
rotate = 0.75
grayscale = 0.5
elastic = 0.5
[training]
steps = {steps}
batch_size = 2
save_every = 1000000
workers = 1
"""


def stored(folder: Path) -> Path:
    """Raw and clefts of synthetic tissue."""
    path = folder / "volume.zarr"
    for name, data in (("raw", section.raw(SHAPE)), ("clefts", section.clefts(SHAPE))):
        volume = create_volume(
            f"{path}/{name}",
            shape=SHAPE,
            dtype=data.dtype,
            chunks=(16, 128, 128),
            space=Space(section.VOXEL_SIZE),
        )
        volume.write(volume.roi, data)
    return path


def augmentations_against_none(at: Setting) -> dict[str, float]:
    """Patches a second from one process: as in practice against bare, and each one always."""
    path, patches = stored(at.folder), at.count(PATCHES)
    source = open_source(f"{path}/raw", f"{path}/clefts", None, PATCH)

    def rate(augment: dict[str, float]) -> float:
        batches = Batches((source,), PATCH, ("mask", "tanh-distance"), 1, 1, 200, 0.95, augment)
        batches[0]
        return patches / seconds(lambda: [batches[n] for n in range(1, patches + 1)])

    ratios = [rate(PRACTICE) / rate({}) for _ in range(at.repeats)]
    always = {f"{name}_per_s": round(rate({name: 1.0}), 1) for name in AUGMENTATIONS}
    return {**spread(ratios), **always}


def waiting_for_data(at: Setting) -> dict[str, float]:
    """The share of the time that the lite CleftNet waits for data, with one process making it."""
    stored(at.folder)
    text = CONFIG.format(network="cleftnet", network_options='preset = "lite"', steps=at.count(40))
    config = at.folder / "wait.toml"
    config.write_text(text)
    times, waits = [], []

    def report(step: int, _steps: int, facts: dict[str, float]) -> None:
        times.append(time.perf_counter())
        waits.append(facts["waited"] * 2 * step / facts["patches_per_second"])

    train(config, at.folder / "run", resume=False, device="cpu", report=report)
    begun = len(times) // 4  # once the first batches are there
    return {"value": round((waits[-1] - waits[begun]) / (times[-1] - times[begun]), 4)}


def memory_over_steps(at: Setting) -> dict[str, float]:
    """What this process holds after all steps of a tiny network, against after a fifth."""
    stored(at.folder)
    options = "input_shape = [8, 32, 32]\noptions = { channels = [4, 6, 8] }"
    config = at.folder / "memory.toml"
    steps = at.count(1000)
    config.write_text(CONFIG.format(network="unet3d", network_options=options, steps=steps))
    held: dict[int, float] = {}

    def report(step: int, steps: int, _facts: dict[str, float]) -> None:
        if step in (steps // 5, steps):
            held[step] = resident("VmRSS")

    train(config, at.folder / "run", resume=False, device="cpu", report=report)
    early, late = held.values()
    return {
        "value": round(late / early, 3),
        **{f"mb_after_{n}": round(mb) for n, mb in held.items()},
    }


ROWS = (
    Row("batches, augmented as in practice", "not", augmentations_against_none, None),
    Row(
        "share of time CleftNet lite waits for data",
        "",
        waiting_for_data,
        at_most(0.05),
        unit="",
        quick=False,
    ),
    Row(
        "memory after 1000 steps",
        "after 200",
        memory_over_steps,
        at_most(1.1),
        quick=False,
    ),
)
