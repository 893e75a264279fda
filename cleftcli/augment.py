"""Augmentations by name: each makes gunpowder nodes that act with a given probability.

Raw and ids move together unless stated. Sections are never mixed: z is the coarse axis.
Raw is float32 in [0, 1] here, and gunpowder's world unit is the voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cleftcli.errors import UsageError
from cleftcli.gunpowder_import import gp

RAW, CLEFTS = gp.ArrayKey("RAW"), gp.ArrayKey("CLEFTS")


def flip(probability: float) -> list[Any]:
    """Mirror each axis with this probability."""
    return [gp.SimpleAugment(mirror_probs=[probability] * 3, transpose_only=[])]


def rotate(probability: float) -> list[Any]:
    """Transpose y and x with this probability: with `flip`, every quarter turn in plane."""
    # all axes must be listed: gunpowder 1.4.3 misreads permutations of fewer
    turns = {(0, 2, 1): probability, (0, 1, 2): 1 - probability}
    return [gp.SimpleAugment(mirror_only=[], transpose_only=[0, 1, 2], transpose_probs=turns)]


def grayscale(probability: float) -> list[Any]:
    """Scale by 0.9 to 1.1 and shift by up to 0.1, each section by itself; raw only."""
    slab = (1, -1, -1)
    return [gp.IntensityAugment(RAW, 0.9, 1.1, -0.1, 0.1, slab=slab, p=probability)]


def missing_section(probability: float) -> list[Any]:
    """Blank each section with this probability; raw only, the network sees grey."""
    return [gp.DefectAugment(RAW, prob_missing=probability, prob_low_contrast=0)]


def low_contrast(probability: float) -> list[Any]:
    """Halve the contrast of each section with this probability; raw only."""
    return [
        gp.DefectAugment(RAW, prob_missing=0, prob_low_contrast=probability, contrast_scale=0.5)
    ]


AUGMENTATIONS: dict[str, Callable[[float], list[Any]]] = {
    "flip": flip,
    "rotate": rotate,
    "grayscale": grayscale,
    "missing_section": missing_section,
    "low_contrast": low_contrast,
}


def nodes(chosen: Mapping[str, float]) -> list[Any]:
    """The nodes of the chosen augmentations, in the order of the table.

    Raises:
        UsageError: an augmentation is unknown or its probability is not in [0, 1].
    """
    for name, probability in chosen.items():
        if name not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise UsageError(f"augment.{name}: unknown augmentation; there are {known}")
        if not 0 <= probability <= 1:
            raise UsageError(f"augment.{name}: {probability} is no probability")
    return [n for name, make in AUGMENTATIONS.items() if name in chosen for n in make(chosen[name])]
