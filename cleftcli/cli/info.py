"""`cleft info`."""

from typing import Annotated, Any

import typer

from cleftcli.cli import report
from cleftcli.cli.options import JsonOption

PathArg = Annotated[
    str, typer.Argument(metavar="PATH", help="Store, array, checkpoint or run folder.")
]


def main(path: PathArg, json: JsonOption = False) -> None:
    """What is in a store, a checkpoint or a run folder.

    \b
    cleft info volume.zarr
    cleft info sample_A.hdf --json
    cleft info run/checkpoint.safetensors
    """
    from cleftcli.jobs.info import info

    found = info(path)
    report.result(found, as_json=json, text=_text(found))


def _text(found: dict[str, Any]) -> str:
    parts = found.get("arrays", [found])
    return "\n\n".join(report.table(list(part.items())) for part in parts)
