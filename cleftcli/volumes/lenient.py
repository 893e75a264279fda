"""What writers of N5 and zarr v2 do beside the letter of the format, made readable.

Tensorstore takes documents to the letter. Where one differs, it is handed a cleaned copy that
lies over the store; the store itself is only read.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any

import tensorstore as ts

from cleftcli.errors import InputError
from cleftcli.volumes import stores
from cleftcli.volumes.documents import LAYOUTS, read_document

_N5_CODECS = {"raw": (), "gzip": ("level", "useZlib"), "bzip2": ("blockSize",), "xz": ("preset",),
              "zstd": ("level",), "blosc": ("cname", "clevel", "shuffle", "blocksize")}  # fmt: skip
_N5_KEPT = ("dimensions", "blockSize", "dataType", "axes")
_ZARR2_CODECS = {"blosc": ("cname", "clevel", "shuffle", "blocksize"), "zlib": ("level",),
                 "gzip": ("level",), "bz2": ("level",), "zstd": ("level",)}  # fmt: skip


def kvstore(container: str, dataset: str, format: str) -> Any:
    """Tensorstore's description of an array's folder, its document cleaned where need be.

    Raises:
        InputError: an N5 codec that cannot be read.
    """
    base = stores.spec(container, dataset)
    clean = _CLEAN.get(format)
    name = LAYOUTS[format].array
    document = read_document(container, posixpath.join(dataset, name)) if clean else None
    if clean is None or document is None:
        return base
    cleaned = clean(document, f"{container}/{dataset}")
    if cleaned == {k: document[k] for k in cleaned if k in document}:
        return base
    memory = ts.KvStore.open("memory://", context=stores.context()).result()
    key = f"{container}/{dataset}/{name}"
    memory.write(key, json.dumps(cleaned).encode()).result()
    overlay = {"base": {"driver": "memory", "path": key}, "exact": name}
    return {"driver": "kvstack", "layers": [{"base": base}, overlay]}


def _n5(document: Mapping[str, Any], address: str) -> dict[str, Any]:
    """Java and z5 writers add fields to codecs; N5 1.x wrote `compressionType`."""
    codec = document.get("compression") or {"type": document.get("compressionType", "raw")}
    codec = codec if isinstance(codec, Mapping) else {"type": codec}
    known = _N5_CODECS.get(str(codec.get("type")))
    if known is None:
        raise InputError(
            f"{address}: N5 codec {codec.get('type')!r} is not supported; write it with gzip"
        )
    kept = {k: document[k] for k in _N5_KEPT if k in document}
    return {**kept, "compression": {k: v for k, v in codec.items() if k == "type" or k in known}}


def _zarr2(document: Mapping[str, Any], _address: str) -> dict[str, Any]:
    """Java writers leave the level to the library (-1) or the fill value out, or quote it."""
    cleaned = {**document, "fill_value": _number(document.get("fill_value"))}
    codec = document.get("compressor")
    known = _ZARR2_CODECS.get(str(codec.get("id"))) if isinstance(codec, Mapping) else None
    if isinstance(codec, Mapping) and known is not None:
        codec = {k: v for k, v in codec.items() if k == "id" or k in known}
        if codec.get("level") == -1:
            codec["level"] = 1  # of no account for reading
        cleaned["compressor"] = codec
    return cleaned


def _number(value: Any) -> Any:
    """A fill value without its quotes; NaN and the infinities are quoted by right."""
    if isinstance(value, str) and value.lstrip("-").replace(".", "", 1).isdecimal():
        return float(value) if "." in value else int(value)
    return value


_CLEAN = {"n5": _n5, "zarr2": _zarr2}
