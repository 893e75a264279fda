"""Work in a process of its own: what it returns, how it failed, what time and memory it took."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.benchmarks.timing import seconds


class Skipped(Exception):
    """What was asked for cannot be done here: a sentence."""


def alone(work: Callable[[], Any], limit: float) -> dict[str, Any]:
    """`found`, what some work returns, or one line: `failed` or `skipped`.

    It has memory and threads of its own, and whatever it started ends with it.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        if ours.poll(limit):
            return ours.recv()
        return {"failed": f"hangs: no answer in {limit:g} s"}
    except EOFError:
        process.join()
        return {"failed": f"its process died, exit code {process.exitcode}"}
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _answer(work: Callable[[], Any], to: Connection) -> None:
    os.setpgid(0, 0)  # what it starts is ended with it
    try:
        to.send({"found": work()})
    except Skipped as sentence:
        to.send({"skipped": str(sentence)})
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        to.send({"failed": f"{type(error).__name__}: {said[-1]}"})


def cost(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of some work, and MB held at its height beside what its imports hold."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_cost, work).result()


def _cost(work: Callable[[], object]) -> dict[str, float]:
    before = resident("VmRSS")
    taken = seconds(work)
    return {"seconds": round(taken, 3), "mb": round(max(0.0, resident("VmHWM") - before))}


def resident(what: str) -> float:
    """MB that this process holds (VmRSS), or held at its height (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(what + r":\s+(\d+)", status)[1]) / 1024


def bring(packages: tuple[str, ...], folder: Path) -> None:
    """Let this process and those it starts import packages that are no dependency of ours.

    Without their dependencies, behind our own: what cleft is measured with stays as it is. They
    are installed where the folder is not there.

    Raises:
        Skipped: pip cannot bring them.
    """
    if not folder.exists():
        _install(packages, folder)
    sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), str(folder)])


def _install(packages: tuple[str, ...], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(folder)]
    quickly = ["--retries", "0", "--timeout", "10"]
    done = subprocess.run([*command, *quickly, *packages], capture_output=True, check=False)
    if done.returncode:
        raise Skipped(f"pip cannot bring {' '.join(packages)} here")
