"""Neuroglancer precomputed volumes, read only: scales of x, y, z, channel, in nm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cleftcli.errors import InputError
from cleftcli.volumes import stores
from cleftcli.volumes.axes import Reading, arrange
from cleftcli.volumes.chunked import extent, opened, volume_of
from cleftcli.volumes.chunks import Grid, Index
from cleftcli.volumes.documents import read_document
from cleftcli.volumes.scan import Chunks, Payload
from cleftcli.volumes.volume import Space, Volume

AXES = "xyzc"
_BOX = re.compile(r"(-?\d+)--?\d+_(-?\d+)--?\d+_(-?\d+)--?\d+")


@dataclass(frozen=True)
class Boxes:
    """Chunks named by their voxels, x0-x1_y0-y1_z0-z1, counted from the volume's offset."""

    origin: tuple[int, ...]
    size: tuple[int, ...]
    chunk: tuple[int, ...]

    def name(self, index: Index) -> str:
        """The key of a chunk."""
        return "_".join(
            f"{o + i * c}-{o + min((i + 1) * c, n)}"
            for i, o, n, c in zip(index, self.origin, self.size, self.chunk, strict=False)
        )

    def index(self, key: str) -> Index | None:
        """The chunk of a key; the one position of all channels comes last."""
        match = _BOX.fullmatch(key)
        if match is None:
            return None
        starts = map(int, match.groups())
        places = zip(starts, self.origin, self.chunk, strict=True)
        index = (*((s - o) // c for s, o, c in places), 0)
        return index if self.name(index) == key else None


def list_arrays(container: str) -> list[str]:
    """Keys of the scales, finest first."""
    return [str(scale["key"]) for scale in _scales(container)]


def open_array(container: str, dataset: str, reading: Reading) -> Volume:
    """The scale with the key `dataset`, or the finest.

    Raises:
        InputError: there is no such scale, or it cannot be opened.
    """
    scales = _scales(container)
    keys = [scale["key"] for scale in scales]
    if dataset and dataset not in keys:
        raise InputError(f"{container}: no scale {dataset}; it has {', '.join(keys)}")
    number = keys.index(dataset) if dataset else 0
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": stores.spec(container),
        "scale_index": number,
        "recheck_cached_data": "open",
    }
    address = f"{container}/{keys[number]}"
    stored = opened(spec, address)
    axes = arrange(stored.shape, AXES, "precomputed", reading, address)
    origin = tuple(stored.domain.origin)
    chunk = extent(stored.chunk_layout.read_chunk)
    grid = Grid(tuple(stored.shape), chunk, Boxes(origin[:3], stored.shape[:3], chunk[:3]))
    payload = Payload(listed="sharding" not in scales[number])
    return volume_of(
        stored.translate_to[0],
        Chunks(container, keys[number], grid, payload, axes),
        format="precomputed",
        space=_space(scales[number], origin),
        attributes={},
    )


def _scales(container: str) -> list[dict[str, Any]]:
    document = read_document(container, "info") or {}
    try:
        return [{**s, "key": str(s["key"])} for s in document["scales"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{container}/info: no precomputed volume: {error}") from error


def _space(scale: dict[str, Any], origin: tuple[int, ...]) -> Space:
    x, y, z = (float(v) for v in scale["resolution"])
    ox, oy, oz = (o * v for o, v in zip(origin[:3], (x, y, z), strict=True))
    return Space((z, y, x), (oz, oy, ox), "precomputed info")
