"""The course of a training run as one picture that explains itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SMOOTHED = 50  # windows along a run
NO_LOSS = ("step", "learning_rate", "patches_per_second", "waited")


def curves(path: Path, steps: Sequence[dict[str, Any]], held_out: Sequence[dict[str, Any]]) -> None:
    """Write a PNG: loss and learning rate, and held-out scores where there are some.

    Args:
        path: of the PNG.
        steps: a row for each step: `step`, `loss` and its parts, `learning_rate`.
        held_out: a row for each validation: `step`, `cremi_score` and `f1`.
    """
    from matplotlib.figure import Figure

    count = 2 if held_out else 1
    figure = Figure(figsize=(6.5 * count, 4.8), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    _losses(axes[0], steps)
    if held_out:
        _scores(axes[1], held_out)
    figure.savefig(path, dpi=100)


def _losses(axes: Any, steps: Sequence[dict[str, Any]]) -> None:
    x = np.array([row["step"] for row in steps])
    width = max(len(x) // SMOOTHED, 1)
    for name in (k for k in steps[0] if k not in NO_LOSS):
        y = np.array([row[name] for row in steps], float)
        sums = np.cumsum(np.concatenate([[0.0], y]))
        mean = (sums[width:] - sums[:-width]) / width
        axes.plot(x[width - 1 :], mean, label=name, lw=1.8 if name == "loss" else 1.0)
    axes.set(xlabel="step", ylabel="loss, running mean", yscale="log")
    rate = axes.twinx()
    rate.plot(x, [row["learning_rate"] for row in steps], color="0.7", lw=0.8)
    rate.set(ylabel="learning rate (grey)", ylim=(0, None))
    axes.legend()
    axes.set_title(
        "Training loss: falls fast, then slowly.\nNot falling, or jumping up: lower the "
        "learning rate.",
        fontsize=10,
    )


def _scores(axes: Any, held_out: Sequence[dict[str, Any]]) -> None:
    def plot(on: Any, name: str, colour: str) -> None:
        known = [(row["step"], row[name]) for row in held_out if row[name] is not None]
        on.plot(*zip(*known, strict=True) if known else ([], []), "o-", color=colour, ms=3)

    plot(axes, "cremi_score", "tab:blue")
    axes.set(xlabel="step", ylim=(0, None))
    axes.set_ylabel("CREMI-score in nm", color="tab:blue")
    shares = axes.twinx()
    plot(shares, "f1", "tab:orange")
    shares.set(ylim=(0, 1))
    shares.set_ylabel("F1", color="tab:orange")
    axes.set_title(
        "Held out, at the best threshold: CREMI-score should fall, F1 rise.\nTurning back while "
        "the loss falls: overfitting; more data or augmentation.",
        fontsize=10,
    )
