"""What the networks are made of, against their formulas."""

import pytest
import torch
from torch.nn import functional

from cleftcli.model import build
from cleftcli.model.layers import ResidualBlock, factor, level_shapes
from cleftcli.model.networks.attention_unet import Gate
from cleftcli.model.networks.vnet import Stage


def features(c, shape=(2, 4, 4), seed=0):
    return torch.randn(2, c, *shape, generator=torch.Generator().manual_seed(seed))


def test_a_residual_block_adds_before_its_last_elu():
    """elu(x + norm(conv(elu(norm(conv(x))))))."""
    block, x = ResidualBlock(3).eval(), features(3)
    (conv_1, norm_1, _), (conv_2, norm_2) = block.first, block.second
    expected = functional.elu(x + norm_2(conv_2(functional.elu(norm_1(conv_1(x))))))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("level", range(5))
def test_a_stage_of_v_net_adds_its_input(level):
    """elu(widened input + convolutions), as many of them as the level has, the last without ELU."""
    stage, x = Stage(3, 5, level).eval(), features(3)
    count = (1, 2, 3, 3, 3)[level]
    assert len(stage.blocks) == count
    y = x
    for n, block in enumerate(stage.blocks):
        y = block[1](block[0](y))
        y = functional.elu(y) if n < count - 1 else y
    torch.testing.assert_close(stage(x), functional.elu(stage.widen(x) + y))


def test_a_gate_weighs_its_skip():
    """out(skip * sigmoid(psi(relu(W_x skip + W_g below)))), the weight found on the coarse grid."""
    gate, skip, below = Gate(3, 5, (1, 2, 2)).eval(), features(3, (2, 8, 8)), features(5)
    coarse = functional.conv3d(skip, gate.of_skip.weight, stride=(1, 2, 2))
    psi = gate.psi(functional.relu(coarse + gate.of_below(below)))
    weight = functional.interpolate(psi.sigmoid(), (2, 8, 8), mode="trilinear")
    torch.testing.assert_close(gate(skip, below), gate.out(skip * weight))


def test_segnet_puts_values_back_where_they_were():
    """With nothing but pooling left, each maximum is at its place, and zeros elsewhere."""
    network = build("segnet", out_channels=4, input_shape=(2, 8, 8), options={"channels": [4, 4]})
    for part in (network.encoders, network.decoders, network.bottom):
        for n in range(len(part)):
            part[n] = torch.nn.Identity()
    network.encoders[0] = torch.nn.Conv3d(1, 4, 1)
    network.head = torch.nn.Identity()
    x = torch.randn(2, 1, 2, 8, 8)
    y = network.encoders[0](x)
    found = network(x)
    maxima = functional.max_pool3d(y, 2)
    kept = found != 0
    assert (kept.sum() == maxima.numel()).item()
    torch.testing.assert_close(found[kept], y[kept])
    torch.testing.assert_close(functional.max_pool3d(found, 2).clamp(min=0), maxima.clamp(min=0))


@pytest.mark.parametrize(("depth", "taken"), [(3, [2, 1, 0]), (6, [5, 3, 1]), (12, [11, 7, 3])])
def test_deeper_levels_of_vit_take_deeper_tokens(depth, taken):
    """The bottom takes the last tokens, the finest level of tokens the earliest."""
    options = {"patch": [1, 8, 8], "width": 12, "depth": depth, "heads": 2, "channels": [4, 4, 4]}
    network = build("vit", out_channels=1, input_shape=(2, 16, 16), options=options)
    assert network.taken == taken
    ups = [sum(isinstance(m, torch.nn.ConvTranspose3d) for m in s.modules()) for s in network.skips]
    assert ups == [1, 2, 0]


def test_levels_of_the_paper():
    """A depth of 8 is halved three times, then stays."""
    shapes = level_shapes((8, 256, 256), 5)
    assert shapes == [(8, 256, 256), (4, 128, 128), (2, 64, 64), (1, 32, 32), (1, 16, 16)]
    assert factor(shapes[3], shapes[4]) == (1, 2, 2)
