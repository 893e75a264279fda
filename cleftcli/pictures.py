"""Pictures of sections: raw, truth and prediction side by side, with a scale bar. Arrays in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

TRUE, PREDICTED = (64, 220, 120), (255, 150, 40)
# blue, red and yellow of different lightness: told apart whatever colours a reader sees
RIGHT, FALSE, MISSED = (86, 180, 233), (213, 94, 0), (250, 240, 90)
GAP, HEADER = 6, 20
NICE_NM = (50, 100, 200, 500, 1000, 2000, 5000)


def montage(
    path: Path,
    raw: np.ndarray,
    truth: np.ndarray,
    probability: np.ndarray,
    *,
    sections: Sequence[int],
    nm_per_voxel: float,
    shown: float = 0.5,
) -> None:
    """Write a PNG: a row for each section; columns raw, truth, probability.

    Args:
        path: of the PNG.
        raw: (z, y, x) uint8.
        truth: (z, y, x) bool.
        probability: (z, y, x) float in [0, 1].
        sections: z of the rows.
        nm_per_voxel: along x, for the scale bar.
        shown: probability from which a voxel's outline is drawn.
    """
    rows: list[list[np.ndarray]] = []
    for z in sections:
        true = _tint(rgb(raw[z]), truth[z].astype(float), TRUE)
        rows.append([rgb(raw[z]), true, likely(raw[z], probability[z], shown)])
    columns = ("raw", "truth", f"prediction (outline: probability {shown:g})")
    sheet(columns, rows, _named(sections), nm_per_voxel).save(path)


def overlay(
    path: Path,
    raw: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    *,
    sections: Sequence[int],
    nm_per_voxel: float,
) -> None:
    """Write a PNG: a row for each section; columns raw, and raw with the clefts in colour.

    Args:
        path: of the PNG.
        raw: of each section (y, x) float in [0, 1].
        truth: of each section (y, x) bool.
        sections: their z.
        nm_per_voxel: along x, for the scale bar.
    """
    greys = [rgb((section * 255).astype(np.uint8)) for section in raw]
    rows = [[g, _tint(g, t.astype(float), TRUE)] for g, t in zip(greys, truth, strict=True)]
    sheet(("raw", "clefts"), rows, _named(sections), nm_per_voxel).save(path)


def reconstruction(
    path: Path, raw: np.ndarray, hidden: np.ndarray, guessed: np.ndarray, *, nm_per_voxel: float
) -> None:
    """Write a PNG: a row for each section; columns raw, what was visible of it, the guess.

    Args:
        path: of the PNG.
        raw: (z, y, x) float in [-1, 1].
        hidden: (z, y, x) bool.
        guessed: (z, y, x) float in about [-1, 1]; shown where raw was hidden.
        nm_per_voxel: along x, for the scale bar.
    """

    def bytes_of(levels: np.ndarray) -> np.ndarray:
        return ((levels + 1) * 127.5).clip(0, 255).astype(np.uint8)

    shown = (raw, np.where(hidden, -1.0, raw), np.where(hidden, guessed, raw))
    rows = [[rgb(bytes_of(panel[z])) for panel in shown] for z in range(len(raw))]
    columns = ("raw", "visible", "guessed where hidden")
    sheet(columns, rows, _named(range(len(raw))), nm_per_voxel).save(path)


def likely(grey: np.ndarray, probability: np.ndarray, shown: float) -> np.ndarray:
    """A panel (y, x, 3) uint8: the more probable the more orange, outlined from `shown` on.

    Args:
        grey: (y, x) uint8.
        probability: (y, x) float in [0, 1].
        shown: probability of the outline.
    """
    sure = probability >= shown
    tinted = _tint(rgb(grey), 0.6 * np.where(sure, 1.0, probability), PREDICTED)
    return _outline(tinted, sure, PREDICTED)


def compared(grey: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """A panel (y, x, 3) uint8: what is right, false and missed, tinted and outlined.

    Args:
        grey: (y, x) uint8.
        predicted: (y, x) bool.
        true: (y, x) bool.
    """
    panel = rgb(grey)
    for mask, colour in (
        (predicted & true, RIGHT),
        (predicted & ~true, FALSE),
        (true & ~predicted, MISSED),
    ):
        panel = _outline(_tint(panel, mask.astype(float), colour), mask, colour)
    return panel


def sheet(
    columns: Sequence[str],
    rows: Sequence[Sequence[np.ndarray]],
    names: Sequence[Sequence[str]],
    nm_per_voxel: float | None,
) -> Image.Image:
    """Panels (y, x, 3) uint8 of one shape in rows, under column heads, with a scale bar.

    Args:
        columns: heads.
        rows: of panels.
        names: for the corners of a row's first panels.
        nm_per_voxel: along x; None leaves the scale bar out.
    """
    height, width, _ = rows[0][0].shape
    size = (len(columns) * (width + GAP) - GAP, HEADER + len(rows) * (height + GAP) - GAP)
    drawn = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(12)
    for n, name in enumerate(columns):
        draw.text((n * (width + GAP) + 2, 2), name, fill="black", font=font)
    for row, (panels, said) in enumerate(zip(rows, names, strict=True)):
        top = HEADER + row * (height + GAP)
        for n, panel in enumerate(panels):
            drawn.paste(Image.fromarray(panel), (n * (width + GAP), top))
        for n, name in enumerate(said):
            _write(draw, (n * (width + GAP) + 4, top + 2), name, "la")
    if nm_per_voxel is not None:
        _scale_bar(draw, size, width, nm_per_voxel)
    return drawn


def rgb(grey: np.ndarray) -> np.ndarray:
    """A panel (y, x, 3) of greys (y, x)."""
    return np.repeat(grey[..., None], 3, axis=-1)


def _named(sections: Sequence[int]) -> list[list[str]]:
    return [[f"z {z}"] for z in sections]


def _tint(panel: np.ndarray, strength: np.ndarray, colour: Colour) -> np.ndarray:
    share = 0.55 * strength[..., None]
    return (panel * (1 - share) + np.asarray(colour) * share).astype(np.uint8)


def _outline(panel: np.ndarray, mask: np.ndarray, colour: Colour) -> np.ndarray:
    inner = mask.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        inner &= np.roll(mask, step, axis)
    panel[mask & ~inner] = colour
    return panel


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, anchor: str) -> None:
    """White on black, to be read on any grey."""
    font = ImageFont.load_default(12)
    draw.rectangle(draw.textbbox(at, text, font=font, anchor=anchor), fill="black")
    draw.text(at, text, fill="white", font=font, anchor=anchor)


def _scale_bar(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], width: int, nm_per_voxel: float
) -> None:
    """In the lower right corner of the first column's last row."""
    nm = max((n for n in NICE_NM if n / nm_per_voxel < width / 3), default=NICE_NM[0])
    length = round(nm / nm_per_voxel)
    right, bottom = width - 8, size[1] - 8
    draw.rectangle((right - length, bottom - 4, right, bottom), fill="white")
    _write(draw, (right, bottom - 6), f"{nm} nm", "rb")
