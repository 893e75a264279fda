"""What a network costs, against counting by hand."""

import math

import pytest
import torch
from torch import nn

from cleftcli.model import PRESETS, available, preset
from cleftcli.model.cost import Asked, measure, size

CPU = torch.device("cpu")
SHAPE = (4, 16, 16)


def operations(network, shape):
    """GFLOP of convolutions and products, from the shapes that pass through them."""
    found = []

    def count(module, inputs, output):
        elements = inputs[0].numel() if isinstance(module, nn.ConvTranspose3d) else output.numel()
        found.append(2 * module.weight[0].numel() * elements)

    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d, nn.Linear)):
            module.register_forward_hook(count)
    network(torch.zeros(1, 1, *shape))
    return sum(found) / 1e9


@pytest.mark.parametrize("name", ["unet3d", "vnet", "segnet", "attention_unet"])
def test_operations_are_those_of_the_convolutions(name):
    """Two operations for each weight and each place that it is used at."""
    asked = Asked(name, 2, SHAPE, {"channels": [4, 6, 8]})
    network = asked.build()
    assert size(asked).gflop == pytest.approx(operations(network, SHAPE))


@pytest.mark.parametrize("max_keys", [None, 64])
def test_attention_is_counted_with_its_keys_and_queries(max_keys):
    """Exact attention adds 2 x keys x queries x (c_k + c_v) for each augmentor."""
    options = {"channels": [4, 8], "key_channels": 4, "max_keys": max_keys}
    asked = Asked("cleftnet", 2, SHAPE, options)
    keys = [4 * 16 * 16, 2 * 8 * 8, 2 * 8 * 8]
    queries = [2 * 8 * 8, 2 * 8 * 8, 4 * 16 * 16]
    if max_keys:
        keys = [4 * 4 * 4, 2 * 4 * 4, 2 * 4 * 4]
    pairs = sum(k * q for k, q in zip(keys, queries, strict=True))
    found = size(asked).gflop - operations(asked.build(), SHAPE)
    assert found == pytest.approx(2 * pairs * (4 + 4) / 1e9)


def test_queries_are_counted_apart():
    """They are the positions of each augmentor's output times c_k, and in no other network."""
    asked = Asked("cleftnet", 2, SHAPE, {"channels": [4, 8], "key_channels": 3})
    found = size(asked)
    assert found.queries == 3 * (2 * 8 * 8 + 2 * 8 * 8 + 4 * 16 * 16)
    assert found.parameters == sum(p.numel() for p in asked.build().parameters())
    assert size(Asked("unet3d", 2, SHAPE, {"channels": [4, 8]})).queries == 0


@pytest.mark.parametrize("which", PRESETS)
@pytest.mark.parametrize("name", available())
def test_every_preset_is_counted_without_computing(name, which):
    """The paper's exact attention pairs 3.4e10 positions: counting them allocates nothing."""
    tile, options = preset(name, which)
    found = size(Asked(name, 2, tile, options))
    assert found.parameters > 1e5
    assert found.gflop > 1
    lite = size(Asked(name, 2, *preset(name, "lite")))
    assert found.gflop >= lite.gflop


def test_a_measured_tile_takes_time_and_memory():
    """The height of the process grows with the tile, by more than the tile's first features."""
    options = {"channels": [8, 8]}
    found = [
        measure(Asked("unet3d", 1, shape, options), CPU, precision="float32", threads=1)
        for shape in ((4, 32, 32), (16, 128, 128))
    ]
    features = 8 * math.prod((16, 128, 128)) * 4 / 1e6
    assert found[1].seconds > found[0].seconds > 0
    assert found[1].memory_mb - found[0].memory_mb > features
