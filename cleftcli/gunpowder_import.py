"""Import gunpowder 1.4.3 beside zarr 3; the only place that does.

It asks zarr for N5 classes that zarr 3 no longer has, for a source node that cleft never uses.
Placeholders stand in while it is imported and are taken away again. Delete this file once a
gunpowder release supports zarr 3.
"""

from __future__ import annotations

import sys
import types
from typing import Any


def _load() -> Any:
    try:
        import zarr
        from zarr.abc.store import Store
    except ImportError as error:
        raise _missing(error) from error
    absent = [name for name in ("N5FSStore", "N5Store") if not hasattr(zarr, name)]
    for name in absent:
        setattr(zarr, name, type(name, (), {}))
    modules = {name: types.ModuleType(name) for name in ("zarr._storage", "zarr._storage.store")}
    modules["zarr._storage.store"].BaseStore = Store  # type: ignore[attr-defined]
    added = [name for name in modules if name not in sys.modules]
    sys.modules.update({name: modules[name] for name in added})
    try:
        import gunpowder
    except ImportError as error:
        raise _missing(error) from error
    finally:
        for name in absent:
            delattr(zarr, name)
        for name in added:
            del sys.modules[name]
    return gunpowder


def _missing(error: ImportError) -> Exception:
    from cleftcli.errors import UsageError

    return UsageError(f"training needs its extra: pip install 'cleft[train]' ({error})")


gp = _load()
