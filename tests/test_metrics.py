"""Scores against a second writing of their definitions: full distance transforms and all pairs."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from cleftcli.comparison import Box, Distances, Truth, compare, distances, rank_sum, surface
from cleftcli.geometry import BlockPlan, whole
from cleftcli.metrics import METRICS, scores

SIZES = [
    (40.0, 4.0, 4.0),
    (50.0, 4.6, 4.6),
    (10.0, 10.0, 10.0),
    (29.0, 5.0, 3.7),
    (70.0, 60.0, 80.0),
]
IDEAL = {
    "cremi_score": 0,
    "adgt": 0,
    "adf": 0,
    "f1": 1,
    "precision": 1,
    "recall": 1,
    "auc": 1,
    "false_positives": 0,
    "false_negatives": 0,
    "f1_200nm": 1,
}


def boxes(predicted, true, *, scored=None, probability=None, block=None):
    """The volume in boxes of a shape, each with a voxel of context inside the volume."""
    volume = whole(predicted.shape)
    scored = np.ones(predicted.shape, bool) if scored is None else scored
    for b in BlockPlan(volume, block or volume.shape, (1, 1, 1)):
        outer = b.read.intersect(volume)
        cut = outer.within(volume)
        truth = Truth(
            inner=b.write,
            outer=outer,
            true=true[cut] & scored[cut],
            scored=scored[cut],
            probability=None if probability is None else probability[cut],
        )
        passed = (predicted[cut] & scored[cut]).astype(np.uint8)
        yield Box(truth, passed, [truth.within(passed)])


def compared(boxes, voxel_size):
    """One cut, and no cleft dropped."""
    found = compare(lambda: (b.truth for b in boxes()), boxes, voxel_size, cuts=1, rules=1)
    return found[0][0]


def scored(predicted, true, voxel_size=(40.0, 4.0, 4.0), **more):
    """Every metric of a prediction."""
    return scores(compared(lambda: boxes(predicted, true, **more), voxel_size))


def share(part, of):
    return part / of if of else None


def pair_count(values, true, scored):
    """How often a cleft voxel's value beats another's, over all pairs, ties a half."""
    ours = [v for v, t, s in zip(values.flat, true.flat, scored.flat, strict=True) if t and s]
    theirs = [v for v, t, s in zip(values.flat, true.flat, scored.flat, strict=True) if s and not t]
    won = sum((a > b) + (a == b) / 2 for a in ours for b in theirs)
    return share(won, len(ours) * len(theirs))


def naive(predicted, true, voxel_size, scored=None, probability=None):
    """Every metric, from its definition, on the whole volume."""
    known = np.ones(true.shape, bool) if scored is None else scored
    ours = {tuple(v) for v in np.argwhere(predicted & known)}
    theirs = {tuple(v) for v in np.argwhere(true & known)}
    precise, found = share(len(ours & theirs), len(ours)), share(len(ours & theirs), len(theirs))
    result = dict.fromkeys(METRICS)
    result["precision"], result["recall"] = precise, found
    if ours or theirs:
        result["f1"] = 2 * precise * found / (precise + found) if precise and found else 0.0
    if probability is not None:
        result["auc"] = pair_count(probability, true, known)
    if not ours or not theirs:
        return result
    to_truth = distance_transform_edt(~(true & known), sampling=voxel_size)[predicted & known]
    to_us = distance_transform_edt(~(predicted & known), sampling=voxel_size)[true & known]
    result["adgt"], result["adf"] = to_truth.mean(), to_us.mean()
    result["cremi_score"] = (to_truth.mean() + to_us.mean()) / 2
    result["false_positives"] = int((to_truth > 200).sum())
    result["false_negatives"] = int((to_us > 200).sum())
    near_us, near_them = (to_truth <= 200).mean(), (to_us <= 200).mean()
    if near_us + near_them:
        result["f1_200nm"] = 2 * near_us * near_them / (near_us + near_them)
    return result


def assert_scores(found, expected):
    """Equal to 1e-6 (nm where it is nm), None where undefined and then with a reason."""
    for name in METRICS:
        if expected[name] is None:
            assert found[name] is None, name
            assert found[f"{name}_reason"], name
        else:
            assert found[name] == pytest.approx(expected[name], abs=1e-6, rel=1e-12), name
            assert f"{name}_reason" not in found


@st.composite
def pairs(draw, largest=(4, 9, 10)):
    """Prediction, truth, where it is scored, and a probability of some dtype."""
    shape = tuple(draw(st.integers(1, n)) for n in largest)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shares = st.sampled_from([0, 0.02, 0.1, 0.5, 1])
    predicted, true = random.random(shape) < draw(shares), random.random(shape) < draw(shares)
    known = random.random(shape) < draw(st.sampled_from([1.0, 1.0, 0.7]))
    if draw(st.booleans()):
        probability = random.integers(0, 256, shape, np.uint8) // 16 * 17  # with ties
    else:
        probability = random.random(shape, np.float32).round(1)
    return predicted, true, known, probability


@settings(max_examples=120, deadline=None)
@given(pair=pairs(), size=st.sampled_from(SIZES))
def test_scores_equal_their_definitions(pair, size):
    """All metrics agree with full distance transforms and set arithmetic to 1e-6 nm."""
    predicted, true, known, probability = pair
    found = scored(predicted, true, size, scored=known, probability=probability)
    assert_scores(found, naive(predicted, true, size, known, probability))


@settings(max_examples=80, deadline=None)
@given(pair=pairs(), size=st.sampled_from(SIZES), block=st.tuples(*[st.integers(1, 6)] * 3))
def test_blocks_compare_as_the_whole(pair, size, block):
    """Compared in boxes of any shape, the scores are those of one piece."""
    predicted, true, known, probability = pair
    more = {"scored": known, "probability": probability}
    whole_scores = scored(predicted, true, size, **more)
    found = scored(predicted, true, size, block=block, **more)
    assert found.keys() == whole_scores.keys()
    assert_scores(found, {n: whole_scores[n] for n in METRICS})


def test_every_metric_has_an_ideal():
    """A new metric comes with the value of a perfect prediction."""
    assert set(IDEAL) == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_prediction_is_ideal(name):
    """The truth itself as prediction has the best value of every metric."""
    true = np.zeros((4, 30, 30), bool)
    true[1:3, 10:14, 5:20] = True
    assert scored(true, true, probability=true.astype(np.float32))[name] == IDEAL[name]


@pytest.mark.parametrize("name", METRICS)
def test_a_wrong_prediction_is_not_ideal(name):
    """A prediction far beside the truth has no metric at its best."""
    true, predicted = np.zeros((8, 30, 30), bool), np.zeros((8, 30, 30), bool)
    true[0, 10:14, 5:20], predicted[0, 10, 5] = True, True
    true[7, 25:, 25:], predicted[7, :3, :3] = True, True
    probability = predicted.astype(np.float32)
    found = scored(predicted, true, (40.0, 20.0, 20.0), probability=probability)
    assert found[name] != IDEAL[name]


def one_voxel_each(apart, voxel_size):
    """A prediction and a truth of one voxel each, that many voxels apart."""
    shape = tuple(n + 1 for n in apart)
    predicted, true = np.zeros(shape, bool), np.zeros(shape, bool)
    predicted[0, 0, 0], true[apart] = True, True
    return scored(predicted, true, voxel_size)


def test_distances_are_nm_between_voxel_centres():
    """A step of 3 in y and 4 in x of 4 nm voxels is 20 nm, one section is 40 nm."""
    assert one_voxel_each((0, 3, 4), (40.0, 4.0, 4.0))["cremi_score"] == pytest.approx(20)
    assert one_voxel_each((1, 0, 0), (40.0, 4.0, 4.0))["cremi_score"] == pytest.approx(40)


@pytest.mark.parametrize(
    ("apart", "far"),
    [
        ((5, 0, 0), 0),
        ((0, 50, 0), 0),
        ((0, 30, 40), 0),
        ((3, 40, 0), 0),
        ((5, 1, 0), 1),
        ((0, 0, 51), 1),
    ],
)
def test_far_is_more_than_200_nm(apart, far):
    """A voxel at exactly 200 nm is near, one beyond is a false one."""
    found = one_voxel_each(apart, (40.0, 4.0, 4.0))
    assert (found["false_positives"], found["false_negatives"]) == (far, far)
    assert found["f1_200nm"] == (None if far else 1)


@pytest.mark.parametrize("axis", range(3))
def test_long_volumes_measure_as_short_ones(axis):
    """Tens of thousands of voxels from the first one a distance is what it is anywhere."""
    voxel_size, where = (40.0, 4.0, 5.0), np.roll((-1, 0, 0), axis)
    shape = tuple(np.where(where, 33000, 1))
    predicted, true = np.zeros(shape, bool), np.zeros(shape, bool)
    predicted[tuple(where)] = true[tuple(4 * where)] = True
    found = scored(predicted, true, voxel_size)
    assert (found["adgt"], found["adf"]) == (pytest.approx(3 * voxel_size[axis]),) * 2


def test_adgt_weighs_false_positives_and_adf_false_negatives():
    """A cleft too many moves ADGT alone, a cleft too few ADF alone."""
    both = np.zeros((1, 1, 60), bool)
    both[0, 0, 5:10] = True
    more = both.copy()
    more[0, 0, 50] = True
    found = scored(more, both)
    assert (found["adgt"], found["adf"]) == (pytest.approx(41 * 4 / 6), 0)
    found = scored(both, more)
    assert (found["adgt"], found["adf"]) == (0, pytest.approx(41 * 4 / 6))


UNDEFINED = {
    "no prediction": ({"cremi_score", "adgt", "adf", "precision", "f1_200nm"}, "prediction"),
    "no truth": ({"cremi_score", "adgt", "adf", "recall", "f1_200nm", "auc"}, "truth"),
    "neither": ({"cremi_score", "adgt", "adf", "precision", "recall", "f1", "f1_200nm", "auc"}, ""),
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_what_is_empty_has_a_reason(case):
    """Without a prediction, a truth or either, metrics that mean nothing are null with a reason."""
    some, none = np.zeros((2, 5, 5), bool), np.zeros((2, 5, 5), bool)
    some[0, 1:3, 1:3] = True
    predicted = none if case != "no truth" else some
    true = none if case != "no prediction" else some
    found = scored(predicted, true, probability=predicted.astype(np.float32))
    names, side = UNDEFINED[case]
    names = names | {"false_positives", "false_negatives"}
    assert {n for n in METRICS if found[n] is None} == names
    assert {k for k in found if k.endswith("_reason")} == {f"{n}_reason" for n in names}
    assert side in found["cremi_score_reason"]


def test_half_empty_is_not_undefined():
    """Missing everything is a recall and an F1 of 0; finding what is not there a precision of 0."""
    some, none = np.zeros((2, 5, 5), bool), np.zeros((2, 5, 5), bool)
    some[0, 1:3, 1:3] = True
    assert (scored(none, some)["recall"], scored(none, some)["f1"]) == (0, 0)
    assert (scored(some, none)["precision"], scored(some, none)["f1"]) == (0, 0)


def test_results_are_plain_json():
    """Scores are finite numbers, None or text: JSON has no NaN."""
    random = np.random.default_rng(0)
    predicted, true = random.random((2, 3, 8, 8)) < 0.2
    found = scored(predicted, true, probability=random.random((3, 8, 8), np.float32))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@settings(max_examples=60, deadline=None)
@given(pair=pairs(), junk=st.integers(0, 255))
def test_ignored_voxels_belong_to_neither_side(pair, junk):
    """Whatever prediction, truth and probability say of ignored voxels, the scores are the same."""
    predicted, true, known, probability = pair
    expected = scored(predicted, true, scored=known, probability=probability)
    values = np.where(known, probability, junk).astype(probability.dtype)
    found = scored(predicted ^ ~known, true | ~known, scored=known, probability=values)
    assert found == expected


@settings(max_examples=80, deadline=None)
@given(
    ours=st.lists(st.integers(0, 5), max_size=12),
    theirs=st.lists(st.integers(0, 5), max_size=12),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
def test_rank_sum_counts_pairs(ours, theirs, dtype):
    """The rank sum is the number of pairs won, ties counting a half, whatever the dtype."""
    expected = sum((a > b) + (a == b) / 2 for a in ours for b in theirs)
    assert rank_sum(np.sort(np.array(ours, dtype)), np.array(theirs, dtype)) == expected


def test_auc_of_constant_probability_is_a_half():
    """A prediction that cannot tell voxels apart has an AUC of 1/2, one that is inverted of 0."""
    true = np.zeros((2, 4, 4), bool)
    true[0] = True
    flat = np.full(true.shape, 7, np.uint8)
    assert scored(true, true, probability=flat)["auc"] == 0.5
    assert scored(true, true, probability=(~true).astype(np.uint8))["auc"] == 0


def test_auc_takes_a_probability():
    """A mask or ids as prediction have no AUC, and the reason says what it takes."""
    true = np.zeros((2, 4, 4), bool)
    true[0] = True
    found = scored(true, true)
    assert found["auc"] is None
    assert "probabilities" in found["auc_reason"]


@settings(max_examples=60, deadline=None)
@given(pair=pairs(), block=st.tuples(*[st.integers(1, 5)] * 3))
def test_surface_is_where_the_cleft_ends(pair, block):
    """Surface voxels have a face neighbour in the volume outside the cleft, whatever the boxes."""
    mask = pair[0]
    around = np.pad(mask, 1, constant_values=True)
    expected = set()
    for z, y, x in np.argwhere(mask):
        faces = [
            (z, y + 1, x + 1), (z + 2, y + 1, x + 1),
            (z + 1, y, x + 1), (z + 1, y + 2, x + 1),
            (z + 1, y + 1, x), (z + 1, y + 1, x + 2),
        ]  # fmt: skip
        if not all(around[f] for f in faces):
            expected.add((int(z), int(y), int(x)))
    found = []
    for box in boxes(mask, mask, block=block):
        truth = box.truth
        found += map(tuple, surface(truth.true, truth.inner, truth.outer).tolist())
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_distances_are_summed_up():
    """Mean, spread, median and maximum count shared voxels as distance 0."""
    true, predicted = np.zeros((1, 1, 20), bool), np.zeros((1, 1, 20), bool)
    true[0, 0, 0:2], predicted[0, 0, [1, 5, 11]] = True, True
    measured = compared(lambda: boxes(predicted, true), (1.0, 1.0, 2.0)).to_truth
    every = np.array([0, 8, 20])
    assert measured.summary() == {
        "mean": pytest.approx(every.mean()),
        "std": pytest.approx(every.std()),
        "median": 8,
        "max": 20,
        "count": 3,
    }


def test_nothing_to_measure_is_shared():
    """Without points beyond the other side there are only shared voxels, at distance 0."""
    measured = Distances(distances(np.empty((0, 3), np.int64), None, (1.0, 1.0, 1.0)), 5)
    assert (measured.count, measured.mean, measured.far) == (5, 0.0, 0)


def test_counts_are_those_of_voxels():
    """True and false positives and negatives add up to both sides' voxels."""
    random = np.random.default_rng(1)
    predicted, true = random.random((2, 4, 9, 9)) < 0.3
    of = compared(lambda: boxes(predicted, true, block=(2, 4, 5)), (40.0, 4.0, 4.0))
    assert (of.predicted, of.true) == (predicted.sum(), true.sum())
    assert of.true_positives == (predicted & true).sum()
    assert of.false_positives == (predicted & ~true).sum()
    assert of.false_negatives == (true & ~predicted).sum()
    assert of.to_truth.count == of.predicted
    assert not math.isnan(of.to_truth.mean)
