"""The configs of the documentation can start, and differ in what they claim to differ in."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest
import torch

from cleftcli.augment import choose, reach
from cleftcli.config import load
from cleftcli.geometry import parse_roi, zyx
from cleftcli.jobs import demo
from cleftcli.labels import TARGETS
from cleftcli.model import build
from cleftcli.model.objectives import objective
from cleftcli.training import resolved

FOLDER = Path(__file__).parents[1] / "docs" / "configs"
FILES = sorted(FOLDER.glob("*.toml"))
EVERY = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
VOXEL_SIZE = (40.0, 4.0, 4.0)  # CREMI's; others' are not known without their files
ENDLESS = (10**6,) * 3  # the shape of a volume that is not there: an open end meets every other

# how each differs from cleftnet.toml, and in nothing else
BASELINES = ("segnet", "vnet", "unet3d", "resunet", "attention_unet")
DIFFERENCES = {
    "without_label_augmentor": {"objective.name": "mask"},
    "without_feature_augmentor": {"network.options.feature_augmentor": False},
    "self_attention": {"network.options.query": "input"},
    **{name: {"network.name": name, "objective.name": "mask"} for name in BASELINES},
}
SECTION_IV_C = {
    "network.preset": "paper",
    "network.input_shape": (8, 256, 256),
    "objective.name": "mask_and_boundary",
    "augment.rotate": 0.5,
    "augment.flip": 0.5,
    "augment.grayscale": 0.2,
    "training.steps": 1_000_000,
    "training.batch_size": 16,
    "training.learning_rate": 1e-3,
    "training.weight_decay": 0.0,
    "training.min_cleft_voxels": 200,
    "training.reject_probability": 0.95,
    "training.validate_every": 100,
    "training.blend": "none",
}


def untrained(config):
    """The network and the objective of a config; its weights take no memory."""
    learned = objective(config.objective.name, config.objective.options)
    asked = config.network
    with torch.device("meta"):
        network = build(
            asked.name,
            out_channels=learned.channels,
            input_shape=zyx(asked.input_shape),
            options=asked.options,
        )
    return network, learned


def flat(table, prefix=""):
    """Dotted keys -> values of nested tables."""
    found = {}
    for key, value in table.items():
        below = isinstance(value, dict)
        found |= flat(value, f"{prefix}{key}.") if below else {f"{prefix}{key}": value}
    return found


def said(name):
    """What a config says, with all that it leaves to the defaults."""
    return flat(load(FOLDER / f"{name}.toml").model_dump(by_alias=True))


@EVERY
def test_its_network_takes_its_tile(path):
    """It loads, and a tile of its network comes out with the channels that the objective reads."""
    config = resolved(load(path))
    network, learned = untrained(config)
    shape = zyx(config.network.input_shape)
    tile = torch.empty(1, 1, *shape, device="meta")
    assert network(tile).shape == (1, learned.channels, *shape)


@EVERY
def test_its_targets_can_be_made(path):
    """What the objective learns from has a name, and the scale and unit are possible."""
    config = load(path)
    for name in objective(config.objective.name, config.objective.options).targets:
        scale = TARGETS[name].scale_nm(VOXEL_SIZE, config.objective.scale, config.objective.unit)
        assert scale > 0


@EVERY
def test_its_augmentations_are_known(path):
    """Every name under [augment] is one, with parameters that it has."""
    config = load(path)
    assert len(choose(config.augment)) == len(config.augment)


@EVERY
def test_its_regions_are_apart(path):
    """Nothing that is held out is trained on, nor reached by what augmentation moves."""
    config = load(path)
    around = reach(config.augment, VOXEL_SIZE)
    parts = (config.data.train, config.data.validate_on, config.data.test)
    for before, after in itertools.combinations(parts, 2):
        for ours, other in itertools.product(before, after):
            if ours.raw == other.raw:
                box, held_out = (parse_roi(r.roi or ":,:,:", ENDLESS) for r in (ours, other))
                assert not box.grow(around).intersect(held_out).size, (ours, other)


@EVERY
def test_its_regions_hold_clefts_where_they_are_learned(path):
    """Raw alone is for an objective without targets, which cannot be validated."""
    config = load(path)
    held_out = [*config.data.validate_on, *config.data.test]
    learns = bool(objective(config.objective.name, config.objective.options).targets)
    assert all((r.clefts is not None) == learns for r in (*config.data.train, *held_out))
    assert learns or not held_out


@EVERY
def test_its_command_is_in_the_file_and_in_the_readme(path):
    """Both say how to run it, and into the same folder."""
    pattern = rf"cleft train {re.escape(path.name)} -o [a-z0-9_]+"
    line = re.search(pattern, path.read_text(encoding="utf-8"))
    assert line, pattern
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| [{path.name}]({path.name}) |" in readme
    assert f"`{line[0]}`" in readme


@pytest.mark.parametrize("name", ["cleftnet", *DIFFERENCES])
def test_its_scores_are_those_of_the_readme(name):
    """The file's first line repeats the CREMI-scores of its row."""
    first = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| \[{name}\.toml\].*$", readme, re.MULTILINE)[0]
    assert re.findall(r"\d\d\.\d\d", first) == re.findall(r"\d\d\.\d\d", row)


def test_the_papers_table_is_the_same_on_both_pages():
    """Every number of each system, in the README of the configs and in the results."""
    pages = [FOLDER / "README.md", FOLDER.parent / "results.md"]
    tables = []
    for page in pages:
        rows = re.findall(r"^\|.*\|.*\d\.\d{2}.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
        numbers = [re.findall(r"\b(?:\d\d\.\d\d|0\.\d{3})\b", row) for row in rows]
        tables.append([row for row in numbers if len(row) in (3, 5)][:9])
    assert len(tables[0]) == 9
    assert tables[0] == tables[1]


def test_the_readme_links_to_files():
    """Every relative link of the folder's page is a file."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    links = [t for t in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in t]
    assert links
    assert [t for t in links if not (FOLDER / t.split("#")[0]).exists()] == []


def test_cleftnet_is_trained_as_the_paper_says():
    """Section IV-C, most of which the file leaves to the defaults."""
    found = said("cleftnet")
    assert {key: found[key] for key in SECTION_IV_C} == SECTION_IV_C


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_comparison_is_of_what_it_claims(name):
    """A baseline or ablation differs from CleftNet in the keys that it is about, and no other."""
    theirs, ours = said("cleftnet"), said(name)
    keys = theirs.keys() | ours.keys()
    differing = {k: ours.get(k) for k in keys if theirs.get(k) != ours.get(k)}
    assert differing == DIFFERENCES[name]


def test_an_ablation_changes_the_network():
    """What each takes away was there: no two of CleftNet and its ablations have the same parts."""
    names = ("cleftnet", "without_label_augmentor", "without_feature_augmentor", "self_attention")
    parts = {}
    for name in names:
        network, _ = untrained(resolved(load(FOLDER / f"{name}.toml")))
        parts[name] = frozenset((k, v.shape) for k, v in network.state_dict().items())
    assert len(set(parts.values())) == len(names)


def test_fine_tuning_takes_the_whole_encoder_of_the_pretraining():
    """It starts from where the pre-training's command puts its checkpoint, and all of it fits."""
    path = FOLDER / "mae_pretrain.toml"
    before, after = load(path), load(FOLDER / "vit_finetune.toml")
    folder = re.search(r"-o ([a-z0-9_]+)", path.read_text(encoding="utf-8"))[1]
    assert after.training.init_from == f"{folder}/checkpoint.safetensors"
    encoders = [
        {k: v.shape for k, v in untrained(resolved(c))[0].encoder.state_dict().items()}
        for c in (before, after)
    ]
    assert encoders[0] == encoders[1]
    assert encoders[0]


def test_fine_tuning_holds_out_what_the_pretraining_has_not_seen():
    """The sections that it is validated on are none that the masked autoencoder read."""
    before, after = load(FOLDER / "mae_pretrain.toml"), load(FOLDER / "vit_finetune.toml")
    for ours, other in itertools.product(before.data.train, after.data.validate_on):
        boxes = [parse_roi(r.roi or ":,:,:", ENDLESS) for r in (ours, other)]
        assert ours.raw != other.raw or not boxes[0].intersect(boxes[1]).size


def test_the_demo_is_the_demos(tmp_path, monkeypatch):
    """`cleft demo` writes this very config, but for its comments."""
    monkeypatch.setattr(demo, "_is_there", lambda _: True)  # no volume is needed
    demo.prepare(tmp_path)
    written, shipped = (
        tomllib.loads(p.read_text(encoding="utf-8"))
        for p in (tmp_path / "config.toml", FOLDER / "demo.toml")
    )
    assert shipped == written
