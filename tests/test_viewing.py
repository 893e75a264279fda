"""The numbers of a report, each against a naive computation over whole arrays."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from cleftcli.blockwise import Ledger
from cleftcli.geometry import BlockPlan, Roi, parse_roi, whole
from cleftcli.inspection import distance, look
from cleftcli.jobs.evaluate import evaluate
from cleftcli.labels import BACKGROUND, IGNORE
from cleftcli.model.checkpoint import digest, load, shipped
from cleftcli.stored import ledger_of
from cleftcli.viewing import places as places_file
from cleftcli.viewing import scene as scene_file
from cleftcli.viewing import seams as seams_file
from cleftcli.viewing.accuracy import accuracy
from cleftcli.viewing.clefts import clefts
from cleftcli.viewing.coverage import MARKS, NOT_DONE, STATES, read_coverage
from cleftcli.viewing.intensities import intensities
from cleftcli.viewing.overlays import overlays
from cleftcli.viewing.places import places
from cleftcli.viewing.scene import Subject, open_scene
from cleftcli.viewing.seams import seams
from cleftcli.volumes import open_volume, write_attributes
from tests.conftest import VOXEL_SIZE, store

SHAPE = (8, 40, 48)
BLOCK = (4, 16, 16)  # 2x3x3 of them


def predicted(folder, levels, *, name="prediction", states=None, block=BLOCK, **fingerprint):
    """A prediction as `predict` leaves it, with a ledger that says these states of its blocks."""
    roi = whole(levels.shape)
    run = {"roi": str(roi), "block": list(block), **fingerprint}
    plan = BlockPlan(roi, block)
    states = [0] * len(plan) if states is None else states
    volume = store(f"{folder}/{name}.zarr/cleft", levels, content="probability", run=run)
    write_attributes(volume, {"complete": all(s < NOT_DONE for s in states)})
    with Ledger(ledger_of(volume.address), run) as ledger:
        for index, state in enumerate(states):
            positive = int((levels[plan[index].write.within(roi)] >= 128).sum())
            if STATES[state] == "masked":
                ledger.skip([index], {"skipped": 1})
            elif STATES[state] == "failed":
                ledger.fail(index, ValueError("<b>no</b>"))
            elif state < NOT_DONE:
                ledger.record(
                    index, {"positive": positive, "blocks_with_missing_chunks": state // 2}
                )
    return volume.address


def smooth(seed, shape=SHAPE, sigma=(0.7, 2, 2)):
    """Probability that comes in blobs, uint8."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return np.clip(field / field.std() * 70 + 60, 0, 255).astype(np.uint8)


def truth_of(levels, seed):
    """Ids of the blobs, moved and thinned a little."""
    moved = np.roll(levels, (0, 1, seed % 3), (0, 1, 2)) >= 150
    ids = ndimage.label(moved)[0].astype(np.uint64)
    return np.where(ids > 0, ids, np.uint64(BACKGROUND))


def scene(folder, levels, ids=None, **more):
    """A scene of a prediction, with a truth where one is given."""
    address = predicted(folder, levels, **more)
    true = None if ids is None else store(f"{folder}/truth.zarr/clefts", ids).address
    return open_scene(Subject(address, true, threshold=0.5))


random_states = st.lists(st.integers(0, len(STATES) - 1), min_size=18, max_size=18)


@settings(max_examples=10, deadline=None)
@given(states=random_states)
def test_coverage_is_what_the_ledger_says_block_by_block(states, tmp_path_factory):
    """States are counted, projected as the worst behind each other, and known for each voxel."""
    folder = tmp_path_factory.mktemp("coverage")
    found = read_coverage(predicted(folder, np.zeros(SHAPE, np.uint8), states=states))
    told = found.numbers()
    grid = np.reshape(states, (2, 3, 3))
    assert told["counts"] == {name: states.count(n) for n, name in enumerate(STATES)}
    for y, x in itertools.product(range(3), range(3)):
        assert told["yx"][y][x] == MARKS[max(grid[z, y, x] for z in range(2))]
    for z, x in itertools.product(range(2), range(3)):
        assert told["zx"][z][x] == MARKS[max(grid[z, y, x] for y in range(3))]
    unknown = np.ones(SHAPE, bool)
    for block in BlockPlan(whole(SHAPE), BLOCK):
        unknown[block.write.within(whole(SHAPE))] = states[block.index] >= NOT_DONE
    box = Roi((1, 3, 5), (6, 30, 40))
    assert np.array_equal(found.unknown(box), unknown[box.within(whole(SHAPE))])


def jumps_in_one_piece(levels, axis, reach):
    """Mean jump across block faces, and at up to `reach` voxels beside them inside the blocks."""
    probability = levels.astype(float) / 255
    jumps = np.abs(np.diff(probability, axis=axis))
    at_face, beside = [], []
    for face in range(BLOCK[axis], SHAPE[axis], BLOCK[axis]):
        end = min(face + min(reach, BLOCK[axis]), SHAPE[axis])
        near = range(face - min(reach, BLOCK[axis]), end - 1)
        for position in near:
            values = jumps.take(position, axis).ravel()
            (at_face if position == face - 1 else beside).append(values)
    return np.concatenate(at_face).mean(), np.concatenate(beside).mean()


@pytest.mark.parametrize("reach", [2, 4])
def test_seams_are_jumps_over_the_whole_array(tmp_path, monkeypatch, reach):
    """Across faces and beside them, on each axis, as counted in one piece."""
    monkeypatch.setattr(seams_file, "REACH", reach)
    levels = smooth(1)
    found = seams(scene(tmp_path, levels))["axes"]
    for axis, name in enumerate("zyx"):
        across, beside = jumps_in_one_piece(levels, axis, reach)
        assert found[name]["across"] == pytest.approx(across)
        assert found[name]["beside"] == pytest.approx(beside)
        assert found[name]["ratio"] == pytest.approx(across / beside)


def test_a_block_that_stands_out_is_seen(tmp_path):
    """Noise without seams has a ratio near 1; one brighter block raises that of each axis."""
    noise = np.random.default_rng(0).integers(0, 128, SHAPE).astype(np.uint8)
    plain = seams(scene(tmp_path, noise))["axes"]
    noise[:4, 16:32, 16:32] += 127
    seen = seams(scene(tmp_path, noise, name="seen"))["axes"]
    for axis in "zyx":
        assert plain[axis]["ratio"] == pytest.approx(1, abs=0.1)
        assert seen[axis]["ratio"] > 1.1


def test_seams_take_blocks_that_are_there(tmp_path):
    """A face beside a block that is not done says nothing."""
    states = [0] * 18
    states[0] = NOT_DONE
    levels = smooth(2)
    levels[:4, :16, :16] = 0  # and full of seams, were it looked at
    found = seams(scene(tmp_path, levels, states=states))["axes"]
    assert [found[a]["faces"] for a in "zyx"] == [8, 11, 11]


def windows_in_one_piece(levels, ids, edge):
    """Every window of the volume: predicted, true and right voxels, and mean probability."""
    found = {}
    for z, y, x in itertools.product(range(8), (0, 16, 24), (0, 16, 32)):
        here = (z, slice(y, y + edge), slice(x, x + edge))
        p = levels[here] >= 127.5
        t = np.zeros(p.shape, bool) if ids is None else ids[here] != BACKGROUND
        sure = levels[here][p].mean() / 255 if p.any() else 0
        found[z, y, x] = (int(p.sum()), int(t.sum()), int((p & t).sum()), sure)
    return found


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of 16 x 16 voxels."""
    monkeypatch.setattr(places_file, "EDGE", 16)


@pytest.mark.parametrize("seed", range(3))
def test_places_are_the_best_and_the_worst_of_all_windows(tmp_path, small_windows, seed):
    """Counts are right; no window beats the first best, none is below the first worst."""
    levels = smooth(seed)
    ids = truth_of(levels, seed)
    found = places(scene(tmp_path, levels, ids))
    every = windows_in_one_piece(levels, ids, 16)
    judged = [2 * r / (p + t) for p, t, r, _ in every.values() if p + t - r >= 20]
    assert found["windows"] == len(every)
    for place in found["places"]:
        p, t, r, _ = every[parse_roi(place["roi"], SHAPE).offset]
        assert (place["right"], place["false"], place["missed"]) == (r, p - r, t - r)
    firsts = {
        kind: next(p for p in found["places"] if p["kind"] == kind) for kind in ("best", "worst")
    }
    assert firsts["best"]["f1"] == pytest.approx(max(judged), abs=1e-4)
    assert firsts["worst"]["f1"] == pytest.approx(min(judged), abs=1e-4)


def test_places_without_a_truth_are_by_certainty(tmp_path, small_windows):
    """The most and the least certain have the highest and lowest mean of what is predicted."""
    levels = smooth(5)
    found = places(scene(tmp_path, levels))
    sure = [s for p, _, _, s in windows_in_one_piece(levels, None, 16).values() if p >= 20]
    told = {p["kind"]: p["mean_probability"] for p in reversed(found["places"])}
    assert told["most certain"] == pytest.approx(max(sure), abs=1e-4)
    assert told["least certain"] == pytest.approx(min(sure), abs=1e-4)


def test_ids_are_as_certain_as_what_they_were_made_of(tmp_path, small_windows):
    """Places of ids are ordered by the probability that they name; without it by their voxels."""
    levels = smooth(5)
    ids = ndimage.label(levels >= 150)[0].astype(np.uint64)
    made_of = {"prediction": predicted(tmp_path, levels)}
    both = [
        store(f"{tmp_path}/{name}.zarr/clefts", ids, content="ids", run=run).address
        for name, run in (("named", made_of), ("alone", {}))
    ]
    named, alone = (places(open_scene(Subject(address)))["places"] for address in both)
    first = parse_roi(named[0]["roi"], SHAPE).within(whole(SHAPE))
    inside = levels[first][ids[first] > 0]
    assert named[0]["kind"] == "most certain"
    assert named[0]["mean_probability"] == pytest.approx(inside.mean() / 255, abs=1e-4)
    assert named[0]["mean_probability"] < 1
    assert {p["kind"] for p in alone} == {"fullest", "emptiest", "random"}
    assert {p["mean_probability"] for p in alone} == {None}
    most = max(p for p, _, _, _ in windows_in_one_piece((ids > 0) * 255, None, 16).values())
    assert alone[0]["predicted_voxels"] == most


def test_pictures_are_dark_where_nothing_can_be_read(tmp_path, small_windows):
    """A chunk that is damaged after places were chosen costs the voxels shown, not the pictures."""
    seen = scene(tmp_path, smooth(1))
    found = places(seen)
    for chunk in (tmp_path / "prediction.zarr" / "cleft").rglob("*"):
        if chunk.is_file() and not chunk.name.startswith("."):
            chunk.write_bytes(b"broken")
    pictures = overlays(open_scene(Subject(seen.volume.address)), found)
    assert len(pictures) == len(found["places"]) + 1
    assert np.asarray(pictures[0].image)[-3:, -3:].max() < 60


def test_places_show_different_tissue(tmp_path, small_windows):
    """No two windows overlap in sections near each other, and the lot is the same every time."""
    levels = smooth(6)
    found = [places(scene(tmp_path, levels, truth_of(levels, 6), name=n)) for n in "ab"]
    assert found[0] == found[1]
    boxes = [parse_roi(p["roi"], SHAPE) for p in found[0]["places"]]
    for a, b in itertools.combinations(boxes, 2):
        assert not (a.intersect(b.shift((a.offset[0] - b.offset[0], 0, 0))).size) or (
            abs(a.offset[0] - b.offset[0]) >= 3
        )


def test_of_a_large_volume_only_a_sample_is_read(tmp_path, small_windows, monkeypatch):
    """Half the sample are the blocks with most predicted voxels; no more voxels are read."""
    size = 4 * 16 * 16
    monkeypatch.setattr(places_file, "MOST_VOXELS", 4 * size)
    levels = np.zeros(SHAPE, np.uint8)
    levels[4:, 16:32, 16:32], levels[:4, :16, 32:] = 200, 150
    read = []
    seen = scene(tmp_path, levels)
    original = type(seen.volume.array).read

    def counted(array, slices):
        read.append(np.prod([s.stop - s.start for s in slices]))
        return original(array, slices)

    monkeypatch.setattr(type(seen.volume.array), "read", counted)
    found = places(seen)
    assert found["blocks_looked_at"] == 4
    assert "2 blocks with most" in found["how"]
    assert found["how"].endswith("of 18")
    assert found["places"][0]["roi"].endswith("16:32,16:32")
    assert sum(read) <= 4 * 4 * 24 * 32  # windows that reach over a block's faces


@pytest.mark.parametrize("seed", range(2))
def test_accuracy_is_what_evaluate_says(tmp_path, seed):
    """Scores and sweep are those of `cleft evaluate`."""
    levels = smooth(seed)
    seen = scene(tmp_path, levels, truth_of(levels, seed))
    found = accuracy(seen)
    expected = evaluate(
        [(seen.volume.address, seen.truth.volume.address)],
        threshold=0.5, sweeping=False, min_voxels=[0], roi=None,
        voxel_size=None, table=None, save_to=None,
    )  # fmt: skip
    assert found["whole"]
    assert found["scores"] == {k: expected[k] for k in found["scores"]}
    assert [r["threshold"] for r in found["sweep"]] == sorted(
        {r["threshold"] for r in found["sweep"]}
    )
    half = next(r for r in found["sweep"] if r["threshold"] == 0.5)
    assert half["cremi_score"] == expected["cremi_score"]


def test_distances_are_those_of_every_wrong_voxel(tmp_path):
    """Histograms count each false and missed voxel once, by its nm to the nearest of the others."""
    levels = smooth(3)
    ids = truth_of(levels, 3)
    found = accuracy(scene(tmp_path, levels, ids))["distances"]
    p, t = levels >= 127.5, ids != BACKGROUND
    for name, wrong, others in (("false", p & ~t, t), ("missed", t & ~p, p)):
        nm = cdist(np.argwhere(wrong) * VOXEL_SIZE, np.argwhere(others) * VOXEL_SIZE).min(axis=1)
        assert found[name] == np.histogram(nm, found["edges_nm"])[0].tolist()
        assert sum(found[name]) == wrong.sum()


def test_a_part_of_a_large_volume_is_scored_and_named(tmp_path, monkeypatch):
    """The middle, as `evaluate --roi` scores it."""
    monkeypatch.setattr(scene_file, "MOST_VOXELS", 8 * 40 * 24)
    levels = smooth(4, (8, 40, 128))
    seen = scene(tmp_path, levels, truth_of(levels, 4))
    found = accuracy(seen)
    assert not found["whole"]
    assert parse_roi(found["roi"], levels.shape).size < levels.size
    expected = evaluate(
        [(seen.volume.address, seen.truth.volume.address)],
        threshold=0.5, sweeping=False, min_voxels=[0], roi=found["roi"],
        voxel_size=None, table=None, save_to=None,
    )  # fmt: skip
    assert found["scores"]["cremi_score"] == pytest.approx(expected["cremi_score"])


def test_what_is_not_there_yet_is_not_scored(tmp_path):
    """Scores of a growing output are those where the truth is ignored in the missing blocks."""
    levels = smooth(7)
    ids = truth_of(levels, 7)
    states = [0, NOT_DONE, 4, 0, 0, 0, 1, 0, 2, 0, NOT_DONE, 0, 0, 0, 0, 4, 0, 0]
    hidden = ids.copy()
    for block in BlockPlan(whole(SHAPE), BLOCK):
        if states[block.index] >= NOT_DONE:
            hidden[block.write.within(whole(SHAPE))] = IGNORE
    growing = scene(tmp_path, levels, ids, states=states)
    known = scene(tmp_path / "known", levels, hidden)
    assert not growing.complete
    assert accuracy(growing)["scores"] == accuracy(known)["scores"]
    assert clefts(growing)["counts"] == clefts(known)["counts"]


def test_clefts_are_told_the_worst_first(tmp_path):
    """Missed, then false, merged, split and hit ones; each kind by size, each where it lies."""
    levels = smooth(8)
    ids = truth_of(levels, 8)
    found = clefts(scene(tmp_path, levels, ids))
    fates = [row["fate"] for row in found["rows"]]
    order = ["missed", "false", "merged", "split", "hit"]
    assert fates == sorted(fates, key=order.index)
    assert found["of"] == len(fates) == found["counts"]["true"] + found["counts"]["false"]
    for fate in order:
        sizes = [row["voxels"] for row in found["rows"] if row["fate"] == fate]
        assert sizes == sorted(sizes, reverse=True)
    for row in (r for r in found["rows"] if r["fate"] != "false"):
        middle = np.argwhere(ids == row["id"]).mean(axis=0)
        assert [row[f"centroid_{a}"] for a in "zyx"] == pytest.approx(middle, abs=0.01)


def test_ids_without_a_truth_are_listed_the_smallest_first(tmp_path):
    """Every id once, with its voxels and its middle."""
    ids = ndimage.label(smooth(9) >= 150)[0].astype(np.uint64)
    made = store(f"{tmp_path}/clefts.zarr/clefts", ids, content="ids", complete=True)
    found = clefts(open_scene(Subject(made.address)))
    names, counts = np.unique(ids[ids > 0], return_counts=True)
    assert {r["id"]: r["voxels"] for r in found["rows"]} == dict(zip(names, counts, strict=True))
    assert [r["voxels"] for r in found["rows"]] == sorted(counts)


def test_raw_is_held_against_the_data_of_the_checkpoint(tmp_path, grown):
    """Found by the run's own words, and as far from the training data as `predict` would say."""
    raw = store(f"{tmp_path}/raw.zarr/volumes/raw", grown.raw)
    facts = {
        "volume": raw.address, "shape": list(raw.shape), "dtype": "uint8",
        "intensity_range": [0, 255], "checkpoint": digest(shipped()),
    }  # fmt: skip
    seen = scene(tmp_path, np.zeros(raw.shape, np.uint8), **facts)
    found = intensities(seen)
    trained = list(load(shipped())[0].intensities)
    assert np.array_equal(seen.grey(raw.roi), grown.raw)
    assert found["histogram"] == look(raw).histogram((0, 255))
    assert found["distance"] == distance(found["histogram"], trained)


def test_raw_that_changed_its_shape_is_not_shown(tmp_path, grown):
    """The run saw another volume at that address; the report says so and goes on."""
    raw = store(f"{tmp_path}/raw.zarr/volumes/raw", grown.raw)
    seen = scene(tmp_path, smooth(1), volume=raw.address, shape=[1, 2, 3])
    assert seen.raw is None
    assert "(10, 48, 64)" in intensities(seen)["lacks"]
    assert (seen.grey(whole(SHAPE)) == 128).all()


def test_a_relative_address_is_looked_for_where_the_run_was(tmp_path, grown, monkeypatch):
    """The folder in the run record comes before the current one."""
    store(f"{tmp_path}/there/raw.zarr/volumes/raw", grown.raw)
    store(f"{tmp_path}/here/raw.zarr/volumes/raw", grown.raw[::-1].copy())
    monkeypatch.chdir(tmp_path / "here")
    facts = {"volume": "raw.zarr/volumes/raw", "shape": list(grown.raw.shape)}
    address = predicted(tmp_path, np.zeros(grown.raw.shape, np.uint8), **facts)
    record = tmp_path / "prediction.zarr.cleft.run.json"
    record.write_text(json.dumps({"folder": str(tmp_path / "there")}))
    seen = open_scene(Subject(address))
    assert np.array_equal(seen.grey(seen.volume.roi), grown.raw)


def test_float_and_byte_probabilities_say_the_same(tmp_path):
    """float32 gives the seams and scores of the bytes it was made from."""
    levels = smooth(11)
    ids = truth_of(levels, 11)
    found = [
        scene(tmp_path / name, data, ids)
        for name, data in (("b", levels), ("f", levels.astype(np.float32) / 255))
    ]
    bytes_, floats = ([accuracy(s)["scores"], seams(s)["axes"]["x"]] for s in found)
    assert floats[0] == pytest.approx(bytes_[0])
    assert floats[1] == pytest.approx(bytes_[1], rel=1e-5)
    assert open_volume(found[1].volume.address).dtype == np.float32
