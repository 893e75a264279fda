"""A config in, a run folder out: checkpoints, the state to resume from, logs, curves, samples."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cleftcli import __version__
from cleftcli.config import load
from cleftcli.feed import made_ahead
from cleftcli.geometry import zyx
from cleftcli.held_out import Held, choose, picture, predicted, rank, score
from cleftcli.interrupt import Stop, stoppable
from cleftcli.model.checkpoint import Checkpoint, save
from cleftcli.model.checkpoint import load as load_checkpoint
from cleftcli.model.device import choose_precision, tiles_at_once
from cleftcli.model.inference import Predictor
from cleftcli.model.objectives import Reconstruction
from cleftcli.model.queries import said
from cleftcli.pace import Pace
from cleftcli.pictures import reconstruction
from cleftcli.replicas import joined
from cleftcli.run_folder import RunFolder
from cleftcli.sampling import Source
from cleftcli.training import NotFinite, Run, load_state, new_run, resolved, save_state, update
from cleftcli.training_data import Data, batches_of, inspect, open_data, start_of

log = logging.getLogger(__name__)
Report = Callable[[int, int, dict[str, float]], None]
Events = Callable[[int, Mapping[str, float]], None]
SLOW_DATA = 0.05  # share of the time waited for data that is worth a word


def train(
    config_path: Path, folder: Path, *, resume: bool, device: str, report: Report
) -> dict[str, Any]:
    """Train as the config says; returns the run's paths, steps and scores.

    Under `torchrun` each process trains on its share of every batch, and the first one writes;
    the others return nothing.

    Args:
        config_path: TOML.
        folder: of the run; must not hold one already unless `resume`.
        resume: continue the run in `folder` to the bit where it stopped.
        device: see `choose_device`.
        report: called after every step with (step, steps, facts).

    Raises:
        ConflictError: the folder holds a run and `resume` is False, or one of another config.
        InputError: data cannot be used, or there is nothing to resume.
        NotFinite: the loss became NaN; the batch that did it is in bad_batch.json.
        ResourceError: there is no memory for a batch.
        SystemExit: 130 or 143 after a signal; the state is saved.
    """
    config, base = resolved(load(config_path)), config_path.parent
    with joined() as replica:
        data = open_data(config, base)
        inputs = inspect(data, config.data.missing)
        init_from = None if resume else start_of(config, base)
        run = new_run(config, folder, device, init_from=init_from, replica=replica)
        training = _Training(run, data, RunFolder(folder), report)
        training.begin(config_path, inputs, resume=resume)
        with training.files.logged() if replica.first else nullcontext():
            training.loop()
            return training.finish(inputs) if replica.first else {}


@dataclass
class _Training:
    """A run, its data and its files."""

    run: Run
    data: Data
    files: RunFolder
    report: Report

    def __post_init__(self) -> None:
        self.config = self.run.config.training
        self.batches = batches_of(self.run.config, self.data.train, self.run.replica)
        self.intensities = self.data.intensities()

    def begin(self, config: Path, inputs: list[dict[str, Any]], *, resume: bool) -> None:
        """Make the folder, or continue where the one there was."""
        if self.run.replica.first:
            self.files.prepare(config, resume=resume)
        if resume:
            load_state(self.run)
        if self.run.replica.first:
            config_as_read = self.run.config.model_dump(mode="json")
            self.files.describe({"config": config_as_read, "inputs": inputs})
            self.files.rewind(self.run.step, self.run.validated)

    def loop(self) -> None:
        """Step until the config's steps are done, saving and validating on the way."""
        run, each = self.run, self.config.accumulate
        indices = range(run.step * each, self.config.steps * each)
        lines = self.files.events(run.step) if run.replica.first else nullcontext(None)
        made = closing(made_ahead(self.batches, indices, self.config.workers))
        with stoppable() as stop, lines as events, made as feed:
            pace = Pace(feed, each, self.config.batch_size)
            stop.interruptible(self._validate_if_due)  # of a run that was stopped before it
            while run.step < self.config.steps and not self._asked(stop):
                self._step(pace, events)
                stop.interruptible(self._validate_if_due)
            if self._asked(stop):
                self._keep()
                raise SystemExit(128 + (stop.signal or signal.SIGTERM))
        if stop.signal is not None:  # it came while the workers ended; the state is saved
            raise SystemExit(128 + stop.signal)
        if pace.waited > SLOW_DATA:
            log.warning("the network waited %.0f %% of the time for data", 100 * pace.waited)

    def _asked(self, stop: Stop) -> bool:
        """Whether any of the processes was asked to stop."""
        return self.run.replica.any(stop.signal is not None)

    def _step(self, pace: Pace, events: Events | None) -> None:
        run = self.run
        run.network.train()
        facts = self._update(pace.batches())
        facts |= pace.facts()
        if events is not None:
            self.report(run.step, self.config.steps, facts)
            events(run.step, facts)
            self.files.log({"step": run.step, **facts})
        if run.step % self.config.save_every == 0 or run.step == self.config.steps:
            self._keep()

    def _update(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        try:
            return update(self.run, batches)
        except NotFinite as error:
            first = self.run.step * self.config.accumulate
            places = [self.batches.places(first + n) for n in range(len(batches))]
            facts = {"step": self.run.step, "seed": self.run.config.seed, "patches": places}
            of = "" if self.run.replica.first else f".{self.run.replica.rank}"
            path = self.files.path / f"bad_batch{of}.json"
            path.write_text(json.dumps(facts, indent=1), encoding="utf-8")
            raise NotFinite(
                f"{error}; the last state that was saved is kept, and the patches are in {path}. "
                "A lower learning_rate or a gradient_clip may help"
            ) from None

    def _keep(self) -> None:
        """Save the state, and checkpoints; the best one stays where regions are held out."""
        if not self.run.replica.first:
            return
        save_state(self.run)
        if moved := self.run.moved():
            log.info("step %d: %s", self.run.step, said(moved.values()))
        latest = self.files.latest(self.run.step)
        self._save({}, latest, *([] if self._best() else [self.files.checkpoint]))
        self.files.prune(self.config.keep)

    def finish(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Validate and test what came of the run; returns its facts."""
        run = self.run
        if self.data.held_out and run.validated < run.step:
            self._validate()
        if not self._best():
            self._save({}, self.files.checkpoint)
        tested = self._test() if self.data.test else {}
        if isinstance(run.objective, Reconstruction):
            self._show_reconstruction(run.objective)
        self.files.draw()
        return {
            "checkpoint": str(self.files.checkpoint),
            "run": str(self.files.path),
            "steps": run.step,
            "held_out": self._best(),
            "test": tested,
            "inputs": inputs,
        }

    def _validate_if_due(self) -> None:
        """On the way; the last step is validated when all is done."""
        run = self.run
        due = run.validated < run.step < self.config.steps
        due = due and run.step % self.config.validate_every == 0
        if run.replica.first and self.data.held_out and due:
            self._validate()

    def _validate(self) -> None:
        """Score the held-out regions; the best network yet becomes the checkpoint.

        The state comes last: a run that is killed before it validates again, to the same end.
        """
        run, best = self.run, self._best()
        held = self._predicted(self.data.held_out)
        found = {"step": run.step, **choose(held, self.config.choose_by)}
        picture(self.files.sample(run.step), held[0], found["threshold"])
        if not best or rank(found) <= rank(best):
            self._save(found, self.files.checkpoint)
        chosen = {"step": run.step, "threshold": found["threshold"]}
        self.files.log_held_out(chosen | found["mean"])
        self.files.draw()
        run.validated = run.step
        save_state(run)

    def _best(self) -> dict[str, Any]:
        """The held-out scores of the best network yet, from its checkpoint."""
        if not self.files.checkpoint.exists():
            return {}
        return dict(load_checkpoint(self.files.checkpoint)[0].training.get("held_out", {}))

    def _test(self) -> dict[str, Any]:
        """Score the test regions with the best network at its threshold, once."""
        checkpoint, weights = load_checkpoint(self.files.checkpoint)
        if not checkpoint.training.get("test"):
            threshold = 0.5 if checkpoint.threshold is None else checkpoint.threshold
            found = score(self._predicted(self.data.test, weights), threshold)
            checkpoint = replace(checkpoint, training={**checkpoint.training, "test": found})
            save(self.files.checkpoint, checkpoint, weights)
        return dict(checkpoint.training["test"])

    def _predicted(
        self, sources: tuple[Source, ...], weights: dict[str, Tensor] | None = None
    ) -> list[Held]:
        """Regions predicted by the average of the weights, or by others."""
        run = self.run
        precision, tiles = choose_precision("auto", run.device), tiles_at_once(run.device)
        tile = zyx(run.config.network.input_shape)
        network = run.copied(weights or run.average)
        predictor = Predictor(network, run.objective, run.device, precision, tiles)
        return predicted(predictor, sources, tile, self.config.blend)

    def _save(self, held_out: dict[str, Any], *paths: Path) -> None:
        """The average of the weights as a checkpoint, with the scores it has reached."""
        config = self.run.config
        checkpoint = Checkpoint(
            network=config.network.name,
            options=config.network.options,
            input_shape=zyx(config.network.input_shape),
            objective=config.objective.name,
            objective_options=config.objective.options,
            voxel_size=self.data.voxel_size,
            intensities=self.intensities,
            step=self.run.step,
            threshold=held_out.get("threshold"),
            training={
                "config": config.model_dump(mode="json", by_alias=True),
                "licence": config.data.licence,
                "held_out": held_out,
                "precision": self.run.precision,
                "query_correlation": self.run.moved(),
            },
            version=__version__,
        )
        weights = {k: v.half() if _is_weight(v) else v for k, v in self.run.average.items()}
        for path in paths:
            save(path, checkpoint, weights)

    def _show_reconstruction(self, learned: Reconstruction) -> None:
        """A picture of what the network makes of a patch that it did not train on as it is."""
        run = self.run
        raw = self.batches[run.step * self.config.accumulate]["raw"][:1].to(run.device)
        with torch.inference_mode():
            guessed, hidden = run.copied(run.average)(raw)[0].float()
        restored = learned.restore(guessed[None], raw[:, 0])[0]
        levels = (t.cpu().numpy() for t in (raw[0, 0], hidden > 0, restored))
        path = self.files.path / "reconstruction.png"
        reconstruction(path, *levels, nm_per_voxel=self.data.voxel_size[2])


def _is_weight(value: Tensor) -> bool:
    """Weights are stored as float16: rounding them by 1e-3 of their size changes no score."""
    return value.is_floating_point() and value.numel() > 1024
