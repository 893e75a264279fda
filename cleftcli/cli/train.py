"""`cleft train`."""

from pathlib import Path
from typing import Annotated

import typer

from cleftcli.cli import report
from cleftcli.cli.options import DeviceOption, JsonOption

ConfigArg = Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file; see docs/configs.")]
RunOption = Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")]


def main(
    config: ConfigArg,
    output: RunOption,
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Train a network as a TOML file says.

    \b
    cleft train config.toml -o run
    cleft train config.toml -o run --resume
    """
    from cleftcli.jobs.train import train

    with report.progress("steps") as shown:
        found = train(config, output, resume=resume, device=device, report=shown)
    report.result(found, as_json=json, text=found["checkpoint"])
    report.hint(f"cleft predict VOLUME --checkpoint {found['checkpoint']}")
