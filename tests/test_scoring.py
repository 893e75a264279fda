"""Pairs of volumes compared in blocks, against their voxels compared in one piece."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import mannwhitneyu

from cleftcli import scoring
from cleftcli.comparison import Box, Truth, compare
from cleftcli.foreground import read_foreground
from cleftcli.geometry import Roi, whole
from cleftcli.labels import BACKGROUND, IGNORE
from cleftcli.metrics import METRICS, cremi_score, f1, scores
from cleftcli.scoring import THRESHOLDS, Pair, best_candidate, sweep
from cleftcli.volumes import Space
from cleftcli.volumes.volume import InMemory, Volume

VOXEL_SIZE = (40.0, 4.0, 4.0)


def volume(data, format="zarr2", **attributes):
    """Voxels as an opened volume with small chunks."""
    chunks = tuple(min(n, c) for n, c in zip(data.shape, (2, 16, 16), strict=True))
    space = Space(VOXEL_SIZE)
    array = InMemory(data)
    return Volume("memory", format, data.shape, data.dtype, chunks, space, array, attributes)


def pair(prediction, truth, threshold=None, **more):
    """A prediction (probability, unless its attributes say otherwise) and ids as truth."""
    prediction = prediction if isinstance(prediction, Volume) else volume(prediction)
    truth = truth if isinstance(truth, Volume) else volume(truth)
    more = {"roi": prediction.roi, "voxel_size": VOXEL_SIZE, **more}
    return Pair(read_foreground(prediction, threshold), read_foreground(truth), **more)


def probabilities(data):
    return volume(data, content="probability")


def ids(mask, unknown=None):
    """Cleft ids of a mask, CREMI's background elsewhere."""
    found = np.where(mask, np.uint64(7), np.uint64(BACKGROUND))
    if unknown is not None:
        found[unknown] = IGNORE
    return found


def in_one_piece(predicted, true, known=None, probability=None):
    """The scores of whole masks, handed over as a single box."""
    roi = whole(predicted.shape)
    known = np.ones(predicted.shape, bool) if known is None else known
    truth = Truth(roi, roi, true & known, known, probability)
    passed = (predicted & known).astype(np.uint8)
    box = Box(truth, passed, [passed])
    found = compare(lambda: [truth], lambda: [box], VOXEL_SIZE, cuts=1, rules=1)
    return scores(found[0][0])


def large(mask, least):
    """A mask without its corner-connected components of fewer voxels."""
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    keep = np.bincount(labels.ravel()) >= least
    keep[0] = False
    return keep[labels]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in METRICS:
        value = expected[name]
        assert found[name] == (value if value is None else pytest.approx(value, abs=1e-6)), name


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of one chunk each."""
    monkeypatch.setattr(scoring, "BLOCK_VOXELS", 1)


@st.composite
def scenes(draw):
    """Probability, true clefts and where they are unknown, larger than one block."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(60, 80)), draw(st.integers(60, 140)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    field = ndimage.gaussian_filter(random.standard_normal(shape), (0.7, 2, 2))
    field = (field - field.min()) / np.ptp(field)
    noisy = np.clip(field + 0.1 * random.standard_normal(shape), 0, 1)
    true = field > draw(st.sampled_from([0.6, 0.75, 2.0]))
    unknown = random.random(shape) < draw(st.sampled_from([0, 0.1]))
    levels = (noisy * 255).astype(np.uint8) if draw(st.booleans()) else noisy.astype(np.float32)
    return levels, true, unknown


def reached(levels, threshold):
    """Where a probability reaches a threshold."""
    return levels >= threshold * (255 if levels.dtype == np.uint8 else 1)


@settings(max_examples=25, deadline=None)
@given(
    scene=scenes(), threshold=st.sampled_from([0.3, 0.7, 0.95]), least=st.sampled_from([0, 1, 3])
)
def test_blocks_score_as_one_piece(scene, threshold, least):
    """In blocks, with small clefts dropped, the scores are those of whole masks."""
    levels, true, unknown = scene
    predicted = large(reached(levels, threshold), least)
    expected = in_one_piece(predicted, true, ~unknown, levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "BLOCK_VOXELS", 1)
        subject = pair(probabilities(levels), ids(true, unknown), threshold, min_voxels=least)
        assert_same(scores(subject.compare()), expected)


@settings(max_examples=25, deadline=None)
@given(scene=scenes(), data=st.data(), least=st.sampled_from([0, 3]))
def test_a_roi_scores_as_a_volume_of_its_own(scene, data, least):
    """Scoring a box sees nothing outside it, neither voxels nor the rest of a cleft."""
    levels, true, unknown = scene
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in true.shape)
    shape = tuple(data.draw(st.integers(1, n - o)) for n, o in zip(true.shape, offset, strict=True))
    roi = Roi(offset, shape)
    cut = roi.within(whole(true.shape))
    predicted = large(reached(levels, 0.7)[cut], least)
    subject = pair(probabilities(levels), ids(true, unknown), 0.7, roi=roi, min_voxels=least)
    expected = in_one_piece(predicted, true[cut], ~unknown[cut], levels[cut])
    assert_same(scores(subject.compare()), expected)


@settings(max_examples=20, deadline=None)
@given(scene=scenes())
def test_auc_is_that_of_mann_and_whitney(scene):
    """The AUC equals scipy's U statistic over the number of pairs."""
    levels, true, unknown = scene
    ours, theirs = levels[true & ~unknown], levels[~true & ~unknown]
    found = scores(pair(probabilities(levels), ids(true, unknown), 0.5).compare())["auc"]
    if len(ours) and len(theirs):
        won = mannwhitneyu(ours.astype(float), theirs.astype(float)).statistic
        expected = won / len(ours) / len(theirs)
        assert found == pytest.approx(expected, abs=1e-12)
    else:
        assert found is None


@pytest.fixture
def scene():
    """Clefts of one, two and many voxels as a probability, and their truth."""
    true = np.zeros((3, 70, 70), bool)
    true[1, 20:24, 30:50] = True
    levels = np.where(true, 230, 10).astype(np.uint8)
    levels[0, 5, 5] = 240  # a speck
    levels[2, 60, 60:62] = 240  # and two
    return levels, true


@pytest.mark.parametrize(("least", "specks"), [(0, 3), (1, 3), (2, 2), (3, 0), (80, 0)])
def test_small_clefts_do_not_count(least, specks, scene, small_blocks):
    """Predicted clefts with fewer voxels than asked for are no false positives."""
    levels, true = scene
    of = pair(probabilities(levels), ids(true), 0.5, min_voxels=least).compare()
    assert (of.true_positives, of.false_positives, of.false_negatives) == (80, specks, 0)


def test_size_counts_over_blocks(small_blocks):
    """A cleft cut by blocks is as large as its parts together."""
    levels = np.zeros((2, 128, 128), np.uint8)
    levels[0, 63, 63] = levels[1, 64, 64] = 255  # two voxels, in blocks that share a corner
    truth = ids(np.zeros(levels.shape, bool))
    counted = [
        pair(probabilities(levels), truth, 0.5, min_voxels=n).compare().predicted for n in (2, 3)
    ]
    assert counted == [2, 0]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6, 0.7, 0.9])
def test_dropping_specks_keeps_voxels_at_the_threshold(threshold, scene):
    """A float prediction at exactly the threshold is cleft with and without a least size."""
    true = scene[1]
    levels = np.where(true, np.float32(threshold), np.float32(0))
    counted = [
        pair(levels, ids(true), threshold, min_voxels=least).compare().true_positives
        for least in (0, 2)
    ]
    assert counted == [80, 80]


@pytest.mark.parametrize("content", ["mask", "ids"])
def test_masks_and_ids_score_without_a_threshold(content, scene):
    """Masks and ids are scored as they are; they have no AUC."""
    true = scene[1]
    data = true.astype(np.uint8) if content == "mask" else ids(true)
    found = scores(pair(volume(data, content=content), ids(true)).compare())
    assert (found["f1"], found["cremi_score"], found["auc"]) == (1, 0, None)


def test_either_side_can_ignore(small_blocks):
    """Voxels that prediction or truth call unknown count on no side."""
    predicted, true = np.zeros((2, 1, 70, 70), np.uint8)
    predicted[0, 10:20, 10:20], true[0, 15:25, 15:25] = 1, 1
    predicted[0, 15:17, 10:20] = 255
    unknown = np.zeros(true.shape, bool)
    unknown[0, 20:, 20:] = True
    of = pair(volume(predicted, content="mask"), ids(true > 0, unknown)).compare()
    assert of.predicted == 100 - 20
    assert of.true == 100 - 25 - 10
    assert of.true_positives == 25 - 10


def test_zero_is_a_cleft_of_cremi_files():
    """In the ids of an HDF5 truth 0 is a cleft; in those of other stores it is background."""
    truth = np.full((1, 8, 8), BACKGROUND, np.uint64)
    truth[0, :2], truth[0, 4] = 0, 3
    levels = np.full(truth.shape, 255, np.uint8)
    counted = [
        pair(probabilities(levels), volume(truth, format)).compare().true
        for format in ("hdf5", "zarr2")
    ]
    assert counted == [24, 8]


def test_a_sweep_is_one_comparison_for_each_threshold(scene):
    """Each row of a sweep is the comparison at its threshold; nothing else changes."""
    levels, true = scene
    subject = pair(probabilities(levels), ids(true), 0.5, min_voxels=2)
    rows = sweep(subject, [0.02, 0.5, 0.92])
    assert [(r.threshold, r.min_voxels) for r in rows] == [(0.02, 2), (0.5, 2), (0.92, 2)]
    assert [r.comparison.predicted for r in rows] == [levels.size, 82, 2]
    for threshold, _, of in rows:
        alone = pair(probabilities(levels), ids(true), threshold, min_voxels=2).compare()
        assert scores(of) == scores(alone)


@settings(max_examples=15, deadline=None)
@given(scene=scenes(), sizes=st.sets(st.integers(0, 40), min_size=1, max_size=3))
def test_a_sweep_of_sizes_is_one_comparison_for_each(scene, sizes):
    """Thresholds and least sizes together, in one go, score as each pair of them by itself."""
    levels, true, unknown = scene
    thresholds = [0.2, 0.5, 0.8]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "BLOCK_VOXELS", 1)
        rows = sweep(pair(probabilities(levels), ids(true, unknown)), thresholds, sorted(sizes))
    assert [(r.min_voxels, r.threshold) for r in rows] == [
        (n, t) for n in sorted(sizes) for t in thresholds
    ]
    for threshold, least, of in rows:
        predicted = large(reached(levels, threshold), least)
        assert_same(scores(of), in_one_piece(predicted, true, ~unknown, levels))


def test_a_sweep_reads_each_box_three_times(scene, monkeypatch):
    """However many candidates there are, boxes are read for the truth, the clefts, the scores."""
    levels, true = scene
    subject, seen = pair(probabilities(levels), ids(true)), []
    read = Volume.read
    monkeypatch.setattr(Volume, "read", lambda v, roi: seen.append(v) or read(v, roi))
    sweep(subject, [0.2, 0.5, 0.8], [0, 3, 5])
    of_prediction = sum(v is subject.prediction.volume for v in seen)
    assert of_prediction == 3 * len(subject.plan)


def test_the_best_candidate_has_a_score_in_every_volume(scene):
    """A threshold at which one volume has no score is not chosen, however good it is elsewhere."""
    levels, true = scene
    weak = np.where(levels > 100, levels // 2, levels)  # nothing left at 0.9
    rows = [sweep(pair(probabilities(x), ids(true)), [0.02, 0.9]) for x in (levels, weak)]
    assert [best_candidate([row], cremi_score) for row in rows] == [1, 0]
    assert best_candidate(rows, cremi_score) == 0
    nothing = sweep(pair(probabilities(np.zeros_like(levels)), ids(true)), [0.02, 0.9])
    assert best_candidate([rows[0], nothing], cremi_score) is None


@pytest.mark.parametrize("highest", [True, False])
def test_the_best_candidate_is_the_highest_or_the_lowest(scene, highest):
    """Of the means over volumes the extreme one is chosen."""
    levels, true = scene
    other = np.where(levels > 235, np.uint8(100), levels)
    rows = [sweep(pair(probabilities(x), ids(true)), [0.02, 0.3, 0.92]) for x in (levels, other)]
    means = np.mean([[f1(c.comparison) for c in row] for row in rows], axis=0).tolist()
    expected = max(means) if highest else min(means)
    assert means.index(expected) == best_candidate(rows, f1, highest=highest)


def test_thresholds_ascend_between_0_and_1():
    """A sweep by default asks each threshold in (0, 1) once, in order."""
    assert list(THRESHOLDS) == sorted(set(THRESHOLDS))
    assert all(0 < t < 1 for t in THRESHOLDS)
    assert 0.5 in THRESHOLDS


@pytest.mark.parametrize("name", METRICS)
def test_more_than_the_truth_is_worse(name, scene):
    """The specks beside the true cleft cost every metric that looks at false positives."""
    levels, true = scene
    perfect = scores(pair(probabilities(np.where(true, levels, 0)), ids(true), 0.5).compare())
    found = scores(pair(probabilities(levels), ids(true), 0.5).compare())
    unmoved = {"adf", "recall", "false_positives", "false_negatives", "f1_200nm"}
    if name == "false_positives":
        assert found[name] == 0  # the specks are within 200 nm
    assert (found[name] == perfect[name]) == (name in unmoved)
