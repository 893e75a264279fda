"""What computes here: processor and GPUs, tried rather than believed."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from cleftcli.checks.finding import Finding, note, ok, problem
from cleftcli.machine import cores

CPUINFO = Path("/proc/cpuinfo")
DRIVER = Path("/proc/driver/nvidia/version")
CARDS = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", "0x03"  # vendor, and class of a display controller, on the PCI bus


def processor() -> Finding:
    """How many cores this process may use, of those that are built in."""
    built_in, granted = os.cpu_count() or 1, cores()
    name = _first(r"model name\s*:\s*(.+)", CPUINFO) or platform.machine()
    fact = f"{name}, {granted} of {built_in} cores"
    if granted == built_in:
        return ok(fact, cores=granted, built_in=built_in)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else built_in
    limit = "CPU quota of its control group" if granted < allowed else "cores it may run on"
    return note(
        f"{fact}: the {limit}",
        "all is made for those; for more, ask the batch system or the container",
        cores=granted,
        built_in=built_in,
    )


def precision() -> Finding:
    """What `--precision auto` is on the processor, and that it does not end the process."""
    import torch

    from cleftcli.model.device import choose_precision

    found = choose_precision("auto", torch.device("cpu"))
    if found == "bfloat16":
        return ok("bfloat16, on matrix units (AMX)")
    if not torch.cpu._is_amx_tile_supported():
        return ok("float32, for there are no matrix units (AMX)")
    return note(
        "float32: the processor names matrix units (AMX), but using them ends the process",
        "nothing to do; a newer kernel or hypervisor may bring them, which is faster",
    )


def gpus() -> Finding:
    """Which GPUs torch can compute on; or why none, where a card is built in."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return _no_gpu()
    told = [_gpu(n) for n in range(count)]
    runtime = torch.version.cuda or torch.version.hip
    driver = _first(r"Module\s+(?:for \S+\s+)?([\d.]+)", DRIVER) or "unknown"
    fact = f"{'; '.join(text for text, _ in told)}; CUDA {runtime}, driver {driver}"
    if all(works for _, works in told):
        return ok(fact, gpus=count)
    return problem(fact, "look at nvidia-smi, or leave it out by CUDA_VISIBLE_DEVICES", gpus=count)


def _gpu(number: int) -> tuple[str, bool]:
    """A GPU in words, and whether it multiplies."""
    import torch

    name = f"cuda:{number} {torch.cuda.get_device_name(number)}"
    try:
        ones = torch.ones((64, 64), device=f"cuda:{number}")
        right = bool(((ones @ ones) == 64).all())
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:
        return f"{name} fails: {str(error).splitlines()[0]}", False
    said = f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    return (said, True) if right else (f"{said}, multiplies wrongly", False)


def _no_gpu() -> Finding:
    import torch

    if not any(map(_is_card, CARDS.glob("*"))):
        return ok("none built in: networks run on the processor", gpus=0)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not (torch.version.cuda or torch.version.hip):
        why = f"torch {torch.__version__} is a build without CUDA"
        advice = "install a build with it: https://pytorch.org/get-started/locally"
    elif hidden is not None:
        why, advice = f"CUDA_VISIBLE_DEVICES is {hidden!r}", "unset CUDA_VISIBLE_DEVICES"
    else:
        why, advice = _refusal(), "look at nvidia-smi; the driver has to fit the CUDA of torch"
    return note(f"a card is built in, but torch has none: {why}", advice, gpus=0)


def _refusal() -> str:
    """Why CUDA does not start."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return f"CUDA {torch.version.cuda} starts, and finds no device"


def _is_card(device: Path) -> bool:
    """Whether a device of the PCI bus is an NVIDIA card."""
    vendor, kind = (_first(r"(\S+)", device / name) for name in ("vendor", "class"))
    return vendor == NVIDIA and kind.startswith(DISPLAY)


def _first(pattern: str, path: Path) -> str:
    """What a pattern finds first in a file, "" where it or the file is not there."""
    try:
        found = re.search(pattern, path.read_text())
    except OSError:
        return ""
    return found[1] if found else ""
