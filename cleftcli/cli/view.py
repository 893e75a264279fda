"""`cleft view`."""

from pathlib import Path
from typing import Annotated

import typer

from cleftcli.cli import report
from cleftcli.cli.options import JsonOption, ThresholdOption, VoxelSizeOption, parse_voxel_size

OutputArg = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="Probability, mask or ids; may still be growing.")
]
TruthOption = Annotated[str | None, typer.Option(help="Ids or mask to hold it against.")]
RawOption = Annotated[
    str | None, typer.Option(help="Raw to show. Default: the volume that it was made from.")
]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", help="Report to write; a folder with --png. Default: beside OUTPUT."
    ),
]
PngOption = Annotated[
    bool, typer.Option("--png", help="Write the pictures alone, as PNG files in a folder.")
]


def main(
    volume: OutputArg,
    truth: TruthOption = None,
    raw: RawOption = None,
    output: ReportOption = None,
    threshold: ThresholdOption = None,
    voxel_size: VoxelSizeOption = None,
    png: PngOption = False,
    json: JsonOption = False,
) -> None:
    """Look at an output: overlays, scores, blocks and seams, in one HTML file.

    \b
    cleft view prediction.zarr
    cleft view prediction.zarr --truth sample_A.hdf -o report.html
    cleft view clefts.zarr --truth sample_A.hdf --json | jq .clefts.counts
    """
    from cleftcli.jobs.view import view, view_pictures
    from cleftcli.viewing.scene import Subject

    subject = Subject(volume, truth, raw, threshold, parse_voxel_size(voxel_size))
    if png:
        found = view_pictures(subject, output)
        report.result(found, as_json=json, text="\n".join(found["files"]))
        return
    with report.progress("sections") as shown:
        found = view(subject, output, shown)
    report.result(found, as_json=json, text=found["report"])
