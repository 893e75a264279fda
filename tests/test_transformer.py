"""Patches as tokens: their order, their places, and what a masked autoencoder hides."""

import math

import pytest
import torch

from cleftcli.errors import InputError, UsageError
from cleftcli.model import build
from cleftcli.model.transformer import TokenEncoder, patchify, sin_cos, unpatchify

SHAPE, PATCH = (4, 16, 24), (2, 8, 4)
GRID = (2, 2, 6)
OPTIONS = {"patch": PATCH, "width": 12, "depth": 1, "heads": 2}
OPTIONS |= {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}


def numbered(shape):
    """Every voxel another number."""
    return torch.arange(float(math.prod(shape))).reshape(1, *shape)


def test_patches_are_in_raster_order():
    """Token t holds the voxels of the t-th patch in raster order, z slowest."""
    tokens, volume = patchify(numbered(SHAPE), PATCH), numbered(SHAPE)[0]
    for t, (z, y, x) in enumerate(torch.cartesian_prod(*map(torch.arange, GRID)).tolist()):
        patch = volume[2 * z : 2 * z + 2, 8 * y : 8 * y + 8, 4 * x : 4 * x + 4]
        assert torch.equal(tokens[0, t], patch.flatten())


def test_unpatchify_is_the_inverse():
    """There and back is where it was."""
    volume = numbered(SHAPE)
    assert torch.equal(unpatchify(patchify(volume, PATCH), GRID, PATCH), volume)


def test_the_embedding_orders_tokens_as_patchify_does():
    """Token t of the embedding looks at the voxels of patch t and at no others."""
    encoder = TokenEncoder(input_shape=SHAPE, patch=PATCH, width=12, depth=1, heads=2)
    for t in range(math.prod(GRID)):
        x = torch.zeros(1, 1, *SHAPE, requires_grad=True)
        encoder.embed(x).flatten(2).mT[0, t].sum().backward()
        seen = patchify((x.grad[:, 0] != 0).float(), PATCH)[0]
        assert seen[t].all()
        assert seen.sum() == seen[t].sum()


def test_positions_follow_the_grid():
    """Each third of the channels knows one axis, and no two tokens share a position."""
    positions = sin_cos(GRID, 12).reshape(*GRID, 12)
    for axis, third in enumerate(positions.split(4, dim=-1)):
        others = [a for a in range(3) if a != axis]
        assert torch.equal(third.amax(others), third.amin(others))
    assert len(positions.reshape(-1, 12).unique(dim=0)) == math.prod(GRID)
    assert positions[1, 0, 0, 0].item() == pytest.approx(math.sin(1))
    assert positions[0, 0, 3, 10].item() == pytest.approx(math.cos(3))


def test_a_width_that_three_axes_cannot_share_is_refused():
    """Sine and cosine on three axes need a multiple of 6."""
    with pytest.raises(InputError, match="multiple of 6"):
        sin_cos(GRID, 16)


@pytest.mark.parametrize(("hidden", "visible"), [(0.75, 6), (0.5, 12), (0.9, 2), (0.04, 23)])
def test_whole_patches_are_hidden(hidden, visible):
    """The share asked for is hidden, in whole patches, and others each time in training."""
    network = build("mae", out_channels=2, input_shape=SHAPE, options=OPTIONS | {"hidden": hidden})
    torch.manual_seed(3)
    found = [patchify(network(torch.zeros(2, 1, *SHAPE))[:, 1], PATCH) for _ in range(2)]
    for of_item in (found[0][0], found[0][1], found[1][0]):
        assert ((of_item == 0).all(dim=1) | (of_item == 1).all(dim=1)).all()
        assert (of_item[:, 0] == 0).sum() == visible
    assert not torch.equal(found[0], found[1]) or visible == 23
    network.eval()
    again = [network(torch.rand(2, 1, *SHAPE))[:, 1] for _ in range(2)]
    assert torch.equal(again[0], again[1])


def test_what_is_hidden_is_not_seen():
    """No guess depends on a hidden voxel, and every guess on the visible ones."""
    network = build("mae", out_channels=2, input_shape=SHAPE, options=OPTIONS).eval()
    x = torch.rand(1, 1, *SHAPE, requires_grad=True)
    guessed, hidden = network(x)[0]
    (guessed * hidden).sum().backward()
    touched = x.grad[0, 0] != 0
    assert not (touched & (hidden > 0)).any()
    assert touched[hidden == 0].all()


def test_a_guess_stands_where_its_patch_is():
    """A visible patch that is changed moves the guesses; its own place keeps its own token."""
    network = build("mae", out_channels=2, input_shape=SHAPE, options=OPTIONS).eval()
    network.decoder = torch.nn.Identity()
    with torch.no_grad():
        network.positions.zero_()
        before = torch.rand(1, 1, *SHAPE)
        hidden = patchify(network(before)[:, 1], PATCH)[0, :, 0]
        t = int((hidden == 0).nonzero()[-1])
        after = before.clone()
        patches = patchify(after[:, 0], PATCH)
        patches[0, t] += 1
        after = unpatchify(patches, GRID, PATCH)[:, None]
        moved = patchify((network(after) - network(before))[:, 0], PATCH)[0].abs().amax(dim=1)
    assert moved[t] > 0
    assert (moved[hidden > 0] == 0).all()


@pytest.mark.parametrize("hidden", [0.0, 1.0, 0.01])
def test_some_must_be_hidden_and_some_visible(hidden):
    """A share that hides nothing or everything is refused."""
    with pytest.raises(UsageError, match="hidden"):
        build("mae", out_channels=2, input_shape=SHAPE, options=OPTIONS | {"hidden": hidden})


def test_mae_has_one_objective():
    """Channels that another objective wants are refused."""
    with pytest.raises(UsageError, match="reconstruction"):
        build("mae", out_channels=1, input_shape=SHAPE, options=OPTIONS)


@pytest.mark.parametrize(
    ("patch", "channels"), [((1, 8, 16), 3), ((1, 6, 6), 3), ((3, 8, 8), 3), ((1, 8, 8), 2)]
)
def test_a_patch_that_the_decoder_cannot_reach_is_refused(patch, channels):
    """The decoder of vit doubles to whole voxels, or the patch is refused with what it may be."""
    options = {"patch": patch, "width": 12, "depth": 3, "heads": 2, "channels": [4] * channels}
    with pytest.raises(UsageError, match=f"must be {2**channels}"):
        build("vit", out_channels=1, input_shape=(6, 48, 48), options=options)


@pytest.mark.parametrize("patch", [(1, 8, 8), (2, 8, 8), (4, 8, 8), (8, 8, 8)])
def test_vit_takes_deep_patches(patch):
    """Patches may be as deep as they are wide."""
    options = {"patch": patch, "width": 12, "depth": 3, "heads": 2, "channels": [4, 4, 4]}
    network = build("vit", out_channels=1, input_shape=(8, 16, 24), options=options)
    assert network(torch.zeros(2, 1, 8, 16, 24)).shape == (2, 1, 8, 16, 24)


@pytest.mark.parametrize("name", ["vit", "mae"])
def test_attention_is_not_stored_in_evaluation_either(name):
    """No allocation of a prediction comes near heads x tokens x tokens."""
    options = {"patch": (1, 4, 4), "width": 12, "depth": 3, "heads": 2}
    if name == "vit":
        options |= {"channels": (4, 4)}
    else:
        options |= {"hidden": 0.05, "decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}
    network = build(name, out_channels=2, input_shape=(4, 96, 96), options=options).eval()
    with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profile:
        network(torch.zeros(2, 1, 4, 96, 96))
    count = 4 * 24 * 24
    largest = max(e.self_cpu_memory_usage for e in profile.events())
    assert 2 * count * 12 * 4 <= largest < 2 * 2 * count * count * 4 / 4
