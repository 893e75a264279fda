"""The charts of a report, drawn from its numbers: SVG, with what they show in words."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cleftcli.comparison import FAR_NM
from cleftcli.viewing.coverage import MARKS, STATES

BLUE, RED, GREY, GREEN = "#0072b2", "#d55e00", "#666666", "#009e73"
OF_STATES = ("#9ecae1", "#d9d9d9", "#f0e442", "#ffffff", "#d55e00")  # as STATES
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
Drawn = tuple[Figure, str]


@dataclass(frozen=True)
class Chart:
    """An image as a data URI, and what it shows in words."""

    src: str
    alt: str


def charts(numbers: dict[str, Any]) -> dict[str, Chart]:
    """Every chart that the numbers of a report allow, by name."""
    found = {}
    with rc_context(STYLE):
        for name, (section, draw) in CHARTS.items():
            drawn = None if numbers[section].get("lacks") else draw(numbers[section])
            if drawn is not None:
                found[name] = Chart(_uri(drawn[0]), drawn[1])
    return found


def _uri(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def _figure(width: float = 5.6, height: float = 3.5) -> tuple[Figure, Any]:
    """A figure of so many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _precision_recall(accuracy: dict[str, Any]) -> Drawn | None:
    rows = [r for r in accuracy["sweep"] if None not in (r["precision"], r["recall"])]
    if not rows:
        return None
    figure, axes = _figure(4.4, 4.0)
    axes.plot([r["recall"] for r in rows], [r["precision"] for r in rows], "o-", color=BLUE, ms=3)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    said = f"Precision against recall at {len(rows)} thresholds"
    chosen = next((r for r in rows if r["threshold"] == accuracy["threshold"]), None)
    if chosen is not None:
        axes.plot(chosen["recall"], chosen["precision"], "D", color=RED, ms=8, label=_at(accuracy))
        axes.legend(frameon=False)
        said += f"; {_at(accuracy)}: {chosen['precision']:.3f} and {chosen['recall']:.3f}"
    return figure, said


def _at(accuracy: dict[str, Any]) -> str:
    threshold = accuracy["threshold"]
    return "as segmented" if threshold is None else f"threshold {threshold:g}"


def _thresholds(accuracy: dict[str, Any]) -> Drawn | None:
    if accuracy["threshold"] is None:
        return None
    figure, axes = _figure()
    shares = axes.twinx()
    shares.spines["right"].set_visible(True)
    rows, best = accuracy["sweep"], []
    for on, name, colour, of in ((axes, "cremi_score", BLUE, min), (shares, "f1", RED, max)):
        known = [(r["threshold"], r[name]) for r in rows if r[name] is not None]
        on.plot(*np.transpose(known) if known else ([], []), "o-", color=colour, ms=3)
        if known:
            value, threshold = of((v, t) for t, v in known)
            best.append(f"{name.replace('_', '-')} is best at {threshold:g} with {value:.4g}")
    axes.axvline(accuracy["threshold"], color=GREY, ls="--", lw=1)
    axes.set(xlabel=f"threshold (dashed: {accuracy['threshold']:g}, as used)", ylim=(0, None))
    axes.set_ylabel("CREMI-score in nm", color=BLUE)
    shares.set(ylim=(0, 1))
    shares.set_ylabel("F1", color=RED)
    return figure, f"CREMI-score and F1 against the threshold; {'; '.join(best) or 'none defined'}"


def _distances(accuracy: dict[str, Any]) -> Drawn | None:
    found = accuracy["distances"]
    if found.get("lacks"):
        return None
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    edges, marks = np.array(found["edges_nm"]), {"false": "adgt", "missed": "adf"}
    for axes, (side, mark), colour in zip(
        figure.subplots(2, 1, sharex=True), marks.items(), (RED, BLUE), strict=True
    ):
        axes.stairs(found[side], edges, fill=True, color=colour, alpha=0.6)
        axes.axvline(FAR_NM, color=GREY, ls=":", lw=1, label=f"{FAR_NM:g} nm")
        if found[mark] > 0:
            label = f"{mark.upper()} {found[mark]:.1f} nm"
            axes.axvline(found[mark], color="black", ls="--", lw=1, label=label)
        axes.set(ylabel=f"{side} voxels", xscale="log")
        axes.legend(frameon=False)
    axes.set_xlabel("nm to the other side")
    counts = " and ".join(f"{sum(found[side])} {side} voxels" for side in marks)
    return figure, f"Distances of {counts} to the other side"


def _coverage(coverage: dict[str, Any]) -> Drawn:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    colours, norm = ListedColormap(OF_STATES), BoundaryNorm(range(len(STATES) + 1), len(STATES))
    for axes, name in zip(figure.subplots(1, 2), ("yx", "zx"), strict=True):
        states = [[MARKS.index(mark) for mark in row] for row in coverage[name]]
        axes.pcolormesh(states, cmap=colours, norm=norm, edgecolor="#888888", lw=0.4)
        axes.set(xlabel="block along x", ylabel=f"block along {name[0]}")
        axes.invert_yaxis()
        axes.locator_params(integer=True)
    counts = {state: n for state, n in coverage["counts"].items() if n}
    shown = [
        Patch(fc=OF_STATES[STATES.index(state)], ec="#888888", label=f"{state}: {n}")
        for state, n in counts.items()
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=3, frameon=False)
    return figure, f"Blocks: {', '.join(f'{n} {state}' for state, n in counts.items())}"


def _intensities(found: dict[str, Any]) -> Drawn:
    figure, axes = _figure()
    for name, colour in (("histogram", BLUE), ("training", GREY)):
        shares = found[name]
        if shares:
            filled = name == "histogram"
            label = "raw" if filled else "training data"
            edges = np.linspace(0, 1, len(shares) + 1)
            axes.stairs(shares, edges, fill=filled, color=colour, lw=1.5, label=label, alpha=0.8)
    axes.set(xlabel="intensity, 0 black to 1 white", ylabel="share of voxels", xlim=(0, 1))
    axes.legend(frameon=False)
    apart = found["distance"]
    said = "" if apart is None else f", {apart:.3f} of the range from those of the training data"
    return figure, f"Histogram of the raw intensities{said}"


def _seams(seams: dict[str, Any]) -> Drawn | None:
    ratios = {a: each["ratio"] for a, each in seams["axes"].items() if each["ratio"] is not None}
    if not ratios:
        return None
    figure, axes = _figure(4.4, 2.4)
    axes.barh(list(ratios), list(ratios.values()), color=GREEN, height=0.5)
    axes.axvline(1, color="black", ls="--", lw=1)
    axes.set(xlabel="jump at block faces / jump beside them", ylabel="axis")
    axes.invert_yaxis()
    return figure, f"Ratio of jumps: {', '.join(f'{a} {r:.2f}' for a, r in ratios.items())}"


CHARTS: dict[str, tuple[str, Callable[[dict[str, Any]], Drawn | None]]] = {
    "precision_recall": ("accuracy", _precision_recall),
    "thresholds": ("accuracy", _thresholds),
    "distances": ("accuracy", _distances),
    "coverage": ("coverage", _coverage),
    "intensities": ("intensities", _intensities),
    "seams": ("seams", _seams),
}
