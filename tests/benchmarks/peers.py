"""Libraries with the same task that are no dependency: brought for their row alone."""

from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from cleftcli.geometry import Roi, zyx
from cleftcli.machine import cores
from cleftcli.volumes import open_volume
from tests.benchmarks.predictions import LARGE, empty_like, run_nothing, stored
from tests.benchmarks.row import Row, Setting
from tests.benchmarks.timing import pair

DAISY = ("daisy==2.0.0", "funlib.geometry==0.3.0")
BLOCK = (16, 1024, 1024)


def copy_block(source: str, target: str, block: object) -> None:
    """What is left of a block of a prediction where the network does nothing."""
    write = Roi(zyx(block.write_roi.offset), zyx(block.write_roi.shape))
    shown = open_volume(source).read(write).astype(np.float32) / 255 * 2 - 1
    open_volume(target).write(write, np.rint((shown + 1) / 2 * 255).astype(np.uint8))


def prediction_against_daisy(at: Setting) -> dict[str, float]:
    """predict with a network that does nothing against daisy's workers, one for each core."""
    import daisy

    daisy.logging.set_log_basedir(at.folder / "logs")
    raw = f"{stored(at.folder, at.shape(LARGE))}/raw"
    source, ours_made, theirs_made = open_volume(raw), count(), count()

    def ours() -> None:
        run_nothing(raw, f"{at.folder}/ours{next(ours_made)}.zarr")

    def theirs() -> None:
        made = empty_like(source, f"{at.folder}/theirs{next(theirs_made)}.zarr/raw")
        roi = daisy.Roi((0, 0, 0), BLOCK)
        task = daisy.Task(
            task_id=Path(made.address).parent.stem,
            total_roi=daisy.Roi((0, 0, 0), source.shape),
            read_roi=roi,
            write_roi=roi,
            process_function=partial(copy_block, raw, made.address),
            read_write_conflict=False,
            fit="shrink",
            max_workers=cores(),
        )
        done = daisy.run_blockwise(
            task, progress=False, summary=False, block_tracking=False, host="127.0.0.1"
        )
        assert done

    row = pair(ours, theirs, at.repeats)
    made = open_volume(f"{at.folder}/theirs0.zarr/raw")
    assert np.array_equal(made.read(made.roi), source.read(source.roi))
    return row


ROWS = (
    Row(
        "predict, network that does nothing",
        "daisy blockwise loop",
        prediction_against_daisy,
        None,
        needs=DAISY,
        quick=False,
    ),
)
