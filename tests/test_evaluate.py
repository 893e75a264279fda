"""`evaluate` at the command line: several volumes, sweeps, tables, what is kept."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cleftcli.geometry import Roi
from cleftcli.labels import BACKGROUND, cleft_mask
from cleftcli.metrics import METRICS
from cleftcli.model.checkpoint import load
from cleftcli.tables import write_table
from cleftcli.volumes import Space, create_volume, open_volume
from tests.conftest import VOXEL_SIZE, store

SHAPE = (4, 24, 40)


def truth_and_levels(seed):
    """Ids of two boxes, and a probability that knows them roughly."""
    random = np.random.default_rng(seed)
    ids = np.full(SHAPE, BACKGROUND, np.uint64)
    ids[1:3, 4:8, 4:20], ids[0:2, 14:20, 22:36] = 1, 2
    levels = np.where(ids != BACKGROUND, 200, 30) + random.integers(-30, 50, SHAPE)
    return ids, np.clip(np.roll(levels, seed, 2), 0, 255).astype(np.uint8)


@pytest.fixture
def scene(tmp_path):
    """Address of a prediction and of its truth."""

    def make(name, seed, **changes):
        ids, levels = truth_and_levels(seed)
        store(f"{tmp_path}/{name}.zarr/clefts", changes.get("ids", ids))
        store(
            f"{tmp_path}/{name}_p.zarr/cleft", changes.get("levels", levels), content="probability"
        )
        return f"{tmp_path}/{name}_p.zarr", f"{tmp_path}/{name}.zarr"

    return make


@pytest.fixture
def evaluate(cleft):
    """Run `evaluate --json`; what it printed."""

    def run(*arguments):
        done = cleft("evaluate", *arguments, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_several_volumes_are_scored_each_and_averaged(scene, evaluate):
    """Per volume what it scores alone, and the mean over volumes, as the leaderboard has it."""
    pairs = [scene("A", 1), scene("B", 2), scene("C", 5)]
    found = evaluate(*(a for p in pairs for a in p))
    alone = [evaluate(*p) for p in pairs]
    for each, single in zip(found["volumes"], alone, strict=True):
        assert {k: each[k] for k in METRICS} == {k: single[k] for k in METRICS}
    for name in METRICS:
        assert found["mean"][name] == pytest.approx(np.mean([s[name] for s in alone]))


def test_a_mean_over_what_is_undefined_is_null(scene, evaluate):
    """One volume without a cleft leaves the mean undefined, and the reason names it."""
    empty = scene("B", 2, levels=np.zeros(SHAPE, np.uint8))
    found = evaluate(*scene("A", 1), *empty)
    assert found["volumes"][1]["cremi_score"] is None
    assert found["mean"]["cremi_score"] is None
    assert "B_p.zarr" in found["mean"]["cremi_score_reason"]
    assert found["mean"]["recall"] == pytest.approx(found["volumes"][0]["recall"] / 2)


def test_a_prediction_needs_its_truth(scene, cleft):
    """An odd number of volumes is a usage error that names the last."""
    done = cleft("evaluate", *scene("A", 1), "left.zarr")
    assert done.exit_code == 2
    assert "left.zarr" in done.stderr


def test_a_sweep_lists_every_candidate_and_names_the_best(scene, evaluate):
    """Thresholds times least sizes, the best by CREMI-score and by F1 among them."""
    pair = scene("A", 3)
    found = evaluate(*pair, "--sweep", "--min-voxels", "0,40,200")
    assert {(r["threshold"], r["min_voxels"]) for r in found["sweep"]} == {
        (t, n) for t in {r["threshold"] for r in found["sweep"]} for n in (0, 40, 200)
    }
    defined = [r for r in found["sweep"] if r["cremi_score"] is not None]
    assert found["best_by_cremi_score"]["cremi_score"] == min(r["cremi_score"] for r in defined)
    assert found["best_by_f1"]["f1"] == max(r["f1"] for r in found["sweep"])
    for row in (found["best_by_cremi_score"], found["sweep"][7], found["sweep"][-9]):
        options = ["--threshold", row["threshold"], "--min-voxels", row["min_voxels"]]
        alone = evaluate(*pair, *options)
        for name in ("cremi_score", "f1", "precision"):
            assert row[name] == (alone[name] and pytest.approx(alone[name]))
    assert found["threshold"] == found["best_by_cremi_score"]["threshold"]


def test_a_sweep_over_volumes_chooses_by_their_mean(scene, evaluate):
    """The threshold is the one whose mean over the volumes is best, and is the same for all."""
    pairs = [*scene("A", 1), *scene("B", 6)]
    found = evaluate(*pairs, "--sweep")
    best = found["best_by_cremi_score"]
    assert {v["threshold"] for v in found["volumes"]} == {best["threshold"]}
    assert best["cremi_score"] == pytest.approx(found["mean"]["cremi_score"])


def test_spread_and_extremes_are_told(scene, evaluate):
    """Mean, std, median, max and count of both sides' distances, in nm."""
    found = evaluate(*scene("A", 4))
    assert set(found["distances"]) == {"to_truth", "to_prediction"}
    of = found["distances"]["to_truth"]
    assert of["mean"] == pytest.approx(found["adgt"])
    assert of["count"] == found["predicted_voxels"]
    assert of["max"] >= of["median"] >= 0


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_table_has_a_row_for_each_cleft(scene, evaluate, tmp_path, suffix):
    """True and predicted clefts with their voxels and partners; the counts are in the result."""
    table = tmp_path / f"clefts{suffix}"
    found = evaluate(*scene("A", 1), "--table", table)
    text = table.read_text()
    rows = json.loads(text) if suffix == ".json" else list(csv.DictReader(text.splitlines()))
    assert len(rows) == found["clefts"]["true"] + found["clefts"]["predicted"]
    assert found["clefts"]["hit"] == 2
    assert (
        sum(int(r["voxels"]) for r in rows if r["side"] == "prediction")
        == (found["predicted_voxels"])
    )


def test_a_table_is_of_the_candidate_that_is_scored(scene, evaluate, tmp_path):
    """Of a sweep the table holds the clefts at the best threshold and least size."""
    ids, _ = truth_and_levels(1)
    levels = np.select([ids == 1, ids == 2], [200, 60]).astype(np.uint8)  # both at 0.2, not at 0.5
    levels[3, ::4, ::4] = 240  # specks
    pair, table = scene("A", 1, levels=levels), tmp_path / "clefts.json"
    for options in (["--min-voxels", 3], ["--sweep", "--min-voxels", "0,3"]):
        found = evaluate(*pair, "--table", table, *options)
        assert found["min_voxels"] == 3
        rows = [r for r in json.loads(table.read_text()) if r["side"] == "prediction"]
        assert len(rows) == found["clefts"]["predicted"]
        assert sum(r["voxels"] for r in rows) == found["predicted_voxels"]
    assert found["threshold"] < 0.25
    assert min(r["voxels"] for r in rows) >= 3


def test_partners_are_joined_by_spaces_in_csv(scene, evaluate, tmp_path):
    """A true cleft in two pieces has both in one cell; JSON has them as a list."""
    ids, _ = truth_and_levels(1)
    levels = np.where(ids == BACKGROUND, 0, 255).astype(np.uint8)
    levels[:, :, 10:12] = 0
    pair = scene("A", 1, levels=levels)
    evaluate(*pair, "--table", tmp_path / "clefts.csv")
    evaluate(*pair, "--table", tmp_path / "clefts.json")
    rows = list(csv.DictReader((tmp_path / "clefts.csv").read_text().splitlines()))
    lists = [r["partners"] for r in json.loads((tmp_path / "clefts.json").read_text())]
    assert [[int(p) for p in r["partners"].split(" ")] for r in rows] == lists
    assert max(map(len, lists)) == 2


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_table_is_whole_or_not_there(tmp_path, suffix):
    """A table that cannot be written leaves the earlier one as it was."""
    path = tmp_path / f"clefts{suffix}"
    write_table(path, [{"id": 3, "voxels": 7}])
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        write_table(path, [{"id": 1, "voxels": 9}, {"id": 2, "other": object()}])
    assert path.read_bytes() == before


def test_a_roi_is_scored_alone(scene, evaluate):
    """--roi counts the voxels of its box and says which it was."""
    ids, levels = truth_and_levels(1)
    found = evaluate(*scene("A", 1), "--roi", "1:3,2:10,6:30")
    box = np.s_[1:3, 2:10, 6:30]
    assert found["roi"] == "1:3,2:10,6:30"
    assert found["true_voxels"] == (ids[box] != BACKGROUND).sum()
    assert found["predicted_voxels"] == (levels[box] >= 127.5).sum()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (Space(VOXEL_SIZE, (0.0, 4.0, 0.0)), "do not coincide"),
        (Space(VOXEL_SIZE, (0.0, 0.0, 0.1)), "do not coincide"),
        (Space((40.0, 8.0, 8.01)), "8.01"),
        (Space((40.0, 8.4, 8.0)), "8.4"),
    ],
    ids=str,
)
def test_voxels_that_do_not_coincide_are_not_scored(scene, cleft, tmp_path, space, said):
    """A truth moved by part of a voxel, or with voxels of another size, is refused."""
    prediction, _ = scene("A", 1)
    other = create_volume(
        f"{tmp_path}/other.zarr/clefts",
        shape=(8, 48, 80),
        dtype=np.uint64,
        chunks=(4, 16, 16),
        space=space,
    )
    done = cleft("evaluate", prediction, other.address)
    assert done.exit_code == 3
    assert said in done.stderr


def test_every_volume_of_a_sweep_holds_probabilities(scene, cleft, tmp_path):
    """A mask among the predictions of a sweep is refused by name."""
    first, (_, truth) = scene("A", 1), scene("B", 2)
    ids = truth_and_levels(2)[0]
    store(f"{tmp_path}/mask.zarr/cleft", (ids != BACKGROUND).astype(np.uint8), content="mask")
    done = cleft("evaluate", *first, tmp_path / "mask.zarr", truth, "--sweep")
    assert done.exit_code == 2
    assert "mask.zarr" in done.stderr


def test_a_checkpoint_keeps_the_threshold_that_a_sweep_found(
    scene, evaluate, checkpoint, tmp_path, cleft, volume
):
    """--save-to changes the threshold alone, and later predictions carry it."""
    kept = tmp_path / "kept.safetensors"
    shutil.copy(checkpoint, kept)
    found = evaluate(*scene("A", 1), "--sweep", "--save-to", kept)
    (before, weights), (after, same) = load(checkpoint), load(kept)
    assert after.threshold == found["threshold"] != before.threshold
    assert after.voxel_size == before.voxel_size
    assert all((weights[k] == same[k]).all() for k in weights)
    done = cleft("predict", volume, "-o", tmp_path / "p.zarr", "--checkpoint", kept, "--json")
    assert json.loads(done.stdout)["threshold"] == found["threshold"]


@pytest.mark.parametrize(
    "options",
    [
        ["--sweep", "--threshold", "0.5"],
        ["--min-voxels", "1,2"],
        ["--min-voxels", "-1"],
        ["--save-to", "x.safetensors"],
        ["--table", "clefts.txt"],
    ],
    ids=" ".join,
)
def test_options_that_cannot_be_meant(scene, cleft, options):
    """Options that exclude each other or mean nothing are usage errors."""
    done = cleft("evaluate", *scene("A", 1), *options)
    assert done.exit_code == 2, done.stdout


def test_a_person_sees_the_sweep_as_a_table(scene, cleft):
    """Without --json the candidates are aligned columns."""
    done = cleft("evaluate", *scene("A", 1), "--sweep", "--min-voxels", "0,10")
    lines = done.stdout.splitlines()
    head = next(
        i for i, line in enumerate(lines) if line.split()[:1] == ["threshold"] and "f1" in line
    )
    assert lines[head].split() == ["threshold", "min_voxels", "cremi_score", "f1"]
    assert len({len(line) for line in lines[head:]}) == 1


@pytest.mark.parametrize("name", ["vnc/vnc_train.hdf", "trakem2/trakem2.hdf"])
def test_real_clefts_score_as_by_full_distance_transforms(cleft, tmp_path, name):
    """On hand-drawn clefts, moved and thinned, every distance agrees to 1e-6 nm."""
    path = Path(os.environ.get("CLEFT_DATA", "nowhere"), name)
    if not path.is_file():
        pytest.skip("CLEFT_DATA is not set: no hand-drawn clefts to score")
    truth = open_volume(f"{path}/volumes/labels/clefts")
    box = Roi((2, 100, 100), (12, 300, 320))
    true = cleft_mask(truth.read(box), zero_is_cleft=True)
    moved = np.roll(ndimage.binary_erosion(true, np.ones((1, 3, 3))), (1, 4, -6), (0, 1, 2))
    origin = tuple(o * v for o, v in zip(box.offset, truth.voxel_size, strict=True))
    made = create_volume(
        f"{tmp_path}/p.zarr/cleft",
        shape=box.shape,
        dtype=np.uint8,
        chunks=(4, 64, 64),
        space=Space(truth.voxel_size, origin),
        attributes={"content": "mask"},
    )
    made.write(made.roi, moved.astype(np.uint8))
    done = cleft("evaluate", f"{tmp_path}/p.zarr", path, "--json")
    found = json.loads(done.stdout)["distances"]
    for side, ours, theirs in (("to_truth", moved, true), ("to_prediction", true, moved)):
        apart = ndimage.distance_transform_edt(~theirs, sampling=truth.voxel_size)[ours]
        expected = {
            "mean": apart.mean(),
            "std": apart.std(),
            "median": np.median(apart),
            "max": apart.max(),
            "count": len(apart),
        }
        assert found[side] == {k: pytest.approx(v, abs=1e-6) for k, v in expected.items()}
