"""What is installed, held against what this package says that it needs."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from cleftcli import __version__
from cleftcli.checks.finding import Finding, note, ok, problem

# where a library is imported by another name than it is installed by
MODULES = {
    "connected-components-3d": "cc3d",
    "gunpowder": "cleftcli.gunpowder_import",
    "pillow": "PIL",
    "tensorboardx": "tensorboardX",  # metadata spell names in small letters
}
# says the name first, so that a module which ends the process is known
IMPORT_EACH = """
import importlib, sys
for name in sys.argv[1:]:
    print(name, end=" ", flush=True)
    try:
        importlib.import_module(name)
        print(flush=True)
    except BaseException as error:
        print(type(error).__name__, *str(error).splitlines()[:1], flush=True)
"""


class Weakness(NamedTuple):
    """A vulnerability of a library that is known, and the version that mends it."""

    library: str
    name: str
    mended: str
    what: str
    source: str


def python() -> Finding:
    """The Python that runs this is one that cleft was made for."""
    wanted = SpecifierSet(metadata("cleft")["Requires-Python"])
    found = platform.python_version()
    fact = f"cleft {__version__}, Python {found}, {platform.platform()}"
    if wanted.contains(found, prereleases=True):
        return ok(fact)
    return problem(f"{fact}; wanted is Python {wanted}", f"use an environment of Python {wanted}")


def libraries() -> Finding:
    """All that cleft needs is there, in its range, and can be imported."""
    wanted = _wanted()
    faults = _faults(wanted)
    if faults:
        again = " ".join(f"'{requirement}'" for requirement in faults)
        return problem("; ".join(faults.values()), f"pip install --force-reinstall {again}")
    return ok(", ".join(f"{r.name} {version(r.name)}" for r in wanted))


def extra(name: str, without: str) -> Finding:
    """The libraries of an extra, likewise; `without` says what is lost where they are not."""
    wanted = _wanted(name)
    faults = _faults(wanted)
    if faults:
        return note(f"{'; '.join(faults.values())}: {without}", f"pip install 'cleft[{name}]'")
    return ok(", ".join(f"{r.name} {version(r.name)}" for r in wanted))


def weaknesses() -> Finding:
    """No library has a vulnerability that is known and mended."""
    found = [w for w in WEAKNESSES if _is_before(w.library, w.mended)]
    if not found:
        return ok(f"none of the {len(WEAKNESSES)} that this version of cleft knows of")
    said = (f"{w.library} {version(w.library)} has {w.name} ({w.what}; {w.source})" for w in found)
    newest = {w.library: w.mended for w in sorted(found, key=lambda w: Version(w.mended))}
    wanted = " ".join(f"'{library}>={mended}'" for library, mended in newest.items())
    return note("; ".join(said), f"pip install {wanted}")


def checkpoint() -> Finding:
    """The default checkpoint is there, and rebuilds its network with finite weights."""
    from cleftcli.model.checkpoint import restore, shipped

    found, network = restore(shipped())
    if not all(bool(p.isfinite().all()) for p in network.parameters()):
        return problem(f"{shipped()}: holds weights that are no numbers", "reinstall cleft")
    return ok(f"{found.network} of step {found.step}, {found.training.get('licence', '')}")


def _wanted(extra: str = "") -> list[Requirement]:
    """What cleft needs, or what one of its extras needs beyond that."""
    every = [Requirement(r) for r in requires("cleft") or []]
    return [r for r in every if _applies(r, extra) and not (extra and _applies(r, ""))]


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _faults(wanted: Sequence[Requirement]) -> dict[str, str]:
    """What is wrong, in words, with each requirement that is not met."""
    broken = _broken([module(r.name) for r in wanted if _is_there(r.name)])
    every = {f"{r.name}{r.specifier}": _fault(r, broken) for r in wanted}
    return {requirement: fault for requirement, fault in every.items() if fault}


def _fault(wanted: Requirement, broken: Mapping[str, str]) -> str:
    """What is wrong with one, "" where nothing is."""
    if not _is_there(wanted.name):
        return f"{wanted.name} is missing"
    found = version(wanted.name)
    if not wanted.specifier.contains(found, prereleases=True):
        return f"{wanted.name} is {found}, wanted is {wanted.specifier}"
    reason = broken.get(module(wanted.name))
    return f"{wanted.name} {found} {reason}" if reason else ""


def module(library: str) -> str:
    """The name that a library is imported by."""
    return MODULES.get(library.lower(), library.replace("-", "_"))


def _broken(modules: Sequence[str]) -> dict[str, str]:
    """Why modules cannot be imported; tried in another process, for some end it."""
    command = [sys.executable, "-P", "-c", IMPORT_EACH, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line.partition(" ") for line in done.stdout.splitlines()]
    faults = {name: f"does not import: {reason}" for name, _, reason in said if reason}
    if done.returncode:
        faults[said[-1][0]] = f"ends the process that imports it ({done.returncode})"
    return faults


def _is_there(library: str) -> bool:
    try:
        version(library)
    except PackageNotFoundError:
        return False
    return True


def _is_before(library: str, mended: str) -> bool:
    return _is_there(library) and Version(version(library)) < Version(mended)


# Of libraries that every installation has; `what` ends with how far cleft is exposed to it.
WEAKNESSES = (
    Weakness(
        "torch",
        "CVE-2025-32434",
        "2.6.0",
        "loading a pickle runs code, also with weights_only; cleft loads none",
        "GHSA-53q9-r3pm-6pq6",
    ),
    Weakness(
        "torch",
        "CVE-2026-24747",
        "2.10.0",
        "loading a pickle corrupts memory, also with weights_only; cleft loads none",
        "GHSA-63cw-57p8-fm3p",
    ),
    Weakness(
        "torch",
        "CVE-2025-3000",
        "2.13.0",
        "torch.jit.script corrupts memory; cleft does not call it",
        "GHSA-rrmf-rvhw-rf47",
    ),
    Weakness(
        "distributed",
        "CVE-2026-23528",
        "2026.1.1",
        "the dashboard of a scheduler runs scripts of others; cleft starts none",
        "GHSA-c336-7962-wfj2",
    ),
    Weakness(
        "tornado",
        "CVE-2025-67725",
        "6.5.3",
        "repeated headers keep a server busy; dask's listen on loopback",
        "GHSA-c98p-7wgm-6p64",
    ),
    Weakness(
        "tornado",
        "CVE-2026-49855",
        "6.5.6",
        "fixed with three others in the same release; dask's servers listen on loopback",
        "release notes of tornado 6.5.6",
    ),
    Weakness(
        "pillow",
        "CVE-2026-25990",
        "12.1.1",
        "a PSD picture is written out of bounds; cleft opens no pictures",
        "GHSA-cfh3-3jmp-rvhc",
    ),
    Weakness(
        "pillow",
        "CVE-2026-40192",
        "12.2.0",
        "a FITS picture takes all memory; cleft opens no pictures",
        "GHSA-whj4-6x5x-4v2j",
    ),
)
