"""Whether this machine and a folder are able: checks by name, each with one finding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cleftcli.checks import devices, folder, limits, packages
from cleftcli.checks.finding import Finding, problem
from cleftcli.errors import CleftError

__all__ = ["CHECKS", "Finding", "check"]


def check(name: str, place: Path) -> Finding:
    """What a check finds; whatever it raises is a problem found.

    Args:
        name: of CHECKS.
        place: folder that outputs go to.
    """
    try:
        return CHECKS[name](place)
    except CleftError as error:
        return problem(str(error), "")
    except Exception as error:
        said = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        return problem(f"not tried: {said}", "mend what the check of libraries says, if it does")


def _of_machine(found: Callable[[], Finding]) -> Callable[[Path], Finding]:
    return lambda _: found()


def _extra(name: str, without: str) -> Callable[[Path], Finding]:
    return _of_machine(partial(packages.extra, name, without))


CHECKS: dict[str, Callable[[Path], Finding]] = {
    "python": _of_machine(packages.python),
    "libraries": _of_machine(packages.libraries),
    "weaknesses": _of_machine(packages.weaknesses),
    "checkpoint": _of_machine(packages.checkpoint),
    "extra train": _extra("train", "train and demo are refused"),
    "extra view": _extra("view", "view --neuroglancer is refused"),
    "extra cluster": _extra("cluster", "--cluster is refused"),
    "extra tiff": _extra("tiff", "TIFF with LZW, JPEG and other codecs is not read"),
    "processor": _of_machine(devices.processor),
    "precision": _of_machine(devices.precision),
    "gpus": _of_machine(devices.gpus),
    "memory": _of_machine(limits.free_memory),
    "shared memory": _of_machine(limits.shared_memory),
    "limits": _of_machine(limits.limits),
    "loopback": _of_machine(limits.loopback),
    "file system": folder.file_system,
    "space": folder.space,
    "replacing": folder.replacing,
    "locks": folder.locks,
    "speed": folder.speed,
}
