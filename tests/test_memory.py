"""The batch that a GPU has memory for, on a GPU that is not there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cleftcli.errors import ResourceError
from cleftcli.model.inference import Predictor
from cleftcli.model.memory import MOST_TILES, SHARE, fitting_batch, largest_batch
from cleftcli.model.objectives import objective

MB = 2**20


@given(fixed=st.integers(0, 2**34), each=st.integers(1, 2**32), free=st.integers(0, 2**38))
def test_the_largest_power_of_two_that_fits(fixed, each, free):
    """Batches of 1, 2, 4 and so on: the last that takes no more than its share of the memory."""
    fits = [n for n in (1, 2, 4, 8, 16, 32, 64) if fixed + n * each <= SHARE * free]
    assert largest_batch(fixed + each, fixed + 2 * each, free) == max(fits, default=1)


def test_tiles_that_take_nothing():
    """Where a second tile shows no difference, the most there may be is taken."""
    assert largest_batch(MB, MB, 2 * MB) == MOST_TILES


class Pretended:
    """The memory of a GPU: what a batch takes, and how much there is."""

    def __init__(self, *, each, free):
        self.each, self.free, self.height, self.seen = each * MB, free * MB, 0, []

    def compute(self, tiles):
        """Take memory for a batch; in bytes at the height."""
        self.seen.append(tiles)
        self.height = 100 * MB + tiles * self.each
        if self.height > self.free:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")


@pytest.fixture
def fit(monkeypatch):
    """fit(each=MB of a tile, free=MB) -> the batch, and the batches tried."""

    def run(**memory):
        gpu = Pretended(**memory)

        class Network(nn.Module):
            def forward(self, x):
                gpu.compute(len(x))
                return x

        for name, answer in {
            "memory_allocated": lambda _: 7 * MB,
            "reset_peak_memory_stats": lambda _: None,
            "max_memory_allocated": lambda _: 7 * MB + gpu.height,
            "empty_cache": lambda: None,
            "mem_get_info": lambda _: (gpu.free, 2 * gpu.free),
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        using = Predictor(Network(), objective("mask"), torch.device("cpu"), "float32", 8)
        return fitting_batch(using, (2, 4, 4)), gpu.seen

    return run


def test_a_batch_is_found_by_one_tile_and_two(fit):
    """100 MB, and 1000 a tile: 8 are 8100 of 0.8 x 10200 MB."""
    assert fit(each=1000, free=10200) == (8, [1, 2])
    assert fit(each=1000, free=10100) == (4, [1, 2])
    assert fit(each=1, free=10**6) == (MOST_TILES, [1, 2])


def test_a_second_tile_that_does_not_fit(fit):
    """Then it is one at a time."""
    assert fit(each=1000, free=1500) == (1, [1, 2])


def test_one_tile_that_does_not_fit_is_seen_before_any_block(fit):
    """A resource error with what was measured."""
    with pytest.raises(ResourceError, match=r"one tile: .*1 GiB\. Stop"):
        fit(each=1000, free=1000)
