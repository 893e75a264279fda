"""What is known of the run that made an output: its ledgers, its records, its settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleftcli.errors import InputError
from cleftcli.inspection import look
from cleftcli.run_record import run_records
from cleftcli.viewing.coverage import Coverage, read_coverage
from cleftcli.volumes import (
    Reading,
    Volume,
    crop,
    is_remote,
    open_volume,
    same_voxels,
    split_address,
)
from cleftcli.volumes.intensity import Range, intensity_range


@dataclass(frozen=True)
class Run:
    """The run behind an output; `fingerprint` is every setting that decides a voxel of it.

    Whatever was not noted is empty or None: records are files beside the output, and files get
    lost.
    """

    coverage: Coverage | None
    records: list[dict[str, Any]]
    fingerprint: Mapping[str, Any]

    def raw_under(self, volume: Volume) -> Volume:
        """The volume that was predicted, over the voxels of its output.

        Raises:
            InputError: it is not named, not there any more, or another one is.
        """
        named, shape = self.fingerprint.get("volume"), self.fingerprint.get("shape")
        if not isinstance(named, str):
            raise InputError("the output does not say what it was made from; name it with --raw")
        folders = [Path(r["folder"]) for r in self.records if isinstance(r.get("folder"), str)]
        opened = open_volume(there(named, [*folders, Path()]), reading=self._reading())
        if list(opened.shape) != shape:
            raise InputError(
                f"{opened.address} has shape {opened.shape}, the run saw {shape}; "
                "name what it saw with --raw"
            )
        if self.coverage is None:
            return same_voxels(volume, opened)
        return crop(opened, self.coverage.roi)

    def black_white(self, raw: Volume) -> Range:
        """Black and white: of the run, else as the volume says, else from what is there."""
        stated = self.fingerprint.get("intensity_range")
        if self.fingerprint.get("dtype") == str(raw.dtype) and isinstance(stated, list):
            return float(stated[0]), float(stated[1])
        try:
            return intensity_range(raw)
        except InputError:
            values = look(raw).values
            low, high = (values.min(), values.max()) if values.size else (0, 1)
            return float(low), float(high if high > low else low + 1)

    def _reading(self) -> Reading:
        """How the run read its volume."""
        for record in self.records:
            known = as_mapping(as_mapping(record.get("settings")).get("reading"))
            size = known.get("voxel_size")
            z_y_x = None if size is None else tuple(size)
            return Reading(z_y_x, known.get("axes"), known.get("channel"))
        return Reading()


def read_run(output: Volume) -> Run:
    """What lies beside an output, and what its attributes say.

    Raises:
        InputError: a ledger does not say which blocks there are.
    """
    address = output.address
    settings = as_mapping(output.attributes.get("run"))
    return Run(read_coverage(address), run_records(address), settings)


def there(address: str, folders: Iterable[Path]) -> str:
    """An address that a run noted, from the first folder in which its container is."""
    if is_remote(address):
        return address
    here = Path.cwd()
    candidates = [address if folder == here else str(folder / address) for folder in folders]
    found = (c for c in candidates if Path(split_address(c)[0]).exists())
    return next(found, address)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """What attributes or records hold, where it is an object."""
    return value if isinstance(value, Mapping) else {}
