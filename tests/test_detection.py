"""Clefts found one by one, against overlaps counted on whole arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cleftcli import scoring
from cleftcli.detection import detect
from cleftcli.foreground import ID_OF_ZERO
from cleftcli.labels import BACKGROUND, IGNORE
from tests.test_scoring import ids, pair, probabilities, volume


def found_in_one_piece(true, predicted):
    """Per cleft of either side its partners, from whole label arrays (0 is none)."""
    partners = []
    for ours, theirs in ((true, predicted), (predicted, true)):
        each = {}
        for cleft in np.unique(ours[ours > 0]).tolist():
            met = np.unique(theirs[ours == cleft])
            each[cleft] = [m for m in met.tolist() if m]
        partners.append(each)
    return partners


def rows_of(detection, side):
    return {r["id"]: r for r in detection.rows if r["side"] == side}


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), unknown=st.sampled_from([0, 0.1]), least=st.sampled_from([0, 4])
)
def test_partners_are_those_of_whole_arrays(seed, unknown, least):
    """Whatever the blocks, clefts meet whom they overlap in voxels that are not ignored."""
    random = np.random.default_rng(seed)
    shape = (4, 70, 140)
    true = ndimage.label(
        ndimage.gaussian_filter(random.standard_normal(shape), (0.5, 2, 2)) > 0.12
    )[0]
    levels = ndimage.gaussian_filter(random.standard_normal(shape), (0.5, 2, 2))
    levels = np.where(random.random(shape) < 0.7, np.maximum(levels, (true > 0) * 0.2), 0)
    levels = np.clip(levels * 1000, 0, 255).astype(np.uint8)
    hidden = random.random(shape) < unknown
    truth = np.where(true > 0, true.astype(np.uint64), np.uint64(BACKGROUND))
    truth[hidden] = IGNORE
    parts = ndimage.label(levels >= 127.5, np.ones((3, 3, 3)))[0]
    kept = np.bincount(parts.ravel()) >= max(least, 1)
    kept[0] = False
    parts = np.where(kept[parts] & ~hidden, parts, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "BLOCK_VOXELS", 1)
        found = detect(pair(probabilities(levels), volume(truth), 0.5, min_voxels=least))
    expected, back = found_in_one_piece(np.where(hidden, 0, true), parts)
    rows = rows_of(found, "truth")
    assert {k: len(r["partners"]) for k, r in rows.items()} == {
        k: len(v) for k, v in expected.items()
    }
    assert found.counts["predicted"] == len(back)
    assert found.counts["false"] == sum(not v for v in back.values())
    assert found.counts["missed"] == sum(not v for v in expected.values())
    assert found.counts["split"] == sum(len(v) > 1 for v in expected.values())
    for cleft, row in rows.items():
        middle = np.argwhere((true == cleft) & ~hidden).mean(axis=0)
        assert [row[f"centroid_{a}"] for a in "zyx"] == pytest.approx(middle, abs=0.01)
        assert row["voxels"] == ((true == cleft) & ~hidden).sum()
        assert row["shared_voxels"] == ((true == cleft) & ~hidden & (parts > 0)).sum()
        assert row["merged"] == any(len(back[m]) > 1 for m in expected[cleft])
    of_prediction = rows_of(found, "prediction").values()
    for (part, met), row in zip(sorted(back.items()), of_prediction, strict=True):
        assert (row["partners"], row["hit"], row["merged"]) == (met, bool(met), len(met) > 1)
        assert row["voxels"] == (parts == part).sum()
        assert row["shared_voxels"] == ((parts == part) & (true > 0)).sum()
        assert not row["split"]


def test_hit_missed_split_merged_and_false():
    """Each fate by example: 1 is hit, 2 missed, 3 split in two, 4 and 5 merged, one is false."""
    true, seen = np.zeros((1, 1, 60), np.uint64), np.zeros((1, 1, 60), np.uint8)
    for cleft, (a, b) in enumerate([(0, 4), (8, 12), (16, 24), (30, 34), (36, 40)], start=1):
        true[..., a:b] = cleft
    for a, b in [(1, 5), (16, 18), (20, 23), (32, 38), (50, 55)]:
        seen[..., a:b] = 1
    found = detect(pair(volume(seen, content="mask"), volume(true, content="ids")))
    rows = rows_of(found, "truth")
    assert {k: r["hit"] for k, r in rows.items()} == {1: True, 2: False, 3: True, 4: True, 5: True}
    assert [k for k, r in rows.items() if r["split"]] == [3]
    assert [k for k, r in rows.items() if r["merged"]] == [4, 5]
    assert found.counts == {
        "true": 5, "hit": 4, "missed": 1, "split": 1, "merged": 2, "predicted": 5, "false": 1,
    }  # fmt: skip


def test_voxels_that_the_prediction_ignores_belong_to_no_cleft():
    """A true cleft has only the voxels that the prediction speaks of; without any it is none."""
    true, seen = np.zeros((1, 1, 20), np.uint64), np.zeros((1, 1, 20), np.uint8)
    true[..., 2:8], true[..., 12:15] = 1, 2
    seen[..., 4:6], seen[..., 6:9], seen[..., 12:15] = 1, 255, 255
    found = detect(pair(volume(seen, content="mask"), volume(true, content="ids")))
    assert {k: r["voxels"] for k, r in rows_of(found, "truth").items()} == {1: 4}
    assert (found.counts["true"], found.counts["missed"]) == (1, 0)


def test_a_least_size_is_asked_of_predictions_alone():
    """Small true clefts of a mask stay, small predicted ones go."""
    mask = np.zeros((1, 1, 20), np.uint8)
    mask[..., 2], mask[..., 8:12] = 1, 1
    found = detect(pair(volume(mask), volume(mask), min_voxels=3))
    assert (found.counts["true"], found.counts["missed"], found.counts["predicted"]) == (2, 1, 1)


def test_ids_are_told_apart_where_they_touch():
    """Clefts of ids are their ids, also where they touch; an id 0 of a CREMI file is one."""
    true = np.full((1, 1, 9), BACKGROUND, np.uint64)
    true[..., 1:3], true[..., 3:5], true[..., 7] = 2**60, 5, 0
    found = detect(pair(volume(np.ones((1, 1, 9), np.uint8), content="mask"), volume(true, "hdf5")))
    assert sorted(rows_of(found, "truth")) == [5, 2**60, ID_OF_ZERO]
    assert found.counts["merged"] == 3


def test_nothing_against_nothing_counts_nothing():
    """Empty sides have no clefts and no rows."""
    empty = np.zeros((2, 3, 4), bool)
    found = detect(pair(volume(empty, content="mask"), volume(ids(empty))))
    assert found.rows == []
    assert set(found.counts.values()) == {0}
