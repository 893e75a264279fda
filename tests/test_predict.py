"""Prediction: blocks do not show, kills lose nothing, conflicts are refused."""

import dataclasses
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

from cleftcli.blockwise import Workers
from cleftcli.errors import ConflictError, IncompleteError, UsageError
from cleftcli.foreground import read_foreground
from cleftcli.jobs.predict import Settings, plan, predict
from cleftcli.volumes import open_volume
from tests.conftest import VOXEL_SIZE, store


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

    assert np.array_equal(
        made(settings("both.zarr", block=(10, 24, 32), workers=Workers(2))), alone
    )


def test_a_roi_is_cut_from_the_prediction_of_the_whole(settings):
    """The tile grid belongs to the volume: a roi has the same voxels and its own offset."""
    whole = made(settings("whole.zarr"))
    part = made(settings("part.zarr", roi="2:9,5:40,:33"))

    assert np.array_equal(part, whole[2:9, 5:40, :33])
    assert open_volume(settings("part.zarr").output + "/cleft").space.offset == (80.0, 40.0, 0.0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 17, 2), (3, 15, 16), (5, 19, 13), (7, 16, 17)])
def test_any_shape_is_predicted_whole(settings, tmp_path, grown, shape):
    """Volumes smaller than a tile, of one section or of prime edges: every voxel is written."""
    data = grown.raw[tuple(slice(n) for n in shape)]
    odd = store(f"{tmp_path}/odd.zarr/raw", data).address
    chosen = settings("out.zarr", block=(3, 16, 11), dtype="float32")

    found = made(dataclasses.replace(chosen, volume=odd))

    assert found.shape == shape
    assert ((found > 0) & (found < 1)).all()  # unwritten voxels would be 0


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
    ledger = tmp_path / "killed.zarr.cleft.ledger"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and (
        not ledger.exists() or len(ledger.read_text().splitlines()) < 5
    ):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(ledger.read_text().splitlines()) - 2
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


def test_two_predictions_share_a_container(cleft, settings, tmp_path):
    """Each has a ledger of its own; --overwrite and another try concern one array alone."""
    first, second = settings("out.zarr/a"), settings("out.zarr/b", blend="none")
    a, b = made(first), made(second)
    before = voxels_on_disk(tmp_path / "out.zarr" / "a")

    assert not np.array_equal(a, b)
    assert predict(first, overwrite=False, report=lambda *_: None)["blocks_resumed"] == 1
    with pytest.raises(ConflictError, match="blend: 'none' -> 'bump'"):
        made(settings("out.zarr/b"))
    assert np.array_equal(made(settings("out.zarr/b"), overwrite=True), a)
    assert voxels_on_disk(tmp_path / "out.zarr" / "a") == before
    listed = json.loads(cleft("info", tmp_path / "out.zarr", "--json").stdout)["arrays"]
    assert [(v["address"][-1], v["complete"]) for v in listed] == [("a", True), ("b", True)]


@pytest.mark.parametrize("where", ["out.zarr", "out.zarr/raw", "out.zarr/beside"])
def test_a_container_of_others_stays_as_it_is(settings, tmp_path, grown, where):
    """5 with and without --overwrite, also for an array beside theirs and one of the same name."""
    store(f"{tmp_path}/out.zarr/raw", grown.raw)
    document = tmp_path / "out.zarr" / "raw" / ".zattrs"
    document.write_text(document.read_text().replace("cleft", "somebody"))
    before = {p: p.read_bytes() for p in (tmp_path / "out.zarr").rglob("*") if p.is_file()}

    for overwrite in (False, True):
        with pytest.raises(ConflictError):
            made(settings(where), overwrite=overwrite)

    after = {p: p.read_bytes() for p in (tmp_path / "out.zarr").rglob("*") if p.is_file()}
    assert after == before
    assert not list(tmp_path.glob("*.ledger"))


def test_ours_without_its_ledger_is_not_taken_up(settings, tmp_path):
    """What was moved here is a conflict; --overwrite replaces it, for it says that it is ours."""
    first = made(settings("out.zarr"))
    (tmp_path / "out.zarr.cleft.ledger").unlink()

    with pytest.raises(ConflictError, match="--overwrite"):
        made(settings("out.zarr"))
    assert np.array_equal(made(settings("out.zarr"), overwrite=True), first)


@pytest.mark.parametrize("there", ["folder", "group"])
def test_an_empty_place_is_free(settings, tmp_path, there):
    """An empty folder, or a group without arrays, is nobody's."""
    (tmp_path / "out.zarr").mkdir()
    if there == "group":
        (tmp_path / "out.zarr" / ".zgroup").write_text('{"zarr_format": 2}')

    assert made(settings("out.zarr")).shape == (10, 48, 64)


def test_a_deleted_output_is_made_anew(settings, tmp_path):
    """A ledger without its output is not believed."""
    first = made(settings("out.zarr"))
    shutil.rmtree(tmp_path / "out.zarr")

    assert np.array_equal(made(settings("out.zarr")), first)


def test_the_input_is_never_the_output(volume, checkpoint):
    """Writing into the raw container is refused, by any name of it."""
    link = volume.with_name("link.zarr")
    link.symlink_to(volume)
    for output in (volume, volume / "cleft", volume / "inside.zarr", link, link / "other.n5"):
        with pytest.raises(UsageError, match="into the input"):
            plan(Settings(volume=str(volume), output=str(output), checkpoint=checkpoint))


def test_without_blending_tiles_are_stacked(settings):
    """blend none has no overlap unless one is asked for."""
    assert plan(settings("out.zarr", blend="none")).process.tiling.grid.stride == (4, 16, 16)
    assert plan(settings("out.zarr")).process.tiling.grid.stride == (3, 12, 12)
