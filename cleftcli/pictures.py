"""Pictures of sections: raw, truth and prediction side by side, with a scale bar. Arrays in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TRUE, PREDICTED = (64, 220, 120), (255, 150, 40)
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
        grey = _rgb(raw[z])
        likely = np.where(probability[z] >= shown, 1.0, probability[z])
        predicted = _tint(grey, 0.6 * likely, PREDICTED)
        true = _tint(grey, truth[z].astype(float), TRUE)
        rows.append([grey, true, _outline(predicted, probability[z] >= shown)])
    columns = ("raw", "truth", f"prediction (outline: probability {shown:g})")
    _sheet(path, columns, rows, sections, nm_per_voxel)


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
    greys = [_rgb((section * 255).astype(np.uint8)) for section in raw]
    rows = [[g, _tint(g, t.astype(float), TRUE)] for g, t in zip(greys, truth, strict=True)]
    _sheet(path, ("raw", "clefts"), rows, sections, nm_per_voxel)


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
    rows = [[_rgb(bytes_of(panel[z])) for panel in shown] for z in range(len(raw))]
    columns = ("raw", "visible", "guessed where hidden")
    _sheet(path, columns, rows, range(len(raw)), nm_per_voxel)


def _sheet(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[Sequence[np.ndarray]],
    sections: Sequence[int],
    nm_per_voxel: float,
) -> None:
    """Panels (y, x, 3) uint8 in rows, named by their section, under column heads."""
    height, width, _ = rows[0][0].shape
    size = (len(columns) * (width + GAP) - GAP, HEADER + len(rows) * (height + GAP) - GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for n, name in enumerate(columns):
        draw.text((n * (width + GAP) + 2, 2), name, fill="black", font=font)
    for row, (z, panels) in enumerate(zip(sections, rows, strict=True)):
        for n, panel in enumerate(panels):
            corner = (n * (width + GAP), HEADER + row * (height + GAP))
            sheet.paste(Image.fromarray(panel), corner)
        draw.text((4, HEADER + row * (height + GAP) + 2), f"z {z}", fill="yellow", font=font)
    _scale_bar(draw, font, size, width, nm_per_voxel)
    sheet.save(path)


def _rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def _tint(grey: np.ndarray, strength: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    share = 0.55 * strength[..., None]
    return (grey * (1 - share) + np.asarray(colour) * share).astype(np.uint8)


def _outline(panel: np.ndarray, mask: np.ndarray) -> np.ndarray:
    inner = mask.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        inner &= np.roll(mask, step, axis)
    panel[mask & ~inner] = PREDICTED
    return panel


def _scale_bar(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
    width: int,
    nm_per_voxel: float,
) -> None:
    """In the lower right corner of the first column's last row."""
    nm = max((n for n in NICE_NM if n / nm_per_voxel < width / 3), default=NICE_NM[0])
    length = round(nm / nm_per_voxel)
    right, bottom = width - 8, size[1] - 8
    draw.rectangle((right - length, bottom - 4, right, bottom), fill="white")
    draw.text((right, bottom - 6), f"{nm} nm", fill="white", font=font, anchor="rb")
