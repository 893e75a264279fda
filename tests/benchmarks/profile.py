"""Where the time goes: the operators that cost most in one prediction and one training step."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiled

from cleftcli.config import load
from cleftcli.feed import made_ahead
from cleftcli.geometry import whole
from cleftcli.model.inference import predict_box
from cleftcli.training import ALONE, new_run, resolved, update
from cleftcli.training_data import batches_of, open_data
from tests.benchmarks.inference import SHAPE, lite
from tests.benchmarks.row import Row, Setting
from tests.benchmarks.timing import seconds
from tests.benchmarks.training import CONFIG, stored

MOST = 3


def costs(work: Callable[[], object]) -> dict[str, Any]:
    """Seconds of a second run, and its largest parts: self CPU time by operator, share of all."""
    work()
    with profiled(activities=[ProfilerActivity.CPU]) as seen:
        total = seconds(work)
    taken = {e.key: e.self_cpu_time_total / 1e6 for e in seen.key_averages()}
    taken["outside torch"] = total - sum(taken.values())
    largest = sorted(taken, key=taken.get, reverse=True)[:MOST]
    parts = [{"operator": name, "share": round(taken[name] / total, 3)} for name in largest]
    says = ", ".join(f"{part['operator']} {part['share']:.0%}" for part in parts)
    return {"value": round(total, 3), "costs": parts, "says": says}


def prediction(at: Setting) -> dict[str, Any]:
    """A box in memory with the lite CleftNet."""
    using, grid, raw = lite("cleftnet", at.shape(SHAPE))
    write = whole(grid.shape)
    return costs(partial(predict_box, using, raw, grid=grid, write=write, blend="bump"))


def training_step(at: Setting) -> dict[str, Any]:
    """One step of the lite CleftNet with its batch at hand."""
    stored(at.folder)
    path = at.folder / "step.toml"
    path.write_text(CONFIG.format(network="cleftnet", network_options='preset = "lite"', steps=2))
    config = resolved(load(path))
    run = new_run(config, at.folder / "run", "cpu")
    batches = batches_of(config, open_data(config, at.folder).train, ALONE)
    batch = next(made_ahead(batches, range(1), 0))
    run.network.train()
    return costs(partial(update, run, [batch]))


ROWS = (
    Row(
        "a prediction on the CPU, CleftNet lite",
        "",
        prediction,
        None,
        unit="s",
        quick=False,
        why="convolutions run in oneDNN, which PyTorch 2.13 chooses from two tiles at once on (4 "
        "to 6 times as fast), channels last, with batch norms folded into them; attention never "
        "holds its scores; memory of activations is kept for the next tiles, or the system "
        "clears 8 million pages in this box; ELU is the paper's",
    ),
    Row(
        "a training step on the CPU, CleftNet lite",
        "",
        training_step,
        None,
        unit="s",
        quick=False,
        why="memory is kept as in a prediction, and layouts are the same; gradients stay float32, "
        "for those of 3-D convolutions in bfloat16 come out wrong on a CPU",
    ),
)
