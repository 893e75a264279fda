"""Where an output goes: what may be written there, what has to give way, and whether it fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cleftcli import __version__
from cleftcli.blockwise import ledgers, refuse_if_held, standing
from cleftcli.errors import ConflictError, InputError, ResourceError, UsageError
from cleftcli.geometry import BlockPlan, Zyx
from cleftcli.machine import free_space, nearest, try_writing
from cleftcli.stored import ledger_of
from cleftcli.volumes import (
    Space,
    Volume,
    choose_format,
    create_volume,
    has_array,
    is_ours,
    is_remote,
    list_volumes,
    open_volume,
    remove_array,
    split_address,
)

CHUNK: Zyx = (16, 128, 128)
BLOCK_VOXELS = 2**24  # what one unit of work writes; a kill loses at most the blocks in flight
DOCUMENTS = 16  # files and folders of an output beside its chunks, about
# attributes that hold for other voxels made of a volume's
CARRIED = ("content", "threshold", "probability_is", "contrastAdjustment", "intensity_range")


@dataclass(frozen=True)
class Output:
    """The volume to make: address of its array, and what it will say of itself."""

    address: str
    plan: BlockPlan
    dtype: type
    chunks: Zyx
    space: Space
    attributes: Mapping[str, Any]
    format: str | None = None
    image: bool = True  # not a level of one

    @property
    def container(self) -> Path:
        """The store on disk."""
        return Path(split_address(self.address)[0])

    @property
    def bytes(self) -> int:
        """How many bytes its voxels take where nothing compresses."""
        return self.plan.roi.size * np.dtype(self.dtype).itemsize

    @property
    def files(self) -> int:
        """How many files and folders it takes: one a chunk, and those that hold them."""
        counts = [-(-n // c) for n, c in zip(self.plan.roi.shape, self.chunks, strict=True)]
        outer = counts[::-1] if self.container.suffix == ".n5" else counts
        return DOCUMENTS + sum(math.prod(outer[:n]) for n in (1, 2, 3))

    @property
    def ledger(self) -> Path:
        """Lies beside the store, so that copies of the store do not carry it."""
        return ledger_of(self.address)


def check_output(address: str, *inputs: str) -> None:
    """Refuse what cannot be written block by block, before any work.

    Raises:
        UsageError: it is no local .zarr or .n5, or would be written into an input.
    """
    container, _ = split_address(address)
    if is_remote(address) or not container.endswith((".zarr", ".n5")):
        raise UsageError(f"{address}: output goes to a local .zarr or .n5")
    for other in inputs:
        source = Path(split_address(other)[0])
        if not is_remote(other) and _real(container).is_relative_to(_real(source)):
            raise UsageError(f"{container}: the output would be written into the input {source}")


def _real(path: str | Path) -> Path:
    """The path without links; one whose links run in circles is an output's or input's fault."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: {error}") from error


def check_room(output: Output, *further: Output) -> None:
    """Refuse outputs that their place cannot take, in the first second.

    They count as incompressible, but blocks that the ledger of the first names are there already.
    A file is written on trial, and removed.

    Raises:
        ResourceError: bytes or inodes are too few, or the place may not be written.
        UsageError: it cannot be of that format there.
    """
    choose_format(output.address, output.format, np.dtype(output.dtype))
    folder = nearest(output.container if ledgers(output.ledger) else output.container.parent)
    left = 1 - len(standing(ledgers(output.ledger)).done) / len(output.plan)
    every = (output, *further)
    needed = left * sum(one.bytes for one in every)
    files = left * sum(one.files for one in every)
    free, inodes = free_space(folder)
    if needed > free:
        raise ResourceError(
            f"the output may need {needed / 1e9:.3g} GB and {folder} has {free / 1e9:.3g} GB free; "
            "nothing was written"
        )
    if inodes is not None and files > inodes:
        raise ResourceError(
            f"the output may need {files:.0f} files and folders and {folder} has "
            f"room for {inodes} (inodes); larger chunks make fewer; nothing was written"
        )
    try_writing(folder)


def create(output: Output) -> Volume:
    """The output's array, not `complete` as yet; made if a kill has not left it already.

    Raises:
        ResourceError: the place may not be written.
        UsageError: it cannot be of that format there, or another array is in the way.
    """
    attributes = {**output.attributes, "made_by": f"cleft {__version__}", "complete": False}
    return create_volume(
        output.address,
        shape=output.plan.roi.shape,
        dtype=np.dtype(output.dtype),
        chunks=output.chunks,
        space=output.space,
        attributes=attributes,
        format=output.format,
        image=output.image,
    )


def make_room(output: Output, further: Sequence[Output] = (), *, overwrite: bool) -> None:
    """Refuse a place that holds what is not this output; remove an old one when told to.

    Args:
        output: the one that has the ledger.
        further: outputs that are written with it.
        overwrite: remove what cleft made.

    Raises:
        ConflictError: something is there that cleft did not make, or that it made before.
    """
    begun = ledgers(output.ledger)
    there = [one.address for one in (output, *further) if has_array(one.address)]
    strangers = [a for a in there if not is_ours(a) and not (begun and _is_bare(a))]
    if strangers:
        raise ConflictError(f"{strangers[0]} was not made by cleft; choose another -o")
    if not there and output.container.exists() and not _all_ours(output.container):
        raise ConflictError(f"{output.container} was not made by cleft; choose another -o")
    if begun and not overwrite:
        return
    for ledger in begun:
        refuse_if_held(ledger)
    if there and not overwrite:
        raise ConflictError(f"{there[0]} exists; choose another -o, or --overwrite it")
    for address in {*there, *_written(output, begun)}:
        remove_array(address)
    for ledger in begun:
        ledger.unlink()


def _written(output: Output, begun: Sequence[Path]) -> list[str]:
    """The arrays of ours that the blocks of an earlier run wrote, which may be more than now."""
    records = (record for _, record in standing(begun).records() if "stored" in record)
    every = [f"{output.container}/{d}" for d in next(records, {}).get("stored", {})]
    return [a for a in every if has_array(a) and is_ours(a)]


def _is_bare(address: str) -> bool:
    """Whether an array holds nothing yet: a kill came between making it and naming its maker."""
    scan = open_volume(address).scan()
    return scan.missing == scan.chunks


def _all_ours(container: Path) -> bool:
    try:
        return all(map(is_ours, list_volumes(str(container))))
    except InputError:
        return not any(container.iterdir())
