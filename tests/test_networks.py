"""Every network, found by its file name: what all of them hold."""

import importlib
import inspect
import re
import typing

import pytest
import torch

from cleftcli.errors import InputError, UsageError
from cleftcli.model import available, build, device
from cleftcli.model.checkpoint import Checkpoint, restore, save
from cleftcli.model.inference import fold_batch_norms
from cleftcli.model.objectives import objective

SHAPE = (4, 16, 16)
TINY = {
    "channels": [4, 6, 8],
    "key_channels": 4,
    "patch": [1, 8, 8],
    "width": 48,
    "depth": 3,
    "heads": 2,
    "decoder_width": 48,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "hidden": 0.5,
}
# a constant added to all keys is cancelled by the softmax over them
CANCELLED = ("key.bias",)


def constructor(name):
    return importlib.import_module(f"cleftcli.model.networks.{name}").Network.__init__


def variants():
    """Every network, and once more for each other choice that one of its options has."""
    for name in available():
        yield name
        defaults = inspect.signature(constructor(name)).parameters
        for option, hint in typing.get_type_hints(constructor(name)).items():
            choices = (True, False) if hint is bool else ()
            choices = (
                typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else choices
            )
            yield from (
                f"{name}, {option}={choice}"
                for choice in choices
                if choice != defaults[option].default
            )


VARIANTS = list(variants())


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny tensors: threads that wait for each other cost 50 times the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_options(variant):
    name, *choices = variant.split(", ")
    known = inspect.signature(constructor(name)).parameters
    chosen = dict(choice.split("=") for choice in choices)
    said = {"True": True, "False": False}
    return {k: v for k, v in TINY.items() if k in known} | {
        k: said.get(v, v) for k, v in chosen.items()
    }


def tiny(variant, *, seed=0, shape=SHAPE, out_channels=2):
    torch.manual_seed(seed)
    name = variant.split(", ")[0]
    return build(name, out_channels=out_channels, input_shape=shape, options=tiny_options(variant))


def learned_by(variant):
    """An objective that the network can learn by."""
    return objective("reconstruction" if variant == "mae" else "mask_and_boundary")


def tiles(n, *, seed=1, shape=SHAPE):
    return torch.rand(n, 1, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("shape", [(4, 16, 16), (1, 8, 24), (8, 32, 16)])
@pytest.mark.parametrize(
    ("variant", "out_channels"),
    [(v, n) for v in VARIANTS for n in (1, 2) if n == 2 or v != "mae"],
)
def test_shape_is_kept(variant, out_channels, shape):
    """The output has the input's tile shape and the channels asked for, and is finite."""
    network = tiny(variant, shape=shape, out_channels=out_channels).eval()
    with torch.inference_mode():
        found = network(tiles(2, shape=shape))
    assert found.shape == (2, out_channels, *shape)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


@pytest.mark.parametrize(
    "wrong", [(2, 1, 4, 16, 32), (2, 1, 8, 16, 16), (2, 2, 4, 16, 16), (1, 4, 16, 16)]
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_another_shape_is_refused(variant, wrong):
    """A tensor of another shape is refused, and the message names the shape expected."""
    with pytest.raises(InputError, match=r"\(n, 1, 4, 16, 16\)") as caught:
        tiny(variant)(torch.zeros(wrong))
    assert str(wrong) in str(caught.value)


@pytest.mark.parametrize("shape", [(4, 18, 16), (4, 16, 3), (5, 30, 7), (0, 16, 16)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_impossible_shape_names_one_that_works(variant, shape):
    """An input shape that cannot be halved or cut is refused, and the shape offered works."""
    with pytest.raises(InputError, match=re.escape(str(shape))) as caught:
        tiny(variant, shape=shape)
    offered = tuple(int(n) for n in re.findall(r"\d+", str(caught.value))[-3:])
    with torch.inference_mode():
        found = tiny(variant, shape=offered).eval()(tiles(1, shape=offered))
    assert found.shape == (1, 2, *offered)


@pytest.mark.parametrize(
    ("shape", "levels", "nearest"),
    [
        ((4, 18, 16), 3, (4, 16, 16)),
        ((3, 16, 16), 3, (2, 16, 16)),
        ((6, 16, 16), 3, (4, 16, 16)),
        ((4, 16, 19), 3, (4, 16, 20)),
        ((12, 16, 18), 3, (12, 16, 16)),
        ((7, 16, 16), 4, (8, 16, 16)),
        ((15, 64, 64), 5, (16, 64, 64)),
        ((9, 16, 16), 3, (8, 16, 16)),
        ((8, 250, 250), 5, (8, 256, 256)),
    ],
)
def test_nearest_legal_shape(shape, levels, nearest):
    """The shape offered is the nearest: legal edges stay, the others move as little as can be."""
    options = {"channels": [2] * levels}
    with pytest.raises(InputError) as caught:
        build("unet3d", out_channels=1, input_shape=shape, options=options)
    offered = tuple(int(n) for n in re.findall(r"\d+", str(caught.value))[-3:])
    assert offered == nearest


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_reaches_every_parameter(variant):
    """No parameter is cut off from the loss."""
    network = tiny(variant).double()
    network(tiles(2).double()).square().mean().backward()
    largest = {n: p.grad.abs().max().item() for n, p in network.named_parameters()}
    # where all queries are 0, no key has a say
    unheard = (*CANCELLED, "key.weight") if "query=uniform" in variant else CANCELLED
    dead = {n: g for n, g in largest.items() if not g > 1e-12 and not n.endswith(unheard)}
    assert not dead


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_items_are_independent(variant):
    """In evaluation a tile's output does not depend on the tiles beside it."""
    network = tiny(variant).eval()
    x = tiles(3)
    with torch.inference_mode():
        together, alone = network(x), network(x[1:2])
        exchanged = network(torch.stack([-x[0], x[1], x[2] * 0.1]))
    assert torch.equal(exchanged[1], together[1])
    torch.testing.assert_close(alone[0], together[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_depends_on_input(variant):
    """Another tile gives another output: nothing is blind."""
    network = tiny(variant)
    for seed in range(20):
        network(tiles(2, seed=seed))  # running statistics settle
    with torch.inference_mode():
        a, b = network.eval()(tiles(2))
    assert (a[0] - b[0]).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_survives_a_checkpoint(variant, tmp_path):
    """A network saved and restored has the same weights and the same output, in evaluation."""
    network = tiny(variant)
    network(tiles(2))  # running statistics move
    made = Checkpoint(
        network=variant.split(", ")[0],
        options=tiny_options(variant),
        input_shape=SHAPE,
        objective="reconstruction" if variant == "mae" else "mask_and_boundary",
        objective_options={},
        voxel_size=(40.0, 8.0, 8.0),
        step=1,
    )
    save(tmp_path / "a.safetensors", made, network.state_dict())
    _, restored = restore(tmp_path / "a.safetensors")
    assert not restored.training
    state = restored.state_dict()
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(restored(tiles(1)), network.eval()(tiles(1)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_folded_batch_norms_change_rounding_only(variant):
    """In the form that predicts no batch norm is left, and the output is that of training's."""
    network = tiny(variant)
    for seed in range(5):
        network(tiles(2, seed=seed))  # running statistics move
    network.eval()
    with torch.inference_mode():
        before = network(tiles(2))
        after = fold_batch_norms(network)(tiles(2))
    assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in network.modules())
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * before.abs().max().item())


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_is_close_to_float32(variant):
    """Autocast on a CPU moves the output by a few percent of its spread."""
    if device._bfloat16_kills():
        pytest.skip("bfloat16 ends the process on this processor")
    network = tiny(variant)
    network(tiles(2))
    network.eval()
    with torch.inference_mode():
        exact = network(tiles(2))
        with device.autocast(torch.device("cpu"), "bfloat16"):
            found = network(tiles(2)).float()
    assert (found - exact).square().mean().sqrt() < 0.03 * exact.std()


@pytest.mark.parametrize("variant", VARIANTS)
def test_seed_decides_the_weights(variant):
    """The same seed builds the same network; another seed another one."""
    one, same, other = tiny(variant, seed=5), tiny(variant, seed=5), tiny(variant, seed=6)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in one.state_dict().items())
    with torch.inference_mode():
        found = [network.eval()(tiles(1)) for network in (one, same, other)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_patches_are_learnt_by_heart(variant):
    """A few steps on two patches bring the loss down to a tenth."""
    learned = learned_by(variant)
    network = tiny(variant, out_channels=learned.channels).train()
    x = tiles(2)
    blurred = torch.nn.functional.avg_pool3d(x, (1, 5, 5), 1, (0, 2, 2))[:, 0]
    targets = {
        "mask": (blurred > 0.1).to(torch.uint8),
        "tanh-distance": (blurred * 8 - 0.8).clamp(min=0).tanh(),
    }
    targets["raw"] = x
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(1000):
        loss = torch.stack(list(learned.loss(network(x), targets).values())).sum()
        losses.append(loss.item())
        if losses[-1] < losses[0] / 10:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 10, losses[::10]


def test_unknown_network_names_those_there_are():
    """An unknown network is a usage error that lists the networks."""
    with pytest.raises(UsageError, match="cleftnt") as caught:
        build("cleftnt", out_channels=1, input_shape=SHAPE)
    assert all(name in str(caught.value) for name in available())


@pytest.mark.parametrize("name", available())
def test_unknown_option_names_those_there_are(name):
    """An unknown option is a usage error that names it and lists the network's own."""
    with pytest.raises(UsageError, match="chanels") as caught:
        build(name, out_channels=2, input_shape=SHAPE, options={"chanels": [4]})
    assert all(option in str(caught.value) for option in tiny_options(name))


@pytest.mark.parametrize("option", ["input_shape", "out_channels"])
@pytest.mark.parametrize("name", available())
def test_what_build_states_is_no_option(name, option):
    """The shape and the channels are stated once: giving them as options is a usage error."""
    with pytest.raises(UsageError, match=option):
        build(name, out_channels=2, input_shape=SHAPE, options={option: 1})


def parameters(variant):
    """Names and shapes, of a network with one output channel."""
    return {k: p.shape for k, p in tiny(variant, out_channels=1).named_parameters()}


def test_cleftnet_without_both_augmentors_is_resunet():
    """Section IV-G: the backbone, parameter for parameter, in their order, at the paper's sizes."""
    with torch.device("meta"):
        options = {"feature_augmentor": False}
        cleftnet = build("cleftnet", out_channels=1, input_shape=(8, 256, 256), options=options)
        resunet = build("resunet", out_channels=1, input_shape=(8, 256, 256))
    found, expected = ([(k, v.shape) for k, v in n.named_parameters()] for n in (cleftnet, resunet))
    assert found == expected


def test_attention_unet_is_resunet_and_gates():
    """Section IV-G: it differs from CleftNet without label augmentor in the attention alone."""
    backbone, gated = parameters("resunet"), parameters("attention_unet")
    gates = {k: v for k, v in gated.items() if k.startswith("skips.")}
    assert gates
    assert {k: v for k, v in gated.items() if k not in gates} == backbone


def test_an_ablation_differs_in_what_it_claims():
    """With feature augmentors only these are other parameters; queries differ in queries alone."""
    full, none = parameters("cleftnet"), parameters("cleftnet, feature_augmentor=False")

    def apart(a, b):
        return {k for k in a.keys() | b.keys() if a.get(k) != b.get(k)}

    changed = {".".join(k.split(".")[:2]) for k in apart(full, none)}
    assert changed == {"downs.0", "downs.1", "bottom.1", "ups.0", "ups.1"}
    for query in ("separable", "frozen", "uniform", "input"):
        queries = apart(full, parameters(f"cleftnet, query={query}"))
        assert queries
        assert all(k.split(".")[2] == "query" for k in queries)


def test_queries_take_feature_augmentors():
    """What would have no effect is a usage error."""
    options = {"feature_augmentor": False, "query": "separable"}
    with pytest.raises(UsageError, match="leave out one of the two"):
        build("cleftnet", out_channels=1, input_shape=SHAPE, options=options)


def test_cleftnet_knows_its_queries():
    """Another one is a usage error that lists them."""
    with pytest.raises(UsageError, match="'full', 'separable', 'frozen', 'uniform' or 'input'"):
        build("cleftnet", out_channels=1, input_shape=SHAPE, options={"query": "no"})


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("cleftnet", {"channels": "abc"}, "channels"),
        ("cleftnet", {"channels": 32}, "channels"),
        ("cleftnet", {"channels": [4, 8.0]}, "channels.1"),
        ("cleftnet", {"channels": [0, 4]}, "channels"),
        ("cleftnet", {"channels": [4]}, "channels"),
        ("cleftnet", {"channels": []}, "channels"),
        ("cleftnet", {"key_channels": 0}, "key_channels"),
        ("cleftnet", {"value_channels": 0}, "value_channels"),
        ("cleftnet", {"max_keys": -5}, "max_keys"),
        ("cleftnet", {"max_keys": 64.5}, "max_keys"),
        ("cleftnet", {"max_keys": True}, "max_keys"),
        ("cleftnet", {"scale": -1.0}, "scale"),
        ("cleftnet", {"scale": "1"}, "scale"),
        ("vit", {"patch": "188"}, "patch"),
        ("vit", {"patch": [1.9, 8, 8]}, "patch"),
        ("vit", {"patch": 8}, "patch"),
        ("vit", {"width": 12, "heads": 5}, "5 heads"),
        ("vit", {"width": 12, "heads": 2, "depth": 2}, "depth 2"),
        ("vit", {"depth": 0}, "depth"),
        ("mae", {"decoder_depth": 0}, "decoder_depth"),
        ("mae", {"patch": [0, 8, 8]}, "patch"),
        ("mae", {"hidden": "0.9"}, "hidden"),
    ],
)
def test_options_of_another_kind_are_named(name, options, told):
    """A wrong type or a number out of range is a usage error that names the option."""
    small = {k: v for k, v in tiny_options(name).items() if k not in options}
    with pytest.raises(UsageError, match=re.escape(told)):
        build(name, out_channels=2, input_shape=SHAPE, options=small | options)


@pytest.mark.parametrize("channels", [[4, 6], (4, 6)])
def test_options_may_be_lists_or_tuples(channels):
    """TOML has lists, code has tuples."""
    made = build("unet3d", out_channels=1, input_shape=SHAPE, options={"channels": channels})
    assert made.head.in_features == 4
