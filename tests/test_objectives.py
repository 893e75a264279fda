"""Losses worked out by hand, and what every objective holds."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from cleftcli.errors import UsageError
from cleftcli.labels import BACKGROUND, IGNORE, TARGETS
from cleftcli.model.losses import (
    Share,
    balanced_error,
    boundary_loss,
    coherence_loss,
    dice_loss,
    weighted_cross_entropy,
)
from cleftcli.model.objectives import OBJECTIVES, check_maps, objective

VOXEL_SIZE = (40.0, 8.0, 8.0)
LN3 = math.log(3)

# every objective that learns from clefts as it is, and once more for every switch that it has
OF_CLEFTS = [name for name, cls in OBJECTIVES.items() if cls.targets]
SWITCHED = {
    "dice": 1.0,
    "share_of": "batch",
    "share_clip": 0.0,
    "boundary": 1.5,
    "coherence": 1.2,
    "coherence_sets": "prediction",
    "literal": True,
}
VARIANTS = [(name, {}) for name in OF_CLEFTS] + [
    (name, {f.name: SWITCHED[f.name]})
    for name in OF_CLEFTS
    for f in dataclasses.fields(OBJECTIVES[name])
]


def cube(*values):
    """(1, 2, 2, 2) of eight values."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 2, 2, 2)


def some_ids(*, clefts=True, full=False, unknown=False):
    """(2, 4, 8, 8) uint64: one cleft of 24 voxels in each of two patches."""
    ids = np.full((2, 4, 8, 8), BACKGROUND, np.uint64)
    if clefts:
        ids[:, 1:3, 2:4, 1:7] = 7
    if full:
        ids[:] = 7
    if unknown:
        ids[:, :, 5:] = IGNORE
    return ids


def targets_of(learned, ids):
    """What the sampler would give for these ids."""
    found = {}
    for name in learned.targets:
        target = TARGETS[name]
        scale = target.scale_nm(VOXEL_SIZE)
        each = [target.compute(i, VOXEL_SIZE, scale, zero_is_cleft=False) for i in ids]
        found[name] = torch.from_numpy(np.stack(each))
    return found


def output_of(learned, *, seed=0, scale=1.0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, learned.channels, 4, 8, 8, generator=random) * scale


def total(learned, output, targets):
    return torch.stack(list(learned.loss(output, targets).values())).sum()


# Eight voxels, of which two are cleft: beta_s of eq. 7 is 6/8, beta_b of eq. 8 as printed 2/8.
MASK = cube(1, 1, 0, 0, 0, 0, 0, 0)
LABEL = cube(0.5, 0.5, 0, 0, 0, 0, 0, 0)  # eq. 6: 0 outside
B = cube(0.5, -0.5, 0.5, 0, 0, 0, 0, -0.5)  # a predicted boundary


def test_cross_entropy_by_hand():
    """Eq. 7: the two weigh 0.75, the six 0.25."""
    # P(1) = 3/4 where the logit is ln 3, 1/4 where it is -ln 3
    logit = cube(LN3, -LN3, LN3, -LN3, -LN3, -LN3, -LN3, -LN3)
    # -ln 3/4 = 0.2876821, -ln 1/4 = 1.3862944:
    # (0.75 (0.2876821 + 1.3862944) + 0.25 (1.3862944 + 5 * 0.2876821)) / 8
    assert weighted_cross_entropy(logit, MASK).item() == pytest.approx(0.2452073, rel=1e-6)


def test_boundary_loss_by_hand():
    """Eq. 8: squared errors 0 and 1 inside, 0.25, 0.25 and four times 0 outside."""
    # inside weighs the share of the others: (0.75 * 1 + 0.25 * 0.5) / 8
    assert boundary_loss(B, LABEL).item() == pytest.approx(0.109375, rel=1e-6)
    # as printed, its own: (0.25 * 1 + 0.75 * 0.5) / 8
    assert boundary_loss(B, LABEL, literal=True).item() == pytest.approx(0.078125, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # inside (the two): 0.25 ln 2 and, at b < 0, 0.25 * -ln 0.01; outside, (1 - b) ln 4 each:
        # 0.5, 1, 1, 1, 1 and 1.5 times. (0.1732868 + 1.1512925 + 6 * 1.3862944) / 8
        ({}, 1.2052932),
        # b > 0 (two): 0.25 ln 2; the others 1.5, 1, 1, 1, 1 and 1.5 times ln 4:
        # (2 * 0.1732868 + 7 * 1.3862944) / 8
        ({"sets": "prediction"}, 1.2563293),
        # as printed the second term has ln 4/3: (2 * 0.1732868 + 7 * 0.2876821) / 8
        ({"sets": "prediction", "literal": True}, 0.2950435),
    ],
)
def test_coherence_loss_by_hand(options, expected):
    """Eq. 9 at P(1) = 3/4; with |b| or b in place of 1 - b, four voxels would cost nothing."""
    logit = torch.full((1, 2, 2, 2), LN3)
    found = coherence_loss(logit, B, LABEL, **options)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_a_mask_where_the_boundary_is_zero_is_penalised():
    """What the text asks of eq. 9: b = 0 and mask 1 cost -log P(0), and pull the mask down."""
    logit = torch.full((1, 2, 2, 2), LN3, requires_grad=True)
    nothing = torch.zeros(1, 2, 2, 2)
    loss = coherence_loss(logit, nothing, nothing)
    assert loss.item() == pytest.approx(1.3862944, rel=1e-6)  # ln 4
    loss.backward()
    # d/dx -log(1 - sigmoid(x)) = sigmoid(x) = 0.75, over 8 voxels
    torch.testing.assert_close(logit.grad, torch.full((1, 2, 2, 2), 0.75 / 8))


def test_printed_coherence_rewards_clefts_in_the_background():
    """Corrected, a mask in the background costs more the surer it is; printed, less."""
    b = torch.full((1, 2, 2, 2), -0.9)
    none = torch.zeros(1, 2, 2, 2)
    costs = {
        literal: [
            coherence_loss(torch.full((1, 2, 2, 2), x), b, none, literal=literal).item()
            for x in (-3.0, 3.0)
        ]
        for literal in (False, True)
    }
    assert costs[False][0] < costs[False][1]
    assert costs[True][0] > costs[True][1]


def test_the_literal_objective_is_the_printed_sum():
    """L_s + 0.5 L_b + 0.2 L_c of the eight voxels, eq. 8 and 9 as printed."""
    logit = torch.full((1, 2, 2, 2), LN3)
    output = torch.stack([logit, B.atanh()], dim=1)
    parts = objective("mask_and_boundary", {"literal": True}).loss(
        output, {"mask": MASK, "tanh-distance": LABEL}
    )
    # eq. 7: (2 * 0.75 ln 4/3 + 6 * 0.25 ln 4) / 8
    assert parts["mask"].item() == pytest.approx(0.3138706, rel=1e-6)
    assert parts["boundary"].item() == pytest.approx(0.5 * 0.078125, rel=1e-5)
    assert parts["coherence"].item() == pytest.approx(0.2 * 0.2950435, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "mask", "boundary"),
    [
        # without clefts beta_s is 1: as printed nothing outside counts; clipped, with 0.05
        ({}, 0.05 * 1.3862944, 0.5 * 0.05 * 0.09),
        ({"share_clip": 0.0}, 0.0, 0.0),
        ({"share_clip": 0.2}, 0.2 * 1.3862944, 0.5 * 0.2 * 0.09),
        # beta_b as printed is then 0, and all errors count in full
        ({"literal": True}, 0.0, 0.5 * 0.09),
    ],
)
def test_shares_are_clipped_unless_printed(options, mask, boundary):
    """A patch without clefts, P(1) = 3/4 and b = 0.3: which weight its voxels have."""
    none = torch.zeros(1, 2, 2, 2)
    output = torch.stack([none + LN3, none + math.atanh(0.3)], dim=1)
    parts = objective("mask_and_boundary", options).loss(
        output, {"mask": none, "tanh-distance": none}
    )
    assert parts["mask"].item() == pytest.approx(mask, rel=1e-5)
    assert parts["boundary"].item() == pytest.approx(boundary, rel=1e-5)


def test_shares_are_those_of_each_patch():
    """Two of eight voxels are cleft in one patch, six in the other; of the batch, half."""
    masks = torch.cat([MASK, 1 - MASK])
    known = torch.ones(2, 2, 2, 2, dtype=torch.bool)
    assert Share()(masks == 1, known).flatten().tolist() == [0.25, 0.75]
    assert Share("batch")(masks == 1, known).flatten().tolist() == [0.5]
    known[0, :, :, 1] = False  # one of the two, and three of the six others, are not known
    assert Share()((masks == 1) & known, known).flatten().tolist() == [0.25, 0.75]


def test_literal_leaves_nothing_to_choose():
    """An option that says otherwise is a usage error that names it."""
    for option, value in (
        ("share_clip", 0.0),
        ("share_of", "batch"),
        ("coherence_sets", "prediction"),
    ):
        with pytest.raises(UsageError, match=f"leave out {option}$"):
            objective("mask_and_boundary", {"literal": True, option: value})


def test_the_printed_logarithm_is_not_bounded():
    """As printed, log b has the b that was predicted, however small; 0 is in the other set."""
    logit, b = torch.full((1, 2, 2, 2), -LN3), torch.zeros(1, 2, 2, 2)
    b[0, 0, 0, 0] = 1e-30
    found = coherence_loss(logit, b, torch.zeros_like(b), sets="prediction", literal=True)
    # 0.75 * 69.0775528, and seven times ln 4
    assert found.item() == pytest.approx((0.75 * 69.0775528 + 7 * 1.3862944) / 8, rel=1e-6)


def test_parts_are_weighted_as_stated():
    """The label augmentor is L_s + 0.5 L_b + 0.2 L_c, and the factors are options."""
    output = output_of(objective("mask_and_boundary"))
    targets = targets_of(objective("mask_and_boundary"), some_ids())
    logit, b, distance = output[:, 0], output[:, 1].tanh(), targets["tanh-distance"]
    parts = objective("mask_and_boundary").loss(output, targets)
    changed = objective("mask_and_boundary", {"boundary": 2.0, "coherence": 0.0, "dice": 0.5})
    assert list(parts) == ["mask", "boundary", "coherence"]
    torch.testing.assert_close(parts["mask"], weighted_cross_entropy(logit, targets["mask"]))
    torch.testing.assert_close(parts["boundary"], 0.5 * boundary_loss(b, distance))
    torch.testing.assert_close(parts["coherence"], 0.2 * coherence_loss(logit, b, distance))
    others = changed.loss(output, targets)
    torch.testing.assert_close(others["boundary"], 2 * boundary_loss(b, distance))
    torch.testing.assert_close(others["dice"], 0.5 * dice_loss(logit, targets["mask"]))
    assert others["coherence"] == 0


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_unknown_voxels_change_nothing(name, options):
    """Where nobody knows, the output has no effect on the loss and gets no gradient."""
    learned = objective(name, options)
    targets = targets_of(learned, some_ids(unknown=True))
    output = output_of(learned).requires_grad_()
    loss = total(learned, output, targets)
    loss.backward()
    other = output.detach().clone()
    other[:, :, :, 5:] = output_of(learned, seed=9, scale=50)[:, :, :, 5:]
    assert total(learned, other, targets).item() == loss.item()
    assert (output.grad[:, :, :, 5:] == 0).all()
    assert (output.grad[:, :, :, :5] != 0).any()


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_unknown_voxels_do_not_dilute(name, options):
    """The mean is over known voxels: the loss is that of the known part alone."""
    learned = objective(name, options)
    targets = targets_of(learned, some_ids(unknown=True))
    output = output_of(learned)
    part = {k: v[:, :, :5] for k, v in targets.items()}
    torch.testing.assert_close(
        total(learned, output, targets), total(learned, output[:, :, :, :5], part)
    )


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_loss_is_a_mean(name, options):
    """Twice the voxels of the same kind cost the same: the step size knows no tile size."""
    learned = objective(name, options)
    targets, output = targets_of(learned, some_ids()), output_of(learned)
    doubled = {k: torch.cat([v, v], dim=-1) for k, v in targets.items()}
    torch.testing.assert_close(
        total(learned, output, targets),
        total(learned, torch.cat([output, output], dim=-1), doubled),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_every_map_is_from_0_to_1(name, options, dtype):
    """Maps are (n, z, y, x) float32 in [0, 1] and rise with the output."""
    learned = objective(name, options)
    assert next(iter(learned.maps)) == "cleft"
    for one in learned.maps.values():
        levels = [one(output_of(learned, scale=s).to(dtype)) for s in (1, 100)]
        assert all(p.shape == (2, 4, 8, 8) and p.dtype == torch.float32 for p in levels)
        assert all(((p >= 0) & (p <= 1)).all() for p in levels)
        certain = torch.full((1, learned.channels, 1, 1, 1), 100.0)
        assert one(-certain).item() < 0.01
        assert one(certain).item() > 0.99


def test_the_boundary_map_is_zero_outside():
    """As in the label, 0 is outside: what the network puts below it is no negative distance."""
    output = (
        torch.tensor([-50.0, -0.1, 0.0, 0.1, 50.0]).reshape(1, 1, 1, 1, 5).expand(1, 2, 1, 1, 5)
    )
    found = objective("mask_and_boundary").maps["boundary"](output)
    torch.testing.assert_close(found.flatten(), torch.tensor([0, 0, 0, 0.1, 50]).tanh())


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("mask", ("cleft",)),
        ("mask_and_boundary", ("cleft",)),
        ("mask_and_boundary", ("cleft", "boundary")),
    ],
)
def test_maps_that_there_are_may_be_asked_for(name, maps):
    """The probability, and what else an objective has."""
    check_maps(name, maps)


@pytest.mark.parametrize(
    ("name", "maps", "has"),
    [
        ("mask", ("cleft", "boundary"), "has cleft,"),
        ("mask_and_boundary", ("cleft", "bundary"), "has cleft,boundary,"),
        ("mask_and_boundary", ("boundary", "cleft"), "cleft to come first"),
        ("mask_and_boundary", ("boundary",), "cleft to come first"),
        ("mask_and_boundary", ("cleft", "cleft"), "has cleft,boundary,"),
        ("distance", ("cleft", ""), "has cleft,"),
    ],
)
def test_maps_that_there_are_not_are_refused(name, maps, has):
    """A usage error that names those there are."""
    with pytest.raises(UsageError, match=f"^channels {','.join(maps)}: objective {name} .*{has}"):
        check_maps(name, maps)


@pytest.mark.parametrize("name", OF_CLEFTS)
def test_objective_asks_for_targets_that_exist(name):
    """Its targets are rows of the table of targets."""
    assert set(OBJECTIVES[name].targets) <= TARGETS.keys()


def test_unknown_objective_names_those_there_are():
    """An unknown objective is a usage error that lists the objectives."""
    with pytest.raises(UsageError, match="maks") as caught:
        objective("maks")
    assert all(name in str(caught.value) for name in OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_unknown_option_names_those_there_are(name):
    """An unknown option is a usage error that names it and lists the objective's own."""
    with pytest.raises(UsageError, match="bounderies") as caught:
        objective(name, {"bounderies": 1})
    assert all(f.name in str(caught.value) for f in dataclasses.fields(OBJECTIVES[name]))


def test_channels_and_targets_are_no_options():
    """What an objective is made of cannot be set from a config."""
    with pytest.raises(UsageError, match="channels"):
        objective("mask", {"channels": 3})


def test_dice_by_hand():
    """1 - 2 |p y| / (|p| + |y|) over the known voxels."""
    logit = cube(LN3, -LN3, LN3, -LN3, -LN3, -LN3, -LN3, LN3)
    mask = cube(1, 1, 0, 0, 0, 0, 0, 255)
    both, predicted, true = 0.75 + 0.25, 2 * 0.75 + 5 * 0.25, 2
    assert dice_loss(logit, mask).item() == pytest.approx(1 - 2 * both / (predicted + true))
    parts = objective("mask", {"dice": 0.5}).loss(logit[:, None], {"mask": mask})
    torch.testing.assert_close(parts["dice"], 0.5 * dice_loss(logit, mask))
    assert list(objective("mask").loss(logit[:, None], {"mask": mask})) == ["mask"]


def test_distance_by_hand():
    """Both classes of each patch weigh a half: 2 of 8 voxels inside weigh 2, the others 2 / 3."""
    distance = torch.cat([cube(0.5, 0.5, -1, -1, -1, -1, -1, -1), cube(*[-1.0] * 8)])
    found = balanced_error(torch.zeros(2, 2, 2, 2), distance)
    patches = 2 * 0.25 * 2 + 6 * 1 * 2 / 3, 8 / (2 * 0.95)
    assert found.item() == pytest.approx(sum(patches) / 16)


def test_the_surface_of_a_cleft_is_probability_one_half():
    """The distance of 0 is 0.5; -1 and 1 are the ends, and what lies beyond them."""
    levels = torch.tensor([-3.0, -1, -0.5, 0, 0.5, 1, 3]).reshape(1, 1, 1, 1, 7)
    found = objective("distance").maps["cleft"](levels)
    assert found.flatten().tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]


def test_only_hidden_voxels_are_reconstructed():
    """The loss is the mean squared error where the second channel says hidden."""
    raw, guessed = cube(0, 0, 1, 1, 0, 0, 0, 0), cube(9, 9, 0, 1, 0, 0, 3, 9)
    hidden = cube(0, 0, 1, 1, 0, 0, 1, 0)
    learned = objective("reconstruction")
    output = torch.stack([guessed, hidden], dim=1).requires_grad_()
    loss = learned.loss(output, {"raw": raw[:, None]})["reconstruction"]
    assert loss.item() == pytest.approx((1 + 0 + 9) / 3)
    loss.backward()
    assert (output.grad[:, 0] != 0).equal((hidden > 0) & (raw != guessed))
    nothing = torch.stack([guessed, torch.zeros_like(hidden)], dim=1)
    assert learned.loss(nothing, {"raw": raw[:, None]})["reconstruction"].item() == 0


def test_patches_may_be_normalised_before():
    """Raw is then guessed with mean 0 and variance 1 in each patch."""
    raw = torch.rand(2, 4, 8, 6, generator=torch.Generator().manual_seed(0)) * 5
    found = objective("reconstruction", {"normalise": [2, 4, 3]}).target(raw)
    for z, y, x in np.ndindex(2, 2, 2):
        patch = np.s_[:, 2 * z : 2 * z + 2, 4 * y : 4 * y + 4, 3 * x : 3 * x + 3]
        mean = raw[patch].mean((1, 2, 3), keepdim=True)
        expected = (raw[patch] - mean) / raw[patch].std((1, 2, 3), keepdim=True, correction=0)
        torch.testing.assert_close(found[patch], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(objective("reconstruction").target(raw), raw)


def test_a_masked_autoencoder_knows_no_clefts():
    """It has no map to predict."""
    assert objective("reconstruction").maps == {}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask_and_boundary", {"literal": "false"}),
        ("mask_and_boundary", {"boundary": -1.0}),
        ("mask_and_boundary", {"coherence": "0.5"}),
        ("mask_and_boundary", {"coherence_sets": "labels"}),
        ("mask", {"share_clip": 0.6}),
        ("mask", {"share_of": "volume"}),
        ("mask", {"dice": -1}),
        ("mask", {"dice": [1]}),
        ("reconstruction", {"normalise": [1, 8]}),
        ("reconstruction", {"normalise": True}),
    ],
)
def test_options_of_another_kind_are_named(name, options):
    """A wrong type or a weight below 0 is a usage error that names the option."""
    with pytest.raises(UsageError, match=next(iter(options))):
        objective(name, options)
