"""The tissue that a seed grows."""

import numpy as np
import pytest

from cleftcli.labels import BACKGROUND
from cleftcli.synthetic import Tissue, tissue

SHAPE, VOXEL_SIZE = (10, 112, 128), (40.0, 5.0, 5.0)


@pytest.fixture(scope="module")
def grown():
    """Tissues of some seeds, all with clefts."""
    return {seed: tissue(SHAPE, VOXEL_SIZE, seed) for seed in (0, 1, 2)}


def test_the_same_seed_gives_the_same_voxels(grown):
    """Growing again gives raw and clefts to the bit, whatever was drawn in between."""
    np.random.default_rng().random(7)
    again = tissue(SHAPE, VOXEL_SIZE, 1)
    np.testing.assert_array_equal(again.raw, grown[1].raw)
    np.testing.assert_array_equal(again.clefts, grown[1].clefts)


def test_another_seed_gives_other_voxels(grown):
    """No two seeds give the same tissue."""
    assert (grown[0].raw != grown[1].raw).mean() > 0.5
    assert (grown[0].clefts != grown[1].clefts).any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shape_and_dtype(seed, grown):
    """Raw is uint8 and clefts are uint64 of the shape asked for."""
    assert isinstance(grown[seed], Tissue)
    assert (grown[seed].raw.shape, grown[seed].raw.dtype) == (SHAPE, np.uint8)
    assert (grown[seed].clefts.shape, grown[seed].clefts.dtype) == (SHAPE, np.uint64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ids_count_from_one_on_cremi_background(seed, grown):
    """Clefts have ids from 1 without 0 or ignore; all else is 2^64-1."""
    ids = np.unique(grown[seed].clefts)
    assert ids[-1] == BACKGROUND
    assert ids[0] >= 1
    assert len(ids) > 1
    assert ids[-2] <= 1000


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clefts_are_few_and_darker(seed, grown):
    """Clefts are a small share of the voxels and darker than the rest in every section."""
    raw, inside = grown[seed].raw.astype(float), grown[seed].clefts != BACKGROUND
    assert 0.0005 < inside.mean() < 0.2
    for section, here in zip(raw, inside, strict=True):
        if here.sum() > 20:
            assert section[here].mean() < 0.6 * section[~here].mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_raw_has_contrast_in_every_section(seed, grown):
    """No section is constant, and few voxels are clipped to black or white."""
    raw = grown[seed].raw
    assert (raw.reshape(len(raw), -1).std(axis=1) > 5).all()
    assert ((raw == 0) | (raw == 255)).mean() < 0.1


def test_a_small_volume_grows_too():
    """A volume too small for any cleft is grown, with background alone or with what fits."""
    small = tissue((2, 16, 20), (40.0, 4.0, 4.0), 5)
    assert small.raw.shape == small.clefts.shape == (2, 16, 20)
