"""Prediction: blocks do not show, kills lose nothing, conflicts are refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cleftcli.errors import ConflictError, IncompleteError, UsageError
from cleftcli.foreground import read_foreground
from cleftcli.jobs.predict import Settings, plan, predict
from cleftcli.volumes import open_volume
from tests.conftest import VOXEL_SIZE


def made(settings: Settings, **options) -> np.ndarray:
    """What `predict` writes."""
    predict(settings, overwrite=options.pop("overwrite", False), report=lambda *_: None)
    found = open_volume(settings.output, prefer=("cleft",))
    return found.read(found.roi)


def voxels_on_disk(folder: Path) -> dict[str, bytes]:
    """Every chunk of a store."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture
def settings(tmp_path, volume, checkpoint):
    """Predict the small volume in one block."""

    def build(name: str, **changes) -> Settings:
        return Settings(
            volume=str(volume), output=str(tmp_path / name), checkpoint=checkpoint, **changes
        )

    return build


@pytest.mark.parametrize("block", [(4, 16, 16), (10, 48, 16), (3, 48, 64)])
def test_blocks_do_not_show_in_the_prediction(settings, block):
    """Blockwise prediction equals prediction in one block, bit for bit."""
    whole = made(settings("whole.zarr"))

    assert np.array_equal(made(settings("blocks.zarr", block=block)), whole)


def test_workers_do_not_show_in_the_prediction(settings):
    """Two worker processes write what one does."""
    alone = made(settings("alone.zarr", block=(10, 24, 32)))

    assert np.array_equal(made(settings("both.zarr", block=(10, 24, 32), workers=2)), alone)


def test_a_roi_is_cut_from_the_prediction_of_the_whole(settings):
    """The tile grid belongs to the volume: a roi has the same voxels and its own offset."""
    whole = made(settings("whole.zarr"))
    part = made(settings("part.zarr", roi="2:9,5:40,:33"))

    assert np.array_equal(part, whole[2:9, 5:40, :33])
    assert open_volume(settings("part.zarr").output + "/cleft").space.offset == (80.0, 40.0, 0.0)


@pytest.mark.parametrize("name", ["out.zarr", "out.n5"])
def test_a_prediction_says_what_it_holds(settings, name):
    """Probability as uint8, voxel size, threshold and completeness are in its attributes."""
    found = made(settings(name))
    volume = open_volume(settings(name).output, prefer=("cleft",))

    assert found.dtype == np.uint8
    assert found.shape == (10, 48, 64)
    assert volume.voxel_size == VOXEL_SIZE
    assert volume.attributes["content"] == "probability"
    assert volume.attributes["threshold"] == 0.5
    assert volume.attributes["complete"] is True


def test_float32_and_uint8_hold_the_same_probability(settings):
    """--dtype changes how a probability is stored, not which."""
    exact = made(settings("float.zarr", dtype="float32"))
    stored = made(settings("uint8.zarr"))

    assert exact.dtype == np.float32
    assert np.array_equal(np.rint(exact * 255), stored)


def test_a_run_killed_half_way_and_started_again_gives_the_same_bytes(settings, tmp_path, volume):
    """SIGKILL loses at most the blocks in flight."""
    whole = settings("undisturbed.zarr", block=(4, 16, 16))
    made(whole)
    killed = tmp_path / "killed.zarr"
    command = [sys.executable, "-m", "cleftcli", "predict", str(volume), "-o", str(killed)]
    command += ["--checkpoint", str(whole.checkpoint), "--block", "4,16,16"]
    ledger = tmp_path / "killed.zarr.ledger"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and (
        not ledger.exists() or len(ledger.read_text().splitlines()) < 4
    ):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(ledger.read_text().splitlines()) - 1
    assert before < 36, "the run was over before it could be killed"

    part = open_volume(f"{killed}/cleft")
    with pytest.raises(IncompleteError):
        read_foreground(part)
    printed = subprocess.run([*command, "--json"], capture_output=True, check=True, text=True)

    assert 3 <= json.loads(printed.stdout)["blocks_resumed"] <= before
    assert voxels_on_disk(killed) == voxels_on_disk(tmp_path / "undisturbed.zarr")


def test_a_finished_run_resumes_to_nothing(settings):
    """The same command again does no block."""
    once = settings("out.zarr", block=(4, 48, 64))
    predict(once, overwrite=False, report=lambda *_: None)

    again = predict(once, overwrite=False, report=lambda *_: None)

    assert again["blocks_resumed"] == again["blocks"] == 3


def test_other_settings_are_refused_and_named(settings):
    """A prediction is never mixed from two runs."""
    made(settings("out.zarr"))

    with pytest.raises(ConflictError, match="blend: 'bump' -> 'none'"):
        made(settings("out.zarr", blend="none"))
    assert made(settings("out.zarr", blend="none"), overwrite=True).shape == (10, 48, 64)


def test_a_folder_that_is_not_ours_survives_overwrite(settings, tmp_path):
    """--overwrite deletes nothing that cleft did not make."""
    (tmp_path / "out.zarr").mkdir()
    precious = tmp_path / "out.zarr" / "precious"
    precious.write_text("data")

    for overwrite in (False, True):
        with pytest.raises(ConflictError):
            made(settings("out.zarr"), overwrite=overwrite)
    assert precious.read_text() == "data"


def test_a_deleted_output_is_made_anew(settings, tmp_path):
    """A ledger without its output is not believed."""
    first = made(settings("out.zarr"))
    shutil.rmtree(tmp_path / "out.zarr")

    assert np.array_equal(made(settings("out.zarr")), first)


def test_the_input_is_never_the_output(volume, checkpoint):
    """Writing into the raw container is refused."""
    with pytest.raises(UsageError, match="into the input"):
        plan(Settings(volume=str(volume), output=str(volume), checkpoint=checkpoint))


def test_without_blending_tiles_are_stacked(settings):
    """blend none has no overlap unless one is asked for."""
    assert plan(settings("out.zarr", blend="none")).process.tiling.grid.stride == (4, 16, 16)
    assert plan(settings("out.zarr")).process.tiling.grid.stride == (3, 12, 12)
