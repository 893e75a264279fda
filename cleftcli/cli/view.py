"""`cleft view`."""

from __future__ import annotations

import contextlib
import shlex
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleftcli.cli import complete, report
from cleftcli.cli.options import JsonOption, ThresholdOption, VoxelSizeOption, parse_voxel_size
from cleftcli.errors import UsageError

if TYPE_CHECKING:
    from cleftcli.viewers.layer import Layer

OutputArg = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT",
        autocompletion=complete.datasets,
        help="Probability, mask or ids; may still be growing.",
    ),
]
TruthOption = Annotated[
    str | None,
    typer.Option(autocompletion=complete.datasets, help="Ids or mask to hold it against."),
]
RawOption = Annotated[
    str | None,
    typer.Option(
        autocompletion=complete.datasets,
        help="Raw to show. Default: the volume that it was made from.",
    ),
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
NeuroglancerOption = Annotated[
    bool,
    typer.Option(
        "--neuroglancer", help="Serve the volumes to browsers of this machine, until Ctrl-C."
    ),
]
NapariOption = Annotated[
    bool, typer.Option("--napari", help="Print the command that opens the volumes in napari.")
]


def main(
    volume: OutputArg,
    truth: TruthOption = None,
    raw: RawOption = None,
    output: ReportOption = None,
    threshold: ThresholdOption = None,
    voxel_size: VoxelSizeOption = None,
    png: PngOption = False,
    neuroglancer: NeuroglancerOption = False,
    napari: NapariOption = False,
    json: JsonOption = False,
) -> None:
    """Look at an output: overlays, scores, blocks and seams, in one HTML file.

    \b
    cleft view prediction.zarr
    cleft view prediction.zarr --truth sample_A.hdf -o report.html
    cleft view clefts.zarr --truth sample_A.hdf --json | jq .clefts.counts
    cleft view prediction.zarr --napari | sh
    """
    if png + neuroglancer + napari > 1:
        raise UsageError("--png, --neuroglancer and --napari exclude each other")
    with report.progress("sections", "loading") as shown:
        from cleftcli.jobs import view as job
        from cleftcli.viewing.scene import Subject

        subject = Subject(volume, truth, raw, threshold, parse_voxel_size(voxel_size))
        if not (png or neuroglancer or napari):
            found = job.view(subject, output, shown)
    if neuroglancer:
        _serve(job.layers(subject), json=json)
    elif napari:
        from cleftcli.viewers.napari import napari_command

        words = napari_command(job.layers(subject))
        report.result({"command": words}, as_json=json, text=shlex.join(words))
    elif png:
        found = job.view_pictures(subject, output)
        report.result(found, as_json=json, text="\n".join(found["files"]))
    else:
        report.result(found, as_json=json, text=found["report"])
        _suggest(volume, found["summary"]["content"])


def _suggest(output: str, content: str) -> None:
    if content == "probability":
        report.hint("segment", output, "-o", "clefts.zarr", "--table", "clefts.csv")
    else:
        report.hint("export-cremi", output, "-o", "submission.hdf")


def _serve(layers: list[Layer], *, json: bool) -> None:
    """Tell the link, and serve until Ctrl-C, which is how this ends well."""
    from cleftcli.viewers.neuroglancer import served

    with served(layers) as link, contextlib.suppress(KeyboardInterrupt):
        report.result({"link": link}, as_json=json, text=link)
        report.say("Open it in a browser of this machine; Ctrl-C ends it")
        threading.Event().wait()
