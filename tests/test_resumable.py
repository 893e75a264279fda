"""An output's place: nothing of anybody else is overwritten, nothing of ours is in the way."""

import fcntl
import json
import shutil

import h5py
import numpy as np
import pytest

from cleftcli import outputs
from cleftcli.errors import ResourceError
from cleftcli.geometry import BlockPlan, whole
from cleftcli.jobs import make_labels
from cleftcli.labels import BACKGROUND, IGNORE, TARGETS
from cleftcli.outputs import Output, check_room, create
from cleftcli.volumes import open_volume
from tests.conftest import store
from tests.stores import CHUNKED, DOCUMENT, SPACE, WRITERS, some_voxels, zarr_array


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Two threads that wait for each other on busy cores take ten times as long."""
    monkeypatch.setattr("cleftcli.prediction_plan.cores", lambda: 1)


@pytest.fixture
def source(tmp_path):
    """A volume to convert."""
    return WRITERS["hdf5"](tmp_path, some_voxels("uint8"))


def test_overwriting_keeps_other_files_of_the_container(cleft, tmp_path, source):
    """An array that is replaced takes nothing with it that cleft did not write."""
    out = tmp_path / "out.zarr"
    assert cleft("convert", source, out).exit_code == 0
    (out / "notes.txt").write_text("mine")
    assert cleft("convert", source, out, "--roi", "1:,:,:", "--overwrite").exit_code == 0
    assert (out / "notes.txt").read_text() == "mine"


def test_what_took_the_place_of_our_output_is_kept(cleft, tmp_path, source):
    """A ledger that was left behind makes nobody's array ours."""
    out = tmp_path / "out.zarr"
    assert cleft("convert", source, out).exit_code == 0
    for name, lost in (("volumes/raw", 0), ("theirs", 0), ("volumes/raw", 1)):
        shutil.rmtree(out)
        zarr_array(out, name, some_voxels("uint8"), version=2)
        chunks = sorted(p for p in (out / name).iterdir() if p.name[0].isdigit())
        assert len(chunks) > lost
        for chunk in chunks[:lost]:
            chunk.unlink()
        before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        for option in ([], ["--overwrite"], ["--roi", "1:,:,:", "--overwrite"]):
            assert cleft("convert", source, out, *option).exit_code == 5
        assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_an_output_is_not_pulled_from_under_a_writer(cleft, tmp_path, source):
    """--overwrite is refused while another process writes."""
    out = tmp_path / "out.zarr"
    assert cleft("convert", source, out).exit_code == 0
    with (tmp_path / "out.zarr.volumes.raw.ledger").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = cleft("convert", source, out, "--overwrite")
    assert done.exit_code == 5
    assert "is writing this output" in done.stderr


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
@pytest.mark.parametrize("suffix", ["zarr", "n5"])
def test_no_array_is_made_within_another(cleft, tmp_path, source, names, suffix):
    """Readers would not see one of them; the refusal leaves no ledger."""
    out = tmp_path / f"out.{suffix}"
    assert cleft("convert", source, out / names[0]).exit_code == 0
    done = cleft("convert", source, out / names[1])
    assert done.exit_code == 2, done.stderr
    assert len(json.loads(cleft("info", out, "--json").stdout)["arrays"]) == 1
    assert not list(tmp_path.glob(f"out.{suffix}.{names[1].replace('/', '.')}.ledger"))


def test_a_container_keeps_its_format(cleft, tmp_path, source, checkpoint):
    """A prediction into a zarr v3 container of ours is zarr v3, beside what is there."""
    out = tmp_path / "out.zarr"
    assert cleft("convert", source, out, "--format", "zarr3").exit_code == 0
    options = ["--checkpoint", checkpoint, "--allow-voxel-size-mismatch"]
    done = cleft("predict", source, "-o", out, *options)
    assert done.exit_code == 0, done.stderr
    arrays = json.loads(cleft("info", out, "--json").stdout)["arrays"]
    assert [a["format"] for a in arrays] == ["zarr3", "zarr3"]


@pytest.mark.parametrize("block", ["0,16,16", "-4,16,16", "a,b,c", "1,2"])
def test_blocks_that_cannot_be_are_usage_errors(cleft, tmp_path, volume, checkpoint, block):
    """A block takes a voxel at least on every axis."""
    options = ["-o", tmp_path / "p.zarr", "--checkpoint", checkpoint, f"--block={block}"]
    done = cleft("predict", volume, *options)
    assert done.exit_code == 2, done.stderr


def test_a_cleft_with_id_0_is_exported(cleft, tmp_path):
    """In CREMI files 0 is a cleft: it is written under another id, none is lost."""
    ids = np.full((3, 8, 8), BACKGROUND, np.uint64)
    ids[0, :4], ids[2, 4:] = 0, 7
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["volumes/labels/clefts"] = ids
        file["volumes/labels/clefts"].attrs["resolution"] = (40.0, 4.0, 4.0)
    source = tmp_path / "a.hdf/volumes/labels/clefts"
    done = cleft("export-cremi", source, "-o", tmp_path / "out.hdf", "--json")
    assert done.exit_code == 0, done.stderr
    with h5py.File(tmp_path / "out.hdf") as file:
        found = file["volumes/labels/clefts"][:]
    assert ((found != BACKGROUND) == (ids != BACKGROUND)).all()
    assert not (found == 0).any()
    assert len(np.unique(found[ids != BACKGROUND])) == 2


@pytest.fixture
def clefts(tmp_path):
    """An address of two touching clefts, one of them with id 0, in a file as CREMI writes it."""
    ids = np.full((5, 20, 40), BACKGROUND, np.uint64)
    ids[1:3, 4:9, 6:14], ids[1:3, 4:9, 14:20] = 0, 7
    ids[4, 16:, 30:] = IGNORE
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["volumes/labels/clefts"] = ids
        file["volumes/labels/clefts"].attrs["resolution"] = (40.0, 4.0, 4.0)
    return tmp_path / "a.hdf", ids


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of one small chunk each."""
    monkeypatch.setattr(make_labels, "CHUNK", (2, 8, 8))
    monkeypatch.setattr(make_labels, "BLOCK_VOXELS", 1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("scale", "unit"), [(3, "voxel"), (2.5, "nm"), (60, "nm")])
def test_labels_of_any_scale_equal_those_of_the_whole(
    cleft, tmp_path, clefts, small_blocks, target, scale, unit
):
    """Blocks look as far as the scale that was asked for reaches; id 0 of CREMI is a cleft."""
    source, ids = clefts
    options = ["--target", target, "--scale", scale, "--unit", unit, "--json"]
    done = cleft("make-labels", source, "-o", tmp_path / "l.zarr", *options)
    assert done.exit_code == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["scale_nm"] == (scale if unit == "nm" else 4.0 * scale)
    assert made["blocks"] > 20
    size, scale_nm = (40.0, 4.0, 4.0), made["scale_nm"]
    expected = TARGETS[target].compute(ids, size, scale_nm, zero_is_cleft=True)
    found = open_volume(made["output"])
    assert found.read(found.roi).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--scale", "3"], "scale_nm: 4.0 -> 12.0"),
        (["--voxel-size", "40,8,8"], "voxel_size"),
    ],
)
def test_labels_of_other_settings_are_refused_and_named(cleft, tmp_path, clefts, options, named):
    """Blocks of two scales or voxel sizes are never mixed in one output."""
    command = ["make-labels", clefts[0], "-o", tmp_path / "l.zarr"]
    assert cleft(*command).exit_code == 0
    done = cleft(*command, *options)
    assert done.exit_code == 5
    assert named in done.stderr
    assert cleft(*command, *options, "--overwrite").exit_code == 0


def test_blocks_of_two_sizes_are_not_counted_together(
    cleft, tmp_path, clefts, small_blocks, monkeypatch
):
    """What a ledger says of small blocks is not taken for large ones."""
    command = ["make-labels", clefts[0], "-o", tmp_path / "l.zarr"]
    assert cleft(*command).exit_code == 0
    monkeypatch.setattr(make_labels, "BLOCK_VOXELS", 2**24)
    done = cleft(*command)
    assert done.exit_code == 5
    assert "block: [2, 8, 8] -> " in done.stderr


@pytest.mark.parametrize("dtype", ["int64", "int8", "float32"])
def test_labels_are_made_of_unsigned_ids(cleft, tmp_path, dtype):
    """Signed ids and numbers that are no ids are an input error that names the dtype."""
    source = store(f"{tmp_path}/a.zarr/clefts", np.ones((2, 8, 8), dtype)).address
    done = cleft("make-labels", source, "-o", tmp_path / "l.zarr")
    assert done.exit_code == 3
    assert dtype in done.stderr
    assert not (tmp_path / "l.zarr").exists()


def test_labels_of_missing_chunks_are_made_or_refused(cleft, tmp_path):
    """Chunks of ids that are not stored are counted as background, or refused when told to."""
    store(f"{tmp_path}/a.zarr/clefts", np.ones((2, 16, 32), np.uint16))
    (tmp_path / "a.zarr/clefts/0/0/1").unlink()
    command = ["make-labels", tmp_path / "a.zarr", "-o", tmp_path / "l.zarr", "--json"]
    done = cleft(*command, "--missing", "error")
    assert done.exit_code == 3
    assert "1 of 2 chunks" in done.stderr
    assert not (tmp_path / "l.zarr").exists()
    assert json.loads(cleft(*command).stdout)["input"]["missing"] == 1


# ---- what a place can take


COMMANDS = ("predict", "make-labels", "segment", "convert")
BYTES = 10 * 48 * 64  # of an output's voxel, times its itemsize
ITEMSIZE = {"predict": 1, "make-labels": 4, "segment": 8, "convert": 1}


@pytest.fixture
def typed(volume, tmp_path, checkpoint, grown):
    """What to type for an output of a command: typed("predict", out) -> arguments."""
    store(f"{tmp_path}/p.zarr/cleft", grown.raw, content="probability", threshold=0.5)

    def command(name, out, *options):
        source = {"predict": volume, "segment": tmp_path / "p.zarr"}.get(name, volume / "volumes")
        source /= {"make-labels": "labels/clefts", "convert": "raw"}.get(name, "")
        more = ["--checkpoint", checkpoint] if name == "predict" else []
        return [name, source, *([] if name == "convert" else ["-o"]), out, *more, *options]

    return command


@pytest.fixture
def room(monkeypatch):
    """Sets what is free everywhere: bytes and inodes."""

    def make(free, inodes):
        monkeypatch.setattr(outputs, "free_space", lambda _: (free, inodes))

    return make


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_cannot_hold_the_output_is_seen_before(cleft, tmp_path, typed, room, command):
    """6, what is needed and free, and nothing is written; one that just suffices is used."""
    line = typed(command, tmp_path / "new" / "out.zarr")
    needed = BYTES * ITEMSIZE[command]
    files = 3 + outputs.DOCUMENTS  # one chunk in two folders
    for free, inodes, words in (
        (needed - 1, None, "GB free; nothing was written"),
        (needed, files - 1, f"{files} files and folders"),
    ):
        room(free, inodes)
        done = cleft(*line)
        assert done.exit_code == 6, done.output
        assert words in done.stderr
        assert not (tmp_path / "new").exists()
    room(needed, files)
    done = cleft(*line)
    assert done.exit_code == 0, done.stderr


@pytest.fixture
def output(tmp_path):
    """Ten blocks of ten chunks each, 1 byte a voxel."""
    plan = BlockPlan(whole((10, 10, 10)), (1, 10, 10))
    return Output(f"{tmp_path}/a.zarr/b", plan, np.uint8, (1, 1, 10), SPACE, {})


def test_blocks_that_are_there_need_no_room(output, room):
    """What the ledger names is not counted again, however little is left on the disk."""
    folders = 10 + 10 * 10 + 10 * 10 + outputs.DOCUMENTS
    create(output)
    for done in (0, 3, 10):
        lines = ["{}"] + [f'{{"block": {n}}}' for n in range(done)]
        output.ledger.write_text("".join(f"{line}\n" for line in lines))
        left = 1 - done / 10
        room(1000 * left, folders * left)
        check_room(output)
        if left:
            for free, inodes in ((1000 * left - 1, None), (1000 * left, folders * left - 1)):
                room(free, inodes)
                with pytest.raises(ResourceError):
                    check_room(output)


@pytest.mark.parametrize("format", CHUNKED)
def test_files_of_an_output_are_counted_beforehand(tmp_path, format):
    """Those a whole one has, up to the few that are no chunks."""
    suffix = "n5" if format == "n5" else "zarr"
    plan = BlockPlan(whole((5, 7, 11)), (5, 7, 11))
    made = Output(f"{tmp_path}/a.{suffix}/b", plan, np.uint8, (2, 3, 4), SPACE, {}, format)
    volume = create(made)
    volume.write(volume.roi, np.zeros(volume.shape, np.uint8))
    found = len([*tmp_path.rglob("*")])
    assert found <= made.files <= found + outputs.DOCUMENTS


# ---- formats


@pytest.mark.parametrize("format", CHUNKED)
@pytest.mark.parametrize("command", ["predict", "make-labels", "segment"])
def test_the_format_is_the_one_asked_for(cleft, tmp_path, typed, command, format):
    """With the same voxels as by default; a name of another format is refused before work."""
    right, wrong = ("n5", "zarr") if format == "n5" else ("zarr", "n5")
    options = ["--format", format, "--json"]
    refused = cleft(*typed(command, tmp_path / f"out.{wrong}", *options))
    assert refused.exit_code == 2
    assert f"{format} goes to .{right}" in refused.stderr
    assert not list(tmp_path.glob("out.*"))
    done = cleft(*typed(command, tmp_path / f"out.{right}", *options))
    assert done.exit_code == 0, done.stderr
    made = open_volume(json.loads(done.stdout)["output"])
    default = json.loads(cleft(*typed(command, tmp_path / "default.zarr", "--json")).stdout)
    plain = open_volume(default["output"])
    assert (tmp_path / f"out.{right}" / made.address.split("/")[-1] / DOCUMENT[format]).is_file()
    assert (made.format, plain.format) == (format, "zarr2")
    np.testing.assert_array_equal(made.read(made.roi), plain.read(plain.roi))
    assert made.dtype == plain.dtype


@pytest.mark.parametrize("command", ["predict", "make-labels"])
def test_one_output_has_one_format(cleft, tmp_path, typed, command):
    """Another --format for what is there already is refused; --overwrite changes it."""
    out = tmp_path / "out.zarr"
    assert cleft(*typed(command, out)).exit_code == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    refused = cleft(*typed(command, out, "--format", "zarr3"))
    assert refused.exit_code == 2
    assert "zarr2, not zarr3" in refused.stderr
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert cleft(*typed(command, out, "--format", "zarr2")).exit_code == 0
    done = cleft(*typed(command, out, "--format", "zarr3", "--overwrite", "--json"))
    assert done.exit_code == 0, done.stderr
    assert open_volume(json.loads(done.stdout)["output"]).format == "zarr3"


def test_an_unnamed_prediction_is_named_after_its_format(cleft, tmp_path, typed, monkeypatch):
    """`--format n5` alone makes NAME.cleft.n5."""
    monkeypatch.chdir(tmp_path)
    line = [a for a in typed("predict", "out", "--format", "n5") if a not in ("-o", "out")]
    done = cleft(*line)
    assert done.exit_code == 0, done.stderr
    assert open_volume("volume.cleft.n5").format == "n5"
