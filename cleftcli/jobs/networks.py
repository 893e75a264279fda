"""The networks that there are, by preset: how large they are and what a tile costs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cleftcli.machine import cores
from cleftcli.model import PRESETS, available, preset
from cleftcli.model.checkpoint import load
from cleftcli.model.cost import Asked, measure, size
from cleftcli.model.device import choose_device, choose_precision
from cleftcli.model.objectives import objective


def networks(
    *, measured: bool, device: str, checkpoint: Path | None = None
) -> list[dict[str, Any]]:
    """A row for each network and preset, or the one of a checkpoint.

    Args:
        measured: run a tile of each, which takes minutes; else nothing is computed.
        device: where; see `choose_device`.
        checkpoint: whose network to look at, and how far its queries moved in training.

    Raises:
        InputError: it is no checkpoint.
    """
    if checkpoint is None:
        return [_of_preset(name, p, measured, device) for name in available() for p in PRESETS]
    found, _ = load(checkpoint)
    channels = found.new_objective().channels
    asked = Asked(found.network, channels, found.input_shape, found.options)
    return [_row(asked, measured, device) | {"query_correlation": found.query_correlation}]


def _of_preset(name: str, which: str, measured: bool, device: str) -> dict[str, Any]:
    tile, options = preset(name, which)
    learned = objective("reconstruction" if name == "mae" else "mask_and_boundary")
    row = _row(Asked(name, learned.channels, tile, options), measured, device)
    return {"network": name, "preset": which, **row}


def _row(asked: Asked, measured: bool, device_name: str) -> dict[str, Any]:
    found = size(asked)
    row: dict[str, Any] = {
        "network": asked.name,
        "input_shape": list(asked.input_shape),
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
