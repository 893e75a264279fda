"""Find synaptic clefts in volume electron microscopy.

`open_volume`, `predict`, `segment` and `evaluate` are what the commands do, for notebooks and
scripts; see `cleftcli.interface`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cleftcli.errors import (
    CleftError,
    ConflictError,
    IncompleteError,
    InputError,
    ResourceError,
    UnsafeError,
    UsageError,
)

if TYPE_CHECKING:
    from cleftcli.interface import Roi, Volume, Workers, evaluate, open_volume, predict, segment

__version__ = "0.1.0"
__all__ = [
    "CleftError",
    "ConflictError",
    "IncompleteError",
    "InputError",
    "ResourceError",
    "Roi",
    "UnsafeError",
    "UsageError",
    "Volume",
    "Workers",
    "evaluate",
    "open_volume",
    "predict",
    "segment",
]


def __getattr__(name: str) -> Any:
    """What of `__all__` is not here yet: its libraries take a second, and help answers at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("cleftcli.interface"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
