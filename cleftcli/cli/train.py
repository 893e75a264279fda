"""`cleft train`."""

from pathlib import Path
from typing import Annotated

import typer

from cleftcli.cli import report
from cleftcli.cli.options import DeviceOption, JsonOption

ConfigArg = Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file; see docs/configs.")]
RunOption = Annotated[
    Path, typer.Option("-o", "--output", help="Folder of the run; with --check, the PNG to write.")
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Look at the data, run two steps, start nothing.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")]


def main(
    config: ConfigArg,
    output: RunOption,
    resume: ResumeOption = False,
    check: CheckOption = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Train a network as a TOML file says.

    \b
    cleft train config.toml -o check.png --check
    cleft train config.toml -o run
    cleft train config.toml -o run --resume
    torchrun --nproc-per-node 4 -m cleftcli train config.toml -o run
    """
    if check:
        _check(config, output, device, json)
        return
    with report.progress("steps", "loading torch") as shown:
        from cleftcli.jobs.train import train

        found = train(config, output, resume=resume, device=device, report=shown)
    if found:  # under torchrun the first process speaks
        report.result(found, as_json=json, text=found["checkpoint"])
        report.hint("predict", "VOLUME", "--checkpoint", found["checkpoint"])


def _check(config: Path, picture: Path, device: str, json: bool) -> None:
    with report.progress("checking"):
        from cleftcli.jobs.check import check

        found = check(config, picture, device=device)
    if not found:  # under torchrun the first process speaks
        return
    regions = [report.table(list(region.items())) for region in found["regions"]]
    facts = [(k, v) for k, v in found.items() if k != "regions"]
    report.result(found, as_json=json, text="\n\n".join([*regions, report.table(facts)]))
    report.hint("train", config, "-o", "run")
