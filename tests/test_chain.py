"""The whole chain on synthetic tissue, and what each job leaves behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from cleftcli.labels import BACKGROUND, TARGETS
from cleftcli.model.checkpoint import read_tensors
from cleftcli.volumes import open_volume
from tests.conftest import VOXEL_SIZE, store

CONFIG = """
[data]
train = [{ raw = "volume.zarr/volumes/raw", clefts = "volume.zarr/volumes/labels/clefts", roi = ":,:,0:32" }]
validate = [{ raw = "volume.zarr/volumes/raw", clefts = "volume.zarr/volumes/labels/clefts", roi = ":,:,48:" }]
[network]
name = "cleftnet"
input_shape = [4, 16, 16]
[network.options]
channels = [4, 6, 8]
key_channels = 4
max_keys = 64
[augment]
flip = 0.5
rotate = 0.5
grayscale = 0.5
[training]
steps = 4
batch_size = 2
cosine = true
average = 0.9
save_every = 2
workers = 0
"""  # noqa: E501


@pytest.fixture
def config(tmp_path, volume):
    """A config beside the small volume."""
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


def ok(result):
    """The stdout of a command that succeeded."""
    assert result.exit_code == 0, result.stderr + str(result.exception)
    return result.stdout


def test_from_ids_to_a_submission(cleft, tmp_path, volume, config):
    """make-labels, train, predict, segment, evaluate, export-cremi: each takes what came before."""
    clefts = f"{volume}/volumes/labels/clefts"
    run, prediction = tmp_path / "run", tmp_path / "prediction.zarr"

    ok(cleft("info", volume))
    ok(cleft("make-labels", clefts, "-o", tmp_path / "labels.zarr"))
    ok(cleft("train", config, "-o", run))
    ok(cleft("predict", volume, "-o", prediction, "--checkpoint", run / "checkpoint.safetensors"))
    table = tmp_path / "clefts.csv"
    ok(cleft("segment", prediction, "-o", tmp_path / "clefts.zarr", "--table", table))
    scores = json.loads(ok(cleft("evaluate", prediction, volume, "--json")))
    ok(cleft("export-cremi", prediction, "-o", tmp_path / "out.hdf"))

    wanted = "cremi_score adgt adf f1 precision recall auc threshold false_positives"
    wanted += " false_negatives f1_200nm voxel_size"
    assert set(wanted.split()) <= set(scores)
    assert scores["voxel_size"] == list(VOXEL_SIZE)
    for name in wanted.split():
        assert scores[name] is not None or scores[f"{name}_reason"]


def test_the_exported_file_is_what_the_challenge_reads(cleft, tmp_path, volume):
    """With h5py alone: uint64, background 2^64-1, no 0, resolution, file_format, shape."""
    prediction = np.zeros((10, 48, 64), np.uint8)
    prediction[2:4, 5:9, 5:9] = 255
    prediction[7, 20:30, 20:22] = 200
    source = store(f"{tmp_path}/p.zarr/cleft", prediction, content="probability", complete=True)

    ok(cleft("export-cremi", source.address, "-o", tmp_path / "out.hdf", "--threshold", 0.5))

    with h5py.File(tmp_path / "out.hdf", "r") as file:
        clefts = file["volumes/labels/clefts"]
        assert file.attrs["file_format"] == "0.2"
        assert clefts.dtype == np.uint64
        assert clefts.shape == (10, 48, 64)
        assert clefts.attrs["resolution"].tolist() == list(VOXEL_SIZE)
        assert np.array_equal(clefts[:] != BACKGROUND, prediction > 0)
        assert np.unique(clefts[:]).tolist() == [1, 2, BACKGROUND]
    assert not list(tmp_path.glob(".*.partial"))


def test_export_needs_a_voxel_size(cleft, tmp_path):
    """A submission without resolution cannot be scored: refused until it is given."""
    data = np.full((4, 8, 8), 255, np.uint8)
    data[0] = 0
    with h5py.File(tmp_path / "p.hdf", "w") as file:
        file["cleft"] = data
    arguments = ["export-cremi", tmp_path / "p.hdf", "-o", tmp_path / "out.hdf"]

    refused = cleft(*arguments)
    assert refused.exit_code == 3
    assert "--voxel-size" in refused.stderr
    ok(cleft(*arguments, "--voxel-size", "40,4,4"))


def test_several_predictions_go_to_a_folder(cleft, tmp_path):
    """Files are named after samples or predictions; two of one name are refused."""
    for name in ("A+", "B+"):
        store(f"{tmp_path}/{name}.zarr/cleft", np.eye(16, dtype=np.uint8)[None] * 255)
    both = [tmp_path / "A+.zarr", tmp_path / "B+.zarr"]

    ok(cleft("export-cremi", *both, "-o", tmp_path / "out"))

    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "sample_A+.hdf",
        "sample_B+.hdf",
    ]
    assert cleft("export-cremi", *both, "-o", tmp_path / "one.hdf").exit_code == 2
    assert cleft("export-cremi", both[0], both[0], "-o", tmp_path / "out2").exit_code == 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("suffix", ["zarr", "n5"])
def test_labels_made_in_blocks_equal_those_of_the_whole(
    cleft, tmp_path, volume, grown, target, suffix, monkeypatch
):
    """Every target, zarr and N5, bit for bit."""
    monkeypatch.setattr("cleftcli.jobs.make_labels.BLOCK_VOXELS", 2**12)
    monkeypatch.setattr("cleftcli.jobs.make_labels.CHUNK", (4, 16, 16))
    out = f"{tmp_path}/labels.{suffix}"

    clefts = f"{volume}/volumes/labels/clefts"
    made = json.loads(ok(cleft("make-labels", clefts, "-o", out, "--target", target, "--json")))

    kind = TARGETS[target]
    whole = kind.compute(grown.clefts, VOXEL_SIZE, kind.scale_nm(VOXEL_SIZE), zero_is_cleft=False)
    found = open_volume(made["output"])
    assert made["blocks"] > 4
    assert np.array_equal(found.read(found.roi), whole)


def test_segment_writes_ids_and_a_table(cleft, tmp_path):
    """Small clefts are dropped, ids count from 1, the table has a row for each."""
    data = np.zeros((6, 20, 20), np.uint8)
    data[1:3, 2:6, 2:6] = 250
    data[4, 10:14, 10:14] = 150
    data[5, 18, 18] = 250
    store(f"{tmp_path}/p.zarr/cleft", data, content="probability", complete=True)
    table, out = tmp_path / "t.csv", tmp_path / "c.zarr"

    arguments = ["-o", out, "--table", table, "--threshold", 0.5, "--min-voxels", 10]
    ok(cleft("segment", tmp_path / "p.zarr", *arguments))

    ids = open_volume(str(out), prefer=("clefts",))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert ids.dtype == np.uint64
    assert np.array_equal(np.unique(ids.read(ids.roi)), [0, 1, 2])
    assert [r["voxels"] for r in rows] == ["32", "16"]
    assert float(rows[0]["centroid_z_nm"]) == 1.5 * VOXEL_SIZE[0]
    assert cleft("segment", tmp_path / "p.zarr", *arguments).exit_code == 5
    ok(cleft("segment", tmp_path / "p.zarr", *arguments, "--overwrite"))


def test_ids_score_as_their_mask_does(cleft, tmp_path, volume):
    """evaluate takes ids and masks as predictions; a truth against itself is perfect."""
    clefts = f"{volume}/volumes/labels/clefts"
    ok(cleft("make-labels", clefts, "-o", tmp_path / "mask.zarr", "--target", "mask"))

    for prediction in (clefts, tmp_path / "mask.zarr"):
        scores = json.loads(ok(cleft("evaluate", prediction, volume, "--json")))
        assert scores["cremi_score"] == 0
        assert scores["f1"] == 1
        assert scores["auc"] is None
        assert scores["auc_reason"]


def test_evaluate_refuses_what_does_not_coincide(cleft, tmp_path, volume):
    """Another shape, offset or voxel size: exit 3 with both numbers."""
    wrong = {"turned": np.zeros((64, 48, 10), np.uint8), "large": np.zeros((10, 48, 65), np.uint8)}
    for name, data in wrong.items():
        store(f"{tmp_path}/{name}.zarr/cleft", data, content="probability")
        done = cleft("evaluate", tmp_path / f"{name}.zarr", volume)
        assert done.exit_code == 3
    assert "0:10,0:48,0:65" in done.stderr
    sized = cleft("evaluate", tmp_path / "large.zarr", volume, "--voxel-size", "0,4,4")
    assert sized.exit_code == 2


def test_evaluate_finds_the_truth_of_a_roi(cleft, tmp_path, volume, checkpoint):
    """A prediction of a box is compared with that box of the truth."""
    out = tmp_path / "part.zarr"
    ok(cleft("predict", volume, "-o", out, "--roi", "2:9,8:40,10:60", "--checkpoint", checkpoint))

    found = json.loads(ok(cleft("evaluate", out, volume, "--json")))

    truth = open_volume(f"{volume}/volumes/labels/clefts")
    inside = truth.read(truth.roi)[2:9, 8:40, 10:60]
    assert found["true_voxels"] == int((inside != BACKGROUND).sum())


def test_sweep_reports_the_best_threshold(cleft, tmp_path, volume, grown):
    """--sweep picks the least CREMI-score and lists the rest."""
    probability = np.where(grown.clefts != BACKGROUND, 220, 90).astype(np.uint8)
    store(f"{tmp_path}/p.zarr/cleft", probability, content="probability")

    found = json.loads(ok(cleft("evaluate", tmp_path / "p.zarr", volume, "--sweep", "--json")))

    assert found["cremi_score"] == 0
    assert 90 / 255 < found["threshold"] <= 220 / 255
    assert found["cremi_score"] == min(
        r["cremi_score"] for r in found["sweep"] if r["cremi_score"] is not None
    )


def test_training_resumes_to_the_bit(cleft, tmp_path, config):
    """2 steps, then 2 more, give the weights of 4 in one go."""
    ok(cleft("train", config, "-o", tmp_path / "whole"))
    command = [sys.executable, "-c", STOPPED, str(config), str(tmp_path / "parts")]
    stopped = subprocess.run(command, check=False, capture_output=True, text=True)
    assert stopped.returncode == 143, stopped.stderr

    ok(cleft("train", config, "-o", tmp_path / "parts", "--resume"))

    whole, _ = read_tensors(tmp_path / "whole" / "state.safetensors")
    parts, header = read_tensors(tmp_path / "parts" / "state.safetensors")
    assert header["step"] == 4
    assert len((tmp_path / "parts" / "log.jsonl").read_text().splitlines()) == 4
    assert all(np.array_equal(whole[k].numpy(), parts[k].numpy()) for k in whole)


STOPPED = """
import os, signal, sys
from pathlib import Path
from cleftcli.jobs.train import train
def report(step, steps, parts):
    if step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
train(Path(sys.argv[1]), Path(sys.argv[2]), resume=False, device="cpu", report=report)
"""


def test_a_run_is_not_overwritten(cleft, tmp_path, config):
    """A folder with a run needs --resume; --resume needs a run; another config is refused."""
    assert cleft("train", config, "-o", tmp_path / "run", "--resume").exit_code == 3
    ok(cleft("train", config, "-o", tmp_path / "run"))
    assert cleft("train", config, "-o", tmp_path / "run").exit_code == 5
    config.write_text(CONFIG.replace("steps = 4", "steps = 5"))
    assert cleft("train", config, "-o", tmp_path / "run", "--resume").exit_code == 5


def test_training_on_what_is_held_out_is_refused(cleft, tmp_path, config):
    """Overlapping train and validate regions are a usage error."""
    config.write_text(CONFIG.replace(":,:,48:", ":,:,16:32"))

    done = cleft("train", config, "-o", tmp_path / "run")

    assert done.exit_code == 2
    assert "overlaps" in done.stderr


def test_the_checkpoint_tells_where_it_comes_from(cleft, tmp_path, config):
    """info shows network, steps, threshold and the held-out scores."""
    ok(cleft("train", config, "-o", tmp_path / "run"))

    found = json.loads(ok(cleft("info", tmp_path / "run", "--json")))

    assert found["kind"] == "checkpoint"
    assert found["step"] == 4
    assert found["threshold"] == found["held_out"]["threshold"]
    assert found["voxel_size"] == list(VOXEL_SIZE)


def test_ctrl_c_keeps_a_training_run(tmp_path, config):
    """SIGINT ends with 130 and a state to resume from."""
    config.write_text(CONFIG.replace("steps = 4", "steps = 100000"))
    log = tmp_path / "run" / "log.jsonl"
    command = [sys.executable, "-m", "cleftcli", "train", str(config), "-o", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)

    assert process.wait(60) == 130
    assert (tmp_path / "run" / "state.safetensors").exists()
