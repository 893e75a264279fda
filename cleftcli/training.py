"""A training run from step to step: update, average, save, load.

Knows batches as tensors; where they come from is `sampling`.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cleftcli.config import Config, Training
from cleftcli.errors import CleftError, InputError, UsageError
from cleftcli.geometry import zyx
from cleftcli.machine import cores
from cleftcli.model import build, preset
from cleftcli.model.checkpoint import initialise, read_tensors, write_tensors
from cleftcli.model.device import (
    autocast,
    choose_device,
    choose_precision,
    device_errors,
    use_cpu,
)
from cleftcli.model.objectives import Objective, objective
from cleftcli.model.queries import correlations, learned_queries
from cleftcli.model.transformer import PATCH
from cleftcli.replicas import Replica

log = logging.getLogger(__name__)

ALONE = Replica()
SMALLER_BATCH = (
    "Start a new run with a lower training.batch_size and a higher training.accumulate, which "
    "keeps the number of patches per step; or stop what else uses this memory"
)
STATE = 2  # of what save_state writes and how a step is made; another one is not continued


class NotFinite(CleftError):
    """The loss or a gradient became NaN or infinite."""

    exit_code = 1


@dataclass
class Run:
    """What a training run carries from step to step."""

    config: Config
    folder: Path
    network: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]  # moving average of the weights: what the checkpoint holds
    queries: dict[str, Tensor]  # learned queries as they were at the start
    device: torch.device
    precision: str
    replica: Replica = ALONE
    step: int = 0
    validated: int = 0  # the step of the last validation

    def moved(self) -> dict[str, float]:
        """How far learned queries are from their start: see `correlations`."""
        return correlations(self.queries, self.average)

    def copied(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """A network of its own with other weights, in evaluation mode: a signal may end its use."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(weights)
        return network.eval()

    @functools.cached_property
    def shared(self) -> nn.Module:
        """The network as it is called in training."""
        return self.replica.share(self.network)


def resolved(config: Config) -> Config:
    """The config with the tile and the options of its preset written out.

    Raises:
        UsageError: no such network, preset or objective, or the two do not go together.
    """
    asked = config.network
    tile, options = preset(asked.name, asked.preset)
    if "input_shape" in asked.model_fields_set:
        tile = zyx(asked.input_shape)
    if (asked.name == "mae") != (config.objective.name == "reconstruction"):
        raise UsageError("network mae learns by objective reconstruction, and it alone does")
    patch = {"patch": PATCH, **options, **asked.options}["patch"]
    wanted = config.objective.options.get("normalise", patch)
    if list(wanted) != list(patch):
        raise UsageError(
            f"objective.options.normalise: {wanted} is not the network's patch {patch}"
        )
    full = asked.model_copy(update={"input_shape": tile, "options": options | asked.options})
    return config.model_copy(update={"network": full})


def new_run(
    config: Config,
    folder: Path,
    device_name: str,
    *,
    init_from: Path | None = None,
    replica: Replica = ALONE,
) -> Run:
    """A run at step 0, its weights drawn with the config's seed, or those of a checkpoint.

    Raises:
        InputError: there is nothing to take from the checkpoint to start from.
        UsageError: no such network, objective, option, device or precision.
    """
    torch.manual_seed(config.seed)
    use_cpu(max(cores() // replica.local_count, 1))
    device = choose_device(replica.device(device_name))
    learned = objective(config.objective.name, config.objective.options)
    network = build(
        config.network.name,
        out_channels=learned.channels,
        input_shape=zyx(config.network.input_shape),
        options=config.network.options,
    )
    if init_from is not None:
        log.info("%s", initialise(network, init_from))
    with device_errors(device, "the network"):
        network = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    return Run(
        config=config,
        folder=folder,
        network=network,
        objective=learned,
        optimizer=optimizer_of(network, config.training),
        average=average,
        queries={name: average[name].clone() for name in learned_queries(network)},
        device=device,
        precision=choose_precision(config.training.precision, device, training=True),
        replica=replica,
    )


def optimizer_of(network: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW; learned queries have a group of their own, without weight decay.

    `times` of a group is its learning rate in those of the run.

    Raises:
        UsageError: a learning rate is stated for queries, and none are learned.
    """
    queries = learned_queries(network)
    if training.query_learning_rate is not None and not queries:
        raise UsageError("training.query_learning_rate: this network has no learned queries")
    others = [p for name, p in network.named_parameters() if name not in queries]
    times = (training.query_learning_rate or training.learning_rate) / training.learning_rate
    groups = [
        {"params": others, "weight_decay": training.weight_decay, "times": 1.0},
        {"params": list(queries.values()), "weight_decay": 0.0, "times": times},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=training.learning_rate)


def update(run: Run, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """One step of the optimiser; the mean loss of the batches before it, its parts, and the rate.

    Raises:
        NotFinite: the loss or a gradient is NaN or infinite; the weights are as they were.
        ResourceError: there is no memory for a batch.
    """
    rate = learning_rate(run.config, run.step)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["times"]
    # what a network draws by lot depends on the step alone, so that a resumed run draws the same
    torch.manual_seed(_seed(run.config.seed, run.step, run.replica.rank))
    run.optimizer.zero_grad(set_to_none=True)
    with device_errors(run.device, f"a batch of {len(batches[0]['raw'])} patches", SMALLER_BATCH):
        return _updated(run, batches, rate)


def _updated(run: Run, batches: Sequence[Mapping[str, Tensor]], rate: float) -> dict[str, float]:
    training = run.config.training
    seen = [_backward(run, batch, len(batches)) for batch in batches]
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), training.gradient_clip or math.inf)
    if not torch.isfinite(norm):
        raise NotFinite(f"a gradient is not finite at step {run.step} (seed {run.config.seed})")
    run.optimizer.step()
    run.step += 1
    _follow(run.average, run.network, training.average, run.step)
    means = {name: sum(parts[name] for parts in seen) / len(seen) for name in seen[0]}
    return {"loss": sum(means.values()), **means, "learning_rate": rate}


def _backward(run: Run, batch: Mapping[str, Tensor], count: int) -> dict[str, float]:
    """Add a batch's gradients, of `count` batches; returns the parts of its loss."""
    batch = {k: v.to(run.device) for k, v in batch.items()}
    raw = batch["raw"].contiguous(memory_format=torch.channels_last_3d)
    with autocast(run.device, run.precision):
        output = run.shared(raw)
    parts = run.objective.loss(output, batch)
    loss = torch.stack(list(parts.values())).sum()
    if not torch.isfinite(loss):
        raise NotFinite(f"the loss is {loss.item()} at step {run.step} (seed {run.config.seed})")
    (loss / count).backward()  # type: ignore[no-untyped-call]
    return {name: part.item() for name, part in parts.items()}


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def learning_rate(config: Config, step: int) -> float:
    """Of the update after `step` updates: linear warm-up, then constant or half a cosine to 0."""
    training = config.training
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    if not training.cosine:
        return training.learning_rate
    done = (step - training.warmup_steps) / max(training.steps - training.warmup_steps, 1)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _follow(average: dict[str, Tensor], network: nn.Module, decay: float, step: int) -> None:
    """Moving average; its first steps weigh the young network less (decay grows with step)."""
    decay = min(decay, step / (step + 10))
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - decay)
            else:
                average[name].copy_(value)


def save_state(run: Run) -> None:
    """All that `--resume` needs; batches need only the step."""
    moments = run.optimizer.state_dict()["state"]
    tensors = {f"network/{k}": v for k, v in run.network.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in run.average.items()}
    tensors |= {f"start/{k}": v for k, v in run.queries.items()}
    tensors |= {f"moment/{i}/{k}": v for i, m in moments.items() for k, v in m.items()}
    header = {"state": STATE, "step": run.step, "validated": run.validated}
    write_tensors(run.folder / "state.safetensors", tensors, header)


def load_state(run: Run) -> None:
    """Continue where `save_state` was; the next update is the one it would have made.

    Raises:
        InputError: another version of cleft made it, whose steps were others.
    """
    path = run.folder / "state.safetensors"
    tensors, header = read_tensors(path)
    if header.get("state") != STATE:
        raise InputError(f"{path}: from another version of cleft; start a new run")
    run.step, run.validated = int(header["step"]), int(header.get("validated", 0))
    run.network.load_state_dict(_under("network/", tensors))
    for name, value in _under("average/", tensors).items():
        run.average[name].copy_(value)
    run.queries = _under("start/", tensors)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("moment/", tensors).items():
        index, key = name.split("/")
        moments.setdefault(int(index), {})[key] = value
    groups = run.optimizer.state_dict()["param_groups"]
    run.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
