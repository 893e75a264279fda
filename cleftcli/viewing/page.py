"""The report as one HTML file: no script, nothing fetched, everything escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image, PngImagePlugin

from cleftcli.errors import ConflictError
from cleftcli.machine import nearest, try_writing, writing
from cleftcli.viewing.charts import Chart
from cleftcli.viewing.overlays import Picture

MARK = "cleft view"  # in the first bytes of every file that is written
HEAD = 1024
QUALITY = 88  # of JPEG: EM is noise, which PNG keeps at five times the size


def page(
    numbers: Mapping[str, Any], charts: Mapping[str, Chart], pictures: Sequence[Picture]
) -> str:
    """The page.

    Args:
        numbers: of each section.
        charts: by name.
        pictures: of the places in their order, then the montage, where there is one.
    """
    # whatever a volume, an attribute or an error is called, it is text
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "plain": _plain}
    text = resources.files("cleftcli.viewing").joinpath("page.html").read_text(encoding="utf-8")
    shown = [Chart(_jpeg(picture.image), picture.alt) for picture in pictures]
    return environment.from_string(text).render(mark=MARK, charts=charts, pictures=shown, **numbers)


def check_place(path: Path) -> None:
    """Refuse a place that holds what is no report, or may not be written, before any work.

    Raises:
        ConflictError: a file or folder is there that `cleft view` did not write.
        ResourceError: the system refuses.
    """
    _refuse_foreign(path)
    try_writing(nearest(path.parent))


def _refuse_foreign(path: Path) -> None:
    if path.is_dir():
        raise ConflictError(f"{path} is a folder; -o names a file")
    if path.exists() and not _is_ours(path):
        raise ConflictError(f"{path} is no report of cleft; choose another -o")


def write_page(path: Path, text: str) -> None:
    """Write the report; a reader finds the old one or the new one."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> list[str]:
    """Write each picture as a PNG file of a folder, in place of earlier ones; returns their paths.

    Raises:
        ConflictError: a file of that name is there that `cleft view` did not write.
        ResourceError: the folder may not be written.
    """
    paths = [folder / f"{picture.name}.png" for picture in pictures]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            _refuse_foreign(path)
        for old in filter(_is_ours, folder.glob("*.png")):
            old.unlink()
        for path, picture in zip(paths, pictures, strict=True):
            about = PngImagePlugin.PngInfo()
            about.add_text("Software", MARK)
            about.add_text("Description", picture.alt)
            picture.image.save(path, pnginfo=about)
    return [str(path) for path in paths]


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK.encode() in file.read(HEAD)


def _jpeg(image: Image.Image) -> str:
    """A data URI; colours are kept as fine as greys."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _plain(value: Any) -> str:
    """A setting as it is typed: lists by commas."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    return "none" if value is None else str(value)


def _number(value: Any) -> str:
    """A number as it is read: counts in groups of three, others to four digits."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
