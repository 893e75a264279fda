"""What of an output is on disk, held against what its ledgers say.

The ledger lies beside the container (`OUT.zarr.DATASET.ledger`), so that copies of the store do not
carry it.
"""

from __future__ import annotations

import glob
import zlib
from pathlib import Path

import numpy as np

from cleftcli.blockwise import Standing
from cleftcli.errors import InputError
from cleftcli.geometry import BlockPlan, Roi, Zyx, between, zyx
from cleftcli.volumes import chunks_behind, has_array, open_volume, split_address


def ledger_of(address: str) -> Path:
    """The ledger of an output, or of the whole where parts have some of their own."""
    return beside(address, "ledger")


def beside(address: str, what: str) -> Path:
    """The file about an output that lies beside its container: OUT.zarr.DATASET.WHAT."""
    container, dataset = split_address(address)
    name = ".".join(p for p in (Path(container).name, dataset.replace("/", "."), what) if p)
    return Path(container).with_name(name)


def output_at(address: str) -> str:
    """The output that an address means: a dataset, or the only one with a ledger in a container.

    Raises:
        InputError: several have one, or none.
    """
    container, dataset = split_address(address)
    if dataset:
        return address
    path = Path(container)
    beside = sorted(path.absolute().parent.glob(f"{glob.escape(path.name)}.*.ledger*"))
    names = sorted({p.name[len(path.name) + 1 :].split(".ledger")[0] for p in beside})
    if not names:
        raise InputError(
            f"{container}: there is no ledger of cleft beside it; "
            "predict, make-labels and convert leave one"
        )
    if len(names) > 1:
        raise InputError(f"{container} holds several outputs: {', '.join(names)}; name one")
    return f"{container}/{names[0].replace('.', '/')}"


def plan_of(found: Standing, ledger: Path) -> BlockPlan:
    """The blocks that ledgers speak of.

    Raises:
        InputError: they do not say.
    """
    try:
        ends = [[int(n) for n in part.split(":")] for part in found.fingerprint["roi"].split(",")]
        offset, end = (zyx(values) for values in zip(*ends, strict=True))
        return BlockPlan(between(offset, end), zyx(found.fingerprint["block"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{ledger}: it does not say which blocks there are") from error


def store(address: str, roi: Roi, data: np.ndarray) -> dict[str, list[int]]:
    """Write a box of whole chunks; bytes on disk and CRC-32 of the voxels, by dataset.

    For the ledger, under `stored`: that is how a chunk which is lost or cut off later is seen.
    """
    volume = open_volume(address)
    volume.write(roi, data)
    size = chunks_behind(volume).bytes_in(roi.within(volume.roi))
    return {split_address(address)[1]: [size, checksum(data)]}


def checksum(data: np.ndarray) -> int:
    """CRC-32 of voxels in z, y, x order."""
    return zlib.crc32(np.ascontiguousarray(data).data)


def sound(container: Path, plan: BlockPlan, standing: Standing) -> set[int]:
    """The blocks that are recorded, and whose chunks have the size on disk that they had then."""
    sizes: dict[str, tuple[np.ndarray, Zyx]] = {}
    found = set()
    for index, record in standing.records():
        stored = record.get("stored", {})
        for dataset in stored.keys() - sizes.keys():
            sizes[dataset] = _sizes(f"{container}/{dataset}")
        if all(_bytes_of(plan, index, *sizes[d]) == size for d, (size, _) in stored.items()):
            found.add(index)
    return found


def _bytes_of(plan: BlockPlan, index: int, sizes: np.ndarray, chunk: Zyx) -> int:
    """What the chunks of a block take on disk."""
    here = written_at(plan, index)
    z, y, x = (
        slice(a // c, -(-b // c)) for a, b, c in zip(here.offset, here.end, chunk, strict=True)
    )
    return int(sizes[z, y, x].sum())


def written_at(plan: BlockPlan, index: int) -> Roi:
    """The voxels of an output that a block writes."""
    return plan[index].write.shift(zyx([-o for o in plan.roi.offset]))


def _sizes(address: str) -> tuple[np.ndarray, Zyx]:
    """Bytes of each chunk of an array, and the chunk; of one that is not there, nothing."""
    if not has_array(address):
        return np.zeros((0, 0, 0), np.int64), (1, 1, 1)
    volume = open_volume(address)
    return chunks_behind(volume).sizes(), volume.chunks
