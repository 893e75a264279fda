"""A checkpoint: weights and everything needed to use them, in one safetensors file.

No code runs from it: tensors by safetensors, the rest JSON in its header.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from cleftcli.errors import CleftError, InputError, UnsafeError
from cleftcli.geometry import Zyx
from cleftcli.model import build
from cleftcli.model.objectives import Objective, objective

LEAST_SHARE = 0.1  # of a checkpoint's weights, or it is another network's
_PICKLE_STARTS = (b"PK", b"\x80")


@dataclass(frozen=True)
class Checkpoint:
    """What rebuilds a network, reads its output, and tells where it came from."""

    network: str
    options: Mapping[str, Any]
    input_shape: Zyx
    objective: str
    objective_options: Mapping[str, Any]
    voxel_size: tuple[float, float, float]  # nm, of the training data
    step: int
    threshold: float | None = None  # chosen on held-out data
    intensities: tuple[float, ...] = ()  # histogram of the training data, black to white
    training: Mapping[str, Any] = field(default_factory=dict)  # config, data, scores, licence
    version: str = ""

    @property
    def query_correlation(self) -> list[float]:
        """Of learned queries with their start: the least and the greatest; none where none is."""
        found = self.training.get("query_correlation", {}).values()
        return [round(pick(found), 4) for pick in (min, max)] if found else []

    def new_network(self) -> nn.Module:
        """The network with fresh weights."""
        return build(
            self.network,
            out_channels=self.new_objective().channels,
            input_shape=self.input_shape,
            options=self.options,
        )

    def new_objective(self) -> Objective:
        """The objective it was trained with."""
        return objective(self.objective, self.objective_options)


def shipped() -> Path:
    """The checkpoint that comes with cleft."""
    return Path(str(resources.files("cleftcli") / "checkpoints" / "default.safetensors"))


def save(path: Path, checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> None:
    """Write a checkpoint; a reader finds the old file or the new one, never half of either."""
    write_tensors(path, weights, asdict(checkpoint))


def load(path: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """A checkpoint and its weights, on the CPU.

    Raises:
        InputError: no such file, damaged, or not one of ours.
        UnsafeError: a pickle, which could run code.
    """
    tensors, header = read_tensors(path)
    missing = {f.name for f in fields(Checkpoint) if f.default is MISSING} - header.keys()
    missing -= {"training"}
    if missing:
        raise InputError(f"{path}: no checkpoint of cleft; its header lacks {sorted(missing)}")
    known = {f.name for f in fields(Checkpoint)}
    values = {k: v for k, v in header.items() if k in known}
    try:
        d, h, w = (int(n) for n in values["input_shape"])
        z, y, x = (float(n) for n in values["voxel_size"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged header: {error}; copy it again") from error
    values |= {"input_shape": (d, h, w), "voxel_size": (z, y, x)}
    values["intensities"] = tuple(values.get("intensities", ()))
    return Checkpoint(**values), tensors


def restore(path: Path) -> tuple[Checkpoint, nn.Module]:
    """A checkpoint and its network with the weights in it, in evaluation mode.

    Raises:
        InputError: as `load`, or the weights are another network's.
    """
    checkpoint, weights = load(path)
    try:
        network = checkpoint.new_network()
    except (TypeError, ValueError, CleftError) as error:
        raise InputError(f"{path}: cannot be rebuilt: {error}") from error
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2]
        raise InputError(f"{path}: the weights do not fit {checkpoint.network}: {first}") from error
    return checkpoint, network.eval()


def initialise(network: nn.Module, path: Path) -> str:
    """Take the weights of a checkpoint that have a name and shape of the network's; says which.

    Raises:
        InputError: they are hardly any, or it is no checkpoint.
    """
    _, theirs = load(path)
    ours = network.state_dict()
    taken = {k: v for k, v in theirs.items() if k in ours and v.shape == ours[k].shape}
    share = _numbers(taken) / max(_numbers(theirs), 1)
    if share < LEAST_SHARE:
        raise InputError(f"{path}: only {share:.1%} of its weights fit the network")
    network.load_state_dict(taken, strict=False)
    left, fresh = theirs.keys() - taken.keys(), ours.keys() - taken.keys()
    return (
        f"{path}: {len(taken)} tensors taken ({_parts(taken)}); {len(left)} of it left "
        f"({_parts(left)}); {len(fresh)} of the network start afresh ({_parts(fresh)})"
    )


def _numbers(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.numel() for t in tensors.values())


def _parts(names: Iterable[str]) -> str:
    """The parts of a network that tensors belong to."""
    return ", ".join(sorted({name.split(".")[0] for name in names})) or "none"


def digest(path: Path) -> str:
    """SHA-256 of the file: what a run's fingerprint says of its checkpoint."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Tensors and a JSON header to a temporary file, synced, then renamed over `path`."""
    partial = path.with_name(f".{path.name}.partial")
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    data = serialize(plain, metadata={"cleft": json.dumps(header)})
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and the JSON header of a file of ours.

    Raises:
        InputError: no such file, or damaged.
        UnsafeError: a pickle.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    with path.open("rb") as file:
        start = file.read(9)
    # a safetensors header begins at byte 8, after its length, which may look like anything
    if start[8:] != b"{" and start.startswith(_PICKLE_STARTS):
        raise UnsafeError(
            f"{path}: is a pickle, and loading it could run code; ask its author for a "
            "safetensors checkpoint"
        )
    try:
        with safe_open(path, framework="pt") as opened:
            header = dict(json.loads((opened.metadata() or {}).get("cleft", "{}")))
            return {name: opened.get_tensor(name) for name in opened.keys()}, header  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError, OSError) as error:
        raise InputError(
            f"{path}: damaged, or no safetensors file: {error}; copy it again"
        ) from error
