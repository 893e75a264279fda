"""Which precision is chosen where."""

import subprocess

import pytest
import torch

from cleftcli.errors import ResourceError, UsageError
from cleftcli.model import device
from cleftcli.model.device import choose_device, choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def processor(monkeypatch):
    """Sets what the processor says of itself, and what comes of a bfloat16 product there."""

    def make(*, amx: bool, exit_status: int, gpu: bool = True) -> None:
        done = subprocess.CompletedProcess([], exit_status)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: gpu)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
        device._bfloat16_kills.cache_clear()

    yield make
    device._bfloat16_kills.cache_clear()


@pytest.mark.parametrize(
    ("amx", "exit_status", "expected"),
    [(True, 0, "bfloat16"), (True, -4, "float32"), (False, 0, "float32")],
)
def test_auto_is_bfloat16_where_it_is_fast_and_works(processor, amx, exit_status, expected):
    """A processor with matrix units predicts in bfloat16, unless a trial ended in a signal."""
    processor(amx=amx, exit_status=exit_status)
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("auto", CPU, training=True) == "float32"
    assert choose_precision("auto", GPU) == "bfloat16"


def test_a_gpu_without_bfloat16_computes_in_float32(processor):
    """Older cards emulate it slowly."""
    processor(amx=False, exit_status=0, gpu=False)
    assert choose_precision("auto", GPU) == "float32"


def test_what_would_kill_the_process_is_refused(processor):
    """bfloat16 asked for by name is refused before it can end the process."""
    processor(amx=True, exit_status=-4)
    with pytest.raises(ResourceError, match="use float32"):
        choose_precision("bfloat16", CPU)
    assert choose_precision("float32", CPU) == "float32"
    assert choose_precision("bfloat16", GPU) == "bfloat16"
    processor(amx=True, exit_status=0)
    assert choose_precision("bfloat16", CPU) == "bfloat16"


def test_training_on_a_cpu_is_float32():
    """bfloat16 gives wrong gradients there, and is refused."""
    with pytest.raises(UsageError, match="wrong gradients"):
        choose_precision("bfloat16", CPU, training=True)


@pytest.mark.parametrize("name", ["float16", "", "bf16"])
def test_an_unknown_precision_names_those_there_are(name):
    """Another name is a usage error that lists them."""
    with pytest.raises(UsageError, match="auto, float32 or bfloat16"):
        choose_precision(name, CPU)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "meta", "cpu:3"])
def test_an_unknown_device_names_those_there_are(name):
    """So it is with devices."""
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_lack_of_resources():
    """Asking for one says how many there are."""
    with pytest.raises(ResourceError, match="0 GPUs"):
        choose_device("cuda")
