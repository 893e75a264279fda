"""One TOML file: what it may leave out, and how its mistakes are named."""

import json
import re
from pathlib import Path

import pydantic
import pytest

from cleftcli.config import Config, load
from cleftcli.errors import InputError, UsageError

SHIPPED = sorted((Path(__file__).parents[1] / "docs" / "configs").glob("*.toml"))
MINIMAL = '[data]\ntrain = [{ raw = "a.zarr/raw", clefts = "a.zarr/ids" }]\n'


@pytest.fixture
def written(tmp_path):
    """A function: text of a config -> its path."""

    def write(text):
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path):
    with pytest.raises(UsageError) as caught:
        load(path)
    return str(caught.value)


def test_a_minimal_config_has_the_papers_defaults(written):
    """Data alone suffice; the rest is section IV of the paper."""
    config = load(written(MINIMAL))
    assert config.data.train[0].raw == "a.zarr/raw"
    assert config.data.train[0].roi is None
    assert config.data.validate_on == []
    assert (config.network.name, config.network.input_shape) == ("cleftnet", (8, 256, 256))
    assert (config.objective.name, config.objective.options) == ("mask_and_boundary", {})
    assert config.augment == {}
    training = config.training
    assert (training.batch_size, training.learning_rate) == (16, 1e-3)
    assert (training.min_cleft_voxels, training.reject_probability) == (200, 0.95)
    assert (training.warmup_steps, training.cosine, training.gradient_clip) == (0, False, None)


def test_there_are_shipped_configs():
    """The documentation ships configs, so that the next test tests something."""
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_configs_load(path):
    """Every config of the documentation is valid, and names a network and data."""
    config = load(path)
    assert config.data.train
    assert config.network.name


def test_everything_can_be_said(written):
    """What a config says is what comes out, each key at its place."""
    text = """
    seed = 7
    [data]
    train = [{ raw = "a", clefts = "b", roi = "0:4,0:8,0:8", voxel_size = [40, 4.5, 4.5] }]
    validate = [{ raw = "c", clefts = "d" }]
    licence = "CC BY 4.0"
    [network]
    name = "unet3d"
    input_shape = [4, 32, 64]
    options = { channels = [4, 8] }
    [objective]
    name = "mask"
    scale = 5.0
    unit = "voxel"
    [augment]
    flip = 0.5
    elastic = { probability = 0.5, spacing_nm = 120, sigma_nm = 6.5 }
    [training]
    steps = 10
    reject_probability = 0.0
    average = 0.99
    precision = "bfloat16"
    """
    config = load(written(text))
    assert config.seed == 7
    assert config.data.train[0].voxel_size == (40, 4.5, 4.5)
    assert [r.raw for r in config.data.validate_on] == ["c"]
    assert config.network.input_shape == (4, 32, 64)
    assert config.network.options == {"channels": [4, 8]}
    assert (config.objective.scale, config.objective.unit) == (5.0, "voxel")
    elastic = {"probability": 0.5, "spacing_nm": 120, "sigma_nm": 6.5}
    assert config.augment == {"flip": 0.5, "elastic": elastic}
    assert (config.training.steps, config.training.average) == (10, 0.99)


def test_a_config_is_frozen(written):
    """Nobody changes a config after it was read."""
    config = load(written(MINIMAL))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.seed = 3
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.training.steps = 3


@pytest.mark.parametrize(
    ("added", "key", "near"),
    [
        ("[training]\nlearning_rat = 0.1", "training.learning_rat", "learning_rate"),
        ("[training]\nbatchsize = 2", "training.batchsize", "batch_size"),
        ("[netwrok]\nname = 'cleftnet'", "netwrok", "network"),
        ("[network]\ninputshape = [4, 4, 4]", "network.inputshape", "input_shape"),
        ("[objective]\nscales = 1.0", "objective.scales", "scale"),
        ("[data.validation]\nraw = 'a'", "data.validation", "validate"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(written, added, key, near):
    """A key nobody knows is a usage error with its path and the key that was meant."""
    message = refusal(written(f"{MINIMAL}{added}"))
    assert re.search(rf"{re.escape(key)}: unknown key; did you mean {near}\?", message)
    assert "run.toml" in message


def test_an_unknown_key_of_a_region_is_named_with_its_place(written):
    """A key in a list of regions is found by its number."""
    message = refusal(written('[data]\ntrain = [{ raw = "a", clefts = "b", rio = "0:1" }]'))
    assert "data.train.0.rio: unknown key; did you mean roi?" in message


def test_a_key_like_no_other_has_no_suggestion(written):
    """Where no key is near, none is suggested."""
    message = refusal(written(f"{MINIMAL}[training]\nzzzzzz = 1"))
    assert "training.zzzzzz: unknown key" in message
    assert "did you mean" not in message


@pytest.mark.parametrize(
    ("added", "key", "value"),
    [
        ("[training]\nsteps = 0", "training.steps", "0"),
        ("[training]\nsteps = 1.5", "training.steps", "1.5"),
        ("[training]\nsteps = 'many'", "training.steps", "many"),
        ("[training]\nsteps = '100'", "training.steps", "100"),
        ("[training]\nbatch_size = -1", "training.batch_size", "-1"),
        ("[training]\nlearning_rate = 0.0", "training.learning_rate", "0"),
        ("[training]\nlearning_rate = nan", "training.learning_rate", "nan"),
        ("[training]\nlearning_rate = inf", "training.learning_rate", "inf"),
        ("[training]\nreject_probability = 1.0", "training.reject_probability", "1"),
        ("[training]\nreject_probability = -0.1", "training.reject_probability", "-0.1"),
        ("[training]\naverage = 1.0", "training.average", "1"),
        ("[training]\ngradient_clip = 0.0", "training.gradient_clip", "0"),
        ("[training]\ncosine = 'yes'", "training.cosine", "yes"),
        ("[training]\ncosine = 1", "training.cosine", "1"),
        ("[training]\nprecision = 16", "training.precision", "16"),
        ("[network]\ninput_shape = [4, 4]", "network.input_shape", "4"),
        ("[network]\ninput_shape = 16", "network.input_shape", "16"),
        ("[network]\noptions = 3", "network.options", "3"),
        ("[objective]\nscale = -1.0", "objective.scale", "-1"),
    ],
)
def test_an_impossible_value_is_named(written, added, key, value):
    """A wrong type or impossible value is a usage error with its key and the value."""
    message = refusal(written(f"{MINIMAL}{added}"))
    assert re.search(rf"{re.escape(key)}[.\d]*: .*{re.escape(value)}", message)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("seed = 1", "data"),
        ("[data]\ntrain = []", "data.train"),
        ("[data]\nlicence = 'x'", "data.train"),
        ("[data]\ntrain = [{ clefts = 'a' }]", "data.train.0.raw"),
        (f"seed = -1\n{MINIMAL}", "seed"),
        (f"augment = 0.5\n{MINIMAL}", "augment"),
        ("[data]\ntrain = [{ raw = 1, clefts = 'b' }]", "data.train.0.raw"),
        (
            "[data]\ntrain = [{ raw = 'a', clefts = 'b', voxel_size = [40, 0, 4] }]",
            "data.train.0.voxel_size",
        ),
        (
            "[data]\ntrain = [{ raw = 'a', clefts = 'b', voxel_size = [40, 4] }]",
            "data.train.0.voxel_size",
        ),
    ],
)
def test_what_is_missing_is_named(written, text, key):
    """Data that are missing or impossible are named by their key."""
    assert key in refusal(written(text))


def test_every_mistake_is_named_at_once(written):
    """A config with three mistakes is refused with three lines."""
    message = refusal(written(f"seed = -1\n{MINIMAL}[training]\nsteps = 0\nstepz = 1"))
    assert len(message.splitlines()) == 3
    assert all(key in message for key in ("seed", "training.steps", "training.stepz"))


def test_a_missing_file_is_an_input_error(tmp_path):
    """No file, or a folder, is an input error that names it."""
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(InputError, match=path.name):
            load(path)


@pytest.mark.parametrize("content", [b"[data\n", b"seed = ", b"\xff\xfe\x00", b"a = 1\na = 2"])
def test_what_is_not_toml_is_refused(tmp_path, content):
    """A file that is no TOML is a usage error that says so."""
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    assert re.search("not TOML|not UTF-8", refusal(path))


def test_names_are_checked_elsewhere(written):
    """Networks, objectives and augmentations are checked where they are used, not here."""
    assert load(written(f"{MINIMAL}[network]\nname = 'nobody'")).network.name == "nobody"


def test_a_config_is_plain_data(written):
    """A config can be stored as JSON and made again from it."""
    config = load(written(MINIMAL))
    stored = json.loads(json.dumps(config.model_dump(by_alias=True)))
    assert Config.model_validate_json(json.dumps(stored)) == config


def test_files_of_windows_editors_are_read(cleft, tmp_path):
    """A byte order mark and CRLF change nothing; UTF-16 is refused with what to do."""
    text = '[data]\ntrain = [{ raw = "a.zarr" }]\n'
    plain = tmp_path / "plain.toml"
    plain.write_text(text)
    for name, data in (
        ("bom", b"\xef\xbb\xbf" + text.encode()),
        ("crlf", text.replace("\n", "\r\n").encode()),
    ):
        path = tmp_path / f"{name}.toml"
        path.write_bytes(data)
        assert load(path) == load(plain)
    utf16 = tmp_path / "utf16.toml"
    utf16.write_text(text, encoding="utf-16")
    assert "not UTF-8" in refusal(utf16)
    settings = tmp_path / "lab.toml"
    settings.write_bytes(b"\xef\xbb\xbfno-color = true\r\n[networks]\r\n")
    assert cleft("config", "show", "--config", settings).exit_code == 0
    settings.write_text("no-color = true", encoding="utf-16")
    assert cleft("config", "show", "--config", settings).exit_code == 2
