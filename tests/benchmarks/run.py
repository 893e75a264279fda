"""`make bench`: ratios of our way to the obvious way, side by side in one run, and as JSON.

Each pair is timed alternately; medians and the spread of the ratio are shown. Results go to
stdout and to benchmarks.json in the current folder. Words behind the command choose rows.
"""

import json
import platform
import sys
import tempfile
from pathlib import Path

import clefts
import inference
import predictions
import scheduling
import torch
import training
import volumes

from cleftcli.machine import cores

ROWS = {
    **volumes.ROWS,
    **clefts.ROWS,
    **inference.ROWS,
    **predictions.ROWS,
    **scheduling.ROWS,
    **training.ROWS,
}


def main() -> None:
    """Print the table and write it."""
    found: dict[str, object] = {
        "machine": f"{platform.machine()}, {cores()} cores",
        "torch": torch.__version__,
    }
    wanted = [name for name in ROWS if all(word in name for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            found[name] = measured = ROWS[name](Path(folder))
            print(f"{name:48} {measured['ratio']:6.2f}x  {measured}", flush=True)  # noqa: T201
    Path("benchmarks.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
