"""Prediction: blocks do not show, kills lose nothing, conflicts are refused."""

import dataclasses
import fcntl
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
from cleftcli.errors import ConflictError, IncompleteError, InputError, ResourceError, UsageError
from cleftcli.foreground import read_foreground
from cleftcli.jobs.predict import predict
from cleftcli.jobs.verify import verify
from cleftcli.model.device import visible_gpus
from cleftcli.outputs import create
from cleftcli.prediction import predict_roi
from cleftcli.prediction_plan import plan
from cleftcli.prediction_settings import Settings
from cleftcli.volumes import Space, create_volume, list_volumes, open_volume
from tests.conftest import VOXEL_SIZE, store

BOTH = ("cleft", "boundary")


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


def test_a_refused_run_leaves_no_trace(settings, tmp_path):
    """Other settings at the same output are refused, and its run record tells what it is of."""
    made(settings("out.zarr"))
    before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}

    with pytest.raises(ConflictError):
        made(settings("out.zarr", tta="flips"))

    after = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    assert any(p.name.endswith("run.json") for p in before)
    assert after == before


def test_a_roi_is_cut_from_the_prediction_of_the_whole(settings):
    """The tile grid belongs to the volume: a roi has the same voxels and its own offset."""
    whole = made(settings("whole.zarr"))
    part = made(settings("part.zarr", roi="2:9,5:40,:33"))

    assert np.array_equal(part, whole[2:9, 5:40, :33])
    assert open_volume(settings("part.zarr").output + "/cleft").space.offset == (80.0, 40.0, 0.0)


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 17, 2), (3, 15, 16), (5, 19, 13), (7, 16, 17)])
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


@pytest.mark.parametrize("channels", [("cleft",), BOTH])
def test_a_folder_that_is_not_ours_survives_overwrite(settings, tmp_path, channels):
    """--overwrite deletes nothing that cleft did not make."""
    (tmp_path / "out.zarr").mkdir()
    precious = tmp_path / "out.zarr" / "precious"
    precious.write_text("data")

    for overwrite in (False, True):
        with pytest.raises(ConflictError):
            made(settings("out.zarr", channels=channels), overwrite=overwrite)
    assert precious.read_text() == "data"
    assert list((tmp_path / "out.zarr").iterdir()) == [precious]


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


@pytest.mark.parametrize("channels", [("cleft",), BOTH])
@pytest.mark.parametrize("where", ["out.zarr", "out.zarr/raw", "out.zarr/beside"])
def test_a_container_of_others_stays_as_it_is(settings, tmp_path, grown, where, channels):
    """5 with and without --overwrite, also for an array beside theirs and one of the same name."""
    store(f"{tmp_path}/out.zarr/raw", grown.raw)
    document = tmp_path / "out.zarr" / "raw" / ".zattrs"
    document.write_text(document.read_text().replace("cleft", "somebody"))
    before = {p: p.read_bytes() for p in (tmp_path / "out.zarr").rglob("*") if p.is_file()}

    for overwrite in (False, True):
        with pytest.raises(ConflictError):
            made(settings(where, channels=channels), overwrite=overwrite)

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


@pytest.mark.parametrize(
    ("name", "value"), [("tta", "flips"), ("context", (0, 2, 2)), ("channels", BOTH)]
)
def test_what_changes_a_voxel_is_another_run(settings, name, value):
    """It is refused by name, said in the plan, and what is written differs or is more."""
    first, changed = made(settings("out.zarr")), settings("out.zarr", **{name: value})

    with pytest.raises(ConflictError, match=f"{name}: " if name != "channels" else "boundary"):
        made(changed)
    assert plan(changed).summary()[name] in (value, list(value))
    second = made(changed, overwrite=True)
    assert np.array_equal(second, first) == (name == "channels")


@pytest.mark.parametrize("name", ["tta", "blend", "dtype"])
def test_an_unknown_name_lists_those_there_are(settings, name):
    """A usage error before anything is made."""
    with pytest.raises(UsageError, match=f"{name} 'bumb': .* or "):
        plan(settings("out.zarr", **{name: "bumb"}))


def test_a_context_takes_its_overlap(cleft, settings, volume):
    """Also of stacked tiles; an overlap that is too small for it is a usage error."""
    wide = plan(settings("out.zarr", context=(1, 3, 2))).process.tiling.grid
    assert (wide.stride, wide.context) == ((2, 10, 12), (1, 3, 2))
    stacked = plan(settings("out.zarr", context=(1, 3, 2), blend="none")).process.tiling.grid
    assert stacked.stride == (2, 10, 12)
    command = ["predict", volume, "--checkpoint", settings("out.zarr").checkpoint, "--dry-run"]
    done = cleft(*command, "--context", "1,3,2", "--overlap", "2,6,3")
    assert done.exit_code == 2
    assert "context (1, 3, 2) takes an overlap of (2, 6, 4) at least" in done.stderr


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("name", ["out.zarr", "out.n5"])
def test_further_maps_lie_beside(settings, tmp_path, name, dtype):
    """The boundary is blended as the probability is, and says how to read it."""
    chosen = settings(name, channels=BOTH, dtype=dtype, block=(4, 24, 32))
    found = made(chosen)
    planned = plan(chosen)
    process, volume = planned.process, planned.volume
    expected = predict_roi(
        process.predictor(), volume, process.black_white, process.tiling, volume.roi
    )
    boundary = open_volume(f"{tmp_path}/{name}/boundary")
    full = 255 if dtype == "uint8" else 1

    levels = boundary.read(boundary.roi)
    assert levels.dtype == dtype
    np.testing.assert_allclose(levels, expected[1] * full, atol=0.51 if full > 1 else 0)
    assert np.array_equal(found, made(settings(f"alone_{name}", dtype=dtype)))
    attributes = boundary.attributes
    value = {"value": float(levels[3, 4, 5])}
    np.testing.assert_allclose(
        eval(attributes["boundary_is"], value), expected[1, 3, 4, 5], atol=1 / 255
    )
    assert (attributes["content"], attributes["complete"]) == ("boundary", True)
    assert boundary.space == open_volume(f"{tmp_path}/{name}/cleft").space
    assert planned.summary()["further_outputs"] == [f"{tmp_path}/{name}/boundary"]


def test_the_probability_is_what_later_commands_find(settings, tmp_path):
    """It is the first image of the container, and the boundary is not taken for it."""
    made(settings("out.zarr", channels=BOTH))
    group = json.loads((tmp_path / "out.zarr" / ".zattrs").read_text())

    assert [image["name"] for image in group["multiscales"]] == ["cleft", "boundary"]
    assert read_foreground(open_volume(f"{tmp_path}/out.zarr", prefer=("cleft",)))
    with pytest.raises(InputError, match="holds boundary"):
        read_foreground(open_volume(f"{tmp_path}/out.zarr/boundary"))


def test_an_objective_without_a_boundary_is_named(cleft, settings, volume):
    """2, and what it has."""
    command = ["predict", volume, "--checkpoint", settings("out.zarr").checkpoint, "--dry-run"]

    done = cleft(*command, "--channels", "cleft,distance")

    assert done.exit_code == 2
    assert "objective mask_and_boundary has cleft,boundary" in done.stderr
    options = ["--channels", "cleft,boundary", "--tta", "flips", "--context", "1", "--json"]
    planned = json.loads(cleft(*command, "-o", "a.zarr", *options).stdout)
    assert planned["further_outputs"] == ["a.zarr/boundary"]
    assert (planned["tta"], planned["context"]) == ("flips", [1, 1, 1])


@pytest.mark.parametrize("kept", ["nothing", "empty volumes", "the ledger's head", "a block"])
def test_further_maps_resume(settings, tmp_path, kept):
    """Whatever a kill left of a run, the same command gives the same bytes."""
    chosen = settings("out.zarr", channels=BOTH, block=(4, 48, 64))
    made(chosen)
    before, ledger = voxels_on_disk(tmp_path / "out.zarr"), tmp_path / "out.zarr.cleft.ledger"
    lines = ledger.read_text().splitlines(keepends=True)
    if kept == "nothing":
        shutil.rmtree(tmp_path / "out.zarr")
        ledger.unlink()
    else:
        ledger.write_text("".join(lines[: 2 + (kept == "a block")]))
        for array in BOTH:
            shutil.rmtree(tmp_path / "out.zarr" / array / "2")
    if kept == "empty volumes":
        shutil.rmtree(tmp_path / "out.zarr")
        planned = plan(chosen)
        for one in (planned.output, *planned.further):
            create(one)

    done = predict(chosen, overwrite=False, report=lambda *_: None)

    assert done["blocks_resumed"] == (kept == "a block")
    assert voxels_on_disk(tmp_path / "out.zarr") == before


def test_overwriting_replaces_every_map(settings, tmp_path):
    """Both are those of the second run, and nothing of the first is left."""
    made(settings("out.zarr", channels=BOTH))
    made(settings("other.zarr", channels=BOTH, blend="none", block=(4, 48, 64)))

    made(settings("out.zarr", channels=BOTH, blend="none", block=(4, 48, 64)), overwrite=True)

    found = [
        {k: v for k, v in voxels_on_disk(tmp_path / name).items() if not k.endswith(".zattrs")}
        for name in ("out.zarr", "other.zarr")
    ]
    assert found[0] == found[1]


def test_overwriting_leaves_no_map_of_the_old_run(settings, tmp_path):
    """What the old run wrote goes, even if the new one writes less."""
    made(settings("out.zarr", channels=BOTH))
    store(f"{tmp_path}/out.zarr/other", np.zeros((4, 16, 16), np.uint8), made_by="cleft")

    made(settings("out.zarr", blend="none"), overwrite=True)

    assert [a.split("/")[-1] for a in list_volumes(f"{tmp_path}/out.zarr")] == ["cleft", "other"]


def test_a_map_that_is_not_this_runs_is_refused(settings, tmp_path, grown):
    """Somebody's, and one of another run: 5, and nothing changes; one that is gone is made."""
    made(settings("theirs.zarr"))
    store(f"{tmp_path}/theirs.zarr/boundary", grown.raw)
    before = voxels_on_disk(tmp_path / "theirs.zarr")
    for overwrite in (False, True):
        with pytest.raises(ConflictError, match="boundary was not made by cleft"):
            made(settings("theirs.zarr", channels=BOTH), overwrite=overwrite)
    assert voxels_on_disk(tmp_path / "theirs.zarr") == before

    made(settings("gone.zarr", channels=BOTH))
    shutil.rmtree(tmp_path / "gone.zarr" / "boundary")
    assert made(settings("gone.zarr", channels=BOTH)).shape == (10, 48, 64)
    assert open_volume(f"{tmp_path}/gone.zarr/boundary").attributes["complete"] is True

    (tmp_path / "gone.zarr.cleft.ledger").unlink()
    shutil.rmtree(tmp_path / "gone.zarr" / "cleft")
    with pytest.raises(ConflictError, match="boundary exists"):
        made(settings("gone.zarr", channels=BOTH))
    assert list_volumes(f"{tmp_path}/gone.zarr") == [f"{tmp_path}/gone.zarr/boundary"]


def test_maps_are_not_pulled_from_under_a_writer(settings, tmp_path):
    """--overwrite is refused while another process writes, and removes nothing."""
    made(settings("out.zarr", channels=BOTH))
    before = voxels_on_disk(tmp_path / "out.zarr")
    with (tmp_path / "out.zarr.cleft.ledger").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="is writing this output"):
            made(settings("out.zarr", channels=BOTH), overwrite=True)
    assert voxels_on_disk(tmp_path / "out.zarr") == before


def test_blocks_without_contrast_are_counted(settings, tmp_path, grown):
    """An empty margin has probability 0, and the result says in how many blocks."""
    data = np.full((10, 48, 128), 200, np.uint8)
    data[..., :64] = grown.raw
    volume = store(f"{tmp_path}/margin.zarr/raw", data).address
    chosen = dataclasses.replace(settings("out.zarr", block=(10, 48, 32)), volume=volume)

    done = predict(chosen, overwrite=False, report=lambda *_: None)

    found = open_volume(f"{tmp_path}/out.zarr/cleft").read(open_volume(volume).roi)
    assert (done["blocks"], done["input"]["blocks_without_contrast"]) == (4, 1)
    assert (found[..., 80:] == 0).all()
    assert (found[..., :64] > 0).all()


def test_a_mask_says_where(settings, tmp_path):
    """Blocks outside are skipped and counted, voxels outside are 0, those inside as without it."""
    inside = np.zeros((5, 12, 16), np.uint8)  # one for 2x4x4 voxels
    inside[:, 2:6, 1:5] = 7
    mask = create_volume(
        f"{tmp_path}/mask.zarr/mask",
        shape=inside.shape,
        dtype=inside.dtype,
        chunks=(5, 12, 16),
        space=Space((80.0, 32.0, 32.0)),
        attributes={},
    )
    mask.write(mask.roi, inside)
    whole = made(settings("whole.zarr", block=(10, 16, 16)))
    chosen = settings("masked.zarr", block=(10, 16, 16), mask=mask.address)

    done = predict(chosen, overwrite=False, report=lambda *_: None)

    found = open_volume(done["output"]).read(open_volume(done["output"]).roi)
    fine = np.repeat(np.repeat(np.repeat(inside > 0, 2, 0), 4, 1), 4, 2)
    assert np.array_equal(found, np.where(fine, whole, 0))
    assert (done["blocks"], done["blocks_skipped"], done["blocks_done"]) == (12, 8, 12)
    assert verify(done["output"], deep=True, report=lambda *_: None)["sound"]
    assert predict(chosen, overwrite=False, report=lambda *_: None)["blocks_resumed"] == 12
    mask.write(mask.roi, inside * 0)
    with pytest.raises(ConflictError, match="mask: "):
        made(chosen)


def test_levels_for_viewers_are_made_on_demand(settings, tmp_path, monkeypatch):
    """Beside the probability, as scales of the same image, which still opens first."""
    monkeypatch.setattr("cleftcli.pyramid.SMALL", 16)

    done = predict(settings("out.zarr"), overwrite=False, report=lambda *_: None, pyramid=True)

    assert done["levels"] == [f"{tmp_path}/out.zarr/cleft_{n}" for n in (1, 2)]
    assert open_volume(done["levels"][0]).shape == (10, 24, 32)
    assert open_volume(f"{tmp_path}/out.zarr").shape == (10, 48, 64)


def test_further_maps_need_room_too(settings, monkeypatch):
    """Bytes of both are counted: what holds one map does not hold two."""
    size = 10 * 48 * 64
    monkeypatch.setattr("cleftcli.outputs.free_space", lambda _: (2 * size - 1, None))
    assert plan(settings("out.zarr")).summary()["output_bytes"] == size
    with pytest.raises(ResourceError, match="nothing was written"):
        plan(settings("out.zarr", channels=BOTH))
    monkeypatch.setattr("cleftcli.outputs.free_space", lambda _: (2 * size, None))
    assert plan(settings("out.zarr", channels=BOTH)).summary()["output_bytes"] == 2 * size


def test_a_dry_run_tells_what_it_takes(cleft, settings, tmp_path, volume):
    """Blocks, tiles computed more than once, memory, files, and a time from tiles it tried."""
    command = ["predict", volume, "--checkpoint", settings("x").checkpoint, "--dry-run", "--json"]

    one = json.loads(cleft(*command, "-o", tmp_path / "out.zarr").stdout)
    many = json.loads(cleft(*command, "-o", tmp_path / "out.zarr", "--block", "4,16,16").stdout)

    assert one["tiles"] == one["tiles_computed"] == many["tiles"] == 60
    assert many["tiles_computed"] > 60
    assert (one["blocks"], many["blocks"]) == (1, 36)
    assert one["memory_bytes_per_worker"] > many["memory_bytes_per_worker"] > 0
    assert many["seconds"] == pytest.approx(many["tiles_computed"] / many["tiles_per_second"])
    assert many["seconds"] > 0
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("block", [(10, 48, 64), (4, 16, 16), (3, 7, 50)])
def test_tiles_are_counted_as_blocks_compute_them(settings, block):
    """The plan's number is that of the tiles that touch each block."""
    planned = plan(settings("out.zarr", block=block, roi="1:9,5:47,:"))

    touched = [len(planned.process.tiling.grid.touching(b.write)) for b in planned.blocks]
    assert planned.summary()["tiles_computed"] == sum(touched)


def test_blocks_that_memory_cannot_hold_are_refused(settings, monkeypatch):
    """6, how much and what to do; what just fits goes on."""
    chosen = settings("out.zarr", block=(10, 24, 64), workers=Workers(2))
    needed = 2 * plan(chosen).memory
    assert needed == 2 * 2 * 10 * 24 * 64 * 17
    monkeypatch.setattr("cleftcli.prediction_plan.memory", lambda: needed)
    plan(chosen)
    monkeypatch.setattr("cleftcli.prediction_plan.memory", lambda: needed - 1)
    with pytest.raises(ResourceError, match="a smaller --block or fewer --workers"):
        plan(chosen)


@pytest.mark.parametrize("part", [None, (2, 3)])
def test_what_repeats_a_run_lies_beside_its_output(settings, tmp_path, part):
    """Settings, versions, machine and result; of each part its own."""
    done = predict(
        settings("out.zarr", block=(4, 48, 64), workers=Workers(part=part)),
        overwrite=False,
        report=lambda *_: None,
    )

    name = "out.zarr.cleft.run." + ("2of3." if part else "") + "json"
    about = json.loads((tmp_path / name).read_text())
    assert about["settings"]["volume"] == about["result"]["volume"].removesuffix("/volumes/raw")
    assert about["result"]["blocks_done"] == done["blocks_done"] == (1 if part else 3)
    assert {"command", "cleft", "torch", "host", "started", "ended"} <= about.keys()


def test_gpus_have_a_worker_each(monkeypatch):
    """All that are visible, as many as asked for, or the one that is named."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus("auto") == visible_gpus("cuda") == ["3", "5"]
    assert visible_gpus("cuda:1") == ["5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert visible_gpus("cuda") == ["0", "1", "2", "3"]
    assert visible_gpus("cuda:2") == ["2"]
