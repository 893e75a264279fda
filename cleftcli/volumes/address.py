"""One string names a volume: a container, and a dataset in it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from cleftcli.errors import InputError, UsageError
from cleftcli.volumes import documents
from cleftcli.volumes.stores import is_remote

HDF5 = (".hdf", ".h5", ".hdf5")
TIFF = (".tif", ".tiff")
SUFFIXES = (".zarr", ".n5", ".zip", ".precomputed", *HDF5, *TIFF)
_NEUROGLANCER = re.compile(r"(precomputed|zarr[23]?|n5)://")


def split_address(address: str) -> tuple[str, str]:
    """Container and dataset of an address; the dataset is "" where it names a container alone.

    The container ends at the last path component with a known suffix; without one, it is the
    file on the path, or its outermost folder that holds a store's documents. A prefix as
    neuroglancer writes it (`precomputed://`) is dropped.

    Raises:
        InputError: it begins with the home folder of a user who is not known, or is no text.
        UsageError: the dataset climbs out of its container.
    """
    if not _is_text(address):
        raise InputError(f"{address}: its name is not UTF-8, and no store opens by it; rename it")
    text = _NEUROGLANCER.sub("", address, count=1)
    text = text.rstrip("/") if is_remote(text) else _at_home(text)
    parts = text.split("/")
    ends = [n for n, part in enumerate(parts, 1) if part.endswith(SUFFIXES)]
    if not ends and not is_remote(text):
        ends = [n for n in range(1, len(parts) + 1) if _holds_all("/".join(parts[:n]) or "/")][:1]
    container = "/".join(parts[: ends[-1]] if ends else parts)
    dataset = parts[ends[-1] :] if ends else []
    if ".." in dataset:
        raise UsageError(f"{address}: a dataset may not contain '..'")
    return container, "/".join(p for p in dataset if p not in ("", "."))


def absolute(address: str) -> str:
    """The same address for a process with another current folder."""
    container, dataset = split_address(address)
    if is_remote(container):
        return address
    return f"{Path(container).absolute()}/{dataset}".rstrip("/")


def _is_text(name: str) -> bool:
    """Whether a name is more than bytes that were given as one."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _at_home(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise InputError(f"{path}: no such user; nothing is found there") from error


def _holds_all(path: str) -> bool:
    """Whether a path is a file, or a folder with a store's documents."""
    found = Path(path)
    try:
        return found.is_file() or (found.is_dir() and documents.detect(path) is not None)
    except OSError:  # too long for a path
        return False


def check_exists(container: str) -> None:
    """Refuse a path that leads nowhere.

    Raises:
        InputError: there is no such file or folder; the message names those with a like name.
    """
    if is_remote(container):
        return
    path = Path(container)
    try:
        there = path.exists()
    except OSError as error:
        raise InputError(f"{container[:200]}: cannot be looked for: {error.strerror}") from error
    if not there:
        link = path.is_symlink()
        what = "a link that leads nowhere or in a circle" if link else "no such file or folder"
        raise InputError(f"{container}: {what}{_siblings(path)}")


def _siblings(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir() if p.name != path.name]
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
