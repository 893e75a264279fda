"""What one TOML file says about a training run; unknown keys and wrong types are errors.

Knows no torch and no files but the TOML itself: addresses and names are checked where they are
used.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cleftcli.errors import InputError, UsageError
from cleftcli.toml_file import read_toml

Edge = Annotated[float, Field(gt=0)]


class Table(BaseModel):
    """A TOML table: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Region(Table):
    """Raw and the cleft ids that annotate it, or a box of both; raw alone for `reconstruction`."""

    raw: str
    clefts: str | None = None
    roi: str | None = None  # z0:z1,y0:y1,x0:x1 in voxels; an empty end means the face
    voxel_size: tuple[Edge, Edge, Edge] | None = None  # nm, where the store does not say
    axes: str | None = None  # of raw as stored, e.g. "czyx", instead of what the store says
    channel: int | None = Field(default=None, ge=0)  # of raw, of several
    weight: float | None = Field(default=None, gt=0)  # of patches drawn; else as many as fit


class Data(Table):
    """What to learn from, what to choose checkpoint and threshold on, and what to report once."""

    train: list[Region] = Field(min_length=1)
    validate_on: list[Region] = Field(default_factory=list, alias="validate")
    test: list[Region] = Field(default_factory=list)  # scored once, at the end
    licence: str = ""  # carried into the checkpoint
    missing: Literal["fill", "error"] = "fill"  # chunks that are not stored: read as 0, or refuse


class NetworkChoice(Table):
    """A network, a preset, and what replaces the tile and the options that the preset names."""

    name: str = "cleftnet"
    preset: str = "paper"
    input_shape: tuple[int, int, int] = (8, 256, 256)
    options: dict[str, Any] = Field(default_factory=dict)


class ObjectiveChoice(Table):
    """An objective and its options; `scale` and `unit` shape its distance targets."""

    name: str = "mask_and_boundary"
    options: dict[str, Any] = Field(default_factory=dict)
    scale: float | None = Field(default=None, gt=0)
    unit: str | None = None


class Training(Table):
    """The loop; defaults are the paper's (section IV-C) where docs/papers.md names no other."""

    steps: int = Field(default=100_000, ge=1)
    batch_size: int = Field(default=16, ge=1)  # over all processes
    accumulate: int = Field(default=1, ge=1)  # batches a step
    learning_rate: float = Field(default=1e-3, gt=0)
    query_learning_rate: float | None = Field(default=None, gt=0)  # of learned queries, if another
    warmup_steps: int = Field(default=0, ge=0)
    cosine: bool = False  # let the learning rate fall to 0 along half a cosine
    weight_decay: float = Field(default=0.0, ge=0)  # learned queries have none
    gradient_clip: float | None = Field(default=None, gt=0)
    average: float = Field(default=0.0, ge=0, lt=1)  # decay of the moving average of the weights
    min_cleft_voxels: int = Field(default=200, ge=0)
    reject_probability: float = Field(default=0.95, ge=0, lt=1)
    precision: str = "auto"
    init_from: str | None = None  # checkpoint to take weights of the same name and shape from
    save_every: int = Field(default=500, ge=1)
    keep: int = Field(default=2, ge=0)  # checkpoints of earlier saves, beside the best
    validate_every: int = Field(default=5000, ge=1)  # and at the end
    blend: Literal["bump", "none"] = "bump"  # of validated tiles; "none" stacks them
    choose_by: Literal["cremi_score", "f1"] = "cremi_score"  # the best step and threshold
    workers: int = Field(default=1, ge=0)


class Config(Table):
    """A training run."""

    data: Data
    seed: int = Field(default=1, ge=0)
    network: NetworkChoice = NetworkChoice()
    objective: ObjectiveChoice = ObjectiveChoice()
    augment: dict[str, Any] = Field(default_factory=dict)  # probabilities, or tables of parameters
    training: Training = Training()


def load(path: Path) -> Config:
    """The config in a TOML file; its relative addresses start at the file's folder.

    Raises:
        InputError: there is no such file.
        UsageError: it is not TOML, or a key is unknown or impossible; each is named.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such config")
    table = read_toml(path)
    try:
        # as JSON, strict types still let an array be a tuple
        return Config.model_validate_json(json.dumps(table))
    except TypeError as error:  # dates, which no key takes
        raise UsageError(f"{path}: {error}") from error
    except ValidationError as error:
        raise UsageError("\n".join(f"{path}: {_say(e)}" for e in error.errors())) from error


def _say(error: Any) -> str:
    keys = ".".join(str(k) for k in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{keys}: {error['msg'].lower()}, got {error['input']!r}"
    near = difflib.get_close_matches(str(error["loc"][-1]), sorted(_keys(Config)), n=1)
    return f"{keys}: unknown key" + (f"; did you mean {near[0]}?" if near else "")


def _keys(table: type[BaseModel]) -> set[str]:
    """Every key of a table and the tables below it."""
    below = (Data, Region, NetworkChoice, ObjectiveChoice, Training) if table is Config else ()
    own = {f.alias or name for name, f in table.model_fields.items()}
    return own.union(*(_keys(t) for t in below))
