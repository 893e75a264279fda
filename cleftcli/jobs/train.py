"""A config in, a run folder out: its checkpoint, the state to resume from, a log, the config."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cleftcli import __version__
from cleftcli.augment import reach
from cleftcli.config import Config, Region, load
from cleftcli.errors import ConflictError, InputError, UsageError
from cleftcli.foreground import Foreground, read_foreground
from cleftcli.geometry import Zyx, zyx
from cleftcli.inspection import Missing, doubts, look, scan_input
from cleftcli.interrupt import stoppable
from cleftcli.metrics import cremi_score, scores
from cleftcli.model.checkpoint import Checkpoint, save
from cleftcli.model.device import choose_precision
from cleftcli.model.inference import Predictor
from cleftcli.model.objectives import Reconstruction, objective
from cleftcli.pictures import reconstruction
from cleftcli.prediction import Tiling, predict_roi, quantise, tile_grid
from cleftcli.sampling import Batches, Source, loader, open_source
from cleftcli.scoring import Pair, best_candidate, sweep
from cleftcli.training import Run, load_state, new_run, resolved, save_state, update
from cleftcli.volumes import Nm, Reading, in_memory
from cleftcli.volumes.intensity import intensity_range

log = logging.getLogger(__name__)
Report = Callable[[int, int, dict[str, float]], None]


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
    config, base = resolved(load(config_path)), config_path.parent
    _check_regions(config)
    sources = _sources(base, config.data.train, zyx(config.network.input_shape))
    held_out = _sources(base, config.data.validate_on, None)
    _refuse_overlap(sources, held_out, config.augment)
    _prepare_folder(config_path, folder, resume=resume)
    inputs = _inspect((*sources, *held_out), config.data.missing)
    start = config.training.init_from
    run = new_run(config, folder, device, init_from=Path(_place(base, start)) if start else None)
    if resume:
        load_state(run)
    data = _trained_on(sources)
    _loop(run, _batches(config, sources), data, report)
    chosen = _choose_threshold(run, held_out) if held_out else {}
    if isinstance(run.objective, Reconstruction):
        _show_reconstruction(run, run.objective, _batches(config, sources)[run.step], data)
    path = _save_checkpoint(run, data, chosen)
    return {
        "checkpoint": str(path),
        "run": str(folder),
        "steps": run.step,
        "held_out": chosen,
        "inputs": inputs,
    }


def _check_regions(config: Config) -> None:
    """Refuse regions that the objective cannot use.

    Raises:
        UsageError: clefts are missing where they are learned, or nothing can be validated.
    """
    learned = objective(config.objective.name, config.objective.options)
    regions = [*config.data.train, *config.data.validate_on]
    bare = [r.raw for r in regions if r.clefts is None]
    if learned.targets and bare:
        raise UsageError(f"objective {config.objective.name} needs clefts; {bare[0]} has none")
    if not learned.targets and config.data.validate_on:
        raise UsageError("data.validate chooses a threshold; reconstruction has none")


def _sources(base: Path, regions: list[Region], patch: Zyx | None) -> tuple[Source, ...]:
    def open_region(r: Region) -> Source:
        clefts = None if r.clefts is None else _place(base, r.clefts)
        reading = Reading(r.voxel_size, r.axes, r.channel)
        return open_source(_place(base, r.raw), clefts, r.roi, patch, reading)

    return tuple(open_region(r) for r in regions)


def _place(base: Path, address: str) -> str:
    """An address in a config starts at the config's folder."""
    return address if "://" in address else str(base / address)


def _inspect(sources: tuple[Source, ...], missing: Missing) -> list[dict[str, Any]]:
    """What the training and held-out volumes lack, said before the first step."""
    found = []
    for volume in {v.address: v for s in sources for v in s.volumes()}.values():
        for doubt in doubts(volume):
            log.warning("%s: %s", volume.address, doubt)
        scan = scan_input(volume, missing)
        found.append({"address": volume.address, **scan.summary()})
    return found


@dataclass(frozen=True)
class TrainedOn:
    """What a checkpoint remembers of its training data."""

    voxel_size: Nm
    intensities: tuple[float, ...]  # histogram, for later inputs to be held against


def _trained_on(sources: tuple[Source, ...]) -> TrainedOn:
    seen = []
    for source in sources:
        image = source.volumes()[0]
        seen.append(look(image, source.roi).histogram(intensity_range(image)))
    whole = [h for h in seen if h]
    mean = tuple(np.mean(whole, axis=0).round(6).tolist()) if whole else ()
    return TrainedOn(sources[0].voxel_size, mean)


def _refuse_overlap(
    train: tuple[Source, ...], held_out: tuple[Source, ...], augment: dict[str, Any]
) -> None:
    """Refuse a held-out region that training would see, be it by what `augment` displaces.

    Raises:
        UsageError: both regions and how far patches reach are named.
    """
    for a in train:
        around = reach(augment, a.voxel_size)
        for b in held_out:
            if a.raw == b.raw and a.roi.grow(around).intersect(b.roi).size:
                raise UsageError(
                    f"data.validate: {b.roi} of {b.raw} overlaps the training region {a.roi}, "
                    f"out of which augmentation reaches by {around} voxels"
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


def _batches(config: Config, sources: tuple[Source, ...]) -> Batches:
    learned = objective(config.objective.name, config.objective.options)
    return Batches(
        sources=sources,
        input_shape=zyx(config.network.input_shape),
        targets=learned.targets,
        batch_size=config.training.batch_size,
        seed=config.seed,
        min_cleft_voxels=config.training.min_cleft_voxels if learned.targets else 0,
        reject_probability=config.training.reject_probability,
        augment=config.augment,
        scale=config.objective.scale,
        unit=config.objective.unit,
    )


def _loop(run: Run, batches: Batches, data: TrainedOn, report: Report) -> None:
    steps = run.config.training.steps
    started, waited, log_path = time.monotonic(), 0.0, run.folder / "log.jsonl"
    _rewind_log(log_path, run.step)
    with stoppable() as stop, log_path.open("a", encoding="utf-8") as lines:
        feed = iter(loader(batches, range(run.step, steps), run.config.training.workers))
        run.network.train()
        while run.step < steps:
            before = time.monotonic()
            batch = next(feed)
            waited += time.monotonic() - before
            parts = update(run, batch)
            report(run.step, steps, parts)
            lines.write(json.dumps({"step": run.step, **parts}) + "\n")
            if run.step % run.config.training.save_every == 0 or stop.signal or run.step == steps:
                lines.flush()
                save_state(run)
                _save_checkpoint(run, data, {})
            stop.exit()
    passed = time.monotonic() - started
    share = 100 * waited / passed if passed else 0.0
    log.info("step %d after %.0f s; waited %.0f %% of it for data", run.step, passed, share)


def _rewind_log(path: Path, step: int) -> None:
    """Drop the lines of steps that a kill made and the saved state does not know."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:step]), encoding="utf-8")


def _save_checkpoint(run: Run, data: TrainedOn, held_out: dict[str, Any]) -> Path:
    config = run.config
    checkpoint = Checkpoint(
        network=config.network.name,
        options=config.network.options,
        input_shape=zyx(config.network.input_shape),
        objective=config.objective.name,
        objective_options=config.objective.options,
        voxel_size=data.voxel_size,
        intensities=data.intensities,
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
    precision = choose_precision("auto", run.device)
    predictor = Predictor(run.network.eval(), run.objective, run.device, precision)
    pairs = [_held_out_pair(predictor, source, run.config) for source in held_out]
    compared = [sweep(pair) for pair in pairs]
    best = best_candidate(compared, cremi_score)
    threshold = 0.5 if best is None else compared[0][best].threshold
    found = [scores(c.comparison) for rows in compared for c in rows if c.threshold == threshold]
    regions = [{"raw": s.raw.split("/")[-1], "roi": str(s.roi)} for s in held_out]
    return {"threshold": threshold, "scores": found or [{}], "regions": regions}


def _show_reconstruction(
    run: Run, learned: Reconstruction, batch: dict[str, Tensor], data: TrainedOn
) -> None:
    """A picture of what the network makes of a patch that it did not train on as it is."""
    run.network.load_state_dict(run.average)
    raw = batch["raw"][:1].to(run.device)
    with torch.inference_mode():
        guessed, hidden = run.network.eval()(raw)[0].float()
    restored = learned.restore(guessed[None], raw[:, 0])[0]
    levels = (t.cpu().numpy() for t in (raw[0, 0], hidden > 0, restored))
    path = run.folder / "reconstruction.png"
    reconstruction(path, *levels, nm_per_voxel=data.voxel_size[2])


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
