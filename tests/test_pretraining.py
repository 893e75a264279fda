"""Presets, pre-training without clefts, and starting from what another run has learned."""

import json

import pytest
import torch
from PIL import Image

from cleftcli.model import preset
from cleftcli.model.checkpoint import load, read_tensors

TRANSFORMER = "patch = [1, 8, 8], width = 24, depth = 3, heads = 2"
PRETRAINING = f"""
[data]
train = [{{ raw = "volume.zarr/volumes/raw" }}]
[network]
name = "mae"
input_shape = [4, 16, 16]
options = {{ {TRANSFORMER}, decoder_width = 12, decoder_depth = 1, decoder_heads = 2 }}
[objective]
name = "reconstruction"
options = {{ normalise = [1, 8, 8] }}
[augment]
flip = 0.5
[training]
steps = 4
batch_size = 2
workers = 0
save_every = 2
"""
FINE_TUNING = f"""
[data]
train = [{{ raw = "volume.zarr/volumes/raw", clefts = "volume.zarr/volumes/labels/clefts" }}]
[network]
name = "vit"
input_shape = [4, 16, 16]
options = {{ {TRANSFORMER}, channels = [4, 4, 4] }}
[training]
steps = 1
batch_size = 1
learning_rate = 1e-9
workers = 0
init_from = "mae/checkpoint.safetensors"
"""


@pytest.fixture
def configs(tmp_path, volume):
    """Paths of both configs, beside the volume."""
    paths = tmp_path / "mae.toml", tmp_path / "vit.toml"
    for path, text in zip(paths, (PRETRAINING, FINE_TUNING), strict=True):
        path.write_text(text)
    return paths


def test_pretraining_needs_no_clefts_and_shows_what_it_guesses(cleft, tmp_path, configs):
    """A run on raw alone leaves a checkpoint, and a picture of a patch with its patches hidden."""
    done = cleft("train", configs[0], "-o", tmp_path / "mae", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["held_out"] == {}
    assert load(tmp_path / "mae/checkpoint.safetensors")[0].network == "mae"
    with Image.open(tmp_path / "mae/reconstruction.png") as picture:
        assert picture.width >= 3 * 16
        assert len(set(picture.convert("L").tobytes())) > 20


def test_pretraining_resumes_to_the_bit(cleft, tmp_path, configs):
    """What is hidden depends on the step alone: 2 and 2 steps are 4 steps."""
    assert cleft("train", configs[0], "-o", tmp_path / "whole").exit_code == 0
    text = PRETRAINING.replace("steps = 4", "steps = 2")
    configs[0].write_text(text)
    assert cleft("train", configs[0], "-o", tmp_path / "parts").exit_code == 0
    for config in (configs[0], tmp_path / "parts/config.toml"):
        config.write_text(PRETRAINING)
    assert cleft("train", configs[0], "-o", tmp_path / "parts", "--resume").exit_code == 0
    whole, parts = (read_tensors(tmp_path / n / "state.safetensors")[0] for n in ("whole", "parts"))
    assert all(torch.equal(v, parts[k]) for k, v in whole.items())


def test_fine_tuning_starts_from_the_encoder(cleft, tmp_path, configs):
    """The encoder is that of the masked autoencoder, and the log says what was taken."""
    assert cleft("train", configs[0], "-o", tmp_path / "mae").exit_code == 0
    done = cleft("train", configs[1], "-o", tmp_path / "vit")
    assert done.exit_code == 0, done.stderr
    theirs, ours = (load(tmp_path / n / "checkpoint.safetensors")[1] for n in ("mae", "vit"))
    shared = [k for k in ours if k.startswith("encoder.")]
    assert len(shared) > 20
    for name in shared:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)
    assert f"{len(shared)} tensors taken (encoder)" in done.stderr
    assert "decoders, head, skips, ups" in done.stderr


@pytest.mark.parametrize("network", ["unet3d", "vit"])
def test_a_start_from_which_nothing_fits_is_refused(cleft, tmp_path, configs, checkpoint, network):
    """A checkpoint of another network is an input error, before the first step."""
    text = FINE_TUNING.replace("mae/checkpoint.safetensors", checkpoint.name)
    text = text.replace('"vit"', f'"{network}"')
    if network == "unet3d":
        text = text.replace(f"{TRANSFORMER}, channels = [4, 4, 4]", "channels = [3, 5]")
    configs[1].write_text(text)
    done = cleft("train", configs[1], "-o", tmp_path / "run")
    assert done.exit_code == 3
    assert "of its weights fit" in done.stderr


def test_a_masked_autoencoder_predicts_nothing(cleft, tmp_path, volume, configs):
    """Predicting with it is refused before any work, with what to do instead."""
    assert cleft("train", configs[0], "-o", tmp_path / "mae").exit_code == 0
    pretrained = tmp_path / "mae/checkpoint.safetensors"
    done = cleft("predict", volume, "--checkpoint", pretrained, "-o", tmp_path / "p.zarr")
    assert done.exit_code == 3
    assert "init_from" in done.stderr
    assert not (tmp_path / "p.zarr").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"reconstruction"', '"mask"', "reconstruction"),
        ('"mae"', '"vit"', "reconstruction"),
        ("[network]", '[network]\npreset = "huge"', "paper or lite"),
        (
            "[network]",
            '[[data.validate]]\nraw = "volume.zarr/volumes/raw"\n[network]',
            "data.validate",
        ),
    ],
)
def test_impossible_combinations_are_refused(cleft, tmp_path, configs, old, new, message):
    """Exit code 2 and one line, before anything is written."""
    configs[0].write_text(PRETRAINING.replace(old, new))
    done = cleft("train", configs[0], "-o", tmp_path / "run")
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_clefts_are_asked_for_where_they_are_learned(cleft, tmp_path, configs):
    """Raw alone does not train a network that finds clefts."""
    text = FINE_TUNING.replace(', clefts = "volume.zarr/volumes/labels/clefts"', "")
    configs[1].write_text(text.replace('init_from = "mae/checkpoint.safetensors"', ""))
    done = cleft("train", configs[1], "-o", tmp_path / "run")
    assert done.exit_code == 2
    assert "needs clefts" in done.stderr


def test_a_preset_names_what_the_config_does_not(cleft, tmp_path, volume, configs):
    """Tile and options come from the preset; those that the config states replace them."""
    text = FINE_TUNING.replace('init_from = "mae/checkpoint.safetensors"', "")
    text = text.replace('name = "vit"', 'name = "unet3d"\npreset = "lite"')
    text = text.replace("batch_size = 1", "batch_size = 2")
    stated = f"options = {{ {TRANSFORMER}, channels = [4, 4, 4] }}"
    configs[1].write_text(text.replace(stated, ""))
    assert cleft("train", configs[1], "-o", tmp_path / "run").exit_code == 0
    found = load(tmp_path / "run/checkpoint.safetensors")[0]
    assert found.input_shape == (4, 16, 16)
    assert tuple(found.options["channels"]) == preset("unet3d", "lite")[1]["channels"]
    configs[1].write_text(text.replace(stated, "options = { channels = [2, 3] }"))
    assert cleft("train", configs[1], "-o", tmp_path / "other").exit_code == 0
    assert load(tmp_path / "other/checkpoint.safetensors")[0].options["channels"] == [2, 3]


def test_networks_are_listed(cleft):
    """Each with each preset, once, with numbers for scripts."""
    rows = json.loads(cleft("networks", "--json").stdout)["networks"]
    names = [(r["network"], r["preset"]) for r in rows]
    assert len(set(names)) == len(names) == 2 * len({n for n, _ in names})
    paper = next(r for r in rows if r["network"] == "cleftnet" and r["preset"] == "paper")
    assert paper["input_shape"] == [8, 256, 256]
    assert paper["of_these_queries"] < paper["parameters"]
    assert "cleftnet" in cleft("networks").stdout
