"""The folder of a training run: what it asked for, how it went, what came of it."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleftcli.curves import curves
from cleftcli.errors import ConflictError, InputError
from cleftcli.machine import about

DRAWN = 10_000  # steps that a picture shows, of however many
LIBRARIES = ("torch", "numpy", "scipy", "gunpowder", "tensorstore")


@dataclass(frozen=True)
class RunFolder:
    """Files of a run; lines and pictures of steps that a kill has made, and no state knows, go."""

    path: Path

    @property
    def state(self) -> Path:
        """All that continuing needs."""
        return self.path / "state.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The best network so far, or the latest where nothing is held out."""
        return self.path / "checkpoint.safetensors"

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Keep what is said meanwhile in log.txt, with its time; of an error also where it was.

        To be asked to stop is no error.
        """
        kept, logger = logging.FileHandler(self.path / "log.txt"), logging.getLogger("cleftcli")
        kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(kept)
        try:
            yield
        except Exception as error:
            said = f"ended by {type(error).__name__}"
            kept.handle(_record(logging.ERROR, said, sys.exc_info()))
            raise
        except BaseException:
            kept.handle(_record(logging.WARNING, "stopped by a signal; --resume goes on"))
            raise
        finally:
            logger.removeHandler(kept)
            kept.close()

    def prepare(self, config: Path, *, resume: bool) -> None:
        """Make the folder, or make sure that it is the one to continue.

        Raises:
            ConflictError: it holds a run already, or one with another config.
            InputError: there is nothing to resume.
        """
        copy = self.path / "config.toml"
        if resume and not self.state.is_file():
            raise InputError(
                f"{self.path}: nothing to resume, there is no {self.state.name}; leave out --resume"
            )
        if resume and copy.read_bytes() != config.read_bytes():
            raise ConflictError(f"{self.path} was started with another config; compare {copy}")
        if not resume and (self.state.exists() or self.checkpoint.exists()):
            raise ConflictError(
                f"{self.path} holds a run; continue it with --resume or choose another -o"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if not (copy.exists() and copy.samefile(config)):
            shutil.copyfile(config, copy)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write run.json: what repeats the run, beside the libraries and the machine."""
        text = json.dumps({**about(LIBRARIES), **facts}, indent=1, default=str)
        (self.path / "run.json").write_text(text, encoding="utf-8")

    def rewind(self, step: int, validated: int) -> None:
        """Drop the lines of steps and validations after these, which no state knows."""
        for path, last in ((self._steps, step), (self._held_out, validated)):
            if path.exists():
                _rewrite(path, [row for row in _rows(path) if row["step"] <= last])

    def log(self, facts: Mapping[str, Any]) -> None:
        """A line about a step."""
        with self._steps.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(facts) + "\n")

    def log_held_out(self, facts: Mapping[str, Any]) -> None:
        """A line about a validation, in place of an earlier one of that step."""
        others = [row for row in _rows(self._held_out) if row["step"] != facts["step"]]
        _rewrite(self._held_out, [*others, facts])

    def sample(self, step: int) -> Path:
        """Where the picture of a validation goes."""
        folder = self.path / "samples"
        folder.mkdir(exist_ok=True)
        return folder / f"step_{step:07d}.png"

    @contextmanager
    def events(self, step: int) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
        """Where steps after this one are written down for TensorBoard."""
        from tensorboardX import SummaryWriter

        with SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1) as writer:

            def write(step: int, facts: Mapping[str, float]) -> None:
                for name, value in facts.items():
                    writer.add_scalar(name, value, step)

            yield write

    def draw(self) -> None:
        """Write curves.png."""
        if steps := _rows(self._steps, DRAWN):
            curves(self.path / "curves.png", steps, _rows(self._held_out))

    def latest(self, step: int) -> Path:
        """Where the checkpoint of a step goes, beside those of the steps before."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        return folder / f"step_{step:07d}.safetensors"

    def prune(self, count: int) -> None:
        """Of the checkpoints of steps keep the latest."""
        for old in sorted((self.path / "checkpoints").glob("step_*.safetensors"))[: -count or None]:
            old.unlink()

    @property
    def _steps(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def _held_out(self) -> Path:
        return self.path / "held_out.jsonl"


def _record(level: int, said: str, where: Any = None) -> logging.LogRecord:
    """A line for log.txt alone: whoever runs the command is told otherwise."""
    return logging.LogRecord("cleftcli", level, __file__, 0, said, (), where)


def _rewrite(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def _rows(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """The whole lines of a file, or about `most` of them; one that a kill has torn is none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines[:: max(len(lines) // most, 1) if most else 1]:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
