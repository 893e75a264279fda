"""A config in, a run folder out: its checkpoint, the state to resume from, a log, the config."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cleftcli import __version__
from cleftcli.config import Config, Region, load
from cleftcli.errors import CleftError, ConflictError, InputError, UsageError
from cleftcli.foreground import Foreground, read_foreground
from cleftcli.geometry import zyx
from cleftcli.interrupt import stoppable
from cleftcli.metrics import Undefined, cremi_score, scores
from cleftcli.model import build
from cleftcli.model.checkpoint import Checkpoint, read_tensors, save, write_tensors
from cleftcli.model.device import autocast, choose_device, choose_precision, cores
from cleftcli.model.inference import Predictor
from cleftcli.model.objectives import Objective, objective
from cleftcli.prediction import Tiling, predict_roi, quantise, tile_grid
from cleftcli.sampling import Batches, Source, loader, open_source
from cleftcli.scoring import Pair, sweep
from cleftcli.volumes import in_memory
from cleftcli.volumes.intensity import intensity_range

log = logging.getLogger(__name__)
Report = Callable[[int, int, dict[str, float]], None]


class NotFinite(CleftError):
    """The loss became NaN or infinite."""

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
    device: torch.device
    precision: str
    step: int = 0


def train(
    config_path: Path, folder: Path, *, resume: bool, device: str, report: Report
) -> dict[str, Any]:
    """Train as the config says; returns the run's paths, steps and held-out scores.

    Args:
        config_path: TOML.
        folder: of the run; must not hold one already unless `resume`.
        resume: continue the run in `folder` to the bit where it stopped.
        device: see `choose_device`.
        report: called after every step with (step, steps, loss parts).

    Raises:
        ConflictError: the folder holds a run and `resume` is False, or one of another config.
        InputError: data cannot be used, or there is nothing to resume.
        SystemExit: 130 or 143 after a signal; the state is saved.
    """
    config = load(config_path)
    sources = _sources(config, config_path.parent, config.data.train)
    held_out = _sources(config, config_path.parent, config.data.validate_on)
    _refuse_overlap(sources, held_out)
    _prepare_folder(config_path, folder, resume=resume)
    run = _new_run(config, folder, device)
    if resume:
        _load_state(run)
    _loop(run, _batches(config, sources), sources[0].voxel_size, report)
    chosen = _choose_threshold(run, held_out) if held_out else {}
    path = _save_checkpoint(run, sources[0].voxel_size, chosen)
    return {"checkpoint": str(path), "run": str(folder), "steps": run.step, "held_out": chosen}


def _sources(config: Config, base: Path, regions: list[Region]) -> tuple[Source, ...]:
    def place(address: str) -> str:
        return address if "://" in address else str(base / address)

    shape = zyx(config.network.input_shape)
    return tuple(
        open_source(place(r.raw), place(r.clefts), r.roi, r.voxel_size, shape) for r in regions
    )


def _refuse_overlap(train: tuple[Source, ...], held_out: tuple[Source, ...]) -> None:
    for a in train:
        for b in held_out:
            if a.raw == b.raw and a.roi.intersect(b.roi).size:
                raise UsageError(
                    f"data.validate: {b.roi} of {b.raw} overlaps the training region {a.roi}"
                )


def _prepare_folder(config_path: Path, folder: Path, *, resume: bool) -> None:
    copy, state = folder / "config.toml", folder / "state.safetensors"
    if resume and not state.is_file():
        raise InputError(f"{folder}: nothing to resume, there is no {state.name}")
    if resume and copy.read_bytes() != config_path.read_bytes():
        raise ConflictError(f"{folder} was started with another config; compare {copy}")
    if not resume and (folder / "log.jsonl").exists():
        raise ConflictError(f"{folder} holds a run; continue it with --resume or choose another -o")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(config_path, copy)


def _new_run(config: Config, folder: Path, device_name: str) -> Run:
    torch.manual_seed(config.seed)
    torch.set_num_threads(cores())
    device = choose_device(device_name)
    learned = objective(config.objective.name, config.objective.options)
    network = build(
        config.network.name,
        out_channels=learned.channels,
        input_shape=zyx(config.network.input_shape),
        options=config.network.options,
    ).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=config.training.learning_rate,
        weight_decay=config.training.weight_decay,
    )
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    precision = choose_precision(config.training.precision, device, training=True)
    return Run(config, folder, network, learned, optimizer, average, device, precision)


def _batches(config: Config, sources: tuple[Source, ...]) -> Batches:
    return Batches(
        sources=sources,
        input_shape=zyx(config.network.input_shape),
        targets=objective(config.objective.name).targets,
        batch_size=config.training.batch_size,
        seed=config.seed,
        min_cleft_voxels=config.training.min_cleft_voxels,
        reject_probability=config.training.reject_probability,
        augment=config.augment,
        scale=config.objective.scale,
        unit=config.objective.unit,
    )


def _loop(
    run: Run, batches: Batches, voxel_size: tuple[float, float, float], report: Report
) -> None:
    steps = run.config.training.steps
    started, waited, log_path = time.monotonic(), 0.0, run.folder / "log.jsonl"
    with stoppable() as stop, log_path.open("a", encoding="utf-8") as lines:
        feed = iter(loader(batches, range(run.step, steps), run.config.training.workers))
        run.network.train()
        while run.step < steps:
            before = time.monotonic()
            batch = next(feed)
            waited += time.monotonic() - before
            parts = _update(run, batch)
            report(run.step, steps, parts)
            lines.write(json.dumps({"step": run.step, **parts}) + "\n")
            if run.step % run.config.training.save_every == 0 or stop.signal or run.step == steps:
                lines.flush()
                _save_state(run)
                _save_checkpoint(run, voxel_size, {})
            stop.exit()
    passed = time.monotonic() - started
    log.info("trained %d steps in %.0f s; waited %.0f %% of it for data",
             run.step, passed, 100 * waited / max(passed, 1e-9))  # fmt: skip


def _update(run: Run, batch: dict[str, Tensor]) -> dict[str, float]:
    """One step of the optimiser; the parts of the loss before it."""
    training = run.config.training
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.config, run.step)
    targets = {k: v.to(run.device) for k, v in batch.items() if k != "raw"}
    raw = batch["raw"].to(run.device, memory_format=torch.channels_last_3d)
    with autocast(run.device, run.precision):
        output = run.network(raw)
    parts = run.objective.loss(output, targets)
    loss = torch.stack(list(parts.values())).sum()
    if not torch.isfinite(loss):
        raise NotFinite(
            f"the loss is {loss.item()} at step {run.step}; {run.folder} keeps the state before. "
            f"Batch {run.step} of seed {run.config.seed} did it"
        )
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if training.gradient_clip is not None:
        nn.utils.clip_grad_norm_(run.network.parameters(), training.gradient_clip)
    run.optimizer.step()
    run.step += 1
    _follow(run.average, run.network, training.average, run.step)
    return {"loss": loss.item(), **{k: v.item() for k, v in parts.items()}}


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


def _save_state(run: Run) -> None:
    """All that `--resume` needs; batches need only the step."""
    moments = run.optimizer.state_dict()["state"]
    tensors = {f"network/{k}": v for k, v in run.network.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in run.average.items()}
    tensors |= {f"moment/{i}/{k}": v for i, m in moments.items() for k, v in m.items()}
    write_tensors(run.folder / "state.safetensors", tensors, {"step": run.step})


def _load_state(run: Run) -> None:
    tensors, header = read_tensors(run.folder / "state.safetensors")
    run.step = int(header["step"])
    run.network.load_state_dict(_under("network/", tensors))
    for name, value in _under("average/", tensors).items():
        run.average[name].copy_(value)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("moment/", tensors).items():
        index, key = name.split("/")
        moments.setdefault(int(index), {})[key] = value
    groups = run.optimizer.state_dict()["param_groups"]
    run.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _save_checkpoint(
    run: Run, voxel_size: tuple[float, float, float], held_out: dict[str, Any]
) -> Path:
    config = run.config
    checkpoint = Checkpoint(
        network=config.network.name,
        options=config.network.options,
        input_shape=zyx(config.network.input_shape),
        objective=config.objective.name,
        objective_options=config.objective.options,
        voxel_size=voxel_size,
        step=run.step,
        threshold=held_out.get("threshold"),
        training={
            "config": config.model_dump(mode="json", by_alias=True),
            "licence": config.data.licence,
            "held_out": held_out,
            "precision": run.precision,
        },
        version=__version__,
    )
    path = run.folder / "checkpoint.safetensors"
    save(path, checkpoint, {k: v.half() if _is_weight(v) else v for k, v in run.average.items()})
    return path


def _is_weight(value: Tensor) -> bool:
    """Weights are stored as float16: rounding them by 1e-3 of their size changes no score."""
    return value.is_floating_point() and value.numel() > 1024


def _choose_threshold(run: Run, held_out: tuple[Source, ...]) -> dict[str, Any]:
    """The threshold with the best mean CREMI-score on held-out regions, and the scores there."""
    run.network.load_state_dict(run.average)
    predictor = Predictor(run.network.eval(), run.objective, run.device, run.precision)
    pairs = [_held_out_pair(predictor, source, run.config) for source in held_out]
    compared = [sweep(pair) for pair in pairs]
    means: dict[float, float] = {}
    for row in zip(*compared, strict=True):
        try:
            means[row[0][0]] = float(np.mean([cremi_score(c) for _, c in row]))
        except Undefined:
            continue
    threshold = min(means, key=means.__getitem__, default=0.5)
    found = [scores(c) for rows in compared for t, c in rows if t == threshold]
    regions = [{"raw": s.raw.split("/")[-1], "roi": str(s.roi)} for s in held_out]
    return {"threshold": threshold, "scores": found or [{}], "regions": regions}


def _held_out_pair(predictor: Predictor, source: Source, config: Config) -> Pair:
    """Prediction and truth of a held-out region, tiled, blended and stored as `predict` does."""
    image, ids = source.volumes()
    grid = tile_grid(image.shape, zyx(config.network.input_shape))
    tiling = Tiling(grid, "bump")
    found = predict_roi(predictor, image, intensity_range(image), tiling, source.roi)
    probability = in_memory(quantise(found.probability), like=image)
    truth = read_foreground(in_memory(ids.read(source.roi), like=ids))
    prediction = Foreground(probability, "probability", 0.5)
    return Pair(prediction, truth, probability.roi, source.voxel_size)
