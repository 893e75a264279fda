"""From annotated volumes to training batches, the same for any number of workers.

Batch i depends on the seed and i alone. Patches are drawn here, augmented by a gunpowder
pipeline, and their targets computed with the context that makes them exact.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from cleftcli.augment import CLEFTS, RAW, Augmentation, Rotate, choose, nodes
from cleftcli.errors import CleftError, InputError, UsageError
from cleftcli.geometry import Roi, Zyx, parse_roi, zyx
from cleftcli.gunpowder_import import gp
from cleftcli.labels import IGNORE, IGNORE_MASK, TARGETS, cleft_mask
from cleftcli.model.inference import grey_constant_sections
from cleftcli.volumes import AS_STORED, Nm, Reading, Volume, crop, in_memory, open_volume, pad
from cleftcli.volumes.intensity import intensity_range, unit

MOST_DRAWS = 1000  # a region without clefts must not hang the run


@dataclass(frozen=True)
class Source:
    """A box of a volume to draw patches from; without clefts nothing in it is one."""

    raw: str
    clefts: str | None
    roi: Roi
    voxel_size: Nm
    reading: Reading = AS_STORED  # of raw
    weight: float | None = None  # of patches drawn from here; None is how many fit

    def volumes(self) -> tuple[Volume, Volume]:
        """Raw and cleft ids."""
        image, ids, _ = _pair(self.raw, self.clefts, self.reading)
        return image, ids


def open_source(
    raw: str,
    clefts: str | None,
    roi: str | None,
    patch: Zyx | None,
    reading: Reading = AS_STORED,
    *,
    weight: float | None = None,
) -> Source:
    """A source, once raw and ids are seen to fit each other, and a patch if it is drawn from.

    Raises:
        InputError: voxel sizes differ, no voxel size is known, the box is smaller than a patch,
            or ids of a part of raw do not say which part.
    """
    image, ids, annotated = _pair(raw, clefts, reading)
    intensity_range(image)
    if ids.dtype.kind not in "bu":
        raise InputError(f"{clefts} is {ids.dtype}; cleft ids or a mask are unsigned integers")
    if ids.attributes.get("content") not in (None, "mask", "ids"):
        raise InputError(f"{clefts} holds {ids.attributes['content']}, not cleft ids or a mask")
    sizes = {v.space.voxel_size for v in (image, ids)} - {None}
    if reading.voxel_size is None and len(sizes) == 2:
        raise InputError(
            f"{raw} and {clefts} state different voxel sizes: {image.space.voxel_size} and "
            f"{ids.space.voxel_size} nm; give voxel_size in the config"
        )
    size = reading.voxel_size or ids.space.voxel_size or image.voxel_size
    box = parse_roi(roi, image.shape) if roi else annotated
    if patch is not None and any(n < t for n, t in zip(box.shape, patch, strict=True)):
        raise InputError(f"{raw}: the region {box} is smaller than a patch of {patch}")
    return Source(raw, clefts, box, size, reading, weight)


@functools.cache
def _pair(raw: str, clefts: str | None, reading: Reading) -> tuple[Volume, Volume, Roi]:
    """Raw, its ids over the same voxels, and the box that is annotated."""
    image = open_volume(raw, reading=reading)
    if clefts is None:
        nothing = in_memory(np.broadcast_to(np.uint8(0), image.shape), like=image)
        return image, replace(nothing, chunks=image.chunks), image.roi
    ids = open_volume(clefts, prefer=("volumes/labels/clefts", "mask"))
    at = _place_of(image, ids)
    annotated = Roi(at, ids.shape).intersect(image.roi)
    if annotated == image.roi == Roi(at, ids.shape):
        return image, ids, image.roi
    about = f"{image.address} has shape {image.shape}, {ids.address} {ids.shape}"
    if not annotated.size:
        raise InputError(f"{about}, and by their offsets they have no voxel in common")
    if ids.dtype not in (np.uint64, np.uint8):
        raise InputError(f"{about}: ids of a part of raw are uint64, or a uint8 mask")
    unknown = IGNORE if ids.dtype == np.uint64 else IGNORE_MASK
    part = crop(ids, annotated.shift(zyx([-n for n in at])))
    return image, pad(part, image.shape, annotated.offset, unknown), annotated


def _place_of(image: Volume, ids: Volume) -> Zyx:
    """The first voxel of ids in raw, by their offsets in nm.

    Raises:
        InputError: their offsets do not say.
    """
    size = image.space.voxel_size or ids.voxel_size
    apart = zip(ids.space.offset, image.space.offset, size, strict=True)
    at = [(a - b) / v for a, b, v in apart]
    unsaid = image.shape != ids.shape and not any(at)
    if unsaid or any(abs(n - round(n)) > 1e-3 for n in at):
        raise InputError(
            f"{image.address} has shape {image.shape}, {ids.address} {ids.shape}, and their "
            "offsets do not say where the one lies in the other"
        )
    return zyx([round(n) for n in at])


def _is_cleft(source: Source, ids: np.ndarray) -> np.ndarray:
    return cleft_mask(ids, zero_is_cleft=source.volumes()[1].zero_is_cleft)


class VolumeSource(gp.BatchProvider):
    """Any readable pair of volumes as a gunpowder source; voxels beyond the faces are mirrored."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def setup(self) -> None:
        """Raw as float32 in [0, 1] and ids, everywhere; the unit is the voxel."""
        everywhere = gp.Roi((None,) * 3, (None,) * 3)
        for key, dtype in ((RAW, np.float32), (CLEFTS, self.source.volumes()[1].dtype)):
            spec = gp.ArraySpec(
                roi=everywhere, voxel_size=(1, 1, 1), dtype=dtype, interpolatable=key is RAW
            )
            self.provides(key, spec)

    def provide(self, request: Any) -> Any:
        """Read what is asked for."""
        image, ids = self.source.volumes()
        black_white = intensity_range(image)
        batch = gp.Batch()
        for key, spec in request.array_specs.items():
            roi = Roi(zyx(spec.roi.offset), zyx(spec.roi.shape))
            data = unit(image.read(roi), black_white) if key == RAW else ids.read(roi)
            found = self.spec[key].copy()
            found.roi = spec.roi
            batch[key] = gp.Array(data, found)
        return batch


@dataclass(frozen=True)
class Batches(Dataset[dict[str, torch.Tensor]]):
    """Batch i of a run: raw (n, 1, z, y, x) float32 in [-1, 1], each target (n, z, y, x).

    Of `count` processes that share a batch, number `rank` gets every count-th patch of it.

    A patch with fewer than `min_cleft_voxels` is drawn again with `reject_probability`
    (Liu & Ji 2021, IV-C). Patches lie within their region, but what `augment` displaces may come
    from as far outside of it as `augment.reach` says.

    Raises:
        UsageError: `augment` says what is impossible, or would turn an oblong patch.
    """

    sources: tuple[Source, ...]
    input_shape: Zyx
    targets: tuple[str, ...]
    batch_size: int
    seed: int
    min_cleft_voxels: int
    reject_probability: float
    augment: Mapping[str, Any] = field(default_factory=dict)
    scale: float | None = None
    unit: str | None = None
    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.count:
            raise UsageError(
                f"training.batch_size {self.batch_size} cannot be shared by {self.count} processes"
            )
        _, height, width = self.input_shape
        turned = any(isinstance(a, Rotate) and a.probability for a in self.chosen)
        if turned and height != width:
            raise UsageError(
                f"augment.rotate needs patches as high as wide, not {self.input_shape}: turned, "
                "they would leave the region"
            )

    @functools.cached_property
    def chosen(self) -> tuple[Augmentation, ...]:
        """The augmentations, in the order in which they act."""
        return choose(self.augment)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        patches = [self._patch(random) for random in self._lots(index)]
        return {name: torch.from_numpy(np.stack([p[name] for p in patches])) for name in patches[0]}

    def places(self, index: int) -> list[dict[str, str]]:
        """Where the patches of a batch are from, before augmentation."""
        drawn = (self.draw(random) for random in self._lots(index))
        return [{"raw": source.raw, "roi": str(roi)} for source, roi in drawn]

    def _lots(self, index: int) -> Iterator[np.random.Generator]:
        """A generator for each patch of this process."""
        for k in range(self.rank, self.batch_size, self.count):
            yield np.random.default_rng(np.random.SeedSequence([self.seed, index, k]))

    def _patch(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        source, roi = self.draw(random)
        wide = roi.grow(self._context(source))
        request = gp.BatchRequest(random_seed=int(random.integers(2**31)))
        request[RAW] = gp.ArraySpec(gp.Roi(roi.offset, roi.shape))
        request[CLEFTS] = gp.ArraySpec(gp.Roi(wide.offset, wide.shape))
        try:
            batch = _pipeline(source, self.chosen).request_batch(request)
        except Exception as error:
            raise _own(error) from None
        raw = grey_constant_sections(batch[RAW].data * 2 - 1)
        return {"raw": raw[None], **self._targets(source, batch[CLEFTS].data, roi, wide)}

    def draw(self, random: np.random.Generator) -> tuple[Source, Roi]:
        """A patch's place: a region by its weight, a position in it, unless it lacks clefts."""
        rooms = [
            zyx([n - t + 1 for n, t in zip(s.roi.shape, self.input_shape, strict=True)])
            for s in self.sources
        ]
        fitting = zip(self.sources, rooms, strict=True)
        weights = np.asarray([s.weight or np.prod(room) for s, room in fitting], float)
        for _ in range(MOST_DRAWS):
            chosen = random.choice(len(rooms), p=weights / weights.sum())
            source = self.sources[chosen]
            corner = Roi(zyx(random.integers(rooms[chosen]).tolist()), self.input_shape)
            roi = corner.shift(source.roi.offset)
            poor = _is_cleft(source, source.volumes()[1].read(roi)).sum() < self.min_cleft_voxels
            if not poor or random.random() >= self.reject_probability:
                break
        return source, roi

    def _context(self, source: Source) -> Zyx:
        found = []
        for name in self.targets:
            target = TARGETS[name]
            scale = target.scale_nm(source.voxel_size, *self._shape_of(name))
            found.append(target.context(source.voxel_size, scale))
        return zyx([max((c[axis] for c in found), default=0) for axis in range(3)])

    def _targets(
        self, source: Source, ids: np.ndarray, roi: Roi, wide: Roi
    ) -> dict[str, np.ndarray]:
        zero = source.volumes()[1].zero_is_cleft
        found = {}
        for name in self.targets:
            target = TARGETS[name]
            scale = target.scale_nm(source.voxel_size, *self._shape_of(name))
            full = target.compute(ids, source.voxel_size, scale, zero_is_cleft=zero)
            found[name] = np.ascontiguousarray(full[roi.within(wide)])
        return found

    def _shape_of(self, name: str) -> tuple[float | None, str | None]:
        return (None, None) if name == "mask" else (self.scale, self.unit)


def _own(error: BaseException) -> BaseException:
    """The error of ours that gunpowder has wrapped; another one as it is."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, CleftError):
        inner = inner.__cause__ or inner.__context__
    return inner or error


@functools.cache
def _pipeline(source: Source, chosen: tuple[Augmentation, ...]) -> Any:
    """A source's pipeline, set up once per process."""
    pipeline = VolumeSource(source)
    for node in nodes(chosen, source.voxel_size):
        pipeline = pipeline + node
    pipeline.setup()
    return pipeline
