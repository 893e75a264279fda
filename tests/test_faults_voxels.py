"""Voxels unlike those a network expects: what is read as what, what is said, what is refused."""

import dataclasses
import json
import re

import h5py
import numpy as np
import pytest

from cleftcli.inspection import look
from cleftcli.model.checkpoint import load, save
from cleftcli.synthetic import tissue
from cleftcli.volumes import Space, open_volume
from tests.conftest import VOXEL_SIZE, store
from tests.stores import WRITERS, cremi, zarr_array

LEVEL = 1 / 255
# dtype as stored, what 0..255 becomes in it, and which of its intensities are black and white
STORED = {
    "uint16": ("uint16", 257.0, 0.0, (0, 65535)),
    ">u2": (">u2", 200.0, 700.0, (700, 51700)),  # 257 would read the same from either end
    "int16": ("int16", 257.0, -32768.0, (-32768, 32767)),
    "int8": ("int8", 1.0, -128.0, (-128, 127)),
    "float32 to 1": ("float32", LEVEL, 0.0, (0, 1)),
    "float32 to 255": ("float32", 1.0, 0.0, (0, 255)),
    "uint32": ("uint32", 1.0, 1e6, (1e6, 1e6 + 255)),
}


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Two threads that wait for each other on busy cores take ten times as long."""
    monkeypatch.setattr("cleftcli.prediction_plan.cores", lambda: 1)


@pytest.fixture(scope="session")
def levels(grown):
    """A small piece of tissue in uint8."""
    return grown.raw[:6, :24, :24]


@pytest.fixture
def kept(tmp_path):
    """Store an array as another program would: its address."""

    def keep(data, name="v", space=Space(VOXEL_SIZE), **attributes):  # noqa: B008
        if data.dtype.byteorder == ">":  # which tensorstore would turn, and h5py does not
            return WRITERS["hdf5"](tmp_path, data, space=space, attributes=attributes)
        stated = cremi(space, attributes)
        return zarr_array(tmp_path / f"{name}.zarr", "raw", data, version=2, attributes=stated)

    return keep


@pytest.fixture
def predicted(cleft, tmp_path, checkpoint):
    """Predict with the tiny network: (probability, JSON, stderr)."""

    def run(address, *options, path=checkpoint):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        common = ["-o", out, "--checkpoint", path, "--dtype", "float32", "--precision", "float32"]
        done = cleft("predict", address, *common, *options, "--json")
        assert done.exit_code == 0, done.stderr
        made = open_volume(str(out))
        return made.read(made.roi), json.loads(done.stdout), done.stderr

    return run


@pytest.fixture
def checkpoint_of(checkpoint):
    """The tiny checkpoint with other facts in its header."""

    def change(**facts):
        found, weights = load(checkpoint)
        path = checkpoint.with_name("changed.safetensors")
        save(path, dataclasses.replace(found, **facts), weights)
        return path

    return change


def stored_as(data, case):
    """The array in another dtype, and the range in which it shows the same."""
    dtype, factor, base, black_white = STORED[case]
    exact = data * factor + base
    return (exact if np.dtype(dtype).kind == "f" else np.rint(exact)).astype(dtype), black_white


@pytest.fixture
def wanted(kept, predicted, levels):
    """What is predicted of the volume in uint8."""
    found, _, _ = predicted(kept(levels, "wanted"))
    assert np.ptp(found) > LEVEL
    return found


@pytest.mark.parametrize("case", STORED)
def test_one_volume_in_any_dtype_is_one_prediction(kept, predicted, levels, wanted, case):
    """With black and white stated, the dtype changes no probability."""
    data, (black, white) = stored_as(levels, case)

    found, told, _ = predicted(kept(data), "--intensity-range", f"{black},{white}")

    assert np.abs(found - wanted).max() < LEVEL / 10
    assert told["intensity_range"] == [black, white]


@pytest.mark.parametrize(
    "attributes",
    [{"intensity_range": [0, 65535]}, {"contrastAdjustment": {"min": 0, "max": 65535}}],
)
def test_attributes_state_a_range_too(kept, predicted, levels, wanted, attributes):
    """Ours and Paintera's are read like the option."""
    found, told, _ = predicted(kept(stored_as(levels, "uint16")[0], **attributes))

    assert np.abs(found - wanted).max() < LEVEL / 10
    assert told["intensity_range"] == [0, 65535]


@pytest.mark.parametrize("case", STORED)
def test_no_range_is_guessed(cleft, kept, levels, checkpoint, tmp_path, case):
    """Only uint8 and bool tell their black and white; others are refused with what to type.

    That is all of the dtype where it has 8 or 16 bits: int8 is most often uint8 moved by 128.
    """
    data, _ = stored_as(levels, case)
    command = ["predict", kept(data), "--checkpoint", checkpoint, "-o", tmp_path / "out.zarr"]

    refused = cleft(*command)

    assert refused.exit_code == 3
    assert data.dtype.name in refused.stderr
    assert not (tmp_path / "out.zarr").exists()
    assert cleft(*command, "--dry-run").exit_code == 3
    typed = re.search(r"--intensity-range \S+", refused.stderr).group()
    ends = np.iinfo(data.dtype) if data.dtype.itemsize < 4 else None
    assert typed.split()[1] == (f"{ends.min},{ends.max}" if ends else "0,1")
    assert cleft(*command, "--dry-run", *typed.split()).exit_code == 0


def test_a_mask_is_black_and_white(kept, predicted, levels):
    """bool runs from 0 to 1 without a word."""
    two = levels > 150

    found, told, _ = predicted(kept(two, "bool"))

    assert told["intensity_range"] == [0, 1]
    assert np.array_equal(found, predicted(kept(two.astype(np.uint8) * np.uint8(255)))[0])


def test_the_rule_is_said_before_the_first_block(kept, predicted, levels):
    """stderr names dtype, axes, voxel size, and which intensities are black and white."""
    data, _ = stored_as(levels, "uint16")

    _, _, said = predicted(kept(data), "--intensity-range", "0,65535")

    first, _, after = said.partition("\n")
    assert f"6x24x24 uint16, axes zyx (as stored), voxel size {VOXEL_SIZE} nm, " in first
    assert "0 is black and 65535 white" in first
    assert "blocks 1/1" in after


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_voxel_without_a_number_stays_where_it_is(kept, predicted, levels, value):
    """The output is finite, tiles that do not hold the voxel are as before, and it is counted."""
    whole = levels.astype(np.float32)
    holed = whole.copy()
    holed[1, 2, 3] = value
    option = ["--intensity-range", "0,255", "--block", "4,24,16"]

    before, clean, _ = predicted(kept(whole, "whole"), *option)
    found, told, said = predicted(kept(holed, "holed"), *option)

    assert np.isfinite(found).all()
    changed = found != before
    assert changed[:4, :16, :16].any()  # the only tile that holds it
    changed[:4, :16, :16] = False
    assert not changed.any()
    assert (clean["input"]["nan_or_inf_voxels"], told["input"]["nan_or_inf_voxels"]) == (0, 1)
    assert "1 voxels were NaN or inf" in said
    assert "with NaN or inf, taken as grey: z 1 of" in said


@pytest.mark.parametrize("block", ["16,128,128", "3,12,16"])
def test_a_lost_section_is_listed(kept, predicted, levels, block):
    """A black section inside tissue: its z in --json and on stderr, finite output."""
    data = levels.copy()
    data[3] = 0

    found, told, said = predicted(kept(data), "--block", block)

    assert told["input"]["sections_without_contrast"] == [3]
    assert "sections without contrast, taken as grey: z 3\n" in said
    assert np.isfinite(found).all()


def test_a_lost_section_of_a_part_is_listed_by_its_place_in_the_volume(kept, predicted, levels):
    """--roi moves no z."""
    data = levels.copy()
    data[4] = 0

    _, told, _ = predicted(kept(data), "--roi", "2:6,4:20,4:20")

    assert told["input"]["sections_without_contrast"] == [4]


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_constant_volume_is_no_error(kept, predicted, levels, level):
    """Finite output, a warning, exit 0."""
    found, told, said = predicted(kept(np.full_like(levels, level)))

    assert np.isfinite(found).all()
    assert told["input"]["sections_without_contrast"] == list(range(6))
    assert "sections without contrast" in said


def test_positives_in_black_are_reported(kept, predicted, levels, checkpoint_of):
    """Where half of the volume is padding, the share of positives there is said."""
    data = levels.clip(1, 255)
    data[:, :, 12:] = 0
    address = kept(data)
    probability, _, _ = predicted(address)
    middle = float(np.median(probability))

    _, told, said = predicted(address, path=checkpoint_of(threshold=middle))

    positive = probability >= middle
    assert told["input"]["positive_voxels"] == positive.sum()
    assert told["input"]["positive_voxels_without_tissue"] == positive[data == 0].sum() > 0
    share = 100 * positive[data == 0].sum() / positive.sum()
    assert f"{share:.1f} % of the positive voxels lie in black squares of the input" in said


def test_black_voxels_of_tissue_are_no_padding(kept, predicted, levels, checkpoint_of):
    """Clefts are dark: positives in single black voxels are no alarm."""
    data = levels.copy()
    data[:, ::3, ::2] = 0

    _, told, said = predicted(kept(data), path=checkpoint_of(threshold=0.01))

    assert told["input"]["positive_voxels"] == levels.size
    assert told["input"]["positive_voxels_without_tissue"] == 0
    assert "black squares" not in said


@pytest.fixture
def histogram(tmp_path, grown):
    """That of the training data, which is not symmetric."""
    return tuple(look(store(f"{tmp_path}/t.zarr/raw", grown.raw)).histogram((0, 255)))


@pytest.mark.parametrize("black_white", [(0, 255), (1000, 5000)])
def test_inverted_contrast_is_seen_and_mended(
    kept, predicted, levels, checkpoint_of, histogram, black_white
):
    """dark and bright swapped: a warning that names the option; with it, none and the same."""
    trained = checkpoint_of(intensities=histogram)
    black, white = black_white
    scaled = black + levels * ((white - black) / 255)
    right = kept(scaled.astype(np.float32), "right", intensity_range=black_white)
    wrong = kept((black + white - scaled).astype(np.float32), "wrong", intensity_range=black_white)

    wanted, told_right, _ = predicted(right, path=trained)
    _, told, said = predicted(wrong, path=trained)
    assert told_right["warnings"] == []
    assert [w for w in told["warnings"] if "dark and bright look swapped" in w]
    option = re.search(r"--intensity-range \S+", said).group().split()
    assert option[1] == f"{white},{black}"

    mended, told, said = predicted(wrong, *option, path=trained)

    assert told["warnings"] == []
    assert "swapped" not in said
    assert np.abs(mended - wanted).max() < LEVEL / 10


def test_intensities_far_from_the_training_data_are_said(
    kept, predicted, levels, checkpoint_of, histogram
):
    """A dark crop of the range is a warning; without a histogram to hold against, there is none."""
    dark = kept(levels // 6)

    _, told, said = predicted(dark, path=checkpoint_of(intensities=histogram))
    _, silent, _ = predicted(dark, path=checkpoint_of(intensities=()))

    assert len(told["warnings"]) == 1
    assert "far from the checkpoint's training data" in said
    assert silent["warnings"] == []


def test_tissue_like_the_training_data_is_no_alarm(kept, predicted, checkpoint_of, histogram):
    """Another piece of tissue: not a word."""
    other = kept(tissue((6, 24, 48), VOXEL_SIZE, seed=5).raw)

    _, told, _ = predicted(other, path=checkpoint_of(intensities=histogram))

    assert told["warnings"] == []


@pytest.mark.parametrize("size", [(40.0, 24.0, 24.0), (13.0, 8.0, 8.0)])
def test_another_voxel_size_than_trained_at_is_refused(
    cleft, kept, predicted, levels, checkpoint, tmp_path, size
):
    """Three times apart: 3 and both sizes, in a dry run too, unless it is meant."""
    address = kept(levels, space=Space(size))
    command = ["predict", address, "--checkpoint", checkpoint, "-o", tmp_path / "out.zarr"]

    for option in ([], ["--dry-run"]):
        refused = cleft(*command, *option)
        assert refused.exit_code == 3
        assert str(size) in refused.stderr
        assert str(VOXEL_SIZE) in refused.stderr
        assert "--allow-voxel-size-mismatch" in refused.stderr
    assert not (tmp_path / "out.zarr").exists()

    _, _, said = predicted(address, "--allow-voxel-size-mismatch")
    assert str(size) in said
    assert "expect little" in said


def test_a_like_voxel_size_is_predicted_without_a_word(kept, predicted, levels):
    """What training's augmentation covers is no mismatch."""
    _, told, said = predicted(kept(levels, space=Space((45.0, 7.0, 7.0))))

    assert told["warnings"] == []
    assert "expect little" not in said


def test_an_unknown_voxel_size_stops_only_what_measures(cleft, kept, predicted, levels, tmp_path):
    """predict warns, evaluate and export-cremi refuse until it is given."""
    address = kept(levels, space=Space(None))

    found, told, said = predicted(address)
    assert told["voxel_size"] is None
    assert [w for w in told["warnings"] if "voxel size is not known" in w]
    assert f"trained at {VOXEL_SIZE} nm" in said

    with h5py.File(tmp_path / "truth.h5", "w") as file:
        file["volumes/labels/clefts"] = (levels > 120).astype(np.uint64)
    middle = ["--threshold", np.median(found)]
    both = ["evaluate", told["output"], tmp_path / "truth.h5"]
    export = ["export-cremi", told["output"], "-o", tmp_path / "out.hdf"]
    for command in (both, export):
        refused = cleft(*command)
        assert refused.exit_code == 3
        assert "--voxel-size" in refused.stderr
        assert cleft(*command, *middle, "--voxel-size", "40,8,8").exit_code == 0
