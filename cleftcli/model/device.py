"""Where and how precisely to compute."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from cleftcli import heap
from cleftcli.errors import DeviceLost, ResourceError, UsageError

CPU_ALLOCATOR = "DefaultCPUAllocator"  # in the message of a RuntimeError
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:1` names.

    Raises:
        ResourceError: that device is not there.
        UsageError: no such name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r}: auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UsageError(f"device {name!r}: auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"device {name}: {torch.cuda.device_count()} GPUs are usable here; "
            "--device cpu always is"
        )
    return device


def visible_gpus(name: str) -> list[str]:
    """The GPUs of this machine that `auto`, `cuda` or `cuda:1` names, for CUDA_VISIBLE_DEVICES."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = stated.split(",") if stated else [str(n) for n in range(torch.cuda.device_count())]
    chosen = name.partition(":")[2]
    return [every[int(chosen)]] if chosen else every


def choose_precision(name: str, device: torch.device, *, training: bool = False) -> str:
    """`float32` or `bfloat16`; `auto` is bfloat16 where the device has matrix units for it.

    On a CPU, training is float32 always: the weight gradients of 3-D convolutions in bfloat16
    come out wrong, partly NaN (PyTorch 2.13 with oneDNN, seen on a processor with AMX).

    Raises:
        UsageError: no such name, or bfloat16 for training on a CPU.
        ResourceError: bfloat16 is asked for where it ends the process.
    """
    on_cpu = device.type == "cpu"
    if name == "auto":
        if not on_cpu:
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = not training and torch.cpu._is_amx_tile_supported() and not _bfloat16_kills()
        return "bfloat16" if fast else "float32"
    if name not in PRECISIONS:
        raise UsageError(f"precision {name!r}: auto, {' or '.join(PRECISIONS)}")
    if name == "bfloat16" and on_cpu and training:
        raise UsageError("precision bfloat16 gives wrong gradients on a CPU; use float32")
    if name == "bfloat16" and on_cpu and _bfloat16_kills():
        raise ResourceError("precision bfloat16 ends the process on this processor; use float32")
    return name


@functools.cache
def _bfloat16_kills() -> bool:
    """Whether a bfloat16 product ends a process: some virtual machines name AMX and have it half.

    There oneDNN runs into an illegal instruction, which no process can catch: another one tries.
    """
    product = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); a @ a"
    return subprocess.run([sys.executable, "-c", product], capture_output=True).returncode < 0


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Compute in `precision` inside this context; weights stay float32."""
    context: AbstractContextManager[None] = torch.autocast(
        device.type, PRECISIONS["bfloat16"], enabled=precision == "bfloat16"
    )
    return context


def use_cpu(threads: int) -> None:
    """Let the thread that calls this compute with so many, and keep the memory of tensors.

    OpenMP counts threads for each calling thread: oneDNN takes all cores in one that never said
    how many.
    """
    torch.set_num_threads(threads)
    heap.keep()


def tiles_at_once(device: torch.device) -> int:
    """How many tiles to compute together unless asked otherwise.

    Two on a CPU: PyTorch 2.13 takes its own convolutions, about 5 times slower than oneDNN's, for
    a single tile of few channels.
    """
    return 2 if device.type == "cpu" else 8


LESS = "Stop what else runs on it, or try --precision bfloat16 or --device cpu"


@contextmanager
def device_errors(device: torch.device, what: str, advice: str = LESS) -> Iterator[None]:
    """Say what a device's errors inside this context mean.

    Args:
        device: that computes.
        what: it computes, in words.
        advice: what to do where its memory does not suffice.

    Raises:
        DeviceLost: CUDA failed; this process gets no further result from the GPU.
        ResourceError: the device has no memory for `what`.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise out_of_memory(device, what, error, advice) from error
    except RuntimeError as error:
        # the libraries of CUDA, and the allocator of CPUs, report through plain RuntimeErrors
        if isinstance(error, torch.AcceleratorError) or str(error).startswith("CUDA error"):
            raise DeviceLost(f"{device} was lost: {str(error).splitlines()[0]}") from error
        if CPU_ALLOCATOR in str(error):
            raise out_of_memory(device, what, error, advice) from error
        raise


def out_of_memory(
    device: torch.device, what: str, error: RuntimeError, advice: str = LESS
) -> ResourceError:
    """What does not fit, how much was asked for, free and taken by whom, and what to do."""
    measured = str(error).split(" Of the allocated memory")[0].split(f"{CPU_ALLOCATOR}: ")[-1]
    return ResourceError(f"{device} has no memory for {what}: {measured.rstrip('. ')}. {advice}")
