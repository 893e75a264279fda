"""A volume like serial-section EM, from a seed: for the demo and for tests without data.

Cells are cut by warped membranes, their cytoplasm is textured; between some neighbours lies a
dark cleft with vesicles on one side. Sections jitter, differ in brightness, and are noisy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from cleftcli.geometry import Zyx
from cleftcli.labels import BACKGROUND

CELL_NM = 420.0  # mean distance of cell centres
MEMBRANE_NM = 9.0  # half thickness
CLEFT_NM = 16.0
CLEFT_RADIUS_NM = (130.0, 240.0)
SYNAPTIC_SHARE = 0.3  # of neighbouring cells
VESICLE_NM = 22.0
VESICLES = 14  # for each cleft
POOL_VOXELS = (4, 22, 22)  # from the cleft's middle voxel to its farthest vesicles
SMALLEST_FACET = 300  # voxels; a cleft needs room


@dataclass(frozen=True)
class Tissue:
    """raw: (z, y, x) uint8; clefts: (z, y, x) uint64, background 2^64-1, ids from 1."""

    raw: np.ndarray
    clefts: np.ndarray


def tissue(shape: Zyx, voxel_size: tuple[float, float, float], seed: int) -> Tissue:
    """The tissue that a seed grows.

    Args:
        shape: voxels.
        voxel_size: nm.
        seed: the same seed gives the same voxels.
    """
    random = np.random.default_rng(seed)
    positions = _warped(shape, voxel_size, random)
    centres = _cells(shape, voxel_size, random)
    (near, far), (a, b) = _two_nearest(positions, centres)
    # distance to the plane half way between the two nearest centres, positive inside the nearer
    apart = np.linalg.norm(centres[a] - centres[b], axis=-1)
    wall = (far**2 - near**2) / (2 * apart)
    clefts, vesicles = _synapses(positions, (a, b), wall, len(centres), random)
    tone = random.uniform(0.55, 0.72, len(centres))[a]
    texture = ndimage.gaussian_filter(random.standard_normal(shape), (0, 1.2, 1.2))
    image = tone + 0.10 * texture / texture.std()
    image = np.where(wall < MEMBRANE_NM, 0.34 + 0.04 * texture / texture.std(), image)
    image = np.where(vesicles, 0.30, image)
    image = np.where(clefts > 0, 0.13, image)
    return _sectioned(image, clefts, random)


def _warped(
    shape: Zyx, voxel_size: tuple[float, float, float], random: np.random.Generator
) -> np.ndarray:
    """(z, y, x, 3) nm: voxel positions, displaced smoothly so that membranes bend."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    positions = grid * np.asarray(voxel_size)
    sigma = [0.3 * CELL_NM / v for v in voxel_size]
    for axis in range(3):
        bend = ndimage.gaussian_filter(random.standard_normal(shape), sigma, truncate=3)
        positions[..., axis] += 0.2 * CELL_NM * bend / bend.std()
    return np.asarray(positions)


def _cells(
    shape: Zyx, voxel_size: tuple[float, float, float], random: np.random.Generator
) -> np.ndarray:
    """(n, 3) nm: cell centres, also around the volume."""
    extent = np.asarray(shape) * np.asarray(voxel_size)
    count = int(np.prod(extent + 2 * CELL_NM) / CELL_NM**3)
    return random.uniform(-CELL_NM, extent + CELL_NM, (count, 3))


def _two_nearest(positions: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances to, and indices of, the two nearest centres; each (2, z, y, x)."""
    distance, index = cKDTree(centres).query(positions, k=2, workers=-1)
    return np.moveaxis(distance, -1, 0), np.moveaxis(index, -1, 0)


def _synapses(
    positions: np.ndarray,
    nearest: tuple[np.ndarray, np.ndarray],
    wall: np.ndarray,
    cells: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Cleft ids (0 elsewhere) and the vesicles' walls: (z, y, x) int64 and bool."""
    clefts, vesicles = np.zeros(wall.shape, np.int64), np.zeros(wall.shape, bool)
    thin = np.argwhere(wall < CLEFT_NM)
    own, other = nearest
    first, second = own[tuple(thin.T)], other[tuple(thin.T)]
    pair = np.minimum(first, second) * cells + np.maximum(first, second)
    order = np.argsort(pair, kind="stable")
    _, starts = np.unique(pair[order], return_index=True)
    number = 0
    for facet in np.split(thin[order], starts[1:]):
        if len(facet) < SMALLEST_FACET or random.random() >= SYNAPTIC_SHARE:
            continue
        middle = facet[random.integers(len(facet))]
        away = np.linalg.norm(positions[tuple(facet.T)] - positions[tuple(middle)], axis=-1)
        disc = facet[away < random.uniform(*CLEFT_RADIUS_NM)]
        number += 1
        clefts[tuple(disc.T)] = number
        _fill(vesicles, positions, own == own[tuple(middle)], middle, random)
    return clefts, vesicles & (wall > CLEFT_NM)


def _fill(
    vesicles: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    middle: np.ndarray,
    random: np.random.Generator,
) -> None:
    """Draw vesicles as shells in the presynaptic cell around a cleft's middle voxel."""
    low, high = np.maximum(middle - POOL_VOXELS, 0), middle + POOL_VOXELS + 1
    pool = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    around = np.argwhere(cell[pool])
    voxels = positions[pool][tuple(around.T)]
    for _ in range(VESICLES):
        away = np.linalg.norm(voxels - voxels[random.integers(len(voxels))], axis=-1)
        shell = around[(away < VESICLE_NM) & (away > 0.55 * VESICLE_NM)]
        vesicles[pool][tuple(shell.T)] = True


def _sectioned(image: np.ndarray, clefts: np.ndarray, random: np.random.Generator) -> Tissue:
    """Cut, shift, expose and photograph the sections."""
    raw, ids = np.empty(image.shape), np.empty_like(clefts)
    for z, section in enumerate(image):
        jitter = tuple(random.integers(-1, 2, 2))
        seen = ndimage.gaussian_filter(np.roll(section, jitter, (0, 1)), 0.6)
        exposed = seen * random.uniform(0.92, 1.08) + random.uniform(-0.03, 0.03)
        raw[z] = exposed + 0.04 * random.standard_normal(section.shape)
        ids[z] = np.roll(clefts[z], jitter, (0, 1))
    stored = np.where(ids > 0, ids.astype(np.uint64), np.uint64(BACKGROUND))
    return Tissue((np.clip(raw, 0, 1) * 255).astype(np.uint8), stored)
