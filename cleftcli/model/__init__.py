"""Networks by name: one file in `networks/` is one network, and its file name is its name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from torch import nn

from cleftcli.errors import UsageError
from cleftcli.geometry import Zyx, zyx
from cleftcli.model import networks
from cleftcli.model.options import checked

GIVEN = ("out_channels", "input_shape")  # arguments that are no options
PRESETS = ("paper", "lite")


def available() -> list[str]:
    """Names of all networks."""
    return sorted(module.name for module in pkgutil.iter_modules(networks.__path__))


def preset(network: str, name: str) -> tuple[Zyx, dict[str, Any]]:
    """The tile and the options of a preset.

    Args:
        network: one of `available()`.
        name: "paper", which is the defaults, or "lite": small enough for two CPU cores.

    Raises:
        UsageError: no such network or preset.
    """
    if name not in PRESETS:
        raise UsageError(f"preset {name!r}: {' or '.join(PRESETS)}")
    module = _module(network)
    default = inspect.signature(module.Network).parameters["input_shape"].default
    lite = getattr(module, "LITE", {})
    chosen = {"input_shape": default, **(lite if name == "lite" else {})}
    return zyx(chosen.pop("input_shape")), chosen


def build(
    name: str, *, out_channels: int, input_shape: Zyx, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """A network with fresh weights: (n, 1, z, y, x) -> (n, out_channels, z, y, x), no activation.

    Args:
        name: one of `available()`.
        out_channels: as the objective wants.
        input_shape: zyx of the tiles it sees, voxels.
        options: keyword arguments of that network's constructor.

    Raises:
        UsageError: no such network, it has no such option, or the option is of another kind.
    """
    cls = _module(name).Network
    known = [p for p in inspect.signature(cls).parameters if p not in GIVEN]
    for option in options or {}:
        if option not in known:
            raise UsageError(f"network {name} has no option {option!r}; it has {', '.join(known)}")
    values = checked(f"network {name}", cls, options or {})
    network: nn.Module = cls(out_channels=out_channels, input_shape=input_shape, **values)
    return network


def _module(name: str) -> Any:
    """The file of a network.

    Raises:
        UsageError: there is none.
    """
    if name not in available():
        raise UsageError(f"network {name!r} is unknown; there are {', '.join(available())}")
    return importlib.import_module(f"{networks.__name__}.{name}")
