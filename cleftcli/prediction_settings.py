"""What a prediction was asked for, before anything was looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cleftcli.blockwise import HERE, Workers
from cleftcli.geometry import Zyx
from cleftcli.inspection import Missing
from cleftcli.outputs import check_output
from cleftcli.volumes import AS_STORED, Reading, absolute, split_address
from cleftcli.volumes.intensity import Range


@dataclass(frozen=True)
class Settings:
    """What `predict` was asked for; None means the default of the checkpoint or the device."""

    volume: str
    output: str | None = None
    checkpoint: Path | None = None
    roi: str | None = None
    overlap: Zyx | None = None
    context: Zyx = (0, 0, 0)
    blend: str = "bump"
    tta: str = "none"
    channels: tuple[str, ...] = ("cleft",)
    block: Zyx | None = None
    batch_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    workers: Workers = HERE
    dtype: str = "uint8"
    format: str | None = None
    intensity_range: Range | None = None
    reading: Reading = AS_STORED
    missing: Missing = "fill"
    mask: str | None = None
    any_voxel_size: bool = False

    def output_address(self) -> str:
        """`-o`, or the volume's name with .cleft.zarr (.n5) here; the dataset is `cleft`.

        Raises:
            UsageError: nothing can be written there block by block.
        """
        if self.output is None:
            stem = Path(split_address(self.volume)[0]).name.rsplit(".", 1)[0]
            return f"{stem}.cleft.{'n5' if self.format == 'n5' else 'zarr'}/cleft"
        check_output(self.output, self.volume)
        container, dataset = split_address(self.output)
        return f"{container}/{dataset or 'cleft'}"

    def absolute(self) -> Settings:
        """The same for workers with another current folder."""
        return replace(
            self,
            volume=absolute(self.volume),
            output=absolute(self.output_address()),
            mask=self.mask and absolute(self.mask),
        )
