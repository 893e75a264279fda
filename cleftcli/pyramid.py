"""Coarser levels of a finished volume, which viewers show while one is far away."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cleftcli.blockwise import Process, Workers, ledgers, refuse_if_held
from cleftcli.errors import IncompleteError, UsageError
from cleftcli.geometry import Block, BlockPlan, Roi, Zyx, fit_block, whole, zyx
from cleftcli.outputs import BLOCK_VOXELS, CARRIED, Output, check_room
from cleftcli.resumable import Report, make
from cleftcli.stored import store
from cleftcli.volumes import (
    Nm,
    Space,
    Volume,
    has_array,
    open_volume,
    split_address,
    write_levels,
)

SMALL = 256  # voxels of an axis that a viewer shows at once
SUMS: dict[str, type] = {"uint8": np.uint16, "uint16": np.uint32, "float32": np.float64}


def levels(shape: Zyx, voxel_size: Nm) -> list[Zyx]:
    """How many voxels of a volume one of each coarser level stands for, on each axis.

    From one level to the next an axis of more than one voxel is halved if its voxel edge is less
    than twice the shortest of such axes: voxels become cubes, and stay so. The last level is the
    first on which no axis to be halved is longer than SMALL; a small volume has none.
    """
    found: list[Zyx] = []
    factor: Zyx = (1, 1, 1)
    while True:
        counts = _cut(shape, factor)
        edges = [
            v * f if n > 1 else np.inf for v, f, n in zip(voxel_size, factor, counts, strict=True)
        ]
        halved = [n > 1 and e < 2 * min(edges) for e, n in zip(edges, counts, strict=True)]
        if max(n * h for n, h in zip(counts, halved, strict=True)) <= SMALL:
            return found
        factor = zyx([f * (1 + h) for f, h in zip(factor, halved, strict=True)])
        found.append(factor)


def _cut(shape: Zyx, factor: Zyx) -> Zyx:
    """The shape of a level; its last voxels may cover less."""
    return zyx([-(-n // f) for n, f in zip(shape, factor, strict=True)])


def mean(data: np.ndarray, factor: Zyx) -> np.ndarray:
    """The mean of each `factor` voxels, one or two on an axis; same dtype.

    The last ones are of what is there. Means of whole numbers are rounded, halves to even.
    """
    around = [(0, -n % f) for n, f in zip(data.shape, factor, strict=True)]
    even = np.pad(data, around, mode="edge")  # of two equal voxels the mean is their value
    sums: np.ndarray = np.zeros(_cut(zyx(data.shape), factor), SUMS[data.dtype.name])
    for first in itertools.product(*map(range, factor)):
        sums += even[tuple(slice(a, None, f) for a, f in zip(first, factor, strict=True))]
    means = sums / np.float64(np.prod(factor))
    return np.asarray(means if data.dtype.kind == "f" else np.rint(means)).astype(data.dtype)


@dataclass(frozen=True)
class Downsample(Process):
    """Write one block of a level: the mean of the voxels of the finer one that it covers."""

    source: str
    output: str
    factor: Zyx

    def __call__(self, block: Block) -> dict[str, Any]:
        """Read and write the block."""
        source = open_volume(self.source)
        covered = [
            zyx([n * f for n, f in zip(corner, self.factor, strict=True)])
            for corner in (block.write.offset, block.write.shape)
        ]
        data = source.read(Roi(covered[0], covered[1]).intersect(source.roi))
        return {"stored": store(self.output, block.write, mean(data, self.factor))}


def make_pyramid(volume: Volume, *, workers: Workers, overwrite: bool, report: Report) -> list[str]:
    """Make the coarser levels of a finished volume of ours, beside it; returns their addresses.

    They are called NAME_1, NAME_2, ... and declared as scales of one image. What is there already
    is kept, so that the same call continues.

    Args:
        volume: probability or intensities, not ids: uint8, uint16 or float32.
        workers: who does the blocks; all of them, where it is a part.
        overwrite: replace levels made of other voxels.
        report: called with blocks done and blocks in all, of all levels.

    Raises:
        ConflictError: something else is at the address of a level.
        IncompleteError: blocks failed, or the volume is not finished.
        InputError: its voxel size is not known.
        ResourceError: the disk does not suffice, or may not be written.
        UsageError: its voxels have no mean, or there is no group to hold levels.
    """
    _check(volume)
    factors = levels(volume.shape, volume.voxel_size)
    outputs = [_output(volume, number, factor) for number, factor in enumerate(factors, 1)]
    blocks = [len(output.plan) for output in outputs]
    for output in outputs:
        check_room(output)
        _forget(output)
    write_levels(volume, [])
    made = [volume]
    for number, output in enumerate(outputs):
        before = sum(blocks[:number])
        outcome = make(
            output,
            Downsample(made[-1].address, output.address, _step(factors, number)),
            output.attributes["run"],
            workers=replace(workers, part=None),
            overwrite=overwrite,
            report=partial(_report, report, before, sum(blocks)),
        )
        made.append(outcome.volume)
    write_levels(volume, made[1:])
    return [level.address for level in made[1:]]


def _check(volume: Volume) -> None:
    """Refuse what has no means, is not finished, or has nothing above it to say so."""
    if not split_address(volume.address)[1]:
        raise UsageError(f"{volume.address}: levels lie beside an array, and this has no beside")
    if volume.attributes.get("complete") is not True:
        raise IncompleteError(f"{volume.address}: not finished; run the command that makes it")
    content = volume.attributes.get("content")
    if volume.dtype.name not in SUMS or content == "ids":
        raise UsageError(f"{volume.address}: {content or volume.dtype.name} has no mean")


def _output(volume: Volume, number: int, factor: Zyx) -> Output:
    """A level to make."""
    shape = _cut(volume.shape, factor)
    sizes, offset = volume.voxel_size, volume.space.offset
    z, y, x = (v * f for v, f in zip(sizes, factor, strict=True))
    cz, cy, cx = (
        o + v * (f - 1) / 2 for o, v, f in zip(offset, sizes, factor, strict=True)
    )  # the middle of those whose mean the first voxel is
    facts = {"source": volume.address, "of": volume.attributes.get("run"), "factor": list(factor)}
    attributes = {k: volume.attributes[k] for k in CARRIED if k in volume.attributes}
    if volume.format == "n5":
        attributes["downsamplingFactors"] = list(factor)[::-1]
    return Output(
        address=f"{volume.address}_{number}",
        plan=BlockPlan(whole(shape), fit_block(shape, volume.chunks, BLOCK_VOXELS // 8)),
        dtype=volume.dtype.type,
        chunks=volume.chunks,
        space=Space((z, y, x), (cz, cy, cx)),
        attributes={**attributes, "run": facts},
        format=volume.format,
        image=False,
    )


def _step(factors: list[Zyx], number: int) -> Zyx:
    """How many voxels of the level above make one of a level."""
    above = factors[number - 1] if number else (1, 1, 1)
    return zyx([f // a for f, a in zip(factors[number], above, strict=True)])


def _forget(output: Output) -> None:
    """Drop the ledger of a level that went with the volume it was made of."""
    for ledger in [] if has_array(output.address) else ledgers(output.ledger):
        refuse_if_held(ledger)
        ledger.unlink()


def _report(
    report: Report, before: int, total: int, done: int, _: int, facts: dict[str, float]
) -> None:
    """Of all levels."""
    report(before + done, total, facts)
