"""The networks that there are, by preset: how large they are and what a tile costs here."""

from __future__ import annotations

from typing import Any

from cleftcli.machine import cores
from cleftcli.model import PRESETS, available, preset
from cleftcli.model.cost import Asked, measure, size
from cleftcli.model.device import choose_device, choose_precision
from cleftcli.model.objectives import objective


def networks(*, measured: bool, device: str) -> list[dict[str, Any]]:
    """A row for each network and preset.

    Args:
        measured: run a tile of each, which takes minutes; else nothing is computed.
        device: where; see `choose_device`.
    """
    return [_row(name, p, measured, device) for name in available() for p in PRESETS]


def _row(name: str, which: str, measured: bool, device_name: str) -> dict[str, Any]:
    tile, options = preset(name, which)
    learned = objective("reconstruction" if name == "mae" else "mask_and_boundary")
    asked = Asked(name, learned.channels, tile, options)
    found = size(asked)
    row = {
        "network": name,
        "preset": which,
        "input_shape": list(tile),
        "parameters": found.parameters,
        "of_these_queries": found.queries,
        "gflop": round(found.gflop, 1),
    }
    if not measured:
        return row
    device = choose_device(device_name)
    precision = choose_precision("auto", device)
    cost = measure(asked, device, precision=precision, threads=cores())
    row |= {"device": str(device), "precision": precision, "seconds": round(cost.seconds, 4)}
    return row | {"memory_mb": None if cost.memory_mb is None else round(cost.memory_mb)}
