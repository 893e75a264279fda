"""What a training run leaves behind, keeps, reports and refuses."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from cleftcli.curves import curves
from cleftcli.held_out import choose
from cleftcli.model.checkpoint import load, read_tensors, write_tensors
from cleftcli.pace import Pace
from cleftcli.volumes import Space

CONFIG = """
seed = 3
[data]
{train}
validate = [{{ raw = "volume.zarr/volumes/raw", clefts = "volume.zarr/volumes/labels/clefts", roi = ":,:,32:48" }}]
test = [{{ raw = "volume.zarr/volumes/raw", clefts = "volume.zarr/volumes/labels/clefts", roi = ":,:,48:" }}]
[network]
name = "{network}"
input_shape = [4, 16, 16]
options = {{ channels = [4, 6, 8] }}
[objective]
name = "mask"
[training]
steps = 6
batch_size = 2
save_every = 2
keep = 2
validate_every = 2
workers = 0
learning_rate = {rate}
"""  # noqa: E501
TRAIN = 'train = [{ raw = "volume.zarr/volumes/raw", clefts = "volume.zarr/volumes/labels/clefts", roi = ":,:,0:32" }]'  # noqa: E501


def written(path, *, train=TRAIN, network="unet3d", rate="1e-3", more=""):
    path.write_text(CONFIG.format(train=train, network=network, rate=rate) + more)
    return path


@pytest.fixture
def config(tmp_path, volume):
    """A config with held-out and test columns, beside the small volume."""
    return written(tmp_path / "config.toml")


def ok(result):
    assert result.exit_code == 0, result.stderr + str(result.exception)
    return json.loads(result.stdout)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_folder_tells_the_whole_run(cleft, tmp_path, config):
    """Lines for steps and validations, pictures, events, versions, and the last checkpoints."""
    run = tmp_path / "run"
    found = ok(cleft("train", config, "-o", run, "--json"))
    steps, held_out = rows(run / "log.jsonl"), rows(run / "held_out.jsonl")
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[0].keys() >= {"loss", "mask", "learning_rate", "patches_per_second", "waited"}
    assert [row["step"] for row in held_out] == [2, 4, 6]
    assert held_out[0].keys() >= {"threshold", "cremi_score", "f1", "auc"}
    names = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert names == ["step_0000004.safetensors", "step_0000006.safetensors"]
    assert load(run / "checkpoints" / names[0])[0].step == 4
    assert len(list((run / "samples").iterdir())) == 3
    assert any((run / "tensorboard").iterdir())
    about = json.loads((run / "run.json").read_text())
    assert about["torch"] == torch.__version__
    assert about["config"]["training"]["steps"] == 6
    assert about["inputs"][0]["stamp"]
    for picture in (run / "curves.png", run / "samples/step_0000002.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 40
    assert found["steps"] == 6


def test_the_best_network_is_kept_with_its_threshold(cleft, tmp_path, config):
    """The checkpoint is that of the validation with the least CREMI-score."""
    run = tmp_path / "run"
    found = ok(cleft("train", config, "-o", run, "--json"))
    validations = rows(run / "held_out.jsonl")
    scored = [row for row in validations if row["cremi_score"] is not None]
    best = min(scored, key=lambda row: row["cremi_score"])
    made, weights = load(run / "checkpoint.safetensors")
    assert made.threshold == best["threshold"]
    assert found["held_out"]["mean"]["cremi_score"] == best["cremi_score"]
    steps = [row["step"] for row in scored if row["cremi_score"] == best["cremi_score"]]
    assert made.step == max(steps)
    if (run / f"checkpoints/step_{made.step:07d}.safetensors").exists():
        _, same = load(run / f"checkpoints/step_{made.step:07d}.safetensors")
        assert all(torch.equal(v, same[k]) for k, v in weights.items())


def test_test_regions_are_scored_once_with_what_was_chosen_elsewhere(cleft, tmp_path, config):
    """The reported figures are those that `predict` and `evaluate` give at the threshold."""
    run, prediction = tmp_path / "run", tmp_path / "p.zarr"
    found = ok(cleft("train", config, "-o", run, "--json"))["test"]
    made = load(run / "checkpoint.safetensors")[0]
    assert found["threshold"] == made.threshold
    assert found["regions"] == [{"raw": "raw", "roi": "0:10,0:48,48:64"}]
    assert made.training["test"]["mean"] == found["mean"]
    volume = tmp_path / "volume.zarr"
    checkpoint = run / "checkpoint.safetensors"
    ok(cleft("predict", volume, "--checkpoint", checkpoint, "-o", prediction, "--json"))
    there = ok(cleft("evaluate", prediction, volume, "--roi", ":,:,48:", "--json"))
    assert there["auc"] == pytest.approx(found["mean"]["auc"], abs=5e-3)  # weights as float16
    assert (tmp_path / "run/log.jsonl").exists()


STOPPED = """
import os, signal, sys
from pathlib import Path
from cleftcli.jobs import train

at, step = sys.argv[3], int(sys.argv[4])
predicted = train.predicted

def stop():
    os.kill(os.getpid(), signal.SIGTERM)

def report(now, *_):
    if at == "step" and now == step:
        stop()
    if at == "validation" and now == step:
        train.predicted = lambda *given: (predicted(*given), stop(), sys.exit("goes on"))

train.train(Path(sys.argv[1]), Path(sys.argv[2]), resume=False, device="cpu", report=report)
"""


@pytest.mark.parametrize(("at", "step"), [("step", 4), ("step", 6), ("validation", 4)])
def test_a_resumed_run_is_the_run(cleft, tmp_path, config, at, step):
    """Stopped at any step or in a validation, and continued, a run has the same lines and weights.

    A validation is ended at once, not awaited.
    """
    written(config, more="average = 0.5\n")
    ok(cleft("train", config, "-o", tmp_path / "whole", "--json"))
    command = [sys.executable, "-c", STOPPED, config, tmp_path / "parts", at, str(step)]
    assert subprocess.run(command, check=False).returncode == 143
    ok(cleft("train", config, "-o", tmp_path / "parts", "--resume", "--json"))
    for name in ("log.jsonl", "held_out.jsonl"):
        whole, parts = (rows(tmp_path / n / name) for n in ("whole", "parts"))
        drop = ("patches_per_second", "waited")
        for row in (*whole, *parts):
            for key in drop:
                row.pop(key, None)
        assert whole == parts
    whole, parts = (load(tmp_path / n / "checkpoint.safetensors") for n in ("whole", "parts"))
    assert whole[0] == parts[0]
    assert all(torch.equal(v, parts[1][k]) for k, v in whole[1].items())


def children_of(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


@pytest.mark.parametrize(
    ("sent", "whom", "when"),
    [
        (signal.SIGINT, "group", "while workers start"),
        (signal.SIGTERM, "process", "while workers start"),
        (signal.SIGINT, "process", "while it steps"),
        (signal.SIGTERM, "group", "while it steps"),
    ],
)
def test_a_signal_ends_a_run_and_all_its_processes(tmp_path, volume, sent, whom, when):
    """Ctrl-C and SIGTERM, to the command or to its whole group: seconds later nothing is left."""
    config, run = tmp_path / "config.toml", tmp_path / "run"
    written(config)
    config.write_text(
        config.read_text()
        .replace("workers = 0", "workers = 2")
        .replace("steps = 6", "steps = 9999")
    )
    command = [sys.executable, "-m", "cleftcli", "train", config, "-o", run]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        stepping = when == "while it steps"
        wait_until(lambda: len(children_of(process)) > 3 or process.poll() is not None)
        wait_until(lambda: not stepping or (run / "log.jsonl").exists())
        children = children_of(process)  # two workers, what forks them, and a tracker
        assert len(children) > 3
        (os.kill if whom == "process" else os.killpg)(process.pid, sent)
        said = process.communicate(timeout=30)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + sent
    assert "Traceback" not in said
    wait_until(lambda: not any(c.is_running() and c.status() != "zombie" for c in children))
    log = (run / "log.txt").read_text()
    assert "stopped by a signal" in log
    assert "ERROR" not in log
    assert (run / "state.safetensors").exists()


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("not within a minute")


@pytest.mark.parametrize("where", ["cleftcli.training.autocast", "torch.optim.AdamW.step"])
def test_no_memory_for_a_batch_says_what_to_lower(cleft, tmp_path, config, where):
    """Exit code 6, whatever runs out of it; the message names the two keys that change it."""
    config.write_text(config.read_text().replace("batch_size = 2", "batch_size = 3"))

    def allocate(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, allocate)
        done = cleft("train", config, "-o", tmp_path / "run")
    assert done.exit_code == 6
    assert "no memory for a batch of 3 patches" in done.stderr
    assert "training.batch_size" in done.stderr
    assert "training.accumulate" in done.stderr


def test_a_worker_that_fails_ends_the_run(tmp_path, volume):
    """A chunk that cannot be read: 3, named, and no process is left to wait for."""
    chunk = volume / "volumes" / "raw" / "0" / "0" / "0"
    (written(tmp_path / "config.toml")).write_text(
        (tmp_path / "config.toml").read_text().replace("workers = 0", "workers = 2")
    )
    chunk.write_bytes(b"torn")
    command = [sys.executable, "-m", "cleftcli", "train", tmp_path / "config.toml"]
    process = subprocess.Popen(
        [*command, "-o", tmp_path / "run"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=60)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 3, said
    assert "volumes/raw: cannot read voxels" in said
    assert "Traceback" not in said


def test_a_cpu_without_memory_says_so_too(tmp_path):
    """PyTorch's allocator raises a plain RuntimeError there."""
    from cleftcli.errors import ResourceError
    from cleftcli.model.device import device_errors

    with (
        pytest.raises(ResourceError, match="no memory for this: can't allocate"),
        device_errors(torch.device("cpu"), "this"),
    ):
        torch.empty(2**60)


def test_a_validation_leaves_the_network_alone(tmp_path):
    """It has a copy with the average of the weights: whatever ends it, nothing is put back."""
    from cleftcli.config import load as load_config
    from cleftcli.training import new_run, resolved

    run = new_run(resolved(load_config(written(tmp_path / "c.toml"))), tmp_path, "cpu")
    run.network.train()
    own = {k: v.clone() for k, v in run.network.state_dict().items()}
    other = {k: v + 1 for k, v in own.items()}
    copied = run.copied(other)
    assert not copied.training
    assert all(torch.equal(v, other[k]) for k, v in copied.state_dict().items())
    assert run.network.training
    assert all(torch.equal(v, own[k]) for k, v in run.network.state_dict().items())


def test_tiles_are_stacked_in_validation_where_that_is_asked(cleft, tmp_path, config):
    """With blend = "none" the test scores are those of `predict --blend none`, else of blending."""
    volume, scores = tmp_path / "volume.zarr", {}
    for blend in ("bump", "none"):
        written(config, more=f'blend = "{blend}"\n')
        run, prediction = tmp_path / blend, tmp_path / f"{blend}.zarr"
        scores[blend] = ok(cleft("train", config, "-o", run, "--json"))["test"]["mean"]["auc"]
        checkpoint = ["--checkpoint", run / "checkpoint.safetensors"]
        ok(cleft("predict", volume, *checkpoint, "--blend", blend, "-o", prediction, "--json"))
        there = ok(cleft("evaluate", prediction, volume, "--roi", ":,:,48:", "--json"))
        assert there["auc"] == pytest.approx(scores[blend], abs=2e-3)  # weights as float16
    assert abs(scores["bump"] - scores["none"]) > 4e-3


def test_pace_counts_from_the_first_batches_on(monkeypatch):
    """Starting takes 10 s and is no waiting; each step waits 1 s, and computes 3."""
    clock = iter([0, 10, 13, 13, 14, 17, 17, 18, 21])
    monkeypatch.setattr("cleftcli.pace.time.monotonic", lambda: now[0])
    now = [next(clock)]

    def feed():
        while True:
            now[0] = next(clock)
            yield {}

    pace = Pace(feed(), each=1, batch_size=6)
    assert pace.waited == 0
    pace.batches()  # from 0 to 10
    now[0] = next(clock)  # a step, to 13
    assert pace.facts() == {"patches_per_second": 6 / 3, "waited": 0}
    now[0] = next(clock)
    pace.batches()  # from 13 to 14
    now[0] = next(clock)  # to 17
    assert pace.facts() == {"patches_per_second": 12 / 7, "waited": pytest.approx(1 / 7)}


CLEFTNET = """
[network]
name = "cleftnet"
input_shape = [4, 16, 16]
options = {{ channels = [4, 6, 8], query = "{query}" }}
[objective]
name = "mask"
[training]
steps = 4
batch_size = 2
save_every = 2
workers = 0
weight_decay = 0.5
"""
QUERY_RATE = "query_learning_rate = 0.1\n"


@pytest.mark.parametrize("query", ["full", "separable", "frozen"])
def test_a_run_tells_how_far_queries_moved(cleft, tmp_path, volume, query):
    """In its log at every save, and in its checkpoint; a resumed run knows the same start."""
    config, run = tmp_path / "config.toml", tmp_path / "run"
    rate = "" if query == "frozen" else QUERY_RATE
    text = f"[data]\n{TRAIN}\n" + CLEFTNET.format(query=query) + rate
    config.write_text(text.replace("steps = 4", "steps = 2"))
    ok(cleft("train", config, "-o", run, "--json"))
    config.write_text(text)
    (run / "config.toml").write_text(text)
    ok(cleft("train", config, "-o", run, "--resume", "--json"))
    moved = load(run / "checkpoint.safetensors")[0].training["query_correlation"]
    log = (run / "log.txt").read_text()
    if query == "frozen":
        assert moved == {}
        assert "queries" not in log
        return
    assert len(moved) == 5 * (1 if query == "full" else 3)
    assert all(-1 <= value < 0.9999 for value in moved.values())
    assert "step 2: queries: correlation with their start" in log
    assert "step 4: queries: correlation with their start" in log


def test_queries_have_a_rate_of_their_own_and_no_decay(tmp_path):
    """Other weights decay; queries are scaled by nothing, and take the larger steps asked for."""
    from cleftcli.config import load as load_config
    from cleftcli.training import new_run, resolved, update

    path = tmp_path / "c.toml"
    path.write_text(f"[data]\n{TRAIN}\n" + CLEFTNET.format(query="full") + QUERY_RATE)
    run = new_run(resolved(load_config(path)), tmp_path, "cpu")
    before = {k: v.clone() for k, v in run.network.named_parameters()}
    batch = {"raw": torch.zeros(2, 1, 4, 16, 16), "mask": torch.zeros(2, 4, 16, 16)}
    batch["raw"][:, :, :, 4:8] = 1
    update(run, [batch])
    steps = {k: (v - before[k]).abs().max().item() for k, v in run.network.named_parameters()}
    queries = [v for k, v in steps.items() if ".query." in k]
    # Adam's first step is the learning rate wherever there is a gradient
    assert max(queries) == pytest.approx(0.1, rel=1e-3)
    assert max(v for k, v in steps.items() if k.endswith("key.weight")) < 0.01
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.5, 0.0]


def test_a_torn_line_does_not_stop_a_run(cleft, tmp_path, config):
    """A line that a kill cut short, and lines of steps that no state knows, are dropped."""
    run = tmp_path / "run"
    ok(cleft("train", config, "-o", run, "--json"))
    with (run / "log.jsonl").open("a") as lines:
        lines.write('{"step": 7, "loss": 1.0}\n{"step": 8, "lo')
    ok(cleft("train", config, "-o", run, "--resume", "--json"))
    assert [row["step"] for row in rows(run / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_not_finite_names_its_patches(cleft, tmp_path, config):
    """The run stops, says which patches did it, and keeps the state before."""
    written(config, rate="1e30")
    run = tmp_path / "run"
    done = cleft("train", config, "-o", run)
    assert done.exit_code == 1
    assert "bad_batch.json" in done.stderr
    log = (run / "log.txt").read_text()
    assert "ended by NotFinite" in log
    assert "Traceback" in log
    facts = json.loads((run / "bad_batch.json").read_text())
    assert facts["step"] >= 1
    assert facts["seed"] == 3
    assert [len(batch) for batch in facts["patches"]] == [2]
    assert facts["patches"][0][0]["raw"].endswith("volumes/raw")
    if (run / "state.safetensors").exists():
        tensors = read_tensors(run / "state.safetensors")[0]
        assert all(v.isfinite().all() for v in tensors.values())


def test_accumulated_batches_are_one_step(cleft, tmp_path, config):
    """With accumulate = 2 a step sees twice the patches, and learns from all of them."""
    for name, more in (("one", ""), ("two", "accumulate = 2\n")):
        written(config, more=more)
        ok(cleft("train", config, "-o", tmp_path / name, "--json"))
    one, two = (read_tensors(tmp_path / n / "state.safetensors")[0] for n in ("one", "two"))
    assert len(rows(tmp_path / "two/log.jsonl")) == 6
    assert not torch.equal(one["network/head.weight"], two["network/head.weight"])
    first = [rows(tmp_path / n / "log.jsonl")[0]["loss"] for n in ("one", "two")]
    assert first[0] != first[1]


def test_two_processes_train_as_one(tmp_path, config):
    """Under torchrun each process takes its share of a batch; one of them writes."""
    written(config, more="gradient_clip = 1.0\n")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command += ["-m", "cleftcli", "train", str(config), "-o", str(run), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["steps"] == 6
    assert [row["step"] for row in rows(run / "log.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert done.stderr.count("steps 6/6") == 1


def test_a_run_that_failed_before_its_first_save_may_start_again(cleft, tmp_path, config):
    """Nothing was kept: the corrected command needs no other folder."""
    run = tmp_path / "run"
    written(config, rate="1e30")
    assert cleft("train", config, "-o", run).exit_code == 1
    assert not (run / "state.safetensors").exists()
    written(config)
    ok(cleft("train", config, "-o", run, "--json"))
    assert [row["step"] for row in rows(run / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path):
    """A finite loss with a gradient that is none stops the run before the optimiser acts."""
    from cleftcli.config import load as load_config
    from cleftcli.training import NotFinite, new_run, resolved, update

    config = resolved(load_config(written(tmp_path / "c.toml")))
    run = new_run(config, tmp_path, "cpu")
    before = {k: v.clone() for k, v in run.network.named_parameters()}
    hook = run.network.head.weight.register_hook(lambda g: g * float("nan"))
    batch = {"raw": torch.zeros(2, 1, 4, 16, 16), "mask": torch.ones(2, 4, 16, 16)}
    with pytest.raises(NotFinite, match="gradient"):
        update(run, [batch])
    hook.remove()
    assert all(torch.equal(v, before[k]) for k, v in run.network.named_parameters())


def test_curves_need_no_validation(tmp_path):
    """A run without held-out regions has one panel, with them two."""
    steps = [{"step": n, "loss": 1 / n, "mask": 1 / n, "learning_rate": 0.1} for n in range(1, 99)]
    curves(tmp_path / "one.png", steps, [])
    curves(tmp_path / "two.png", steps, [{"step": 5, "cremi_score": None, "f1": 0.5}])
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.width == 2 * one.width


def test_choosing_nothing_from_nothing():
    """A prediction and a truth without clefts have no best threshold: one half, and no score."""
    from cleftcli.foreground import Foreground
    from cleftcli.geometry import whole
    from cleftcli.held_out import Held
    from cleftcli.sampling import Source
    from cleftcli.scoring import Pair
    from cleftcli.volumes import in_memory
    from cleftcli.volumes.volume import InMemory, Volume

    empty = np.zeros((2, 8, 8), np.uint8)
    like = Volume("a", "zarr2", empty.shape, empty.dtype, empty.shape, Space(), InMemory(empty))
    sides = [
        Foreground(in_memory(empty, like=like), c, t)
        for c, t in (("probability", 0.5), ("mask", None))
    ]
    pair = Pair(*sides, whole(empty.shape), (40.0, 4.0, 4.0))
    source = Source("a", "a", whole(empty.shape), (40.0, 4.0, 4.0))
    found = choose([Held(source, pair)])
    assert found["threshold"] == 0.5
    assert found["mean"]["cremi_score"] is None
    assert "with_min_voxels" not in found


@pytest.mark.parametrize("by", ["cremi_score", "f1"])
def test_networks_rank_by_what_chooses_them(by):
    """Less is a better CREMI-score, more a better F1; no score is the worst of both."""
    from cleftcli.held_out import rank

    better, worse = {"cremi_score": (10.0, 20.0), "f1": (0.9, 0.2)}[by]
    found = [{"chosen_by": by, "mean": {by: value}} for value in (None, worse, better)]
    assert sorted(found, key=rank) == found[::-1]


def test_the_threshold_is_chosen_by_f1_where_that_is_asked(tmp_path):
    """One far voxel of a low threshold costs the CREMI-score much and F1 little."""
    from cleftcli.foreground import Foreground
    from cleftcli.geometry import whole
    from cleftcli.held_out import Held
    from cleftcli.sampling import Source
    from cleftcli.scoring import Pair
    from cleftcli.volumes import in_memory
    from cleftcli.volumes.volume import InMemory, Volume

    truth = np.zeros((2, 8, 64), np.uint8)
    truth[:, 2:6, 2:6] = 1
    probability = np.where(truth, 200, 0).astype(np.uint8)
    probability[:, :, 2:4][truth[:, :, 2:4] > 0] = 250
    probability[0, 0, 63] = 200
    like = Volume("a", "zarr2", truth.shape, truth.dtype, truth.shape, Space(), InMemory(truth))
    pair = Pair(
        Foreground(in_memory(probability, like=like), "probability", 0.5),
        Foreground(in_memory(truth, like=like), "mask", None),
        whole(truth.shape),
        (40.0, 4.0, 4.0),
    )
    held = [Held(Source("a", "a", whole(truth.shape), (40.0, 4.0, 4.0)), pair)]
    by_score, by_f1 = choose(held), choose(held, "f1")
    assert by_score["threshold"] > 200 / 255 > by_f1["threshold"]
    assert by_f1["mean"]["f1"] > by_score["mean"]["f1"]
    assert by_f1["mean"]["cremi_score"] > by_score["mean"]["cremi_score"]


def test_a_state_of_another_version_is_not_continued(cleft, tmp_path, config):
    """3, and what to do: its steps were made otherwise."""
    run = tmp_path / "run"
    ok(cleft("train", config, "-o", run, "--json"))
    tensors, header = read_tensors(run / "state.safetensors")
    write_tensors(run / "state.safetensors", tensors, {**header, "state": 1})
    done = cleft("train", config, "-o", run, "--resume")
    assert done.exit_code == 3
    assert "another version of cleft; start a new run" in done.stderr
