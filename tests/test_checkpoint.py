"""Checkpoints: what goes in comes out, halves never appear, and no code runs from them."""

import dataclasses
import json
import os
import pickle
import resource
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cleftcli.errors import CleftError, InputError, UnsafeError
from cleftcli.model.checkpoint import Checkpoint, digest, load, read_tensors, restore, save

TINY = Checkpoint(
    network="unet3d",
    options={"channels": [2, 3]},
    input_shape=(4, 8, 8),
    objective="mask_and_boundary",
    objective_options={"boundary": 0.25},
    voxel_size=(40.0, 4.0, 4.5),
    step=17,
    threshold=0.37,
    training={"licence": "CC BY 4.0", "scores": [{"f1": 0.5}, {}], "name": "Çiçek µm"},
    version="1.2.3",
)


class Malicious:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def weights(seed=0):
    torch.manual_seed(seed)
    return TINY.new_network().state_dict()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, TINY, weights())
    return path


def rewritten(path, change):
    """A copy of a checkpoint with another JSON header."""
    tensors, header = read_tensors(path)
    changed = path.with_name("changed.safetensors")
    save_file(tensors, changed, metadata={"cleft": json.dumps(change(header))})
    return changed


def test_everything_comes_back(saved):
    """Metadata and weights are those that were saved, types included."""
    found, tensors = load(saved)
    assert found == TINY
    assert tensors.keys() == weights().keys()
    assert all(torch.equal(v, tensors[k]) for k, v in weights().items())
    assert all(v.dtype == tensors[k].dtype for k, v in weights().items())


@pytest.mark.parametrize("threshold", [None, 0.0, 1.0])
def test_threshold_may_be_missing(tmp_path, threshold):
    """A threshold that nobody chose stays None."""
    made = dataclasses.replace(TINY, threshold=threshold)
    save(tmp_path / "a.safetensors", made, {})
    assert load(tmp_path / "a.safetensors")[0].threshold == threshold


def test_restored_network_is_ready_to_predict(saved):
    """The network has the weights and is in evaluation mode; the objective has its options."""
    found, network = restore(saved)
    assert not network.training
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in weights().items())
    assert found.new_objective().boundary == 0.25


def test_half_precision_weights_are_widened(tmp_path):
    """Weights stored as float16 compute in float32."""
    narrow = {k: v.half() if v.is_floating_point() else v for k, v in weights().items()}
    save(tmp_path / "a.safetensors", TINY, narrow)
    state = restore(tmp_path / "a.safetensors")[1].state_dict()
    assert all(v.dtype in (torch.float32, torch.int64) for v in state.values())
    assert all(torch.equal(v.to(state[k].dtype), state[k]) for k, v in narrow.items())


def test_weights_may_be_views(tmp_path):
    """Transposed and partial tensors are stored as they look."""
    view = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)[1:]
    save(tmp_path / "a.safetensors", TINY, {"view": view})
    assert torch.equal(load(tmp_path / "a.safetensors")[1]["view"], view)


@pytest.mark.parametrize("room", [0, 1, 1000])
@pytest.mark.parametrize("there", [True, False])
def test_a_failing_save_leaves_what_was_there(saved, room, there):
    """A disk that has room for some bytes only leaves the old file, or none."""
    before = saved.read_bytes()
    if not there:
        saved.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(Exception, match="too large"):
            save(saved, TINY, weights(seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved.exists() == there
    assert not there or saved.read_bytes() == before


def test_a_save_is_synced_before_it_is_seen(saved, monkeypatch):
    """The file takes its name only after its bytes are on disk."""
    before = saved.read_bytes()

    def lost_power(_descriptor):
        assert saved.read_bytes() == before
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", lost_power)
    with pytest.raises(Exception, match="Input/output error"):
        save(saved, TINY, weights(seed=1))
    assert saved.read_bytes() == before


def test_a_save_leaves_one_file(saved):
    """Saving again replaces the file and leaves nothing beside it."""
    save(saved, TINY, weights(seed=1))
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    assert not torch.equal(load(saved)[1]["head.weight"], weights(seed=0)["head.weight"])


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.5, -1])
def test_a_truncated_file_is_refused(saved, kept):
    """A file cut anywhere is an input error that names it."""
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match=r"a\.safetensors"):
        load(saved)


def test_a_missing_file_is_an_input_error(tmp_path):
    """No file, or a folder, is an input error that names it."""
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(InputError, match=path.name):
            load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"cleft": "[1]"}, {"cleft": "{"}])
def test_foreign_safetensors_are_refused(tmp_path, metadata):
    """Somebody else's safetensors file is an input error, not a crash."""
    path = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(InputError, match=r"foreign\.safetensors"):
        load(path)


@pytest.mark.parametrize("lost", [f.name for f in dataclasses.fields(Checkpoint)])
def test_a_header_may_not_lack_what_is_needed(saved, lost):
    """A header without a key either loads with its default or is an input error that names it."""
    path = rewritten(saved, lambda h: {k: v for k, v in h.items() if k != lost})
    if lost in ("threshold", "intensities", "training", "version"):
        assert load(path)[0].network == TINY.network
    else:
        with pytest.raises(InputError, match=lost):
            load(path)


@pytest.mark.parametrize(
    "change", [{"input_shape": [8, 8]}, {"voxel_size": None}, {"voxel_size": [1, 2]}]
)
def test_a_malformed_header_is_refused(saved, change):
    """A shape or voxel size that is none is an input error."""
    with pytest.raises(InputError, match=r"changed\.safetensors"):
        load(rewritten(saved, lambda h: {**h, **change}))


def test_keys_of_newer_versions_are_passed_over(saved):
    """A header that says more than this version knows still loads."""
    assert load(rewritten(saved, lambda h: {**h, "mood": "good"}))[0] == TINY


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"channels": [2, 4]}},
        {"options": {"channels": [2, 3, 4]}},
        {"network": "cleftnet"},
        {"objective": "mask", "objective_options": {}},
    ],
)
def test_weights_of_another_network_are_refused(saved, change):
    """Weights that do not fit the network that the header names are an input error."""
    with pytest.raises(InputError, match="do not fit"):
        restore(rewritten(saved, lambda h: {**h, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"network": "cleftnet9"},
        {"options": {"heads": 3}},
        {"objective": "mask9"},
        {"objective_options": {"gamma": 2}},
    ],
)
def test_a_checkpoint_of_unknown_parts_is_an_input_error(saved, change):
    """A network, objective or option that is not there is the checkpoint's fault: it is named."""
    with pytest.raises(InputError, match=r"changed\.safetensors"):
        restore(rewritten(saved, lambda h: {**h, **change}))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused(tmp_path, protocol):
    """A pickle under any name is refused, as unsafe where it says what it is; no code runs."""
    path, marker = tmp_path / "a.safetensors", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Malicious(marker), protocol=protocol))
    # protocols 0 and 1, which torch never wrote, start with any letter
    with pytest.raises(UnsafeError if protocol > 1 else CleftError, match=r"a\.safetensors"):
        load(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())  # it would have
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_is_refused(tmp_path, zipped):
    """What torch.save writes, in either format, is refused as unsafe."""
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeError, match="pickle"):
        load(path)


def test_no_checkpoint_of_ours_looks_like_a_pickle(tmp_path):
    """A file starts with its header's length, a multiple of 8: none of them is refused."""
    path, seen = tmp_path / "a.safetensors", set()
    for filling in range(0, 256, 8):
        save(path, dataclasses.replace(TINY, version="x" * filling), {})
        seen.add(path.read_bytes()[0])
        assert load(path)[0].step == TINY.step
    assert len(seen) == 32


def test_a_header_as_long_as_a_zip_starts_is_read(tmp_path):
    """A header of 0x4b50 bytes spells PK, and is no zip."""
    path = tmp_path / "a.safetensors"
    save(path, TINY, {})
    missing = 0x4B50 - struct.unpack("<Q", path.read_bytes()[:8])[0]
    save(path, dataclasses.replace(TINY, version=TINY.version + "x" * missing), {})
    assert path.read_bytes()[:2] == b"PK"
    assert load(path)[0].step == TINY.step


def test_digest_follows_the_content(saved):
    """The digest is the same for the same bytes, another for other weights or metadata."""
    first = digest(saved)
    save(saved, TINY, weights())
    assert digest(saved) == first
    save(saved, TINY, weights(seed=1))
    second = digest(saved)
    save(saved, dataclasses.replace(TINY, step=18), weights())
    assert len({first, second, digest(saved)}) == 3
    assert len(first) == 64
